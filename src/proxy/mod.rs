//! Floor 4: a request's life. `conn_h1` reads heads, `exchange` runs the phases in order, `attempt` speaks to an upstream
//! node, `relay` moves bodies, `answer` makes our own responses.

pub mod access_log;
pub mod answer;
pub mod attempt;
pub mod conn_h1;
mod connect;
pub mod core;
pub mod downstream;
pub mod exchange;
pub mod forward;
pub mod mirror;
pub mod outgoing;
pub mod prelude;
mod reach;
pub mod reframe;
mod relay;
pub mod respond;
pub mod upgrade;
pub mod upload;

pub use core::{Core, Home, View};
