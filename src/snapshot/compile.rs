//! From the checked model to a snapshot. What did not change since the previous epoch is taken over from it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value as Json;

use super::specs::Specs;
use super::{ConsumerLayer, Route, RouteEntry, Snapshot, Target};
use crate::base::limits;
use crate::config::Loaded;
use crate::config::gateway::Gateway;
use crate::config::model::{self, Id, Model, Plugins};
use crate::config::report::{Report, Severity};
use crate::net::host;
use crate::plugin::chain::{Chain, Environment, Layer, Merged, PlacedFault, Source};
use crate::plugin::consumers::{Consumers, Identity, KEY_ATTRIBUTES};
use crate::plugin::ctx::RouteInfo;
use crate::plugin::{registry, traffic_split};
use crate::proto::vars::Var;
use crate::proxy::access_log::Format;
use crate::route::{Spec as RouteSpec, Table};
use crate::upstream::Spec;
use crate::upstream::names::Names;

/// A configuration that may become an epoch.
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Warnings, those of reading among them.
    pub report: Report,
}

/// Numbers for per-worker state that outlives epochs.
static ROUTE_SLOTS: AtomicU32 = AtomicU32::new(0);

/// Compiles and checks completely.
///
/// # Errors
/// Everything that is wrong.
pub fn compile(loaded: Loaded, epoch: u64, previous: Option<&Arc<Snapshot>>, names: &Names) -> Result<Compiled, Report> {
    let Loaded { model, gateway, mut report } = loaded;
    let services = names.services.version(); // before they are read: a later answer makes another epoch
    let mut compiler = Compiler {
        model: &model,
        faults: Vec::new(),
        old_routes: previous.map(|snapshot| by_id(snapshot)).unwrap_or_default(),
        specs: Specs::new(&model, names, &gateway.discovery, previous),
        settings: settings_digest(&model),
    };
    let routes: Vec<Arc<Route>> = compiler.routes();
    let global = compiler.global();
    let (consumers, consumer_layers) = compiler.consumers();
    let Compiler { specs, faults, .. } = compiler;
    specs.certificates();
    let (upstreams, upstream_faults) = specs.into_slots();
    for PlacedFault { origin, fault, warning } in faults.into_iter().chain(upstream_faults) {
        let severity = if warning { Severity::Warning } else { Severity::Error };
        let told = report.inside(severity, &origin, &fault.pointer, fault.message);
        told.help = fault.help;
    }
    let log = log_format(&gateway, &mut report);
    let table = table(&gateway, &routes, &mut report);
    report.sources.forget_trees();
    let (Some(table), false) = (table, report.has_errors()) else { return Err(report) };
    let version = if gateway.server_tokens { concat!("Ringway/", env!("CARGO_PKG_VERSION")) } else { "Ringway" };
    let snapshot = Snapshot {
        epoch,
        table,
        reads_forwarded: reads_forwarded(&model, &routes, &upstreams, log.as_ref()),
        reads_captures: reads_captures(&routes, &global, log.as_ref()),
        connection_limit: connection_limit(&gateway),
        request_limit: Some(gateway.timeouts.request).filter(|limit| !limit.is_zero()),
        lifetime: Some(gateway.timeouts.lifetime).filter(|limit| !limit.is_zero()),
        gateway,
        routes: routes.into_iter().map(RouteEntry::of).collect(),
        global,
        consumers,
        consumer_layers,
        upstreams,
        services,
        log,
        server: version.as_bytes().to_vec(),
        model,
    };
    Ok(Compiled { snapshot: Arc::new(snapshot), report })
}

/// `limits.connections`, or as many as descriptors allow when each client has an upstream connection of its own.
fn connection_limit(gateway: &Gateway) -> usize {
    let auto = || {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = gateway.workers.count.or(gateway.workers.cpus.as_ref().map(Vec::len)).unwrap_or(cpus).max(1);
        usize::try_from(host::descriptors().soft).unwrap_or(usize::MAX).saturating_sub(limits::DESCRIPTORS_KEPT) / 2 / workers
    };
    gateway.limits.connections.unwrap_or_else(auto).max(1)
}

fn by_id(snapshot: &Snapshot) -> HashMap<Id, Arc<Route>> {
    snapshot.routes.iter().map(|entry| (entry.route.info.id.clone(), entry.route.clone())).collect()
}

/// What every plugin instance may depend on.
fn settings_digest(model: &Model) -> u64 {
    let mut hasher = DefaultHasher::new();
    for settings in [&model.plugin_attr, &model.plugin_metadata] {
        for (name, value) in settings {
            name.hash(&mut hasher);
            value.to_string().hash(&mut hasher);
        }
    }
    hasher.finish()
}

