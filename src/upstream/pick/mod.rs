//! Picking a node: one file per balancer.

pub mod round_robin;
