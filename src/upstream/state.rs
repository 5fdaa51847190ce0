//! What a worker knows of an upstream: addresses, turns, pools. Kept by slot, so that it outlives epochs; reconciled when the
//! upstream's compiled form or a resolved name changed, which a request notices by comparing a pointer and a number.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::pick::chash::Ring;
use super::pick::ewma::{self, Latency};
use super::pick::least_conn::{self, Load, Underway};
use super::pick::round_robin::{self, Share};
use super::pool::{PoolId, Pools};
use super::spec::{Balance, Node, Spec};
use crate::base::address::Address;
use crate::base::clock;
use crate::base::limits;
use crate::config::model::NodeHost;
use crate::net::tls::{Client, ClientPlan};
use crate::plugin::random;

/// Upstreams of a worker by slot.
#[derive(Default)]
pub struct Upstreams {
    states: Vec<Option<Box<State>>>,
}

/// One upstream.
pub struct State {
    spec: Arc<Spec>,
    endpoints: Vec<Endpoint>, // as spec.nodes
    shares: Vec<Share>,       // as spec.nodes
    priorities: Vec<i64>,     // distinct, highest first
    rings: Vec<Ring>,         // as priorities, for consistent hashing
    tracks: Vec<Track>,       // as spec.nodes, for the balancers that look back
    tls: Option<Client>,
    turn: usize,
    versions: u64, // sum of the names' versions
}

/// What a balancer remembers of a node. Kept over epochs with the node.
#[derive(Clone, Default)]
struct Track {
    load: Load,
    latency: Latency,
}

/// What an exchange owes the balancer that picked its node.
pub enum Owed {
    /// Nothing: it does not look back.
    Nothing,
    /// The request counts at its node until this is dropped.
    Underway(Underway),
    /// How long the answer took.
    Latency(Latency),
}

#[derive(Default)]
struct Endpoint {
    addresses: Vec<(Address, PoolId)>,
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

    /// Forgets the state of slots that `alive` does not name, and says which addresses are still in use.
    pub fn retain(&mut self, alive: impl Fn(u32) -> bool) -> std::collections::HashSet<Address> {
        for (slot, state) in self.states.iter_mut().enumerate() {
            if state.is_some() && !alive(slot as u32) {
                *state = None;
            }
        }
        self.addresses().collect()
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
            tls: spec.dial.tls.as_ref().map(ClientPlan::client),
            turn: usize::from(worker),
            versions: 0,
        };
        state.reconcile(spec, pools);
        for _ in 0..usize::from(worker) % spec.nodes.len().max(1) {
            state.pick(&Tried::default(), b""); // workers that start together do not all begin with the same node
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
        self.shares = spec.nodes.iter().zip(balances).map(|(node, balance)| Share { weight: node.weight, balance }).collect();
        let track = |node: &Node| {
            let same = |old: &Node| old.host == node.host && old.port == node.port;
            let at = self.spec.nodes.iter().position(same)?;
            self.tracks.get(at).cloned()
        };
        self.tracks = spec.nodes.iter().map(|node| track(node).unwrap_or_default()).collect();
        let plan = |spec: &Spec| spec.dial.tls.as_ref().map(|plan| plan.digest);
        if plan(&self.spec) != plan(spec) {
            self.tls = spec.dial.tls.as_ref().map(ClientPlan::client);
        }
        self.versions = versions(spec);
        self.endpoints = spec.nodes.iter().map(|node| endpoint(node, pools)).collect();
        self.priorities = spec.nodes.iter().map(|node| node.priority).collect();
        self.priorities.sort_unstable_by(|a, b| b.cmp(a));
        self.priorities.dedup();
        if !Arc::ptr_eq(&self.spec, spec) || self.rings.is_empty() {
            self.rings = rings(spec, &self.priorities);
        }
        self.spec = spec.clone();
    }

