//! What a worker knows of an upstream: addresses, turns, pools. Kept by slot, so that it outlives epochs; reconciled when the
//! upstream's compiled form or a resolved name changed, which a request notices by comparing a pointer and a number.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::budget::Budget;
use super::drains;
use super::pick::chash::Ring;
use super::pick::ewma::Latency;
use super::pick::round_robin::Share;
use super::pool::{PoolId, Pools};
use super::spec::{Balance, Node, Spec};
use super::track::{Queue, Track, Underway};
use crate::base::address::Address;
use crate::base::clock;
use crate::base::limits;
use crate::net::tls::{Client, ClientPlan};

/// Upstreams of a worker by slot.
#[derive(Default)]
pub struct Upstreams {
    states: Vec<Option<Box<State>>>,
}

/// One upstream.
pub struct State {
    pub(super) spec: Arc<Spec>,
    pub(super) endpoints: Vec<Endpoint>, // as spec.nodes
    pub(super) shares: Vec<Share>,       // as spec.nodes
    pub(super) priorities: Vec<i64>,     // distinct, highest first
    pub(super) rings: Vec<Ring>,         // as priorities, for consistent hashing
    pub(super) tracks: Vec<Track>,       // as spec.nodes
    pub(super) queue: Rc<Queue>,
    pub(super) turn: usize,
    budget: Budget,
    tls: Option<Client>,
    versions: u64, // sum of the names' versions and that of the drained nodes
}

/// What an exchange owes the node that was picked for it.
#[derive(Default)]
pub struct Owed {
    /// The request counts at its node until this is dropped.
    pub underway: Option<Underway>,
    /// How long the answer took.
    pub latency: Option<Latency>,
}

#[derive(Default)]
pub(super) struct Endpoint {
    pub(super) addresses: Vec<(Address, PoolId)>,
    next: usize,
}

/// Nodes that an exchange has tried, by index; bounded by `limits::TRIES_MAX`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    nodes: [u16; limits::TRIES_MAX],
    count: usize,
}

/// A picked node.
#[derive(Clone, Copy, Debug)]
pub struct Picked {
    /// Index in `Spec::nodes`.
    pub node: u16,
    /// Address to connect to.
    pub address: Address,
    /// Its pool.
    pub pool: PoolId,
}

impl Tried {
    /// Notes a try.
    pub fn note(&mut self, node: u16) {
        if let Some(free) = self.nodes.get_mut(self.count) {
            *free = node;
            self.count += 1;
        }
    }

    /// True if the node was tried.
    pub fn has(&self, node: usize) -> bool {
        self.nodes.iter().take(self.count).any(|&tried| usize::from(tried) == node)
    }

    /// Tries so far.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Upstreams {
    /// The state of an upstream, made or reconciled where needed. `worker` staggers the first turn.
    pub fn of(&mut self, spec: &Arc<Spec>, pools: &mut Pools, worker: u16) -> Option<&mut State> {
        let slot = spec.slot as usize;
        if slot >= self.states.len() {
            self.states.resize_with(slot + 1, || None);
        }
        let state = self.states.get_mut(slot)?;
        match state {
            Some(state) if Arc::ptr_eq(&state.spec, spec) && state.versions == versions(spec) => {}
            Some(state) => state.reconcile(spec, pools),
            None => *state = Some(Box::new(State::new(spec, pools, worker))),
        }
        state.as_deref_mut()
    }

    /// The state of an upstream as it stands, whatever form of it a request of an older epoch holds.
    pub fn known(&mut self, spec: &Spec) -> Option<&mut State> {
        self.states.get_mut(spec.slot as usize)?.as_deref_mut()
    }

    /// Forgets the state of slots that have no upstream any more, brings the others up to date, and says which addresses are
    /// still in use.
    pub fn follow(&mut self, upstreams: &HashMap<u32, Arc<Spec>>, pools: &mut Pools) -> HashSet<Address> {
        for (slot, place) in self.states.iter_mut().enumerate() {
            match (place.as_mut(), upstreams.get(&(slot as u32))) {
                (Some(state), Some(spec)) if !Arc::ptr_eq(&state.spec, spec) => state.reconcile(spec, pools),
                (Some(_), None) => *place = None,
                _ => {}
            }
        }
        self.addresses().collect()
    }

