//! Floor 2: the only floor that names monoio and libc. Streams lend chunks; operations in flight live in slots.

pub mod accept;
pub mod connect;
pub mod handover;
mod lane;
pub mod near;
pub mod rt;
pub mod stream;
pub mod tls;
pub mod watch;

pub use stream::Stream;
pub use watch::Wait;
pub mod host;
pub mod listen;
