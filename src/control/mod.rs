//! Floor 6: the coordinator.

pub mod log_writer;
pub mod names;
pub mod plan;
pub mod port_holder;
pub mod source;
