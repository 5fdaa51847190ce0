//! Floor 1: protocols without I/O. State machines over bytes; time is an argument.

pub mod fuzzing;
pub mod h1;
pub mod message;
pub mod proxy_protocol;
pub mod uri;
pub mod vars;
pub mod websocket;