    /// Takes over what names resolve to since a request last asked, and lets go what leads nowhere now.
    pub fn refresh(&mut self, pools: &mut Pools) {
        let mut changed = false;
        for state in self.states.iter_mut().flatten().filter(|state| state.versions != versions(&state.spec)) {
            state.reconcile(&state.spec.clone(), pools);
            changed = true;
        }
        if changed {
            let addresses: HashSet<Address> = self.addresses().collect();
            pools.retain(|address| addresses.contains(address));
        }
    }

    fn addresses(&self) -> impl Iterator<Item = Address> {
        let endpoints = self.states.iter().flatten().flat_map(|state| &state.endpoints);
        endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(|(address, _)| *address))
    }
}

impl State {
    fn new(spec: &Arc<Spec>, pools: &mut Pools, worker: u16) -> Self {
        let mut state = Self {
            spec: spec.clone(),
            endpoints: Vec::new(),
            shares: Vec::new(),
            priorities: Vec::new(),
            rings: Vec::new(),
            tracks: Vec::new(),
            queue: Rc::default(),
            budget: Budget::default(),
            tls: spec.dial.tls.as_ref().map(ClientPlan::client),
            turn: usize::from(worker),
            versions: 0,
        };
        state.reconcile(spec, pools);
        for _ in 0..usize::from(worker) % spec.nodes.len().max(1) {
            drop(state.pick(&Tried::default(), b"", None)); // workers that start together do not all begin with the same node
        }
        state
    }

    /// Takes over a new form of the upstream; turns of nodes that stay go on.
    fn reconcile(&mut self, spec: &Arc<Spec>, pools: &mut Pools) {
        let kept = |node: &Node| {
            let same = |old: &Node| old.host == node.host && old.port == node.port && old.weight == node.weight;
            let at = self.spec.nodes.iter().position(same)?;
            self.shares.get(at).map(|share| share.balance)
        };
        let balances: Vec<_> = spec.nodes.iter().map(|node| kept(node).unwrap_or(0)).collect();
        let weight = |node: &Node| if drains::has(&spec.identity, &node.place()) { 0 } else { node.weight };
        self.shares = spec.nodes.iter().zip(balances).map(|(node, balance)| Share { weight: weight(node), balance }).collect();
        let track = |node: &Node| {
            let same = |old: &Node| old.host == node.host && old.port == node.port;
            let at = self.spec.nodes.iter().position(same)?;
            self.tracks.get(at).cloned()
        };
        let joined = (!self.tracks.is_empty()).then(clock::now); // nodes that were there from the start are warm
        let newcomer = || Track::new(&self.queue, joined);
        self.tracks = spec.nodes.iter().map(|node| track(node).unwrap_or_else(newcomer)).collect();
        let plan = |spec: &Spec| spec.dial.tls.as_ref().map(|plan| plan.digest);
        if plan(&self.spec) != plan(spec) {
            self.tls = spec.dial.tls.as_ref().map(ClientPlan::client);
        }
        self.versions = versions(spec);
        self.endpoints = spec.nodes.iter().map(|node| endpoint(node, pools)).collect();
        self.priorities = spec.nodes.iter().map(|node| node.priority).collect();
        self.priorities.sort_unstable_by(|a, b| b.cmp(a));
        self.priorities.dedup();
        self.rings = rings(spec, &self.priorities, &self.shares);
        self.spec = spec.clone();
    }

    /// It stands for this form of its upstream: node numbers mean the same.
    pub fn has_form(&self, spec: &Arc<Spec>) -> bool {
        Arc::ptr_eq(&self.spec, spec)
    }

    /// What it speaks TLS with.
    pub fn tls(&self) -> Option<Client> {
        self.tls.clone()
    }

    /// What the exchange that got this node owes the balancer.
    pub fn owed(&self, picked: Picked) -> Owed {
        let Some(track) = self.tracks.get(usize::from(picked.node)) else { return Owed::default() };
        let counts = matches!(self.spec.balancer, Balance::LeastConn) || self.spec.policy.bounds.is_some();
        Owed {
            underway: counts.then(|| track.load.enter()),
            latency: matches!(self.spec.balancer, Balance::Ewma).then(|| track.latency.clone()),
        }
    }

