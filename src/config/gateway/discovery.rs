//! Registries of services, as `gateway.discovery` names them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `discovery`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovery {
    /// `dns`
    pub dns: Option<DnsRegistry>,
    /// `consul`
    pub consul: Option<Consul>,
    /// `kubernetes`
    pub kubernetes: Vec<Kubernetes>,
}

impl Discovery {
    /// The registry is configured.
    pub fn has(&self, registry: &str) -> bool {
        match registry {
            "dns" => self.dns.is_some(),
            "consul" => self.consul.is_some(),
            "kubernetes" => !self.kubernetes.is_empty(),
            _ => false,
        }
    }
}

/// `dns`
#[derive(Clone, Debug, PartialEq)]
pub struct DnsRegistry {
    /// `servers`; the system's where empty.
    pub servers: Vec<SocketAddr>,
    /// `resolv_conf`
    pub resolv_conf: Option<PathBuf>,
    /// `order`
    pub order: Vec<RecordKind>,
}

/// Kinds of record that are nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Targets with port, weight and priority.
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// `consul`
#[derive(Clone, PartialEq)]
pub struct Consul {
    /// `servers`: host and port.
    pub servers: Vec<(String, u16)>,
    /// `token`
    pub token: Option<String>,
    /// `timeout.connect`
    pub connect: Duration,
    /// `timeout.read`
    pub read: Duration,
    /// `timeout.wait`
    pub wait: Duration,
    /// `weight`
    pub weight: u32,
    /// `keepalive`
    pub waits: bool,
    /// `fetch_interval`
    pub fetch_interval: Duration,
    /// `skip_services`
    pub skip: Vec<String>,
    /// `default_service`
    pub default: Option<(IpAddr, u16)>,
}

impl std::fmt::Debug for Consul {
    /// The token stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consul").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// `kubernetes`
#[derive(Clone, PartialEq)]
pub struct Kubernetes {
    /// `id`
    pub id: Option<String>,
    /// `service.schema`
    pub https: bool,
    /// `service.host`, variables of the environment not replaced.
    pub host: String,
    /// `service.port`, likewise.
    pub port: String,
    /// `service.ssl_verify`
    pub verify: bool,
    /// `client.token`
    pub token: Option<String>,
    /// `client.token_file`
    pub token_file: PathBuf,
    /// `namespace_selector`
    pub namespaces: NamespaceSelector,
    /// `label_selector`
    pub labels: Option<String>,
    /// `default_weight`
    pub weight: u32,
    /// `watch_endpoint_slices`
    pub slices: bool,
}

impl std::fmt::Debug for Kubernetes {
    /// The token stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("id", &self.id).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Which namespaces count.
#[derive(Clone, Debug, PartialEq)]
pub enum NamespaceSelector {
    /// All.
    All,
    /// This one.
    Equal(String),
    /// All but this one.
    NotEqual(String),
    /// Those whose whole name fits an expression.
    Match(Vec<String>),
    /// Those whose name fits none.
    NotMatch(Vec<String>),
}
