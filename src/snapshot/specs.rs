//! Upstreams of an epoch: compiled when something first leads to them, shared with the epoch before where they stayed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Snapshot;
use crate::config::gateway::Discovery;
use crate::config::model::{self, Model, NodeHost, Scheme};
use crate::net::tls::{ClientPlan, Roots};
use crate::plugin::ConfFault;
use crate::plugin::chain::PlacedFault;
use crate::upstream::names::Names;
use crate::upstream::services::Service;
use crate::upstream::spec::{Balance, Dial};
use crate::upstream::sticky::Stickiness;
use crate::upstream::{Node, Spec, health};

/// Numbers for per-worker state that outlives epochs.
static UPSTREAM_SLOTS: AtomicU32 = AtomicU32::new(0);

/// The upstreams compiled so far.
pub(super) struct Specs<'m> {
    model: &'m Model,
    names: &'m Names,
    registries: &'m Discovery,
    old: HashMap<Arc<str>, Arc<Spec>>,
    made: RefCell<HashMap<Arc<str>, Arc<Spec>>>,
    system: RefCell<Option<Result<Roots, String>>>, // read once, where something asks for it
    faults: RefCell<Vec<PlacedFault>>,
}

impl<'m> Specs<'m> {
    pub(super) fn new(model: &'m Model, names: &'m Names, registries: &'m Discovery, previous: Option<&Arc<Snapshot>>) -> Self {
        let old = previous.map(|snapshot| snapshot.upstreams.values()).into_iter().flatten();
        let old = old.map(|spec| (spec.identity.clone(), spec.clone())).collect();
        Self { model, names, registries, old, made: RefCell::default(), system: RefCell::default(), faults: RefCell::default() }
    }

    /// All of them by slot, and what is wrong with them.
    pub(super) fn into_slots(self) -> (HashMap<u32, Arc<Spec>>, Vec<PlacedFault>) {
        (self.made.into_inner().into_values().map(|spec| (spec.slot, spec)).collect(), self.faults.into_inner())
    }

    /// Says what is wrong with certificates that are shown to nodes, used or not.
    pub(super) fn certificates(&self) {
        for certificate in self.model.client_certificates.values() {
            if let Err(why) = ClientPlan::new(None, Some((&certificate.cert, &certificate.key)), 0) {
                let pointer = if why.contains("key") { "/key" } else { "/cert" };
                let fault = ConfFault::at(pointer, why);
                self.faults.borrow_mut().push(PlacedFault { origin: certificate.origin.clone(), fault, warning: false });
            }
        }
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
        let service = upstream.discovered.as_ref().map(|key| self.names.services.entry(key));
        if let Some(registry) = upstream.discovered.as_ref().map(|key| &*key.registry).filter(|one| !self.registries.has(one)) {
            let why = format!("discovery {registry} is uninitialized: gateway.discovery does not name it; requests get 503");
            let fault = ConfFault::at("/discovery_type", why);
            self.faults.borrow_mut().push(PlacedFault { origin: upstream.origin.clone(), fault, warning: true });
        }
        let digest = self.digest(upstream, service.as_deref());
        let old = self.old.get(&upstream.identity);
        let spec = match old.filter(|old| old.digest == digest) {
            Some(old) => old.clone(),
            None => {
                let slot = old.map_or_else(|| UPSTREAM_SLOTS.fetch_add(1, Ordering::Relaxed), |old| old.slot);
                Arc::new(self.compile(upstream, slot, digest, service))
            }
        };
        self.made.borrow_mut().insert(upstream.identity.clone(), spec.clone());
        spec
    }

    /// Digest of all that it is compiled from.
    fn digest(&self, upstream: &model::Upstream, service: Option<&Service>) -> u64 {
        let certificate = upstream.tls.client_id.as_ref().and_then(|id| self.model.client_certificates.get(id));
        if certificate.is_none() && service.is_none() {
            return upstream.origin.digest;
        }
        let mut hasher = DefaultHasher::new();
        let certificate = certificate.map(|certificate| certificate.origin.digest);
        (upstream.origin.digest, certificate, service.map(Service::version)).hash(&mut hasher);
        hasher.finish()
    }

