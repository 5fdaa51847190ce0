//! Floor 6: the coordinator.
