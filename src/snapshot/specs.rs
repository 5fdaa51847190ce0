//! Upstreams of an epoch: compiled when something first leads to them, shared with the epoch before where they stayed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Snapshot;
use crate::config::model::{self, Model, NodeHost};
use crate::upstream::names::Names;
use crate::upstream::spec::Balance;
use crate::upstream::{Node, Spec, health};

/// Numbers for per-worker state that outlives epochs.
static UPSTREAM_SLOTS: AtomicU32 = AtomicU32::new(0);

/// The upstreams compiled so far.
pub(super) struct Specs<'m> {
    model: &'m Model,
    names: &'m Names,
    old: HashMap<Arc<str>, Arc<Spec>>,
    made: RefCell<HashMap<Arc<str>, Arc<Spec>>>,
}

impl<'m> Specs<'m> {
    pub(super) fn new(model: &'m Model, names: &'m Names, previous: Option<&Arc<Snapshot>>) -> Self {
        let old = previous.map(|snapshot| snapshot.upstreams.values()).into_iter().flatten();
        let old = old.map(|spec| (spec.identity.clone(), spec.clone())).collect();
        Self { model, names, old, made: RefCell::default() }
    }

    /// All of them by slot.
    pub(super) fn into_slots(self) -> HashMap<u32, Arc<Spec>> {
        self.made.into_inner().into_values().map(|spec| (spec.slot, spec)).collect()
    }

    /// The slot of an upstream by identity; `None` where there is none.
    pub(super) fn slot(&self, identity: &str) -> Option<u32> {
        let by_id = identity.strip_prefix("upstreams/").and_then(|id| self.model.upstreams.get(id));
        let upstream = by_id.or_else(|| self.model.split_upstreams.get(identity))?;
        Some(self.of(upstream).slot)
    }

    /// The compiled form of an upstream.
    pub(super) fn of(&self, upstream: &model::Upstream) -> Arc<Spec> {
        if let Some(spec) = self.made.borrow().get(&upstream.identity) {
            return spec.clone();
        }
        let old = self.old.get(&upstream.identity);
        let spec = match old.filter(|old| old.digest == upstream.origin.digest) {
            Some(old) => old.clone(),
            None => {
                let slot = old.map_or_else(|| UPSTREAM_SLOTS.fetch_add(1, Ordering::Relaxed), |old| old.slot);
                Arc::new(self.new_spec(upstream, slot))
            }
        };
        self.made.borrow_mut().insert(upstream.identity.clone(), spec.clone());
        spec
    }

    fn new_spec(&self, upstream: &model::Upstream, slot: u32) -> Spec {
        let node = |node: &model::Node| {
            let standard = node.port == upstream.scheme.default_port();
            let authority = if standard { node.host.to_string() } else { format!("{}:{}", node.host, node.port) };
            let name = match &node.host {
                NodeHost::Name(name) => Some(self.names.entry(name)),
                NodeHost::Ip(_) => None,
            };
            let place = format!("{}:{}", node.host, node.port);
            let health = upstream.checks.is_some().then(|| health::of(&upstream.identity, &place));
            let (host, authority) = (node.host.clone(), authority.into_bytes());
            Node { host, port: node.port, weight: node.weight, priority: node.priority, name, health, authority }
        };
        let retries = upstream.retries.unwrap_or_else(|| (upstream.nodes.len() as u32).saturating_sub(1));
        Spec {
            slot,
            identity: upstream.identity.clone(),
            digest: upstream.origin.digest,
            name: upstream.name.clone(),
            scheme: upstream.scheme,
            balancer: Balance::of(&upstream.balancer),
            pass_host: upstream.pass_host.clone(),
            retries,
            retry_timeout: upstream.retry_timeout,
            timeout: upstream.timeout,
            keepalive: upstream.keepalive,
            checks: upstream.checks.clone(),
            nodes: upstream.nodes.iter().map(node).collect(),
        }
    }
}
