//! Picking a node: one file per balancer.

pub mod chash;
pub mod ewma;
pub mod least_conn;
pub mod round_robin;
