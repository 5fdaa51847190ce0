//! From checked trees to the model: APISIX's resources. The rules between fields are here; each is an error with its place.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use super::model::{ClientCertificate, Consumer, Credential, Id, Model, Origin, PluginSet, Plugins, Route, Service, Timeout};
use super::raw::{Kind, Node, Place};
use super::report::Report;
use super::{later, read, suggest};
use crate::proto::message::{Method, MethodSet};
use crate::route::expr::Expr;

/// Builds the model; faults go to the report.
pub(super) struct Builder<'r> {
    pub(super) report: &'r mut Report,
    pub(super) model: Model,
    /// Where each id was written: (collection, id) → place.
    seen: HashMap<(&'static str, Id), Place>,
    routes: HashMap<Id, usize>,
    /// Upstreams that `traffic-split` names.
    pub(super) split_references: Vec<(Origin, Id)>,
}

impl<'r> Builder<'r> {
    pub(super) fn new(report: &'r mut Report) -> Self {
        let (seen, routes, split_references) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { report, model: Model::default(), seen, routes, split_references }
    }

    /// Adds a file's resources.
    pub(super) fn file(&mut self, root: &Node, file: u16) {
        for (at, node) in items(root, "services") {
            self.service(node, &path("services", at), file, at);
        }
        for (at, node) in items(root, "upstreams") {
            self.upstream(node, &path("upstreams", at), file, at);
        }
        for (at, node) in items(root, "routes") {
            self.route(node, &path("routes", at), file, at);
        }
        for (at, node) in items(root, "consumers") {
            self.consumer(node, &path("consumers", at), file);
        }
        for name in ["consumer_groups", "plugin_configs", "global_rules"] {
            for (at, node) in items(root, name) {
                self.plugin_set(name, node, &path(name, at), file);
            }
        }
        for (at, node) in items(root, "ssls") {
            self.ssl(node, &path("ssls", at), file, at);
        }
        for name in ["stream_routes", "protos"] {
            for (at, node) in items(root, name) {
                self.claim(name, &self.id_or(node, at), node.place, &path(name, at));
            }
        }
        for (at, node) in items(root, "secrets") {
            self.secret(node, &path("secrets", at));
        }
        for (at, node) in items(root, "plugin_metadata") {
            if let Some(name) = node.get("id").and_then(Node::text) {
                self.claim("plugin_metadata", &name.into(), node.place, &path("plugin_metadata", at));
                self.model.plugin_metadata.insert(name.to_owned(), node.to_json());
            }
        }
        if let Some(enabled) = root.get("plugins") {
            let names = enabled.items().iter().filter_map(|item| item.get("name")?.text().map(str::to_owned));
            self.model.plugins_enabled = Some(names.collect());
        }
    }

    /// Refuses the uses of plugins that a file's `plugins` leaves out, as APISIX does: `unknown plugin`.
    pub(super) fn enabled_plugins(&mut self, roots: &[(u16, Arc<Node>)]) {
        let Some(enabled) = self.model.plugins_enabled.take() else { return };
        const COLLECTIONS: [&str; 6] = ["routes", "services", "consumers", "consumer_groups", "plugin_configs", "global_rules"];
        for (_, root) in roots {
            for (name, (at, node)) in COLLECTIONS.iter().flat_map(|name| items(root, name).map(move |item| (name, item))) {
                for (key, _) in node.get("plugins").map(Node::entries).unwrap_or_default() {
                    if enabled.contains(&key.text) {
                        continue;
                    }
                    let path = format!("{}/plugins/{}", path(name, at), key.text);
                    let message = format!("unknown plugin [{}]: the list `plugins` leaves it out", key.text);
                    let fault = self.report.error(key.place, &path, message);
                    fault.suggest(suggest::nearest(&key.text, enabled.iter().map(String::as_str)));
                }
            }
        }
        self.model.plugins_enabled = Some(enabled);
    }

    pub(super) fn origin(&self, node: &Node, pointer: &str, file: u16, item: String) -> Origin {
        let mut hasher = DefaultHasher::new();
        node.digest(&mut hasher);
        let (line, _) = self.report.sources.line_column(node.place);
        Origin { file, item: item.into(), line: line as u32, pointer: pointer.to_owned(), digest: hasher.finish() }
    }

