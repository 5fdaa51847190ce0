//! Upstreams from checked trees: those with an id, and those written in place.

use std::sync::Arc;
use std::time::Duration;

use super::model::{
    Balancer, Discovered, HashOn, KeepalivePool, PassHost, ProxyVersion, Scheme, TlsToNodes, Upstream, mirror_identity,
    split_identity,
};
use super::raw::{Kind, Node};
use super::resources::{Builder, reference, text, timeout};
use super::{checks, policy, read, suggest};

impl Builder<'_> {
    pub(super) fn upstream(&mut self, node: &Node, path: &str, file: u16, at: usize) {
        let id = self.id_or(node, at);
        self.claim("upstreams", &id, node.place, path);
        let upstream = self.upstream_of(node, path, file, format!("upstreams/{id}"));
        self.model.upstreams.insert(id, upstream);
    }

    pub(super) fn upstream_of(&mut self, node: &Node, path: &str, file: u16, identity: String) -> Arc<Upstream> {
        self.upstream_rules(node, path);
        let pass_host = match node.get("pass_host").and_then(Node::text) {
            Some("node") => PassHost::Node,
            Some("rewrite") => PassHost::Rewrite(node.get("upstream_host").and_then(Node::text).unwrap_or_default().to_owned()),
            _ => PassHost::Pass,
        };
        let number = |name: &str| node.get(name).and_then(Node::int);
        let scheme = match node.get("scheme").and_then(Node::text) {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        Arc::new(Upstream {
            identity: identity.as_str().into(),
            id: node.get("id").and_then(|id| read::id(id).ok()),
            origin: self.origin(node, path, file, identity),
            name: text(node, "name"),
            nodes: node.get("nodes").and_then(|nodes| read::nodes(nodes, scheme.default_port()).ok()).unwrap_or_default(),
            balancer: self.balancer(node, path),
            scheme,
            pass_host,
            retries: number("retries").map(|retries| u32::try_from(retries).unwrap_or(u32::MAX)),
            retry_timeout: node.get("retry_timeout").and_then(read::seconds).unwrap_or_default(),
            timeout: node.get("timeout").and_then(timeout).unwrap_or_default(),
            keepalive: node.get("keepalive_pool").map(keepalive).unwrap_or_default(),
            checks: node.get("checks").and_then(checks::read).map(Arc::new),
            tls: node.get("tls").map(tls).unwrap_or_default(),
            source: node.get("source_address").and_then(Node::text).and_then(|text| text.parse().ok()),
            discovered: self.discovered(node, path),
            policy: policy::read(node),
            proxy_protocol: match node.get("proxy_protocol").and_then(Node::text) {
                Some("v1") => Some(ProxyVersion::V1),
                Some("v2") => Some(ProxyVersion::V2),
                _ => None,
            },
        })
    }

    fn discovered(&mut self, node: &Node, path: &str) -> Option<Discovered> {
        const KNOWN: [&str; 3] = ["dns", "consul", "kubernetes"];
        let (service, kind) = (node.get("service_name")?.text()?, node.get("discovery_type")?);
        let registry = kind.text()?;
        if ["consul_kv", "eureka", "nacos", "tars"].contains(&registry) {
            let message = format!("discovery by `{registry}` is not supported yet");
            self.report.error(kind.place, &format!("{path}/discovery_type"), message);
        } else if !KNOWN.contains(&registry) {
            let fault =
                self.report.error(kind.place, &format!("{path}/discovery_type"), format!("unknown registry `{registry}`"));
            fault.suggest(suggest::nearest(registry, KNOWN)).help(format!("one of {}", KNOWN.join(", ")));
        }
        Some(Discovered { registry: registry.into(), service: service.into() })
    }

    fn balancer(&mut self, node: &Node, path: &str) -> Balancer {
        let Some(kind) = node.get("type") else { return Balancer::RoundRobin };
        match kind.text() {
            Some("roundrobin") | None => Balancer::RoundRobin,
            Some("least_conn") => Balancer::LeastConn,
            Some("ewma") => Balancer::Ewma,
            Some("chash") => match hash_on(node) {
                Ok(on) => Balancer::Chash(on),
                Err(message) => {
                    let place = node.get("key").unwrap_or(kind).place;
                    self.report.error(place, &format!("{path}/key"), message);
                    Balancer::RoundRobin
                }
            },
            Some(other) => {
                let known = ["roundrobin", "chash", "least_conn", "ewma"];
                let fault = self.report.error(kind.place, &format!("{path}/type"), format!("unknown balancer `{other}`"));
                fault.suggest(suggest::nearest(other, known)).help(format!("one of {}", known.join(", ")));
                Balancer::RoundRobin
            }
        }
    }

    fn upstream_rules(&mut self, node: &Node, path: &str) {
        if let Some(scheme) = node.get("scheme")
            && let Some(name @ ("grpc" | "grpcs" | "tcp" | "tls" | "udp" | "kafka")) = scheme.text()
        {
            self.report.error(scheme.place, &format!("{path}/scheme"), format!("scheme `{name}` is not supported yet"));
        }
        let rewrites = node.get("pass_host").and_then(Node::text) == Some("rewrite");
        if rewrites && node.get("upstream_host").and_then(Node::text).is_none_or(str::is_empty) {
            let message = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
            self.report.error(node.place, path, message);
        }
        let discovered = node.get("service_name").is_some() || node.get("discovery_type").is_some();
        if node.get("nodes").is_none() && !discovered {
            self.report.error(node.place, path, "`nodes` is required");
        }
    }

    /// The upstreams that an item's plugins have written in place, and their references to others.
    pub(super) fn inner_upstreams(&mut self, node: &Node, path: &str, file: u16, item: &str) {
        self.splits(node, path, file, item);
        let mirror = node.get("plugins").and_then(|plugins| plugins.get("proxy-mirror")?.get("host"));
        if let Some((host, (scheme, to))) = mirror.and_then(|host| Some((host, mirror_host(host.text()?)?))) {
            let identity = mirror_identity(item);
            let origin = self.origin(host, &format!("{path}/plugins/proxy-mirror/host"), file, identity.clone());
            let upstream = Upstream::plain(identity.as_str().into(), origin, scheme, vec![to]);
            self.model.split_upstreams.insert(identity.into(), Arc::new(upstream));
        }
    }

    fn splits(&mut self, node: &Node, path: &str, file: u16, item: &str) {
        let Some(conf) = node.get("plugins").and_then(|plugins| plugins.get("traffic-split")) else { return };
        for (rule, entry, node) in split_entries(conf) {
            let path = format!("{path}/plugins/traffic-split/rules/{rule}/weighted_upstreams/{entry}");
            if let Some(inline) = node.get("upstream").filter(|inline| matches!(inline.kind, Kind::Map(_))) {
                let identity = split_identity(item, rule, entry);
                let upstream = self.upstream_of(inline, &format!("{path}/upstream"), file, identity.clone());
                self.model.split_upstreams.insert(identity.into(), upstream);
            }
            if let Some(id) = reference(node, "upstream_id") {
                self.split_references.push((self.origin(node, &path, file, item.to_owned()), id));
            }
        }
    }
}

