//! The checked model: APISIX's resources as types. Fields, defaults and bounds: shared reference `apisix/resource-fields.md`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use crate::proto::message::MethodSet;
use crate::route::expr::Expr;

/// An id in text form (numbers become text).
pub type Id = Arc<str>;

/// All resources of one configuration. References between them are by id and are *not* resolved here; routes keep file order.
#[derive(Debug, Default)]
pub struct Model {
    /// `routes`, in load order.
    pub routes: Vec<Arc<Route>>,
    /// `services`
    pub services: BTreeMap<Id, Arc<Service>>,
    /// `upstreams`
    pub upstreams: BTreeMap<Id, Arc<Upstream>>,
    /// `consumers`
    pub consumers: BTreeMap<Id, Arc<Consumer>>,
    /// Credentials of consumers (`id: NAME/credentials/CID` in `consumers`).
    pub credentials: Vec<Arc<Credential>>,
    /// `consumer_groups`
    pub consumer_groups: BTreeMap<Id, Arc<PluginSet>>,
    /// `plugin_configs`
    pub plugin_configs: BTreeMap<Id, Arc<PluginSet>>,
    /// `global_rules`
    pub global_rules: BTreeMap<Id, Arc<PluginSet>>,
    /// Upstreams written in place inside `traffic-split`, by [`split_identity`].
    pub split_upstreams: BTreeMap<Id, Arc<Upstream>>,
    /// `ssls` of type `client`.
    pub client_certificates: BTreeMap<Id, Arc<ClientCertificate>>,
    /// `plugin_metadata`, by plugin name.
    pub plugin_metadata: BTreeMap<String, Value>,
    /// `plugins` of the file: the enabled list, if the file has one.
    pub plugins_enabled: Option<Vec<String>>,
    /// `gateway.plugin_attr`, by plugin name, word for word.
    pub plugin_attr: BTreeMap<String, Value>,
}

/// Identity of an upstream that is written in place inside `traffic-split`: of which item, in which rule and entry of it.
pub fn split_identity(item: &str, rule: usize, entry: usize) -> String {
    format!("{item}/traffic-split/{rule}/{entry}")
}

/// Where an item came from, for messages, `explain` and locating a fault inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Index of the file in the sources.
    pub file: u16,
    /// The item: collection and id, for example `routes/7`.
    pub item: Arc<str>,
    /// Line of the item's start, from 1.
    pub line: u32,
    /// JSON pointer of the item in its file, for example `/routes/3`.
    pub pointer: String,
    /// Hash over the item's whole content: equal digests mean equal items, so that epochs can share them.
    pub digest: u64,
}

/// Plugins of an item by name, configuration as JSON, in file order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plugins(pub Vec<(String, Value)>);

impl Plugins {
    /// The configuration of a plugin.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, conf)| conf)
    }
}

/// A route. APISIX resources.md §1.1.
#[derive(Debug)]
pub struct Route {
    /// Id, or `arr_N` (N from 1) where the file gives none.
    pub id: Id,
    /// Place and digest.
    pub origin: Origin,
    /// `name`
    pub name: Option<Arc<str>>,
    /// `uri` or `uris`; at least one.
    pub uris: Vec<String>,
    /// `host` or `hosts`, lower-cased.
    pub hosts: Vec<String>,
    /// `methods`; empty means any.
    pub methods: MethodSet,
    /// `remote_addr` or `remote_addrs`; empty means any.
    pub remote_addrs: Vec<IpNet>,
    /// `vars`, compiled.
    pub vars: Option<Expr>,
    /// `priority`
    pub priority: i64,
    /// `plugins`
    pub plugins: Plugins,
    /// `plugin_config_id`
    pub plugin_config_id: Option<Id>,
    /// `service_id`
    pub service_id: Option<Id>,
    /// `upstream_id`
    pub upstream_id: Option<Id>,
    /// `upstream`
    pub upstream: Option<Arc<Upstream>>,
    /// `timeout`
    pub timeout: Option<Timeout>,
    /// `enable_websocket`
    pub enable_websocket: Option<bool>,
    /// `status: 1`; false takes the route out of matching.
    pub enabled: bool,
    /// `labels`
    pub labels: BTreeMap<String, String>,
}

/// A service. APISIX resources.md §1.2.
#[derive(Debug)]
pub struct Service {
    /// Id.
    pub id: Id,
    /// Place and digest.
    pub origin: Origin,
    /// `name`
    pub name: Option<Arc<str>>,
    /// `hosts`, lower-cased; they count for routes without hosts of their own.
    pub hosts: Vec<String>,
    /// `plugins`
    pub plugins: Plugins,
    /// `upstream_id`
    pub upstream_id: Option<Id>,
    /// `upstream`
    pub upstream: Option<Arc<Upstream>>,
    /// `enable_websocket`
    pub enable_websocket: Option<bool>,
}

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
    /// `checks`
    pub checks: Option<Arc<Checks>>,
    /// `tls`
    pub tls: TlsToNodes,
    /// `source_address`
    pub source: Option<IpAddr>,
    /// `proxy_protocol`
    pub proxy_protocol: Option<ProxyVersion>,
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

/// A consumer. APISIX resources.md §1.5.
#[derive(Debug)]
pub struct Consumer {
    /// `username`
    pub username: Id,
    /// Place and digest.
    pub origin: Origin,
    /// `group_id`
    pub group_id: Option<Id>,
    /// `plugins`: credentials of auth plugins and overrides of others.
    pub plugins: Plugins,
    /// `labels`; `custom_id` becomes X-Consumer-Custom-ID.
    pub labels: BTreeMap<String, String>,
}

/// A credential of a consumer.
#[derive(Debug)]
pub struct Credential {
    /// Credential id (the last part of `NAME/credentials/CID`).
    pub id: Id,
    /// Username of its consumer.
    pub consumer: Id,
    /// Place and digest.
    pub origin: Origin,
    /// At most one auth plugin.
    pub plugins: Plugins,
}

/// A named set of plugins: a plugin config, a consumer group or a global rule.
#[derive(Debug)]
pub struct PluginSet {
    /// Id.
    pub id: Id,
    /// Place and digest.
    pub origin: Origin,
    /// The plugins.
    pub plugins: Plugins,
}
