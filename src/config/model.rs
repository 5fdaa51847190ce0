//! The checked model: APISIX's resources as types. Fields, defaults and bounds: shared reference `apisix/resource-fields.md`.

mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::proto::message::MethodSet;
use crate::route::expr::Expr;

pub use upstream::{
    ActiveCheck, Balancer, Bounds, Checks, ClientCertificate, Discovered, HashOn, HttpProbe, KeepalivePool, Node, NodeBounds,
    NodeHost, Outlier, PassHost, PassiveCheck, Policy, ProxyVersion, RetryBudget, SameSite, Scheme, Sticky, Timeout, TlsToNodes,
    Upstream, mirror_identity, split_identity,
};

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
