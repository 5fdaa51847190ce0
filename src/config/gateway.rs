//! The `gateway:` section, checked: design.md §5. Everything has a default that works.

mod discovery;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use discovery::{Consul, Discovery, DnsRegistry, Kubernetes, NamespaceSelector, RecordKind};

use crate::base::limits;

/// The whole section.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// `workers`
    pub workers: Workers,
    /// `user`: whom to become once ports are bound.
    pub user: Option<String>,
    /// `listeners`; plain HTTP on 0.0.0.0:9080 where none is given.
    pub listeners: Vec<Listener>,
    /// `control`; `None` when `control: off`.
    pub control: Option<SocketAddr>,
    /// `access_log`; `None` when `access_log: off`.
    pub access_log: Option<AccessLog>,
    /// `error_log`
    pub error_log: ErrorLog,
    /// `timeouts`
    pub timeouts: Timeouts,
    /// `limits`
    pub limits: Limits,
    /// `keepalive`
    pub keepalive: Keepalive,
    /// `buffering`
    pub buffering: Buffering,
    /// `discovery`
    pub discovery: Discovery,
    /// `real_ip`
    pub real_ip: RealIp,
    /// `trusted_addresses`: peers whose X-Forwarded-* are kept (APISIX `apisix.trusted_addresses`); `None`: not configured.
    pub trusted_addresses: Option<Vec<IpNet>>,
    /// `router`
    pub router: RouterMode,
    /// `server_tokens`: `Server: Ringway/VERSION`, or `Server: Ringway` when false.
    pub server_tokens: bool,
    /// `show_upstream_status`: X-APISIX-Upstream-Status always, not only for 5xx.
    pub show_upstream_status: bool,
    /// `delete_uri_tail_slash`
    pub delete_uri_tail_slash: bool,
    /// `paths`
    pub paths: Paths,
    /// `dns`
    pub dns: Dns,
}

/// `workers`
#[derive(Clone, Debug, PartialEq)]
pub struct Workers {
    /// `count`; `None` is auto.
    pub count: Option<usize>,
    /// `cpus`; `None` is auto.
    pub cpus: Option<Vec<usize>>,
    /// `driver`
    pub driver: Driver,
    /// `accept`: how workers share a listener.
    pub accept: AcceptMode,
}

/// `driver`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where allowed, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// `accept`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceptMode {
    /// A socket per worker with SO_REUSEPORT.
    #[default]
    Reuseport,
    /// One socket, each worker accepts from it.
    Shared,
}

/// One listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Where it listens.
    pub address: ListenAddress,
    /// `http2`: legal without TLS too; a warning until HTTP/2 is there.
    pub http2: bool,
    /// `proxy_protocol`: every connection must begin with a v1 or v2 header.
    pub proxy_protocol: bool,
    /// `backlog`
    pub backlog: u32,
    /// `accept`, where it differs from the workers' mode.
    pub accept: Option<AcceptMode>,
    /// `v6only`: an IPv6 listener takes no IPv4.
    pub v6only: bool,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// `mode`, octal.
        mode: Option<u32>,
        /// `owner`: user or user:group.
        owner: Option<String>,
    },
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `access_log`
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// `path`
    pub path: PathBuf,
    /// `format`
    pub format: LogFormat,
}

/// `access_log.format`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// nginx's combined.
    Combined,
    /// APISIX's default.
    Apisix,
    /// A string of `$variables`.
    Custom(String),
}

/// `error_log`
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorLog {
    /// `level`: error, warn, info or debug.
    pub level: String,
    /// `path`; standard error where none is given.
    pub path: Option<PathBuf>,
}

/// `timeouts`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    /// From accept, or the first byte of a later request, to the end of the head.
    pub header: Duration,
    /// Between two advances of a request's body.
    pub body: Duration,
    /// Between two advances of sending an answer.
    pub send: Duration,
    /// From a request's first byte to its last; zero is none.
    pub request: Duration,
    /// Age at which a client connection ends after its answer; zero is none.
    pub lifetime: Duration,
    /// Idle between two requests.
    pub keepalive: Duration,
    /// From the begin of a drain to the end of what is left.
    pub drain: Duration,
    /// The same for WebSocket tunnels; `None`: as `drain`.
    pub drain_websocket: Option<Duration>,
    /// From the failing of readiness to the begin of a drain.
    pub drain_delay: Duration,
    /// A WebSocket tunnel without a byte in either direction; `None`: the upstream's `timeout.read`.
    pub websocket: Option<Duration>,
}

/// `limits`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// `header_bytes`
    pub header_bytes: usize,
    /// `headers`
    pub headers: usize,
    /// `uri_bytes`
    pub uri_bytes: usize,
    /// `body_bytes`; 0 is none.
    pub body_bytes: u64,
    /// `connections` per worker; `None` is auto (from the descriptor limit).
    pub connections: Option<usize>,
    /// `memory` of the process.
    pub memory: MemoryLimit,
}

