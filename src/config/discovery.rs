//! `gateway.discovery`: the registries in which services are looked up. APISIX's `discovery` of config.yaml, request.md §6.

use std::time::Duration;

use super::fields::{Schema, Ty, f, object};
use super::gateway::{Consul, Discovery, DnsRegistry, Kubernetes, NamespaceSelector, RecordKind};
use super::raw::{Kind, Node};
use super::read::{self, Address};
use super::report::Report;

pub(super) static DISCOVERY: Schema = object(
    "discovery",
    &[
        f("dns", Ty::Object(&DNS), "", "Name servers: SRV, A and AAAA records are nodes."),
        f("consul", Ty::Object(&CONSUL), "", "Consul's catalogue of healthy services."),
        f("kubernetes", Ty::OneOrMany(&KUBERNETES), "", "Endpoints of one cluster, or of several with an `id` each."),
        f("consul_kv", Ty::NotYet("discovery by `consul_kv` is", &Ty::Any), "", "Consul's key-value store."),
        f("eureka", Ty::NotYet("discovery by `eureka` is", &Ty::Any), "", "Eureka."),
        f("nacos", Ty::NotYet("discovery by `nacos` is", &Ty::Any), "", "Nacos."),
        f("tars", Ty::NotYet("discovery by `tars` is", &Ty::Any), "", "Tars."),
    ],
);

static DNS: Schema = object(
    "discovery.dns",
    &[
        f("servers", Ty::List(&Ty::Address(false), 1), "the system's", "Name servers."),
        f("resolv_conf", Ty::Text(1, 4096), "", "A file that names them."),
        f(
            "order",
            Ty::List(&Ty::Enum(&["last", "SRV", "A", "AAAA", "CNAME"]), 1),
            "SRV, A, AAAA",
            "Kinds of record, the first that has some counts.",
        ),
    ],
);

static CONSUL: Schema = Schema {
    required: &["servers"],
    ..object(
        "discovery.consul",
        &[
            f("servers", Ty::List(&Ty::Text(1, 4096), 1), "", "`http://host:port` of each; what they know is put together."),
            f("token", Ty::Text(0, 4096), "", "Token."),
            f("timeout", Ty::Object(&CONSUL_TIMEOUT), "", "Deadlines."),
            f("weight", Ty::Int(1, 1_000_000), "1", "Weight of every node."),
            f("keepalive", Ty::Bool, "true", "Changes are waited for; false asks every `fetch_interval`."),
            f("fetch_interval", Ty::Int(1, 1_000_000), "3", "Seconds between two looks."),
            f(
                "sort_type",
                Ty::Enum(&["origin", "host_sort", "port_sort", "combine_sort"]),
                "origin",
                "Taken; nodes are always sorted.",
            ),
            f("skip_services", Ty::List(&Ty::Text(1, 4096), 1), "", "Services that are not looked up."),
            f("default_service", Ty::Object(&CONSUL_DEFAULT), "", "Node of services that Consul does not know."),
            f("shared_size", Ty::Text(1, 64), "", "Taken, without effect."),
            f("dump", Ty::NotYet("`dump` is", &Ty::Any), "", "A file with the last nodes."),
        ],
    )
};

static CONSUL_TIMEOUT: Schema = object(
    "discovery.consul.timeout",
    &[
        f("connect", Ty::Int(1, 3_600_000), "2000", "Milliseconds until the connection is there."),
        f("read", Ty::Int(1, 3_600_000), "2000", "Milliseconds for an answer, besides `wait`."),
        f("wait", Ty::Int(1, 600), "60", "Seconds for which a change is waited for."),
    ],
);

static CONSUL_DEFAULT: Schema = Schema {
    required: &["host", "port"],
    closed: false,
    ..object(
        "discovery.consul.default_service",
        &[
            f("host", Ty::IpAddress, "", "Its address."),
            f("port", Ty::Int(1, 65_535), "", "Its port."),
            f("metadata", Ty::Any, "", "Taken, without effect."),
        ],
    )
};