/// `tls`, which fits its table.
fn tls(node: &Node) -> TlsToNodes {
    let text = |name: &str| node.get(name).and_then(Node::text).map(str::to_owned);
    TlsToNodes {
        verify: node.get("verify").and_then(Node::bool),
        ca: text("ca_cert"),
        client: text("client_cert").zip(text("client_key")),
        client_id: reference(node, "client_cert_id"),
    }
}

/// Scheme and place in the `host` of a `proxy-mirror`; `None` where it is none.
fn mirror_host(text: &str) -> Option<(Scheme, super::model::Node)> {
    let (scheme, place) = match text.split_once("://")? {
        ("http", place) => (Scheme::Http, place),
        ("https", place) => (Scheme::Https, place),
        _ => return None,
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let (host, port) = read::place(place, scheme.default_port()).ok()?;
    place.bytes().all(fits).then_some((scheme, super::model::Node { host, port, weight: 1, priority: 0 }))
}

/// The entries of a `traffic-split`: rule, entry, its node.
pub(super) fn split_entries(conf: &Node) -> impl Iterator<Item = (usize, usize, &Node)> {
    let rules = conf.get("rules").map(Node::items).unwrap_or_default();
    rules.iter().enumerate().flat_map(|(rule, node)| {
        let entries = node.get("weighted_upstreams").map(Node::items).unwrap_or_default();
        entries.iter().enumerate().map(move |(entry, node)| (rule, entry, node))
    })
}

/// `hash_on` and `key`, the key's form checked as APISIX does (resources.md §1.3).
fn hash_on(node: &Node) -> Result<HashOn, String> {
    const VARS: [&str; 10] = [
        "uri",
        "server_name",
        "server_addr",
        "request_uri",
        "remote_port",
        "remote_addr",
        "query_string",
        "host",
        "hostname",
        "mqtt_client_id",
    ];
    let on = node.get("hash_on").and_then(Node::text).unwrap_or("vars");
    if on == "consumer" {
        return Ok(HashOn::Consumer);
    }
    let Some(key) = node.get("key").and_then(Node::text).filter(|key| !key.is_empty()) else {
        return Err("missing key: `chash` needs one, unless `hash_on` is `consumer`".to_owned());
    };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match on {
        "vars" if VARS.contains(&key) || key.strip_prefix("arg_").is_some_and(word) => Ok(HashOn::Vars(key.to_owned())),
        "vars" => Err(format!("`{key}` is no key for `vars`: one of {}, or arg_NAME", VARS.join(", "))),
        "header" if word(key) => Ok(HashOn::Header(key.to_owned())),
        "cookie" if word(key) => Ok(HashOn::Cookie(key.to_owned())),
        "header" | "cookie" => Err(format!("`{key}` is no name: letters, digits, `-` and `_`")),
        _ => Ok(HashOn::VarsCombinations(key.to_owned())),
    }
}

fn keepalive(node: &Node) -> KeepalivePool {
    let default = KeepalivePool::default();
    let number = |name: &str, default: u32| {
        node.get(name).and_then(Node::int).and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    };
    KeepalivePool {
        size: number("size", default.size),
        idle_timeout: node.get("idle_timeout").and_then(read::seconds).unwrap_or(Duration::from_secs(60)),
        requests: number("requests", default.requests),
    }
}