struct Compiler<'m> {
    model: &'m Arc<Model>,
    specs: Specs<'m>,
    faults: Vec<PlacedFault>,
    old_routes: HashMap<Id, Arc<Route>>,
    settings: u64,
}

impl Compiler<'_> {
    fn routes(&mut self) -> Vec<Arc<Route>> {
        let model = self.model.clone();
        model.routes.iter().filter(|route| route.enabled).map(|route| self.route(route)).collect()
    }

    fn route(&mut self, route: &Arc<model::Route>) -> Arc<Route> {
        let model = self.model.clone();
        let service = route.service_id.as_ref().and_then(|id| model.services.get(id));
        let config = route.plugin_config_id.as_ref().and_then(|id| model.plugin_configs.get(id));
        let target = self.target(route, service);
        let sources = route_sources(route, service, config);
        let mut hasher = DefaultHasher::new();
        (route.origin.digest, self.settings).hash(&mut hasher);
        service.map(|service| service.origin.digest).hash(&mut hasher);
        config.map(|config| config.origin.digest).hash(&mut hasher);
        (route.service_id.is_some(), route.plugin_config_id.is_some()).hash(&mut hasher);
        match &target {
            Target::Upstream(spec) => (0, spec.digest, spec.slot).hash(&mut hasher),
            Target::Broken(status) => (1, status).hash(&mut hasher),
            Target::None => 2.hash(&mut hasher),
        }
        for source in &sources {
            for identity in references(source) {
                self.specs.slot(&identity).hash(&mut hasher);
            }
        }
        let digest = hasher.finish();
        if let Some(old) = self.old_routes.get(&route.id).filter(|old| old.digest == digest) {
            return old.clone();
        }
        let chain = Chain::build(
            &sources,
            &Environment { model: &model, upstream: &|identity| self.specs.slot(identity) },
            &mut self.faults,
        );
        let hosts = if route.hosts.is_empty() {
            service.map(|service| service.hosts.clone()).unwrap_or_default()
        } else {
            route.hosts.clone()
        };
        let info = RouteInfo {
            id: route.id.clone(),
            name: route.name.clone(),
            service_id: service.map(|service| service.id.clone()),
            service_name: service.and_then(|service| service.name.clone()),
            uris: route.uris.clone(),
            hosts,
            slot: ROUTE_SLOTS.fetch_add(1, Ordering::Relaxed),
        };
        let websocket = route.enable_websocket.or_else(|| service?.enable_websocket).unwrap_or(false);
        Arc::new(Route { info, chain, target, websocket, timeout: route.timeout.map(Box::new), model: route.clone(), digest })
    }

    /// APISIX resources.md §2.2: the route's upstream_id, its upstream, the service's id, the service's upstream; what is
    /// named and missing is answered with a status of its own.
    fn target(&mut self, route: &model::Route, service: Option<&Arc<model::Service>>) -> Target {
        let model = self.model.clone();
        if route.plugin_config_id.as_ref().is_some_and(|id| !model.plugin_configs.contains_key(id)) {
            return Target::Broken(503);
        }
        if route.service_id.is_some() && service.is_none() {
            return Target::Broken(404);
        }
        let by_id = |id: &Id| model.upstreams.get(id).cloned().ok_or(());
        let service_upstream = || {
            let service = service?;
            match &service.upstream_id {
                Some(id) => Some(by_id(id)),
                None => service.upstream.clone().map(Ok),
            }
        };
        let upstream = match (&route.upstream_id, &route.upstream) {
            (Some(id), _) => Some(by_id(id)),
            (None, Some(upstream)) => Some(Ok(upstream.clone())),
            (None, None) => service_upstream(),
        };
        match upstream {
            Some(Ok(upstream)) => Target::Upstream(self.specs.of(&upstream)),
            Some(Err(())) => Target::Broken(502),
            None => Target::None,
        }
    }

    /// All global rules as one chain. A plugin in two rules runs in neither (APISIX resources.md §2.1): here it is refused.
    fn global(&mut self) -> Chain {
        let model = self.model.clone();
        let mut seen: HashMap<&str, &Id> = HashMap::new();
        for rule in model.global_rules.values() {
            for (name, _) in &rule.plugins.0 {
                if let Some(first) = seen.insert(name, &rule.id) {
                    let message = format!("plugin '{name}' already exists in global rule with id '{first}'");
                    let fault = crate::plugin::ConfFault::at(format!("/plugins/{name}"), message);
                    self.faults.push(PlacedFault { origin: rule.origin.clone(), fault, warning: false });
                }
            }
        }
        let sources =
            model.global_rules.values().map(|rule| Source { layer: Layer::Global, origin: &rule.origin, plugins: &rule.plugins });
        Chain::build(
            &sources.collect::<Vec<_>>(),
            &Environment { model: &model, upstream: &|identity| self.specs.slot(identity) },
            &mut self.faults,
        )
    }

    fn consumers(&mut self) -> (Consumers, Vec<ConsumerLayer>) {
        let model = self.model.clone();
        let mut consumers = Consumers::default();
        let mut layers = Vec::new();
        for (index, consumer) in model.consumers.values().enumerate() {
            let group = match &consumer.group_id {
                None => Ok(None),
                Some(id) => model.consumer_groups.get(id).cloned().map(Some).ok_or(()),
            };
            layers.push(ConsumerLayer { consumer: consumer.clone(), group });
            self.check_consumer_plugins(&consumer.plugins, &consumer.origin);
            let identity = |conf: Json, credential: Option<Id>| Identity {
                username: consumer.username.clone(),
                credential,
                custom_id: consumer.labels.get("custom_id").map(|id| id.as_str().into()),
                group: consumer.group_id.clone(),
                auth_conf: conf,
                index,
            };
            consumers.insert_name(Arc::new(identity(Json::Null, None)));
            self.file(&mut consumers, &consumer.plugins, &consumer.origin, |conf| identity(conf, None));
            for credential in model.credentials.iter().filter(|credential| credential.consumer == consumer.username) {
                self.check_consumer_plugins(&credential.plugins, &credential.origin);
                let id = credential.id.clone();
                self.file(&mut consumers, &credential.plugins, &credential.origin, |conf| identity(conf, Some(id.clone())));
            }
        }
        for group in model.consumer_groups.values() {
            self.check_consumer_plugins(&group.plugins, &group.origin);
        }
        (consumers, layers)
    }

    /// Files an identity under the key of each auth plugin it carries. A key that two consumers share would log the one in
    /// as the other: refused, where APISIX takes the later. References to secrets never become keys.
    fn file(
        &mut self,
        consumers: &mut Consumers,
        plugins: &Plugins,
        origin: &model::Origin,
        identity: impl Fn(Json) -> Identity,
    ) {
        for (plugin, attribute) in KEY_ATTRIBUTES {
            let Some(conf) = plugins.get(plugin) else { continue };
            let Some(key) = conf.get(*attribute).and_then(Json::as_str) else { continue };
            let mut tell = |message: String| {
                let fault = crate::plugin::ConfFault::at(format!("/plugins/{plugin}/{attribute}"), message);
                self.faults.push(PlacedFault { origin: origin.clone(), fault, warning: false });
            };
            let key = match key.get(..7).filter(|prefix| prefix.eq_ignore_ascii_case("$env://")) {
                Some(_) => match std::env::var(&key[7..]) {
                    Ok(value) => value,
                    Err(_) => {
                        tell("the environment variable it refers to is not set".to_owned());
                        continue;
                    }
                },
                None if key.starts_with("$secret://") => {
                    tell("secret managers are not supported yet".to_owned());
                    continue;
                }
                None => key.to_owned(),
            };
            let identity = Arc::new(identity(conf.clone()));
            if let Some(other) = consumers.find(plugin, &key).filter(|other| other.username != identity.username) {
                tell(format!("duplicate key of plugin {plugin} found with consumer: {}", other.username));
            }
            consumers.insert(plugin, key, identity);
        }
    }

    /// Credentials by their own fields; other plugins by building them once, so that a fault shows at load and not at the
    /// first request of the consumer.
    fn check_consumer_plugins(&mut self, plugins: &Plugins, origin: &model::Origin) {
        let model = self.model.clone();
        for (name, conf) in &plugins.0 {
            if registry::lookup(name).is_some_and(|registered| registered.auth) {
                for mut fault in registry::check_consumer(name, conf) {
                    fault.pointer = format!("/plugins/{name}{}", fault.pointer);
                    self.faults.push(PlacedFault { origin: origin.clone(), fault, warning: false });
                }
            }
        }
        let source = Source { layer: Layer::Consumer, origin, plugins };
        let _checked = Chain::build(
            &[source],
            &Environment { model: &model, upstream: &|identity| self.specs.slot(identity) },
            &mut self.faults,
        );
    }
}