/// `limits.memory`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The cgroup's, else the machine's.
    #[default]
    Auto,
    /// None.
    Off,
    /// So many bytes.
    Bytes(u64),
}

/// `buffering`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// `request`
    pub request: bool,
    /// `response`
    pub response: bool,
    /// `exchange_bytes`
    pub exchange_bytes: usize,
    /// `worker_bytes`
    pub worker_bytes: usize,
}

impl Default for Buffering {
    fn default() -> Self {
        Self { request: false, response: false, exchange_bytes: 1024 * 1024, worker_bytes: 64 * 1024 * 1024 }
    }
}

/// `keepalive`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keepalive {
    /// `requests` per client connection.
    pub requests: u32,
}

/// `real_ip`
#[derive(Clone, Debug, PartialEq)]
pub struct RealIp {
    /// `trusted`: trusts nobody by default.
    pub trusted: Vec<IpNet>,
    /// Unix sockets are trusted (`unix:` in `trusted`).
    pub trusts_unix: bool,
    /// `header`
    pub header: String,
    /// `recursive`
    pub recursive: bool,
}

impl RealIp {
    /// True if the peer may say who the client is. `None` is a Unix socket.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(ip) => self.trusted.iter().any(|net| net.contains(&ip)),
            None => self.trusts_unix,
        }
    }
}

/// `router`: APISIX's three modes, and our default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterMode {
    /// APISIX's default order (host first), with `:name` segments understood.
    #[default]
    Ringway,
    /// `radixtree_host_uri` to the letter.
    HostUri,
    /// `radixtree_uri`
    Uri,
    /// `radixtree_uri_with_parameter`
    UriWithParameter,
}

impl RouterMode {
    /// The host is looked at before the path; in the other modes it is a condition like others.
    pub fn hosts_first(self) -> bool {
        matches!(self, Self::Ringway | Self::HostUri)
    }
}

/// `paths`: design.md §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `encoded_slash`
    pub encoded_slash: EncodedMark,
    /// `encoded_backslash`
    pub encoded_backslash: EncodedMark,
    /// `merge_slashes`
    pub merge_slashes: bool,
    /// `parameters`: `;x` in segments is allowed.
    pub parameters: bool,
}

/// What becomes of an escaped slash or backslash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodedMark {
    /// Passed on as written.
    #[default]
    Pass,
    /// Decoded before it is passed on.
    Decode,
    /// 400.
    Refuse,
}

/// `dns`
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// `servers`; empty: `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// `valid`: overrides the records' TTL.
    pub valid: Option<Duration>,
    /// `timeout` of one query.
    pub timeout: Duration,
}

impl Default for Paths {
    fn default() -> Self {
        Self { encoded_slash: EncodedMark::Pass, encoded_backslash: EncodedMark::Pass, merge_slashes: true, parameters: true }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: limits::HEADER_BYTES,
            headers: limits::HEADERS,
            uri_bytes: limits::URI_BYTES,
            body_bytes: 0,
            connections: None,
            memory: MemoryLimit::Auto,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            header: minute,
            body: minute,
            send: minute,
            request: Duration::ZERO,
            lifetime: Duration::ZERO,
            keepalive: minute,
            drain: Duration::from_secs(30),
            drain_websocket: None,
            drain_delay: Duration::ZERO,
            websocket: None,
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: ListenAddress::Tcp(SocketAddr::from(([0, 0, 0, 0], 9080))),
            http2: true,
            proxy_protocol: false,
            backlog: 4096,
            accept: None,
            v6only: false,
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            workers: Workers { count: None, cpus: None, driver: Driver::Auto, accept: AcceptMode::Reuseport },
            user: None,
            listeners: vec![Listener::default()],
            control: Some(SocketAddr::from(([127, 0, 0, 1], 9090))),
            access_log: Some(AccessLog { path: "/dev/stdout".into(), format: LogFormat::Json }),
            error_log: ErrorLog { level: "info".into(), path: None },
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            buffering: Buffering::default(),
            discovery: Discovery::default(),
            keepalive: Keepalive { requests: 100_000 },
            real_ip: RealIp { trusted: Vec::new(), trusts_unix: false, header: "X-Forwarded-For".into(), recursive: false },
            trusted_addresses: None,
            router: RouterMode::Ringway,
            server_tokens: true,
            show_upstream_status: false,
            delete_uri_tail_slash: false,
            paths: Paths::default(),
            dns: Dns { servers: Vec::new(), valid: None, timeout: Duration::from_secs(2) },
        }
    }
}