    /// Picks a node that was not tried: the highest priority first, then as the balancer says (`key` is what consistent hashing
    /// hashes). An upstream of one node gives it again.
    pub fn pick(&mut self, tried: &Tried, key: &[u8]) -> Option<Picked> {
        if let [endpoint] = self.endpoints.as_mut_slice() {
            return endpoint.next(0);
        }
        // Where nobody is well, everybody is asked: an answer from a sick node is better than none.
        let nobody = self.spec.checks.is_some() && !self.spec.nodes.iter().any(Node::is_usable);
        for at in 0..self.priorities.len() {
            let priority = self.priorities.get(at).copied()?;
            let (nodes, endpoints) = (&self.spec.nodes, &self.endpoints);
            let eligible = |node: usize| {
                nodes.get(node).is_some_and(|node| node.priority == priority && (nobody || node.is_usable()))
                    && endpoints.get(node).is_some_and(|endpoint| !endpoint.addresses.is_empty())
                    && !tried.has(node)
            };
            let node = match &self.spec.balancer {
                Balance::RoundRobin => round_robin::turn(&mut self.shares, eligible),
                Balance::Chash(_) => {
                    let ring = self.rings.get(at)?;
                    ring.owner(key, |node| eligible(usize::from(node))).map(usize::from)
                }
                Balance::LeastConn => {
                    self.turn = (self.turn + 1) % nodes.len();
                    let tracks = self.tracks.iter().zip(nodes).enumerate().filter(|(at, _)| eligible(*at));
                    let candidates = tracks.map(|(at, (track, node))| (at, node.weight, track.load.get()));
                    least_conn::least(candidates, self.turn)
                }
                Balance::Ewma => {
                    let all = || (0..nodes.len()).filter(|at| eligible(*at));
                    let now = clock::now();
                    let score = |nth: usize| {
                        let track = all().nth(nth).and_then(|at| self.tracks.get(at));
                        track.map_or(f64::MAX, |track| track.latency.score(now))
                    };
                    ewma::better_of_two(all().count(), random::next, score).and_then(|nth| all().nth(nth))
                }
            };
            if let Some(node) = node {
                return self.endpoints.get_mut(node)?.next(node);
            }
        }
        None
    }

    /// What it speaks TLS with.
    pub fn tls(&self) -> Option<Client> {
        self.tls.clone()
    }

    /// What the exchange that got this node owes the balancer.
    pub fn owed(&self, picked: Picked) -> Owed {
        let Some(track) = self.tracks.get(usize::from(picked.node)) else { return Owed::Nothing };
        match &self.spec.balancer {
            Balance::RoundRobin | Balance::Chash(_) => Owed::Nothing,
            Balance::LeastConn => Owed::Underway(track.load.enter()),
            Balance::Ewma => Owed::Latency(track.latency.clone()),
        }
    }

    /// The next address of a picked node, for a name that has several: one may be dead while another serves.
    pub fn next_address(&mut self, picked: Picked) -> Option<Picked> {
        let node = usize::from(picked.node);
        self.endpoints.get_mut(node)?.next(node).filter(|next| next.address != picked.address)
    }

    /// Addresses of a node.
    pub fn addresses_of(&self, node: u16) -> usize {
        self.endpoints.get(usize::from(node)).map_or(0, |endpoint| endpoint.addresses.len())
    }
}

impl Endpoint {
    fn next(&mut self, node: usize) -> Option<Picked> {
        let (address, pool) = *self.addresses.get(self.next % self.addresses.len().max(1))?;
        self.next = self.next.wrapping_add(1);
        Some(Picked { node: u16::try_from(node).ok()?, address, pool })
    }
}

/// A ring for each priority, where the upstream hashes.
fn rings(spec: &Spec, priorities: &[i64]) -> Vec<Ring> {
    if !matches!(spec.balancer, Balance::Chash(_)) {
        return Vec::new();
    }
    let names: Vec<String> = spec.nodes.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
    let ring = |priority: &i64| {
        let nodes = spec.nodes.iter().zip(&names).enumerate().filter(|(_, (node, _))| node.priority == *priority);
        Ring::new(nodes.filter_map(|(at, (node, name))| Some((u16::try_from(at).ok()?, name.as_str(), node.weight))))
    };
    priorities.iter().map(ring).collect()
}

fn endpoint(node: &Node, pools: &mut Pools) -> Endpoint {
    let mut of = |ip: IpAddr| {
        let address = SocketAddr::new(ip, node.port).into();
        (address, pools.of(address))
    };
    let addresses = match (&node.host, &node.name) {
        (NodeHost::Unix(path), _) => {
            let address = Address::unix(path);
            vec![(address, pools.of(address))]
        }
        (NodeHost::Ip(ip), _) => vec![of(*ip)],
        (NodeHost::Name(_), Some(name)) => name.addresses().iter().map(|ip| of(*ip)).collect(),
        (NodeHost::Name(_), None) => Vec::new(),
    };
    Endpoint { addresses, next: 0 }
}

/// Changes whenever an answer for one of the names does: versions only grow.
fn versions(spec: &Spec) -> u64 {
    spec.nodes.iter().filter_map(|node| node.name.as_deref()).map(super::names::Name::version).sum()
}