static KUBERNETES: Schema = object(
    "discovery.kubernetes",
    &[
        f("id", Ty::Text(1, 64), "", "Name of the cluster, where there are several."),
        f("service", Ty::Object(&KUBERNETES_SERVICE), "", "Its API server."),
        f("client", Ty::Object(&KUBERNETES_CLIENT), "", "What Ringway shows to it."),
        f("namespace_selector", Ty::Object(&SELECTOR), "", "Which namespaces."),
        f("label_selector", Ty::Text(0, 4096), "", "Labels that endpoints must have."),
        f("default_weight", Ty::Int(0, 1_000_000), "50", "Weight of every node."),
        f("watch_endpoint_slices", Ty::Bool, "false", "EndpointSlices in place of Endpoints."),
        f("shared_size", Ty::Text(1, 64), "", "Taken, without effect."),
    ],
);

static KUBERNETES_SERVICE: Schema = object(
    "discovery.kubernetes.service",
    &[
        f("schema", Ty::Enum(&["http", "https"]), "https", "Protocol."),
        f("host", Ty::Text(1, 256), "${KUBERNETES_SERVICE_HOST}", "Host; `${NAME}` is a variable of the environment."),
        f("port", Ty::Any, "${KUBERNETES_SERVICE_PORT}", "Port, likewise."),
        f(
            "ssl_verify",
            Ty::Bool,
            "false",
            "Its certificate is verified, by the service account's authority where that is there.",
        ),
    ],
);

static KUBERNETES_CLIENT: Schema = object(
    "discovery.kubernetes.client",
    &[
        f("token", Ty::Text(1, 65_536), "", "Token."),
        f(
            "token_file",
            Ty::Text(1, 4096),
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "File with it, read for every request.",
        ),
    ],
);

static SELECTOR: Schema = object(
    "discovery.kubernetes.namespace_selector",
    &[
        f("equal", Ty::Text(1, 256), "", "This one."),
        f("not_equal", Ty::Text(1, 256), "", "All but this one."),
        f("match", Ty::List(&Ty::Text(1, 256), 1), "", "Those whose whole name fits an expression."),
        f("not_match", Ty::List(&Ty::Text(1, 256), 1), "", "Those whose name fits none."),
    ],
);

/// Reads a section that fits the table.
pub(super) fn read(node: &Node, report: &mut Report) -> Discovery {
    let kubernetes = match node.get("kubernetes") {
        None => Vec::new(),
        Some(one) if matches!(one.kind, Kind::List(_)) => one.items().iter().map(|item| kubernetes(item, report)).collect(),
        Some(one) => vec![kubernetes(one, report)],
    };
    Discovery { dns: node.get("dns").map(dns), consul: node.get("consul").and_then(|node| consul(node, report)), kubernetes }
}

fn dns(node: &Node) -> DnsRegistry {
    let servers = node.get("servers").map(Node::items).unwrap_or_default();
    let address = |node: &Node| match read::address(node, false) {
        Ok(Address::Tcp(address)) => Some(address),
        _ => None,
    };
    let kind = |node: &Node| match node.text()? {
        "SRV" => Some(RecordKind::Srv),
        "A" => Some(RecordKind::A),
        "AAAA" => Some(RecordKind::Aaaa),
        _ => None, // what was found last time, and aliases: both come by themselves
    };
    let order: Vec<_> = node.get("order").map(Node::items).unwrap_or_default().iter().filter_map(kind).collect();
    DnsRegistry {
        servers: servers.iter().filter_map(address).collect(),
        resolv_conf: text(node, "resolv_conf").map(Into::into),
        order: if order.is_empty() { vec![RecordKind::Srv, RecordKind::A, RecordKind::Aaaa] } else { order },
    }
}