    /// Notes an id. Within a file a later item replaces the earlier, as in APISIX; across files that is an error.
    pub(super) fn claim(&mut self, collection: &'static str, id: &Id, place: Place, path: &str) {
        let Some(before) = self.seen.insert((collection, id.clone()), place) else { return };
        if before.file == place.file {
            self.report.warning(place, path, format!("id `{id}` is used twice in {collection}; the later item counts"));
        } else {
            let (line, _) = self.report.sources.line_column(before);
            let name = self.report.sources.name(before.file).to_owned();
            self.report.error(place, path, format!("id `{id}` is used in {name}:{line} already"));
        }
    }

    pub(super) fn id_or(&self, node: &Node, at: usize) -> Id {
        let given = node.get("id").and_then(|id| read::id(id).ok());
        given.unwrap_or_else(|| format!("arr_{}", at + 1).into())
    }

    fn route(&mut self, node: &Node, path: &str, file: u16, at: usize) {
        let id = self.id_or(node, at);
        self.claim("routes", &id, node.place, path);
        self.exclusive(node, path, "uri", "uris", true);
        self.exclusive(node, path, "host", "hosts", false);
        self.exclusive(node, path, "remote_addr", "remote_addrs", false);
        let leads = ["plugins", "upstream", "upstream_id", "service_id", "script"];
        if !leads.iter().any(|name| node.get(name).is_some()) {
            self.report
                .error(node.place, path, "the route leads nowhere")
                .help("give it `upstream`, `upstream_id`, `service_id` or `plugins`");
        }
        let upstream =
            node.get("upstream").map(|inner| self.upstream_of(inner, &format!("{path}/upstream"), file, format!("routes/{id}")));
        let nets = one_or_many(node, "remote_addr", "remote_addrs").filter_map(|node| read::net(node).ok()).collect();
        let mut methods = MethodSet::default();
        for method in list(node, "methods").filter_map(Node::text) {
            if let Some(method) = Method::from_known(method.as_bytes()) {
                methods.insert(method);
            }
        }
        let item = format!("routes/{id}");
        self.inner_upstreams(node, path, file, &item);
        let route = Route {
            origin: self.origin(node, path, file, item),
            name: text(node, "name"),
            uris: one_or_many(node, "uri", "uris").filter_map(|node| node.text().map(str::to_owned)).collect(),
            hosts: one_or_many(node, "host", "hosts").filter_map(|node| read::host(node).ok()).collect(),
            methods,
            remote_addrs: nets,
            vars: node.get("vars").and_then(|vars| Expr::compile(&vars.to_json()).ok()),
            priority: node.get("priority").and_then(Node::int).unwrap_or(0),
            plugins: plugins(node),
            plugin_config_id: reference(node, "plugin_config_id"),
            service_id: reference(node, "service_id"),
            upstream_id: reference(node, "upstream_id"),
            upstream,
            timeout: node.get("timeout").and_then(timeout),
            enable_websocket: node.get("enable_websocket").and_then(Node::bool),
            enabled: node.get("status").and_then(Node::int) != Some(0),
            labels: labels(node),
            id: id.clone(),
        };
        match self.routes.get(&id) {
            Some(&at) => self.model.routes[at] = Arc::new(route),
            None => {
                self.routes.insert(id, self.model.routes.len());
                self.model.routes.push(Arc::new(route));
            }
        }
    }

    fn exclusive(&mut self, node: &Node, path: &str, one: &str, many: &str, required: bool) {
        match (node.get(one), node.get(many)) {
            (Some(_), Some(second)) => {
                self.report.error(second.place, path, format!("only one of `{one}` and `{many}` is allowed"));
            }
            (None, None) if required => {
                self.report.error(node.place, path, format!("`{one}` or `{many}` is required"));
            }
            _ => {}
        }
    }