    /// Those who wait for any node, where there are some.
    #[inline]
    pub fn waiting(&self) -> Option<Rc<Queue>> {
        (self.spec.policy.bounds.is_some() && !self.queue.is_empty()).then(|| self.queue.clone())
    }

    /// A request came: it adds to what retries may use.
    #[inline]
    pub fn earn(&mut self) {
        if let Some(policy) = self.spec.policy.retry_budget.as_ref().filter(|_| self.spec.retries > 0) {
            self.budget.earn(policy);
        }
    }

    /// A request that had been sent may be sent again.
    pub fn may_retry(&mut self) -> bool {
        self.spec.policy.retry_budget.as_ref().is_none_or(|policy| self.budget.take(policy, clock::now()))
    }

    /// A request failed at a node, or did not; true where the node is put out for it.
    pub fn note(&mut self, node: u16, failed: bool) -> bool {
        let Some(policy) = &self.spec.policy.outlier else { return false };
        let now = clock::now();
        let out = || self.tracks.iter().filter(|track| track.is_out(now)).count() + 1;
        let may_eject = failed && out() * 100 <= policy.max_ejected as usize * self.tracks.len();
        self.tracks.get_mut(usize::from(node)).is_some_and(|track| track.note(failed, policy, now, may_eject))
    }

    /// The other addresses of a picked node, for a name that has several: the other family's by turns with its own. Empty where
    /// there is but one.
    pub fn other_addresses(&self, picked: Picked) -> Vec<Picked> {
        let Some(endpoint) = self.endpoints.get(usize::from(picked.node)) else { return Vec::new() };
        if endpoint.addresses.len() < 2 {
            return Vec::new();
        }
        let at = endpoint.addresses.iter().position(|(address, _)| *address == picked.address).unwrap_or(0);
        let (before, behind) = endpoint.addresses.split_at(at);
        let others =
            behind.iter().skip(1).chain(before).map(|(address, pool)| Picked { address: *address, pool: *pool, ..picked });
        let is_v4 = |one: &Picked| one.address.ip().is_some_and(|ip| ip.is_ipv4());
        let (same, other): (Vec<_>, Vec<_>) = others.partition(|one| is_v4(one) == is_v4(&picked));
        let (mut same, mut other) = (same.into_iter(), other.into_iter());
        let mut all = Vec::with_capacity(endpoint.addresses.len());
        loop {
            let before = all.len();
            all.extend(other.next().into_iter().chain(same.next()));
            if all.len() == before || all.len() >= limits::TRIES_MAX {
                return all;
            }
        }
    }
}

impl Endpoint {
    pub(super) fn next(&mut self, node: usize) -> Option<Picked> {
        let (address, pool) = *self.addresses.get(self.next % self.addresses.len().max(1))?;
        self.next = self.next.wrapping_add(1);
        Some(Picked { node: u16::try_from(node).ok()?, address, pool })
    }
}

/// A ring for each priority, where the upstream hashes.
fn rings(spec: &Spec, priorities: &[i64], shares: &[Share]) -> Vec<Ring> {
    if !matches!(spec.balancer, Balance::Chash(_)) {
        return Vec::new();
    }
    let names: Vec<String> = spec.nodes.iter().map(Node::place).collect();
    let ring = |priority: &i64| {
        let nodes = spec.nodes.iter().zip(&names).zip(shares).enumerate();
        let nodes = nodes.filter(|(_, ((node, _), _))| node.priority == *priority);
        Ring::new(nodes.filter_map(|(at, ((_, name), share))| Some((u16::try_from(at).ok()?, name.as_str(), share.weight))))
    };
    priorities.iter().map(ring).collect()
}

fn endpoint(node: &Node, pools: &mut Pools) -> Endpoint {
    let addresses = node.addresses().into_iter().map(|address| (address, pools.of(address))).collect();
    Endpoint { addresses, next: 0 }
}

/// Changes whenever an answer for one of the names does: versions only grow.
fn versions(spec: &Spec) -> u64 {
    spec.names.iter().map(|name| name.version()).sum::<u64>() + drains::version()
}