fn consul(node: &Node, report: &mut Report) -> Option<Consul> {
    let mut servers = Vec::new();
    for server in node.get("servers").map(Node::items).unwrap_or_default() {
        match server.text().and_then(server_of) {
            Some(found) => servers.push(found),
            None => {
                let fault = report.error(server.place, "/gateway/discovery/consul/servers", "invalid consul server address");
                fault.help("write http://address:port, without a path");
            }
        }
    }
    let timeout = |name: &str, default: i64| node.get("timeout").and_then(|timeout| timeout.get(name)?.int()).unwrap_or(default);
    let millis = |name: &str, default| Duration::from_millis(u64::try_from(timeout(name, default)).unwrap_or_default());
    let skip = node.get("skip_services").map(Node::items).unwrap_or_default();
    let default = node.get("default_service");
    Some(Consul {
        servers,
        token: text(node, "token").filter(|token| !token.is_empty()),
        connect: millis("connect", 2000),
        read: millis("read", 2000),
        wait: Duration::from_secs(u64::try_from(timeout("wait", 60)).unwrap_or_default()),
        weight: number(node, "weight", 1),
        waits: node.get("keepalive").and_then(Node::bool).unwrap_or(true),
        fetch_interval: Duration::from_secs(u64::from(number(node, "fetch_interval", 3))),
        skip: skip.iter().filter_map(|one| one.text().map(str::to_owned)).collect(),
        default: default.and_then(|node| {
            let port = u16::try_from(node.get("port")?.int()?).ok()?;
            Some((node.get("host")?.text()?.parse().ok()?, port))
        }),
    })
}

/// Host and port of `http://host:port`.
fn server_of(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.strip_prefix("http://")?.rsplit_once(':')?;
    (!host.is_empty() && !host.contains('/')).then_some((host.to_owned(), port.parse().ok()?))
}

fn kubernetes(node: &Node, report: &mut Report) -> Kubernetes {
    let service = |name: &str| node.get("service").and_then(|service| service.get(name));
    let client = |name: &str| node.get("client").and_then(|client| text(client, name));
    let value = |name: &str, default: &str| {
        let given = service(name).map(|node| node.text().map_or_else(|| node.to_json().to_string(), str::to_owned));
        given.unwrap_or_else(|| default.to_owned())
    };
    let selector = node.get("namespace_selector");
    let pattern = |name: &str| {
        let list = selector.and_then(|selector| selector.get(name))?.items();
        Some(list.iter().filter_map(|one| one.text().map(str::to_owned)).collect::<Vec<_>>())
    };
    let one = |name: &str| selector.and_then(|selector| text(selector, name));
    let namespaces = match (one("equal"), one("not_equal"), pattern("match"), pattern("not_match")) {
        (Some(name), ..) => NamespaceSelector::Equal(name),
        (_, Some(name), ..) => NamespaceSelector::NotEqual(name),
        (.., Some(patterns), _) => NamespaceSelector::Match(patterns),
        (.., Some(patterns)) => NamespaceSelector::NotMatch(patterns),
        _ => NamespaceSelector::All,
    };
    if let (NamespaceSelector::Match(patterns) | NamespaceSelector::NotMatch(patterns), Some(selector)) = (&namespaces, selector)
    {
        for bad in patterns.iter().filter(|pattern| regex::Regex::new(pattern).is_err()) {
            report.error(selector.place, "/gateway/discovery/kubernetes", format!("`{bad}` is no regular expression"));
        }
    }
    Kubernetes {
        id: text(node, "id"),
        https: service("schema").and_then(Node::text) != Some("http"),
        host: value("host", "${KUBERNETES_SERVICE_HOST}"),
        port: value("port", "${KUBERNETES_SERVICE_PORT}"),
        verify: service("ssl_verify").and_then(Node::bool).unwrap_or(false),
        token: client("token"),
        token_file: client("token_file")
            .unwrap_or_else(|| "/var/run/secrets/kubernetes.io/serviceaccount/token".to_owned())
            .into(),
        namespaces,
        labels: text(node, "label_selector").filter(|labels| !labels.is_empty()),
        weight: number(node, "default_weight", 50),
        slices: node.get("watch_endpoint_slices").and_then(Node::bool).unwrap_or(false),
    }
}

fn text(node: &Node, name: &str) -> Option<String> {
    node.get(name).and_then(Node::text).map(str::to_owned)
}

fn number(node: &Node, name: &str, default: u32) -> u32 {
    node.get(name).and_then(Node::int).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}