    fn service(&mut self, node: &Node, path: &str, file: u16, at: usize) {
        let id = self.id_or(node, at);
        self.claim("services", &id, node.place, path);
        let upstream = node
            .get("upstream")
            .map(|inner| self.upstream_of(inner, &format!("{path}/upstream"), file, format!("services/{id}")));
        let item = format!("services/{id}");
        self.inner_upstreams(node, path, file, &item);
        let service = Service {
            origin: self.origin(node, path, file, item),
            name: text(node, "name"),
            hosts: list(node, "hosts").filter_map(|node| read::host(node).ok()).collect(),
            plugins: plugins(node),
            upstream_id: reference(node, "upstream_id"),
            upstream,
            enable_websocket: node.get("enable_websocket").and_then(Node::bool),
            id: id.clone(),
        };
        self.model.services.insert(id, Arc::new(service));
    }

    /// Certificates: those that are shown to nodes; those for clients of ours are to come.
    fn ssl(&mut self, node: &Node, path: &str, file: u16, at: usize) {
        let id = self.id_or(node, at);
        self.claim("ssls", &id, node.place, path);
        if node.get("type").and_then(Node::text) != Some("client") {
            self.report.error(node.place, path, "TLS certificates for clients (ssls of `type: server`) are not supported yet");
            return;
        }
        let (Some(cert), Some(key)) = (text(node, "cert"), text(node, "key")) else { return };
        let origin = self.origin(node, path, file, format!("ssls/{id}"));
        let certificate = ClientCertificate { origin, cert: cert.to_string(), key: key.to_string() };
        self.model.client_certificates.insert(id, Arc::new(certificate));
    }

    /// A secret's manager, which its id names, decides what it needs.
    fn secret(&mut self, node: &Node, path: &str) {
        let Some(id) = node.get("id").and_then(|id| id.text()) else { return };
        self.claim("secrets", &id.into(), node.place, path);
        match later::secret_needs(id) {
            Ok(needs) => {
                for names in needs.iter().filter(|names| !names.iter().any(|name| node.get(name).is_some())) {
                    self.report.error(node.place, path, format!("`{}` is required", names.join("` or `")));
                }
            }
            Err(message) => {
                let manager = id.split('/').next().unwrap_or_default();
                let fault = self.report.error(node.place, path, message);
                fault.suggest(suggest::nearest(manager, ["vault", "aws", "gcp"]));
            }
        }
    }

    fn consumer(&mut self, node: &Node, path: &str, file: u16) {
        let credential = node.get("id").and_then(Node::text).and_then(|id| id.split_once("/credentials/"));
        if let Some((consumer, id)) = credential {
            self.claim("consumers", &format!("{consumer}/credentials/{id}").into(), node.place, path);
            let plugins = plugins(node);
            if plugins.0.len() > 1 {
                self.report.error(node.place, path, "a credential has at most one plugin");
            }
            let (id, consumer) = (Id::from(id), Id::from(consumer));
            let origin = self.origin(node, path, file, format!("consumers/{consumer}/credentials/{id}"));
            self.model.credentials.push(Arc::new(Credential { id, consumer, origin, plugins }));
            return;
        }
        let Some(username) = node.get("username").and_then(Node::text) else {
            self.report.error(node.place, path, "`username` is required");
            return;
        };
        let fits = username.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if username.is_empty() || !fits {
            self.report.error(node.place, path, "a username is letters, digits, `_` and `-`");
        }
        if let Some(id) = node.get("id").filter(|id| id.text() != Some(username)) {
            self.report.error(
                id.place,
                path,
                "a consumer's `id` is its `username`, or `USERNAME/credentials/ID` for a credential",
            );
        }
        let username = Id::from(username);
        self.claim("consumers", &username, node.place, path);
        let item = format!("consumers/{username}");
        self.inner_upstreams(node, path, file, &item);
        let consumer = Consumer {
            username: username.clone(),
            origin: self.origin(node, path, file, item),
            group_id: reference(node, "group_id"),
            plugins: plugins(node),
            labels: labels(node),
        };
        self.model.consumers.insert(username, Arc::new(consumer));
    }

