//! Floor 3: the upstream side: pools, connecting, picking a node.

pub mod health;
pub mod names;
pub mod pick;
pub mod pool;
pub mod spec;
pub mod state;

pub use pool::{Connection, Pools};
pub use spec::{Node, Spec};
pub use state::{Owed, Picked, State, Tried, Upstreams};
