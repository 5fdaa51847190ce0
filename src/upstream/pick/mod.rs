//! How a node is picked: who may be picked at all is the same for every balancer, which of them is the balancer's.

pub mod chash;
pub mod ewma;
pub mod least_conn;
pub mod round_robin;

use std::cell::Cell;
use std::rc::Rc;

use super::spec::{Balance, Node};
use super::state::{Picked, State, Tried};
use super::track::{Queue, Track};
use crate::base::clock::{self, Tick};
use crate::plugin::random;

/// What came of picking.
pub enum Choice {
    /// A node.
    Node(Picked),
    /// Every node that could be picked has as many requests as it may have.
    Full(Rc<Queue>),
    /// No node can be picked.
    Nobody,
}

impl From<Option<Picked>> for Choice {
    fn from(picked: Option<Picked>) -> Self {
        picked.map_or(Self::Nobody, Self::Node)
    }
}

impl State {
    /// Picks a node that was not tried: the one that the client's session is `bound` to, else the highest priority first, then
    /// as the balancer says (`key` is what consistent hashing hashes). An upstream of one node gives it again.
    pub fn pick(&mut self, tried: &Tried, key: &[u8], bound: Option<usize>) -> Choice {
        let simple = self.spec.is_simple;
        if let ([endpoint], true) = (self.endpoints.as_mut_slice(), simple) {
            return endpoint.next(0).into();
        }
        let now = clock::now();
        let everyone = simple || self.counts_everyone(now);
        if !self.spec.policy.slow_start.is_zero() {
            self.warm_up(now);
        }
        let (spec, endpoints, tracks) = (&self.spec, &self.endpoints, &self.tracks);
        let (alone, full) = (spec.nodes.len() == 1, Cell::new(false));
        let open = |node: usize| {
            let (Some(one), Some(endpoint)) = (spec.nodes.get(node), endpoints.get(node)) else { return false };
            if endpoint.addresses.is_empty() || (tried.has(node) && !alone) {
                return false;
            }
            if simple {
                return true;
            }
            let Some(track) = tracks.get(node) else { return false };
            if !everyone && !is_well(one, track, now) {
                return false;
            }
            let room = spec.policy.bounds.as_ref().is_none_or(|bounds| track.load.get() < bounds.requests);
            full.set(full.get() || !room);
            room
        };
        let mut chosen = bound.filter(|node| open(*node));
        if chosen.is_none() && bound.is_some() && full.get() {
            return Choice::Full(self.queue.clone()); // the session's own node will have room
        }
        for (at, priority) in self.priorities.iter().enumerate() {
            if chosen.is_some() {
                break;
            }
            let eligible = |node: usize| spec.nodes.get(node).is_some_and(|one| one.priority == *priority) && open(node);
            chosen = match &spec.balancer {
                Balance::RoundRobin => round_robin::turn(&mut self.shares, eligible),
                Balance::Chash(_) => {
                    let ring = self.rings.get(at);
                    ring.and_then(|ring| ring.owner(key, |node| eligible(usize::from(node)))).map(usize::from)
                }
                Balance::LeastConn => {
                    self.turn = (self.turn + 1) % spec.nodes.len();
                    let candidates = self.tracks.iter().zip(&self.shares).enumerate().filter(|(at, _)| eligible(*at));
                    let candidates = candidates.map(|(at, (track, share))| (at, share.weight, track.load.get()));
                    least_conn::least(candidates, self.turn)
                }
                Balance::Ewma => {
                    let weighty = (0..spec.nodes.len()).any(|at| eligible(at) && self.shares.get(at).is_some_and(weighs));
                    let all = || {
                        let shares = self.shares.iter().enumerate().filter(|(_, share)| !weighty || weighs(share));
                        shares.map(|(at, _)| at).filter(|at| eligible(*at))
                    };
                    let score = |nth: usize| {
                        let track = all().nth(nth).and_then(|at| self.tracks.get(at));
                        track.map_or(f64::MAX, |track| track.latency.score(now))
                    };
                    ewma::better_of_two(all().count(), random::next, score).and_then(|nth| all().nth(nth))
                }
            };
        }
        match chosen {
            Some(node) => self.endpoints.get_mut(node).and_then(|endpoint| endpoint.next(node)).into(),
            None if full.get() => Choice::Full(self.queue.clone()),
            None => Choice::Nobody,
        }
    }

    /// So few nodes are well that all are asked: an answer from a sick node is better than none, and the few must not carry
    /// everybody's load.
    fn counts_everyone(&self, now: Tick) -> bool {
        if self.spec.checks.is_none() && self.spec.policy.outlier.is_none() {
            return true;
        }
        let all = self.spec.nodes.iter().zip(&self.tracks);
        let well = all.filter(|(node, track)| is_well(node, track, now)).count();
        well == 0 || well * 100 < self.spec.policy.panic_threshold as usize * self.spec.nodes.len()
    }

    /// Weights of nodes that joined or recovered lately grow to what is configured.
    fn warm_up(&mut self, now: Tick) {
        let span = self.spec.policy.slow_start;
        for ((node, track), share) in self.spec.nodes.iter().zip(&mut self.tracks).zip(&mut self.shares) {
            let well = is_well(node, track, now);
            if well && !track.was_usable {
                track.joined = Some(now);
            }
            track.was_usable = well;
            let drained = share.weight == 0;
            if !drained {
                share.weight = node.weight.saturating_mul(track.warmth(span, now));
            }
        }
    }
}

fn weighs(share: &round_robin::Share) -> bool {
    share.weight > 0
}

fn is_well(node: &Node, track: &Track, now: Tick) -> bool {
    node.is_usable() && !track.is_out(now)
}