/// Identities of the upstreams that a layer's plugins lead to.
fn references(source: &Source<'_>) -> Vec<String> {
    let mut all = traffic_split::references(source.plugins, &source.origin.item);
    all.extend(source.plugins.get("proxy-mirror").map(|_| model::mirror_identity(&source.origin.item)));
    all
}

/// What a route's own chain is made of, weakest first.
fn route_sources<'m>(
    route: &'m model::Route,
    service: Option<&'m Arc<model::Service>>,
    config: Option<&'m Arc<model::PluginSet>>,
) -> Vec<Source<'m>> {
    let service = service.map(|service| Source { layer: Layer::Service, origin: &service.origin, plugins: &service.plugins });
    let config = config.map(|config| Source { layer: Layer::PluginConfig, origin: &config.origin, plugins: &config.plugins });
    let own = Source { layer: Layer::Route, origin: &route.origin, plugins: &route.plugins };
    service.into_iter().chain(config).chain([own]).collect()
}

/// A route's chain with a consumer's plugins, built when the consumer first comes by.
pub(super) fn merge(
    snapshot: &Snapshot,
    route: &Route,
    layer: &ConsumerLayer,
    group: Option<&model::PluginSet>,
) -> Result<Merged, ()> {
    let model = &snapshot.model;
    let service = route.info.service_id.as_ref().and_then(|id| model.services.get(id));
    let config = route.model.plugin_config_id.as_ref().and_then(|id| model.plugin_configs.get(id));
    let mut sources = route_sources(&route.model, service, config);
    if let Some(group) = group {
        sources.push(Source { layer: Layer::ConsumerGroup, origin: &group.origin, plugins: &group.plugins });
    }
    let consumer = &layer.consumer;
    let brings = Plugins(
        consumer.plugins.0.iter().filter(|(name, _)| registry::lookup(name).is_some_and(|one| !one.auth)).cloned().collect(),
    );
    sources.push(Source { layer: Layer::Consumer, origin: &consumer.origin, plugins: &brings });
    let mut faults = Vec::new();
    let build = |faults: &mut Vec<PlacedFault>| {
        Chain::build(&sources, &Environment { model, upstream: &|identity| snapshot.slot(identity) }, faults)
    };
    let chain = build(&mut faults);
    let own: HashSet<&str> = route.chain.entries().iter().map(|entry| entry.name).collect();
    let newcomers = build(&mut faults).only(|entry| entry.layer >= Layer::ConsumerGroup && !own.contains(entry.name));
    if faults.iter().any(|fault| !fault.warning) { Err(()) } else { Ok(Merged { chain, newcomers }) }
}

