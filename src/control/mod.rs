//! Floor 6: the coordinator.

pub mod plan;
pub mod port_holder;
