//! Floor 3: the upstream side: pools, connecting, picking a node.

pub mod budget;
pub mod drains;
pub mod health;
pub mod names;
pub mod pick;
pub mod pool;
pub mod services;
pub mod spares;
pub mod spec;
pub mod state;
pub mod sticky;
mod track;

pub use pick::Choice;
pub use pool::{Connection, Pools};
pub use spares::Spares;
pub use spec::{Node, Spec};
pub use state::{Owed, Picked, State, Tried, Upstreams};
pub use track::{Line, Queue};
