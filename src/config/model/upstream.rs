//! Upstreams of the checked model: nodes, balancers, health checks, TLS, and what is Ringway's own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Id, Origin};

/// `timeout`: all three are given together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeout {
    /// Until the connection is there.
    pub connect: Duration,
    /// Between two advances of sending.
    pub send: Duration,
    /// Between two advances of receiving.
    pub read: Duration,
}

impl Default for Timeout {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { connect: minute, send: minute, read: minute }
    }
}

/// An upstream. APISIX request.md §3.
#[derive(Debug)]
pub struct Upstream {
    /// Identity that lasts over epochs: `upstreams/ID`, `routes/ID` or `services/ID` (where it is written).
    pub identity: Arc<str>,
    /// `id`, where it has one.
    pub id: Option<Id>,
    /// Place and digest.
    pub origin: Origin,
    /// `name`
    pub name: Option<Arc<str>>,
    /// `nodes`, in file order; may be empty (503 per request).
    pub nodes: Vec<Node>,
    /// `type`
    pub balancer: Balancer,
    /// `scheme`
    pub scheme: Scheme,
    /// `pass_host`, `upstream_host`
    pub pass_host: PassHost,
    /// `retries`; `None` is number of nodes - 1.
    pub retries: Option<u32>,
    /// `retry_timeout`; zero is none.
    pub retry_timeout: Duration,
    /// `timeout`
    pub timeout: Timeout,
    /// `keepalive_pool`
    pub keepalive: KeepalivePool,
    /// `service_name` and `discovery_type`: nodes come from a registry.
    pub discovered: Option<Discovered>,
    /// `checks`
    pub checks: Option<Arc<Checks>>,
    /// `tls`
    pub tls: TlsToNodes,
    /// `source_address`
    pub source: Option<IpAddr>,
    /// `proxy_protocol`
    pub proxy_protocol: Option<ProxyVersion>,
    /// What is Ringway's own.
    pub policy: Policy,
}

/// What an upstream does beyond APISIX.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `sticky`
    pub sticky: Option<Sticky>,
    /// `slow_start`; zero is none.
    pub slow_start: Duration,
    /// `outlier`
    pub outlier: Option<Outlier>,
    /// `panic_threshold`: percent of nodes that must be well for health to count.
    pub panic_threshold: u32,
    /// `retry_budget`; `None` is no bound.
    pub retry_budget: Option<RetryBudget>,
    /// `limits`
    pub bounds: Option<NodeBounds>,
}

impl Policy {
    /// Nothing in it keeps a node from being picked.
    pub fn is_simple(&self) -> bool {
        self.slow_start.is_zero() && self.outlier.is_none() && self.bounds.is_none()
    }
}

/// Cookie affinity.
#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Name of the cookie.
    pub cookie: String,
    /// How long a browser keeps it.
    pub ttl: Option<Duration>,
    /// Key of its values.
    pub key: Option<String>,
    /// Its path.
    pub path: String,
    /// Over TLS alone.
    pub secure: bool,
    /// Not for scripts.
    pub http_only: bool,
    /// Whether other sites' requests carry it.
    pub same_site: Option<SameSite>,
}

impl std::fmt::Debug for Sticky {
    /// The key stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// `SameSite` of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Only with requests of the site itself.
    Strict,
    /// And where it is navigated to.
    Lax,
    /// Always.
    None,
}

/// When a node is put out for its failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row.
    pub failures: u32,
    /// For how long the first time.
    pub ejection: Duration,
    /// Percent of the nodes that may be out at once.
    pub max_ejected: u32,
}

/// How many requests may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// As a share of all requests.
    pub percent: u32,
    /// And so many each second.
    pub per_second: u32,
    /// Most of what is left over.
    pub burst: u32,
}

/// Bounds of each node, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeBounds {
    /// Requests under way.
    pub requests: u32,
    /// Requests that wait.
    pub pending: usize,
    /// How long they wait.
    pub pending_timeout: Duration,
}

/// `tls` of an upstream.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsToNodes {
    /// `verify`; where it is silent, a `ca_cert` means yes.
    pub verify: Option<bool>,
    /// `ca_cert`, PEM.
    pub ca: Option<String>,
    /// `client_cert` and `client_key`, PEM.
    pub client: Option<(String, String)>,
    /// `client_cert_id`: an `ssl` of type `client`.
    pub client_id: Option<Id>,
}

