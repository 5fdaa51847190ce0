//! Floor 3: the upstream side: pools, connecting, picking a node.

pub mod names;
