//! An upstream as an epoch compiles it: immutable, shared by all workers.

use std::sync::Arc;
use std::time::Duration;

use super::names::Name;
use crate::config::model::{Balancer, KeepalivePool, NodeHost, PassHost, Scheme, Timeout};

/// A compiled upstream.
#[derive(Debug)]
pub struct Spec {
    /// Number of this upstream among all ever compiled with its identity: an index for per-worker state that outlives epochs.
    pub slot: u32,
    /// `upstreams/ID`, `routes/ID` or `services/ID`.
    pub identity: Arc<str>,
    /// Digest of what it was compiled from.
    pub digest: u64,
    /// `name`
    pub name: Option<Arc<str>>,
    /// Protocol to the nodes.
    pub scheme: Scheme,
    /// How a node is picked.
    pub balancer: Balancer,
    /// Which Host the node gets.
    pub pass_host: PassHost,
    /// Tries after the first.
    pub retries: u32,
    /// No retry begins later than this after the first try; zero is no limit.
    pub retry_timeout: Duration,
    /// Deadlines.
    pub timeout: Timeout,
    /// Idle connections.
    pub keepalive: KeepalivePool,
    /// The nodes, in file order.
    pub nodes: Vec<Node>,
}

/// A node of a compiled upstream.
#[derive(Debug)]
pub struct Node {
    /// Address or name as configured.
    pub host: NodeHost,
    /// Port.
    pub port: u16,
    /// Weight.
    pub weight: u32,
    /// Higher first.
    pub priority: i64,
    /// The resolved name, for names.
    pub name: Option<Arc<Name>>,
    /// Host for `pass_host: node`: the port is left out where it is the scheme's own.
    pub authority: Vec<u8>,
}