impl std::fmt::Debug for TlsToNodes {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsToNodes").field("verify", &self.verify).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// An `ssl` of type `client`: what nodes are shown.
pub struct ClientCertificate {
    /// Place and digest.
    pub origin: Origin,
    /// `cert`, PEM.
    pub cert: String,
    /// `key`, PEM.
    pub key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Upstream {
    /// One that has nothing but nodes.
    pub fn plain(identity: Arc<str>, origin: Origin, scheme: Scheme, nodes: Vec<Node>) -> Self {
        Self {
            identity,
            id: None,
            origin,
            name: None,
            nodes,
            balancer: Balancer::RoundRobin,
            scheme,
            pass_host: PassHost::Pass,
            retries: Some(0),
            retry_timeout: Duration::ZERO,
            timeout: Timeout::default(),
            keepalive: KeepalivePool::default(),
            discovered: None,
            checks: None,
            tls: TlsToNodes::default(),
            source: None,
            proxy_protocol: None,
            policy: Policy::default(),
        }
    }
}

/// A service in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Discovered {
    /// `discovery_type`: dns, consul or kubernetes.
    pub registry: Arc<str>,
    /// `service_name`
    pub service: Arc<str>,
}

/// How a node is picked. APISIX request.md §3.9.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// Consistent hashing of a key.
    Chash(HashOn),
    /// Fewest requests under way, by weight.
    LeastConn,
    /// Peak latency.
    Ewma,
}

/// `hash_on` and `key`: what consistent hashing hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// A variable.
    Vars(String),
    /// A request field.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// The consumer's name.
    Consumer,
    /// A text with variables.
    VarsCombinations(String),
}

/// `checks`: how the health of nodes is known. APISIX request.md §3.10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Probes.
    pub active: ActiveCheck,
    /// Judging by what requests meet.
    pub passive: Option<PassiveCheck>,
}

/// Probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveCheck {
    /// What a probe is; `None` is a bare connection (`tcp`).
    pub http: Option<HttpProbe>,
    /// For connecting, and for each send and read.
    pub timeout: Duration,
    /// Probes of one upstream at once.
    pub concurrency: usize,
    /// Port to probe, where it is not the node's.
    pub port: Option<u16>,
    /// Time between probes of usable nodes; zero is never.
    pub healthy_interval: Duration,
    /// Time between probes of the others; zero is never.
    pub unhealthy_interval: Duration,
    /// When the state changes.
    pub bounds: Bounds,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Over TLS; whether certificates are verified.
    pub tls: Option<bool>,
    /// Host, where the node has no name.
    pub host: Option<String>,
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Body.
    pub body: String,
    /// Further field lines.
    pub headers: Vec<String>,
    /// Statuses that are successes.
    pub healthy: Vec<u16>,
    /// Statuses that are failures.
    pub unhealthy: Vec<u16>,
}

/// Judging by what requests meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveCheck {
    /// Statuses that are successes.
    pub healthy: Vec<u16>,
    /// Statuses that are failures.
    pub unhealthy: Vec<u16>,
    /// When the state changes.
    pub bounds: Bounds,
}

/// How often each verdict must be met before it changes the state; 0 disables it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Successes until healthy.
    pub successes: u32,
    /// HTTP failures until unhealthy.
    pub http_failures: u32,
    /// TCP failures until unhealthy.
    pub tcp_failures: u32,
    /// Timeouts until unhealthy.
    pub timeouts: u32,
}

/// Protocol to the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Cleartext HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
}

impl Scheme {
    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a node that names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Which Host the upstream gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PassHost {
    /// The client's.
    #[default]
    Pass,
    /// The node's host, with its port unless standard.
    Node,
    /// This text.
    Rewrite(String),
}

/// `keepalive_pool`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeepalivePool {
    /// Idle connections a worker keeps per node.
    pub size: u32,
    /// How long one may be idle.
    pub idle_timeout: Duration,
    /// Requests one may carry in all.
    pub requests: u32,
}

impl Default for KeepalivePool {
    fn default() -> Self {
        Self { size: 320, idle_timeout: Duration::from_secs(60), requests: 1000 }
    }
}

/// A node of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Address or name.
    pub host: NodeHost,
    /// Port; the scheme's where none is given.
    pub port: u16,
    /// Weight; 0 is never picked unless all are 0.
    pub weight: u32,
    /// Higher first; lower ones are used when the higher are used up.
    pub priority: i64,
}

/// What a node's `host` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeHost {
    /// A literal address.
    Ip(IpAddr),
    /// A name that the coordinator resolves.
    Name(Arc<str>),
    /// The path of a Unix socket.
    Unix(Arc<str>),
}

impl std::fmt::Display for NodeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => f.write_str(name),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Identity of the upstream that an item's `proxy-mirror` copies to.
pub fn mirror_identity(item: &str) -> String {
    format!("{item}/proxy-mirror")
}

/// Identity of an upstream that is written in place inside `traffic-split`: of which item, in which rule and entry of it.
pub fn split_identity(item: &str, rule: usize, entry: usize) -> String {
    format!("{item}/traffic-split/{rule}/{entry}")
}
