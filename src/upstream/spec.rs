//! An upstream as an epoch compiles it: immutable, shared by all workers.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::health::Health;
use super::names::Name;
use super::services::Service;
use super::sticky::Stickiness;
use crate::base::address::Address;
use crate::config::model::{Balancer, Checks, HashOn, KeepalivePool, NodeHost, PassHost, Policy, ProxyVersion, Scheme, Timeout};
use crate::net::tls::ClientPlan;
use crate::plugin::template::Template;
use crate::proto::vars::Var;

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
    pub balancer: Balance,
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
    /// Where its nodes come from, if from a registry.
    pub service: Option<Arc<Service>>,
    /// How connections to its nodes are made.
    pub dial: Dial,
    /// How the health of its nodes is known.
    pub checks: Option<Arc<Checks>>,
    /// TLS of its probes.
    pub probe_tls: Option<ClientPlan>,
    /// What is Ringway's own: stickiness, slow start, outliers, budgets, bounds.
    pub policy: Policy,
    /// Its cookies.
    pub stickiness: Option<Stickiness>,
    /// Every node may be picked at any time: nothing watches or bounds them.
    pub is_simple: bool,
    /// The names among its nodes.
    pub names: Vec<Arc<Name>>,
    /// The nodes, in file order.
    pub nodes: Vec<Node>,
}

/// How connections to nodes are made.
#[derive(Debug, Default)]
pub struct Dial {
    /// TLS.
    pub tls: Option<ClientPlan>,
    /// Address to connect from.
    pub source: Option<IpAddr>,
    /// The node is told the client's address first; such a connection serves one client's request alone.
    pub proxy_protocol: Option<ProxyVersion>,
}

impl Dial {
    /// Nothing but an address tells its connections apart.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none() && self.source.is_none() && self.proxy_protocol.is_none()
    }

    /// Equal digests mean connections that may be shared.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.tls.as_ref().map(|tls| tls.digest), self.source).hash(&mut hasher);
        hasher.finish()
    }
}

/// How a node is picked, compiled.
#[derive(Debug)]
pub enum Balance {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Consistent hashing of a key.
    Chash(HashKey),
    /// Fewest requests under way, by weight.
    LeastConn,
    /// Peak latency.
    Ewma,
}

/// Where the key of consistent hashing comes from.
#[derive(Debug)]
pub enum HashKey {
    /// A variable.
    Var(Var),
    /// The consumer's name.
    Consumer,
    /// A text with variables; absent where none of them has a value.
    Template(Template),
}

impl Balance {
    /// It hashes one of the forwarded fields.
    pub fn reads_forwarded(&self) -> bool {
        match self {
            Self::Chash(HashKey::Var(var)) => var.is_forwarded(),
            Self::Chash(HashKey::Template(template)) => template.reads(Var::is_forwarded),
            _ => false,
        }
    }

    /// Compiles a balancer.
    pub fn of(balancer: &Balancer) -> Self {
        match balancer {
            Balancer::RoundRobin => Self::RoundRobin,
            Balancer::LeastConn => Self::LeastConn,
            Balancer::Ewma => Self::Ewma,
            Balancer::Chash(on) => Self::Chash(match on {
                HashOn::Vars(name) => HashKey::Var(Var::parse(name)),
                HashOn::Header(name) => {
                    HashKey::Var(Var::parse(&format!("http_{}", name.to_ascii_lowercase().replace('-', "_"))))
                }
                HashOn::Cookie(name) => HashKey::Var(Var::parse(&format!("cookie_{name}"))),
                HashOn::Consumer => HashKey::Consumer,
                HashOn::VarsCombinations(text) => HashKey::Template(Template::compile(text)),
            }),
        }
    }
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
    /// Its health, where the upstream has checks.
    pub health: Option<Arc<Health>>,
    /// Host for `pass_host: node`: the port is left out where it is the scheme's own.
    pub authority: Vec<u8>,
}

impl Node {
    /// `host:port`
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Its addresses as far as they are known: one, or those that its name has now.
    pub fn addresses(&self) -> Vec<Address> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port).into();
        match (&self.host, &self.name) {
            (NodeHost::Unix(path), _) => vec![Address::unix(path)],
            (NodeHost::Ip(ip), _) => vec![at(*ip)],
            (NodeHost::Name(_), Some(name)) => name.addresses().iter().map(|ip| at(*ip)).collect(),
            (NodeHost::Name(_), None) => Vec::new(),
        }
    }

    /// Requests may go there, as far as its health is known.
    pub fn is_usable(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.state().is_usable())
    }
}