    fn plugin_set(&mut self, collection: &'static str, node: &Node, path: &str, file: u16) {
        let Some(id) = node.get("id").and_then(|id| read::id(id).ok()) else { return };
        self.claim(collection, &id, node.place, path);
        let item = format!("{collection}/{id}");
        self.inner_upstreams(node, path, file, &item);
        let set = Arc::new(PluginSet { id: id.clone(), origin: self.origin(node, path, file, item), plugins: plugins(node) });
        let sets = match collection {
            "consumer_groups" => &mut self.model.consumer_groups,
            "plugin_configs" => &mut self.model.plugin_configs,
            _ => &mut self.model.global_rules,
        };
        sets.insert(id, set);
    }

    /// References to what does not exist: APISIX answers such requests with 404, 502 or 503, and so does Ringway.
    pub(super) fn references(&mut self) {
        let mut dangling = Vec::new();
        for route in &self.model.routes {
            check(&mut dangling, &route.origin, "service_id", route.service_id.as_ref(), &self.model.services);
            check(&mut dangling, &route.origin, "upstream_id", route.upstream_id.as_ref(), &self.model.upstreams);
            check(&mut dangling, &route.origin, "plugin_config_id", route.plugin_config_id.as_ref(), &self.model.plugin_configs);
        }
        for service in self.model.services.values() {
            check(&mut dangling, &service.origin, "upstream_id", service.upstream_id.as_ref(), &self.model.upstreams);
        }
        for (origin, id) in &self.split_references {
            check(&mut dangling, origin, "upstream_id", Some(id), &self.model.upstreams);
        }
        for consumer in self.model.consumers.values() {
            check(&mut dangling, &consumer.origin, "group_id", consumer.group_id.as_ref(), &self.model.consumer_groups);
        }
        for credential in &self.model.credentials {
            check(&mut dangling, &credential.origin, "id", Some(&credential.consumer), &self.model.consumers);
        }
        for (origin, field, message, suggestion) in dangling {
            let fault = self.report.inside(super::report::Severity::Warning, &origin, &format!("/{field}"), message);
            fault.suggest(suggestion);
        }
    }
}

type Dangling = (Origin, &'static str, String, Option<String>);

fn check<T>(dangling: &mut Vec<Dangling>, origin: &Origin, field: &'static str, id: Option<&Id>, known: &BTreeMap<Id, T>) {
    if let Some(id) = id.filter(|id| !known.contains_key(*id)) {
        let suggestion = suggest::nearest(id, known.keys().map(|id| &**id)).map(str::to_owned);
        dangling.push((origin.clone(), field, format!("`{id}` does not exist"), suggestion));
    }
}

fn path(collection: &str, at: usize) -> String {
    format!("/{collection}/{at}")
}

fn items<'n>(root: &'n Node, name: &str) -> impl Iterator<Item = (usize, &'n Node)> {
    root.get(name).map(Node::items).unwrap_or_default().iter().enumerate().filter(|(_, node)| matches!(node.kind, Kind::Map(_)))
}

fn list<'n>(node: &'n Node, name: &str) -> impl Iterator<Item = &'n Node> {
    node.get(name).map(Node::items).unwrap_or_default().iter()
}

fn one_or_many<'n>(node: &'n Node, one: &str, many: &str) -> impl Iterator<Item = &'n Node> {
    node.get(one).into_iter().chain(list(node, many))
}

pub(super) fn text(node: &Node, name: &str) -> Option<Arc<str>> {
    node.get(name)?.text().map(Into::into)
}

pub(super) fn reference(node: &Node, name: &str) -> Option<Id> {
    read::id(node.get(name)?).ok()
}

fn labels(node: &Node) -> BTreeMap<String, String> {
    let entries = node.get("labels").map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|(key, value)| Some((key.text.clone(), value.text()?.to_owned()))).collect()
}

/// Plugins in file order; a configuration of nothing is an empty object, as in APISIX.
fn plugins(node: &Node) -> Plugins {
    let entries = node.get("plugins").map(Node::entries).unwrap_or_default();
    let conf = |node: &Node| match node.kind {
        Kind::Null => serde_json::json!({}),
        _ => node.to_json(),
    };
    Plugins(entries.iter().map(|(key, node)| (key.text.clone(), conf(node))).collect())
}

pub(super) fn timeout(node: &Node) -> Option<Timeout> {
    let part = |name: &str| node.get(name).and_then(read::seconds);
    Some(Timeout { connect: part("connect")?, send: part("send")?, read: part("read")? })
}
