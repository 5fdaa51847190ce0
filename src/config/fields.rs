//! The one table of fields: the checker, the JSON Schema and the reference are made of it. Bounds and defaults are APISIX's
//! (apisix/resource-fields.md) and, for `gateway:`, design.md §5.

use super::later::{CERT, KEY};
use super::{checks, discovery, later, policy};

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ty {
    /// True or false.
    Bool,
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number; `true`: it must be above 0, else 0 is allowed.
    Number(bool),
    /// Text of so many characters.
    Text(usize, usize),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// An id: text of 1 to 64 characters `a-zA-Z0-9-_.`, or a whole number from 1.
    Id,
    /// A host name, with `*` in front.
    Host,
    /// An IP address or CIDR.
    Ip,
    /// An IP address.
    IpAddress,
    /// An IP address, CIDR, or `unix:`.
    IpOrUnix,
    /// A duration: `5s`, `500ms`, `1h30m`.
    Duration,
    /// A size: `32KiB`.
    Size,
    /// A size, or one of these words.
    SizeOr(&'static [&'static str]),
    /// A number or a word.
    IntOr(i64, i64, &'static str),
    /// A socket address: `ip:port`, `[ip]:port`, `:port`, or `unix:/path` where allowed.
    Address(bool),
    /// A further object.
    Object(&'static Schema),
    /// A further object, or a list of them.
    OneOrMany(&'static Schema),
    /// A further object, or `off`.
    ObjectOrOff(&'static Schema),
    /// A list of these; the number is the least length.
    List(&'static Ty, usize),
    /// Labels.
    Labels,
    /// Plugins by name.
    Plugins,
    /// Nodes of an upstream, as a map or a list.
    Nodes,
    /// A `vars` expression.
    Vars,
    /// Anything.
    Any,
    /// Text or list of text.
    TextOrList,
    /// Known and checked as the second says, but not built yet, which the first says (`health checks are`).
    NotYet(&'static str, &'static Ty),
}

/// What binds the fields of an object to each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// With the first the others are needed.
    Needs(&'static str, &'static [&'static str]),
    /// With the first none of the others is allowed.
    NotWith(&'static str, &'static [&'static str]),
    /// One of these is needed, unless a field has a value.
    OneOf(&'static [&'static str], &'static str, &'static str),
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) ty: Ty,
    /// Default as it would be written; empty for none.
    pub(super) default: &'static str,
    pub(super) doc: &'static str,
}

/// An object's fields.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: &'static str,
    /// Unknown keys are refused; else they are warned of.
    pub(super) closed: bool,
    pub(super) required: &'static [&'static str],
    pub(super) fields: &'static [Field],
    pub(super) rules: &'static [Rule],
}

pub(super) const fn f(name: &'static str, ty: Ty, default: &'static str, doc: &'static str) -> Field {
    Field { name, ty, default, doc }
}

pub(super) const fn object(name: &'static str, fields: &'static [Field]) -> Schema {
    ruled(name, fields, &[])
}

pub(super) const fn open(name: &'static str, fields: &'static [Field]) -> Schema {
    Schema { closed: false, ..object(name, fields) }
}

pub(super) const fn ruled(name: &'static str, fields: &'static [Field], rules: &'static [Rule]) -> Schema {
    Schema { name, closed: true, required: &[], fields, rules }
}

pub(super) const NAME: Field = f("name", Ty::Text(1, 256), "", "Name for people, logs and metrics; need not be unique.");
pub(super) const ID: Field = f("id", Ty::Id, "", "Id by which other resources refer to it.");
pub(super) const DESC: Field = f("desc", Ty::Text(0, 256), "", "Description.");
pub(super) const LABELS: Field = f("labels", Ty::Labels, "", "Labels: text values without blanks.");
pub(super) const CREATED: Field = f("create_time", Ty::Int(0, i64::MAX), "", "Set by writers; has no effect.");
pub(super) const UPDATED: Field = f("update_time", Ty::Int(0, i64::MAX), "", "Set by writers; has no effect.");
pub(super) const PLUGINS: Field = f("plugins", Ty::Plugins, "", "Plugins by name.");
const HOSTS: Ty = Ty::List(&Ty::Host, 1);

pub(super) const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

/// The top of a file.
pub(super) static ROOT: Schema = object(
    "file",
    &[
        f("gateway", Ty::Object(&GATEWAY), "", "Ringway's own settings."),
        f("include", Ty::TextOrList, "", "Further files, `*` and `?` allowed in the last part, relative to this file."),
        f("routes", Ty::List(&Ty::Object(&ROUTE), 0), "", "Routes."),
        f("services", Ty::List(&Ty::Object(&SERVICE), 0), "", "Services: what routes have in common."),
        f("upstreams", Ty::List(&Ty::Object(&UPSTREAM), 0), "", "Upstreams."),
        f("consumers", Ty::List(&Ty::Object(&CONSUMER), 0), "", "Consumers and their credentials."),
        f("consumer_groups", Ty::List(&Ty::Object(&CONSUMER_GROUP), 0), "", "Plugins that several consumers share."),
        f("ssls", Ty::List(&Ty::Object(&later::SSL), 0), "", "TLS certificates; those of `type: client` are shown to nodes."),
        f("global_rules", Ty::List(&Ty::Object(&GLOBAL_RULE), 0), "", "Plugins of every request."),
        f("plugin_configs", Ty::List(&Ty::Object(&PLUGIN_CONFIG), 0), "", "Plugins that several routes share."),
        f("plugin_metadata", Ty::List(&Ty::Object(&METADATA), 0), "", "Settings of a plugin for all its uses; `id` is its name."),
        f("plugins", Ty::List(&Ty::Object(&ENABLED), 0), "", "The plugins that are enabled; all of them where absent."),
        f(
            "stream_routes",
            Ty::List(&Ty::NotYet("stream routes are", &Ty::Object(&later::STREAM_ROUTE)), 0),
            "",
            "TCP and UDP routes.",
        ),
        f("protos", Ty::List(&Ty::NotYet("protos are", &Ty::Object(&later::PROTO)), 0), "", "Protocol buffer definitions."),
        f("secrets", Ty::List(&Ty::NotYet("secret managers are", &Ty::Object(&later::SECRET)), 0), "", "Secret managers."),
    ],
);

pub(super) static ROUTE: Schema = ruled(
    "route",
    &[
        f("uri", Ty::Text(1, 4096), "", "Path pattern: exact, `prefix*`, `/a/:name`; exactly one of `uri` and `uris`."),
        f("uris", Ty::List(&Ty::Text(1, 4096), 1), "", "Several path patterns."),
        f("host", Ty::Host, "", "Host, `*.example.com` allowed; at most one of `host` and `hosts`."),
        f("hosts", HOSTS, "", "Several hosts."),
        f("methods", Ty::List(&Ty::Enum(METHODS), 0), "", "Methods; any where empty."),
        f("remote_addr", Ty::Ip, "", "Client address or net; at most one of `remote_addr` and `remote_addrs`."),
        f("remote_addrs", Ty::List(&Ty::Ip, 1), "", "Several of them."),
        f("vars", Ty::Vars, "", "Further conditions, for example `[[\"arg_v\", \"==\", \"2\"]]`."),
        f("priority", Ty::Int(i64::MIN, i64::MAX), "0", "Higher first among routes with the same path."),
        PLUGINS,
        f("plugin_config_id", Ty::Id, "", "A plugin config whose plugins the route lacks."),
        f("service_id", Ty::Id, "", "The service it belongs to."),
        f("upstream_id", Ty::Id, "", "The upstream it leads to; wins over `upstream`."),
        f("upstream", Ty::Object(&UPSTREAM), "", "The upstream it leads to, written in place."),
        f("timeout", Ty::Object(&TIMEOUT), "", "Overrides the upstream's, whole."),
        f("enable_websocket", Ty::Bool, "false", "WebSocket upgrades are passed on."),
        f("status", Ty::Int(0, 1), "1", "0 takes the route out of matching."),
        f("filter_func", Ty::NotYet("`filter_func` (Lua) is", &Ty::Text(10, 1 << 20)), "", "Lua; use `vars`."),
        f("script", Ty::NotYet("`script` (Lua) is", &Ty::Text(10, 102_400)), "", "Lua."),
        f("script_id", Ty::Id, "", "Has no effect."),
        ID,
        NAME,
        DESC,
        LABELS,
        CREATED,
        UPDATED,
    ],
    &[Rule::NotWith("script", &["plugins", "plugin_config_id"])],
);

pub(super) static SERVICE: Schema = object(
    "service",
    &[
        f("hosts", HOSTS, "", "Hosts of its routes that name none."),
        PLUGINS,
        f("upstream_id", Ty::Id, "", "The upstream its routes lead to."),
        f("upstream", Ty::Object(&UPSTREAM), "", "The same, written in place."),
        f("enable_websocket", Ty::Bool, "false", "For its routes that are silent about it."),
        f("script", Ty::NotYet("`script` (Lua) is", &Ty::Text(10, 102_400)), "", "Lua."),
        ID,
        NAME,
        DESC,
        LABELS,
        CREATED,
        UPDATED,
    ],
);

pub(super) static UPSTREAM: Schema = ruled(
    "upstream",
    &[
        f("nodes", Ty::Nodes, "", "`{\"host:port\": weight}`, or a list of `{host, port, weight, priority}`."),
        f("type", Ty::Text(1, 64), "roundrobin", "Balancer: `roundrobin`, `chash`, `least_conn`, `ewma`."),
        f(
            "scheme",
            Ty::Enum(&["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"]),
            "http",
            "Protocol to the nodes.",
        ),
        f(
            "pass_host",
            Ty::Enum(&["pass", "node", "rewrite"]),
            "pass",
            "Which Host the node gets: the client's, its own, `upstream_host`.",
        ),
        f("upstream_host", Ty::Host, "", "Host for `pass_host: rewrite`."),
        f("retries", Ty::Int(0, i64::MAX), "number of nodes - 1", "Tries after the first."),
        f("retry_timeout", Ty::Number(false), "0", "Seconds after which no retry begins; 0 is no limit."),
        f("timeout", Ty::Object(&TIMEOUT), "60 s each", "Deadlines towards the node."),
        f("keepalive_pool", Ty::Object(&KEEPALIVE_POOL), "", "Idle connections, per worker and node."),
        f("checks", Ty::Object(&checks::CHECKS), "", "Health checks."),
        f("tls", Ty::Object(&UPSTREAM_TLS), "", "TLS to the nodes, for `scheme: https`."),
        f("sticky", Ty::Object(&policy::STICKY), "", "Ringway's own: a cookie keeps a client at its node."),
        f(
            "slow_start",
            Ty::Duration,
            "",
            "Ringway's own: a node that joins or recovers gets its whole weight only after so long.",
        ),
        f("outlier", Ty::Object(&policy::OUTLIER), "", "Ringway's own: nodes that fail requests are left out for a while."),
        f(
            "panic_threshold",
            Ty::Int(0, 100),
            "0",
            "Ringway's own: percent of nodes below which health is ignored; 0: only where none is well.",
        ),
        f(
            "retry_budget",
            Ty::ObjectOrOff(&policy::RETRY_BUDGET),
            "on",
            "Ringway's own: bounds how many requests are sent again, per worker.",
        ),
        f("limits", Ty::Object(&policy::BOUNDS), "", "Ringway's own: bounds of each node, per worker."),
        f("source_address", Ty::IpAddress, "", "Ringway's own: address to connect from."),
        f(
            "proxy_protocol",
            Ty::Enum(&["v1", "v2"]),
            "",
            "Ringway's own: nodes are told the client's address by the PROXY protocol.",
        ),
        f("service_name", Ty::Text(1, 256), "", "Name to discover nodes by."),
        f("discovery_type", Ty::Text(0, 256), "", "Registry to discover nodes in."),
        f("discovery_args", Ty::Object(&later::DISCOVERY_ARGS), "", "Where to look in it."),
        f("hash_on", Ty::Enum(&["vars", "header", "cookie", "consumer", "vars_combinations"]), "vars", "What `chash` hashes."),
        f("key", Ty::Text(0, 4096), "", "Which of them: a variable, field or cookie, or a text with variables."),
        ID,
        NAME,
        DESC,
        LABELS,
        CREATED,
        UPDATED,
    ],
    &[
        Rule::Needs("service_name", &["discovery_type"]),
        Rule::Needs("discovery_type", &["service_name"]),
        Rule::NotWith("nodes", &["service_name"]),
    ],
);

static UPSTREAM_TLS: Schema = Schema {
    closed: false,
    ..ruled(
        "upstream.tls",
        &[
            f("verify", Ty::Bool, "true where `ca_cert` is given", "The node's certificate is verified."),
            f("ca_cert", CERT, "the system's", "Ringway's own: certificate authorities that verify it, PEM."),
            f("client_cert", CERT, "", "Certificate shown to the node, PEM."),
            f("client_key", KEY, "", "Its key, PEM."),
            f("client_cert_id", Ty::Id, "", "Both from an `ssl` of type `client`."),
        ],
        &[
            Rule::Needs("client_cert", &["client_key"]),
            Rule::Needs("client_key", &["client_cert"]),
            Rule::NotWith("client_cert_id", &["client_cert", "client_key"]),
        ],
    )
};

pub(super) static TIMEOUT: Schema = Schema {
    closed: false,
    required: &["connect", "send", "read"],
    ..object(
        "timeout",
        &[
            f("connect", Ty::Number(true), "", "Seconds until the connection is there."),
            f("send", Ty::Number(true), "", "Seconds between two advances of sending."),
            f("read", Ty::Number(true), "", "Seconds between two advances of receiving."),
        ],
    )
};

pub(super) static KEEPALIVE_POOL: Schema = Schema {
    closed: false,
    ..object(
        "keepalive_pool",
        &[
            f("size", Ty::Int(1, u32::MAX as i64), "320", "Idle connections kept."),
            f("idle_timeout", Ty::Number(false), "60", "Seconds one may be idle."),
            f("requests", Ty::Int(1, u32::MAX as i64), "1000", "Requests one carries in all."),
        ],
    )
};

pub(super) static CONSUMER: Schema = object(
    "consumer",
    &[
        f("username", Ty::Text(1, 256), "", "Name: letters, digits, `_`, `-`. Not for credentials."),
        f("group_id", Ty::Id, "", "Its consumer group."),
        PLUGINS,
        NAME,
        f("id", Ty::Any, "", "`username`, or `USERNAME/credentials/ID` for a credential."),
        DESC,
        LABELS,
        CREATED,
        UPDATED,
    ],
);

pub(super) static CONSUMER_GROUP: Schema =
    Schema { required: &["id", "plugins"], ..object("consumer_group", &[ID, PLUGINS, NAME, DESC, LABELS, CREATED, UPDATED]) };

pub(super) static PLUGIN_CONFIG: Schema =
    Schema { required: &["id", "plugins"], ..object("plugin_config", &[ID, PLUGINS, NAME, DESC, LABELS, CREATED, UPDATED]) };

pub(super) static GLOBAL_RULE: Schema =
    Schema { required: &["id", "plugins"], ..object("global_rule", &[ID, PLUGINS, CREATED, UPDATED]) };

/// `plugin_metadata`: the plugin itself checks the rest.
pub(super) static METADATA: Schema = Schema {
    closed: false,
    required: &["id"],
    ..object("plugin_metadata", &[f("id", Ty::Text(1, 256), "", "Name of the plugin.")])
};

pub(super) static ENABLED: Schema = Schema {
    closed: false,
    required: &["name"],
    ..object(
        "plugins",
        &[
            f("name", Ty::Text(1, 256), "", "Name of an enabled plugin."),
            f("stream", Ty::Bool, "false", "It is a stream plugin."),
        ],
    )
};

/// `_meta` of every plugin configuration.
pub(super) static META: Schema = object(
    "_meta",
    &[
        f("disable", Ty::Bool, "false", "The plugin runs in no phase."),
        f("error_response", Ty::Any, "", "Text or object sent instead of the plugin's own error body."),
        f("priority", Ty::Int(i64::MIN, i64::MAX), "the plugin's own", "Its place in the order."),
        f("filter", Ty::Vars, "", "The plugin runs only where this expression holds."),
        f("pre_function", Ty::NotYet("`pre_function` (Lua) is", &Ty::Text(0, 1 << 20)), "", "Lua."),
    ],
);

pub(super) static GATEWAY: Schema = object(
    "gateway",
    &[
        f("workers", Ty::Object(&WORKERS), "", "Threads that serve."),
        f("user", Ty::Text(1, 256), "none", "User to become once ports are bound (when started as root)."),
        f("listeners", Ty::List(&Ty::Object(&LISTENER), 1), "plain HTTP on 0.0.0.0:9080", "Where clients connect."),
        f("tls", Ty::Object(&TLS), "", "Defaults of TLS listeners."),
        f("control", Ty::ObjectOrOff(&CONTROL), "127.0.0.1:9090", "Control API, metrics, status; or `off`."),
        f("admin", Ty::NotYet("the Admin API is", &Ty::Object(&later::ADMIN)), "off", "Admin API."),
        f("access_log", Ty::ObjectOrOff(&ACCESS_LOG), "JSON on /dev/stdout", "Access log, or `off`."),
        f("error_log", Ty::Object(&ERROR_LOG), "", "Error log."),
        f("timeouts", Ty::Object(&TIMEOUTS), "", "Deadlines towards clients."),
        f("limits", Ty::Object(&LIMITS), "", "Bounds of what clients may send and hold."),
        f("keepalive", Ty::Object(&KEEPALIVE), "", "Persistence of client connections."),
        f("real_ip", Ty::Object(&REAL_IP), "", "Who may say who the client is."),
        f("trusted_addresses", Ty::List(&Ty::Ip, 0), "", "Peers whose X-Forwarded-* are kept; others' are overwritten."),
        f("router", Ty::Enum(ROUTERS), "ringway", "Order of matching; APISIX's three modes by name."),
        f("server_tokens", Ty::Bool, "true", "The Server field carries the version."),
        f("show_upstream_status", Ty::Bool, "false", "X-APISIX-Upstream-Status always, not only for 5xx."),
        f("delete_uri_tail_slash", Ty::Bool, "false", "Matching ignores one `/` at a path's end."),
        f("paths", Ty::Object(&PATHS), "", "What becomes of unusual paths."),
        f("dns", Ty::Object(&DNS), "", "How names of nodes are resolved."),
        f("plugin_attr", Ty::Any, "", "As `plugin_attr` in APISIX's config.yaml, word for word."),
        f("source", Ty::Object(&SOURCE), "file", "Where the configuration comes from."),
        f(
            "buffering",
            Ty::Object(&BUFFERING),
            "",
            "Bodies that are kept in memory, for applications that a slow client must not hold.",
        ),
        f(
            "discovery",
            Ty::Object(&discovery::DISCOVERY),
            "",
            "Registries in which upstreams with a `service_name` find their nodes.",
        ),
        f("telemetry", Ty::NotYet("telemetry is", &Ty::Any), "off", "Traces."),
    ],
);

pub(super) const ROUTERS: &[&str] = &["ringway", "radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"];

static WORKERS: Schema = object(
    "workers",
    &[
        f("count", Ty::IntOr(1, 1024, "auto"), "auto", "Number of workers: one per CPU, no more than the cgroup's quota."),
        f("cpus", Ty::Text(1, 1024), "auto", "CPUs to pin to, for example `0-3,8`."),
        f("driver", Ty::Enum(&["auto", "io_uring", "epoll"]), "auto", "What carries I/O."),
        f("accept", Ty::Enum(&["reuseport", "shared"]), "reuseport", "How workers share a listener."),
    ],
);

static LISTENER: Schema = Schema {
    required: &["address"],
    ..object(
        "listener",
        &[
            f("address", Ty::Address(true), "", "`ip:port`, `[ip]:port`, `:port`, or `unix:/path`."),
            f("tls", Ty::Bool, "false", "TLS; not supported yet."),
            f("http2", Ty::Bool, "true", "HTTP/2; not served yet, never refused."),
            f("http3", Ty::Bool, "false", "HTTP/3; not supported yet."),
            f("proxy_protocol", Ty::Bool, "false", "Every connection begins with a PROXY header, v1 or v2."),
            f("backlog", Ty::Int(1, 1 << 20), "4096", "Connections waiting to be accepted."),
            f("accept", Ty::Enum(&["reuseport", "shared"]), "the workers'", "How workers share it."),
            f("v6only", Ty::Bool, "false", "An IPv6 listener takes no IPv4."),
            f("mode", Ty::Text(3, 5), "", "Mode of a Unix socket, octal in quotes: \"0660\"."),
            f("owner", Ty::Text(1, 256), "", "Owner of a Unix socket: `user` or `user:group`."),
        ],
    )
};

static TLS: Schema = object(
    "tls",
    &[
        f("protocols", Ty::List(&Ty::Enum(&["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]), 1), "TLSv1.2, TLSv1.3", "Versions."),
        f("ciphers", Ty::Text(1, 4096), "default", "Cipher suites."),
        f("tickets", Ty::Bool, "true", "Session tickets."),
    ],
);

static CONTROL: Schema = object("control", &[f("address", Ty::Address(false), "127.0.0.1:9090", "Where it listens.")]);

static ACCESS_LOG: Schema = object(
    "access_log",
    &[
        f("path", Ty::Text(1, 4096), "/dev/stdout", "File; reopened on USR1."),
        f("format", Ty::Text(1, 8192), "json", "`json`, `combined`, `apisix`, or a string of `$variables`."),
    ],
);

static ERROR_LOG: Schema = object(
    "error_log",
    &[
        f("level", Ty::Enum(&["error", "warn", "info", "debug"]), "info", "Least severity."),
        f("path", Ty::Text(1, 4096), "standard error", "File; reopened on USR1."),
    ],
);

static TIMEOUTS: Schema = object(
    "timeouts",
    &[
        f("header", Ty::Duration, "60s", "From accept, or a later request's first byte, to the end of the head."),
        f("body", Ty::Duration, "60s", "Between two advances of a request's body."),
        f("send", Ty::Duration, "60s", "Between two advances of sending an answer."),
        f("request", Ty::Duration, "0s", "From a request's first byte to the last of its body; 408 after it. 0s is no bound."),
        f("lifetime", Ty::Duration, "0s", "Age at which a client's connection ends after its answer. 0s is no bound."),
        f("keepalive", Ty::Duration, "60s", "Idle between two requests."),
        f("drain", Ty::Duration, "30s", "From the begin of a drain to its end."),
        f("drain_websocket", Ty::Duration, "as drain", "The same for WebSocket tunnels, which don't end by themselves."),
        f("drain_delay", Ty::Duration, "0s", "From the failing of readiness to the begin of a drain."),
        f("websocket", Ty::Duration, "the upstream's read", "A tunnel silent in both directions."),
    ],
);

static LIMITS: Schema = object(
    "limits",
    &[
        f("header_bytes", Ty::Size, "32KiB", "A request's head; 431 above."),
        f("headers", Ty::Int(1, 256), "100", "Its fields; 431 above."),
        f("uri_bytes", Ty::Size, "8KiB", "Its target; 414 above."),
        f("body_bytes", Ty::Size, "0", "Its body; 413 above; 0 is no limit."),
        f("connections", Ty::IntOr(1, 10_000_000, "auto"), "auto", "Client connections per worker."),
        f(
            "memory",
            Ty::SizeOr(&["auto", "off"]),
            "auto",
            "Memory of the process; `auto`: the cgroup's limit, else the machine's. New requests get 503 at it.",
        ),
    ],
);

static BUFFERING: Schema = object(
    "buffering",
    &[
        f("request", Ty::Bool, "false", "A request's body is gathered before a node is asked."),
        f("response", Ty::Bool, "false", "A response is taken from its node as fast as that gives it."),
        f("exchange_bytes", Ty::Size, "1MiB", "At most so much of one body; more of it streams."),
        f("worker_bytes", Ty::Size, "64MiB", "At most so much per worker."),
    ],
);

static KEEPALIVE: Schema =
    object("keepalive", &[f("requests", Ty::Int(1, u32::MAX as i64), "100000", "Requests per client connection.")]);

static REAL_IP: Schema = object(
    "real_ip",
    &[
        f("trusted", Ty::List(&Ty::IpOrUnix, 0), "[]", "Peers that are trusted; `unix:` for Unix sockets."),
        f(
            "header",
            Ty::Text(1, 256),
            "X-Forwarded-For",
            "The field that names the client; `proxy_protocol` for the PROXY header.",
        ),
        f("recursive", Ty::Bool, "false", "Skip trusted addresses from the right."),
    ],
);

static PATHS: Schema = object(
    "paths",
    &[
        f("encoded_slash", Ty::Enum(&["pass", "decode", "refuse"]), "pass", "`%2F`."),
        f("encoded_backslash", Ty::Enum(&["pass", "decode", "refuse"]), "pass", "`%5C`."),
        f("merge_slashes", Ty::Bool, "true", "`//` is `/` to matching and plugins."),
        f("parameters", Ty::Bool, "true", "`;x` in segments is allowed."),
    ],
);

static DNS: Schema = object(
    "dns",
    &[
        f("servers", Ty::List(&Ty::Address(false), 0), "/etc/resolv.conf", "Servers, `ip:port`."),
        f("valid", Ty::Duration, "the records' TTL", "Overrides the TTL."),
        f("timeout", Ty::Duration, "2s", "Of one query."),
    ],
);

static SOURCE: Schema = object(
    "source",
    &[
        f("file", Ty::Any, "{}", "The file itself, watched."),
        f("store", Ty::NotYet("source `store` is", &Ty::Object(&later::STORE)), "", "An embedded store."),
        f("etcd", Ty::NotYet("source `etcd` is", &Ty::Object(&later::ETCD)), "", "etcd."),
    ],
);
