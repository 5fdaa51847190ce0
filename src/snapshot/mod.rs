//! Floor 4: one epoch, immutable. `compile` turns the checked model into routes, chains, upstreams and consumers.

use std::sync::Arc;

use crate::config::gateway::Gateway;

/// One version of the whole configuration, compiled and checked completely.
#[derive(Debug)]
pub struct Snapshot {
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// The `gateway:` section.
    pub gateway: Arc<Gateway>,
}
