//! Floor 4: one epoch, immutable. `compile` turns the checked model into routes, chains, upstreams and consumers.

pub mod compile;
pub mod published;
mod specs;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limits;
use crate::config::gateway::Gateway;
use crate::config::model::{self, Timeout};
use crate::plugin::Ctx;
use crate::plugin::chain::{Chain, Merged};
use crate::plugin::consumers::{Consumers, Identity};
use crate::plugin::ctx::RouteInfo;
use crate::proxy::View;
use crate::proxy::access_log::Format;
use crate::route::{Ask, Table};
use crate::upstream::Spec;

pub use compile::{Compiled, compile};

/// One version of the whole configuration, compiled and checked completely.
pub struct Snapshot {
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// The `gateway:` section.
    pub gateway: Arc<Gateway>,
    /// The index over the routes.
    pub table: Table,
    /// Routes by their number in the table.
    pub routes: Vec<RouteEntry>,
    /// All global rules as one chain.
    pub global: Chain,
    /// Consumers by credential.
    pub consumers: Consumers,
    /// Consumers by `Identity::index`, with their group.
    pub consumer_layers: Vec<ConsumerLayer>,
    /// Upstreams in use, by slot.
    pub upstreams: HashMap<u32, Arc<Spec>>,
    /// Version of the registries' answers it was compiled with.
    pub services: u64,
    /// The access log's format.
    pub log: Option<Format>,
    /// Value of the `Server` field.
    pub server: Vec<u8>,
    /// Some condition of a route, key of a balancer or the log reads the forwarded fields.
    pub reads_forwarded: bool,
    /// Something reads captures of the path.
    pub reads_captures: bool,
    /// `timeouts.request`, where there is one.
    pub request_limit: Option<Duration>,
    /// `timeouts.lifetime`, where there is one.
    pub lifetime: Option<Duration>,
    /// Client connections per worker.
    pub connection_limit: usize,
    /// The model it was compiled from, for the Control API and `explain`.
    pub model: Arc<model::Model>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("epoch", &self.epoch).field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

/// A route in the epoch's list. Where routes are many, each line of a cache counts: of a plain route requests read this alone.
pub struct RouteEntry {
    /// The route.
    pub route: Arc<Route>,
    /// Where it leads, if there is nothing else to it: no plugins, no deadlines of its own.
    pub plain: Option<Arc<Spec>>,
}

impl RouteEntry {
    /// Its plugins, where it is more than an upstream.
    pub fn chain(&self) -> Option<&Chain> {
        if self.plain.is_some() { None } else { Some(&self.route.chain) }
    }

    fn of(route: Arc<Route>) -> Self {
        let plain = match &route.target {
            Target::Upstream(spec) if route.chain.is_empty() && route.timeout.is_none() => Some(spec.clone()),
            _ => None,
        };
        Self { route, plain }
    }
}

/// A compiled route.
pub struct Route {
    /// Where it leads.
    pub target: Target,
    /// Its plugins: plugin config, service and route merged.
    pub chain: Chain,
    /// `timeout` of the route.
    pub timeout: Option<Box<Timeout>>,
    /// `enable_websocket`, the service's where the route is silent.
    pub websocket: bool,
    /// What plugins, logs and metrics see of it.
    pub info: RouteInfo,
    /// The model's route.
    pub model: Arc<model::Route>,
    /// Digest over everything it was compiled from: equal digests are shared by epochs.
    pub digest: u64,
}

/// Where a route leads.
pub enum Target {
    /// To an upstream.
    Upstream(Arc<Spec>),
    /// Nowhere: it names something that does not exist. APISIX request.md §1.8 has the status.
    Broken(u16),
    /// Nowhere: it has no upstream, and its plugins are to answer.
    None,
}

/// What a consumer and its group bring into a chain.
pub struct ConsumerLayer {
    /// The consumer.
    pub consumer: Arc<model::Consumer>,
    /// Its group; `Err` where it names one that does not exist.
    pub group: Result<Option<Arc<model::PluginSet>>, ()>,
}

impl Snapshot {
    /// What matching asks of a request.
    pub fn ask<'a>(&self, ctx: &'a Ctx<'_>) -> Ask<'a> {
        let path = match ctx.request.path.strip_suffix(b"/") {
            Some(shorter) if self.gateway.delete_uri_tail_slash => shorter,
            _ => &ctx.request.path,
        };
        Ask {
            path,
            host: &ctx.request.host,
            authority: ctx.request.fields.bytes(ctx.request.authority),
            method: ctx.request.method,
            vars: ctx,
        }
    }

    /// The slot of an upstream in use.
    pub fn slot(&self, identity: &str) -> Option<u32> {
        self.upstreams.values().find(|spec| &*spec.identity == identity).map(|spec| spec.slot)
    }

    /// The route's chain merged with a consumer's plugins; `None` where the consumer brings none. Kept per view.
    ///
    /// # Errors
    /// 503 where the consumer names a group that does not exist, 500 where its plugins can't be built.
    pub fn merged(&self, view: &View, route: &Route, identity: &Identity) -> Result<Option<Rc<Merged>>, u16> {
        let Some(layer) = self.consumer_layers.get(identity.index) else { return Ok(None) };
        let group = layer.group.as_ref().map_err(|()| 503_u16)?.as_deref();
        let nothing = layer.consumer.plugins.0.is_empty() && group.is_none_or(|group| group.plugins.0.is_empty());
        if nothing {
            return Ok(None);
        }
        let key = (route.info.slot, identity.index);
        if let Some(merged) = view.merged.borrow().get(&key) {
            return Ok(Some(merged.clone()));
        }
        let merged = Rc::new(compile::merge(self, route, layer, group).map_err(|()| 500_u16)?);
        let mut kept = view.merged.borrow_mut();
        if kept.len() >= limits::MERGED_CHAINS {
            kept.clear();
        }
        kept.insert(key, merged.clone());
        Ok(Some(merged))
    }
}