    fn compile(&self, upstream: &model::Upstream, slot: u32, digest: u64, service: Option<Arc<Service>>) -> Spec {
        let discovered = service.as_ref().map(|service| service.nodes());
        let nodes = discovered.as_deref().unwrap_or(&upstream.nodes);
        let node = |node: &model::Node| {
            let port = if node.port == 0 { upstream.scheme.default_port() } else { node.port };
            let standard = port == upstream.scheme.default_port();
            let authority = match &node.host {
                NodeHost::Unix(_) => "localhost".to_owned(), // nginx's Host for a socket
                host if standard => host.to_string(),
                host => format!("{host}:{port}"),
            };
            let name = match &node.host {
                NodeHost::Name(name) => Some(self.names.entry(name)),
                NodeHost::Ip(_) | NodeHost::Unix(_) => None,
            };
            let (host, authority) = (node.host.clone(), authority.into_bytes());
            let mut node = Node { host, port, weight: node.weight, priority: node.priority, name, health: None, authority };
            node.health = upstream.checks.is_some().then(|| health::of(&upstream.identity, &node.place()));
            node
        };
        let nodes: Vec<Node> = nodes.iter().map(node).collect();
        let retries = upstream.retries.unwrap_or_else(|| (nodes.len() as u32).saturating_sub(1));
        Spec {
            slot,
            identity: upstream.identity.clone(),
            digest,
            name: upstream.name.clone(),
            scheme: upstream.scheme,
            balancer: Balance::of(&upstream.balancer),
            pass_host: upstream.pass_host.clone(),
            retries,
            retry_timeout: upstream.retry_timeout,
            timeout: upstream.timeout,
            keepalive: upstream.keepalive,
            dial: Dial { tls: self.tls(upstream), source: upstream.source, proxy_protocol: upstream.proxy_protocol },
            checks: upstream.checks.clone(),
            probe_tls: self.probe_tls(upstream),
            is_simple: upstream.checks.is_none() && upstream.policy.is_simple(),
            stickiness: upstream
                .policy
                .sticky
                .as_ref()
                .map(|sticky| Stickiness::new(sticky, &upstream.identity, nodes.iter().map(Node::place))),
            policy: upstream.policy.clone(),
            names: nodes.iter().filter_map(|node| node.name.clone()).collect(),
            nodes,
            service,
        }
    }

    fn tell(&self, upstream: &model::Upstream, pointer: String, why: String) {
        let fault = ConfFault::at(pointer, why);
        self.faults.borrow_mut().push(PlacedFault { origin: upstream.origin.clone(), fault, warning: false });
    }

    /// What verifies its nodes' certificates: its own authorities, or the system's. `asked` is what asks for them.
    fn roots(&self, upstream: &model::Upstream, asked: &str) -> Option<Roots> {
        let (roots, place) = match &upstream.tls.ca {
            Some(pem) => (Roots::parse(pem), "/tls/ca_cert"),
            None => (self.system.borrow_mut().get_or_insert_with(Roots::system).clone(), asked),
        };
        roots.map_err(|why| self.tell(upstream, place.to_owned(), why)).ok()
    }

    /// TLS of probes by `https`: verified unless that is switched off, without a certificate of ours. APISIX request.md §3.10.
    fn probe_tls(&self, upstream: &model::Upstream) -> Option<ClientPlan> {
        let verify = upstream.checks.as_ref()?.active.http.as_ref()?.tls?;
        let roots = match verify {
            true => Some(self.roots(upstream, "/checks/active")?),
            false => None,
        };
        let plan = ClientPlan::new(roots.as_ref(), None, verify);
        plan.map_err(|why| self.tell(upstream, "/checks/active".to_owned(), why)).ok()
    }

    /// How its nodes are spoken to over TLS; what is wrong with it becomes a fault.
    fn tls(&self, upstream: &model::Upstream) -> Option<ClientPlan> {
        if upstream.scheme != Scheme::Https {
            return None;
        }
        let tls = &upstream.tls;
        let tell = |pointer: &str, why: String| self.tell(upstream, format!("/tls/{pointer}"), why);
        let roots = match tls.verify.unwrap_or(tls.ca.is_some()) {
            true => Some(self.roots(upstream, "/tls/verify")?),
            false => None,
        };
        let identity = match (&tls.client_id, &tls.client) {
            (Some(id), _) => match self.model.client_certificates.get(id) {
                Some(certificate) => Some((certificate.cert.as_str(), certificate.key.as_str())),
                None => {
                    tell("client_cert_id", format!("failed to get ssl cert: there is no ssl `{id}` of type `client`"));
                    return None;
                }
            },
            (None, client) => client.as_ref().map(|(cert, key)| (cert.as_str(), key.as_str())),
        };
        let digest_of = (tls.verify, &tls.ca, identity);
        match ClientPlan::new(roots.as_ref(), identity, digest_of) {
            Ok(plan) => Some(plan),
            Err(why) => {
                tell(if tls.client_id.is_some() { "client_cert_id" } else { "client_cert" }, why);
                None
            }
        }
    }
}