fn log_format(gateway: &Gateway, report: &mut Report) -> Option<Format> {
    let log = gateway.access_log.as_ref()?;
    match Format::compile(&log.format) {
        Ok(format) => Some(format),
        Err(message) => {
            let origin = model::Origin { pointer: "/gateway".into(), ..model::Origin::default() };
            report.inside(Severity::Error, &origin, "/access_log/format", message);
            None
        }
    }
}

fn table(gateway: &Gateway, routes: &[Arc<Route>], report: &mut Report) -> Option<Table> {
    let specs: Vec<RouteSpec<'_>> = routes
        .iter()
        .map(|route| RouteSpec {
            uris: &route.info.uris,
            hosts: &route.info.hosts,
            methods: route.model.methods,
            remote_addrs: &route.model.remote_addrs,
            vars: route.model.vars.as_ref(),
            priority: route.model.priority,
        })
        .collect();
    match Table::build(gateway.router, &specs) {
        Ok(table) => Some(table),
        Err(faults) => {
            for fault in faults {
                if let Some(route) = routes.get(fault.route) {
                    report.inside(Severity::Error, &route.model.origin, "/uri", fault.message);
                }
            }
            None
        }
    }
}

/// Some route's conditions, a balancer's key or the log read the forwarded fields, which must then say what Ringway will send.
/// Plugins say it for themselves.
fn reads_forwarded(model: &Model, routes: &[Arc<Route>], upstreams: &HashMap<u32, Arc<Spec>>, log: Option<&Format>) -> bool {
    let own = routes.iter().filter_map(|route| match &route.target {
        Target::Upstream(spec) => Some(spec),
        _ => None,
    });
    model.routes.iter().filter_map(|route| route.vars.as_ref()).any(|vars| vars.reads(&Var::is_forwarded))
        || own.chain(upstreams.values()).any(|spec| spec.balancer.reads_forwarded())
        || log.is_some_and(|log| log.reads(Var::is_forwarded))
}

/// Somebody may read `uri_param_*`: plugins, a custom log format.
fn reads_captures(routes: &[Arc<Route>], global: &Chain, log: Option<&Format>) -> bool {
    let in_log = log.is_some_and(|log| log.reads(|var| matches!(var, Var::UriParam(_))));
    in_log || !global.is_empty() || routes.iter().any(|route| !route.chain.is_empty())
}
