//! Health of nodes: the state machine of APISIX's checker (request.md §3.10). The coordinator moves it, by its own probes and by
//! what workers report; workers only read whether a node is usable.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::config::model::Bounds;

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers as it should.
    Healthy,
    /// It was healthy and has failed since, not often enough.
    MostlyHealthy,
    /// It was unhealthy and has succeeded since, not often enough.
    MostlyUnhealthy,
    /// It gets no requests while another does better.
    Unhealthy,
}

impl State {
    const ALL: [State; 4] = [Self::Healthy, Self::MostlyHealthy, Self::MostlyUnhealthy, Self::Unhealthy];

    /// APISIX's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::MostlyHealthy => "mostly_healthy",
            Self::MostlyUnhealthy => "mostly_unhealthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Requests may go there.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Healthy | Self::MostlyHealthy)
    }
}

/// What a probe or a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Success,
    /// A status that counts as failure, or no HTTP.
    HttpFailure,
    /// No connection, or a broken one.
    TcpFailure,
    /// Nothing in time.
    Timeout,
}

/// Verdicts counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Successes since the last failure.
    pub successes: u32,
    /// HTTP failures since the last success.
    pub http_failures: u32,
    /// TCP failures since the last success.
    pub tcp_failures: u32,
    /// Timeouts since the last success.
    pub timeouts: u32,
}

/// Health of one node of one upstream. Its state lies on a line of its own that is only read on a request's way.
#[derive(Debug)]
#[repr(align(128))]
pub struct Health {
    state: AtomicU8,
    counts: Mutex<Counts>,
}

impl Health {
    fn new() -> Self {
        Self { state: AtomicU8::new(0), counts: Mutex::default() }
    }

    /// Its state.
    pub fn state(&self) -> State {
        State::ALL.get(usize::from(self.state.load(Ordering::Relaxed))).copied().unwrap_or(State::Healthy)
    }

    /// Its counters.
    pub fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// False for a verdict that would say what is known: nobody needs to hear of it.
    pub fn wants(&self, verdict: Verdict) -> bool {
        match self.state() {
            State::Healthy => verdict != Verdict::Success,
            State::Unhealthy => verdict == Verdict::Success,
            State::MostlyHealthy | State::MostlyUnhealthy => true,
        }
    }

    /// Counts a verdict; the new state where it changed. The coordinator alone calls it.
    pub fn note(&self, verdict: Verdict, bounds: &Bounds) -> Option<State> {
        let before = self.state();
        let mut counts = lock(&self.counts);
        let success = verdict == Verdict::Success;
        let bound = match verdict {
            Verdict::Success => bounds.successes,
            Verdict::HttpFailure => bounds.http_failures,
            Verdict::TcpFailure => bounds.tcp_failures,
            Verdict::Timeout => bounds.timeouts,
        };
        if !self.wants(verdict) || bound == 0 {
            return None;
        }
        if success {
            *counts = Counts { successes: counts.successes, ..Counts::default() };
        } else {
            counts.successes = 0;
        }
        let counter = match verdict {
            Verdict::Success => &mut counts.successes,
            Verdict::HttpFailure => &mut counts.http_failures,
            Verdict::TcpFailure => &mut counts.tcp_failures,
            Verdict::Timeout => &mut counts.timeouts,
        };
        *counter = counter.saturating_add(1);
        let state = match (*counter >= bound, success, before) {
            (true, true, _) => State::Healthy,
            (true, false, _) => State::Unhealthy,
            (false, false, State::Healthy) => State::MostlyHealthy,
            (false, true, State::Unhealthy) => State::MostlyUnhealthy,
            _ => before,
        };
        self.state.store(State::ALL.iter().position(|one| *one == state).unwrap_or(0) as u8, Ordering::Relaxed);
        (state != before).then_some(state)
    }
}

/// The health of a node, by upstream and `host:port`: the same for every epoch in which the node is there.
pub fn of(upstream: &str, node: &str) -> Arc<Health> {
    static KNOWN: OnceLock<Mutex<HashMap<(String, String), Weak<Health>>>> = OnceLock::new();
    let mut known = lock(KNOWN.get_or_init(Mutex::default));
    let key = (upstream.to_owned(), node.to_owned());
    if let Some(health) = known.get(&key).and_then(Weak::upgrade) {
        return health;
    }
    if known.len().is_power_of_two() {
        known.retain(|_, health| health.strong_count() > 0); // now and then, so that many nodes do not cost their square
    }
    let health = Arc::new(Health::new());
    known.insert(key, Arc::downgrade(&health));
    health
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { successes: 2, http_failures: 3, tcp_failures: 2, timeouts: 0 };

    #[test]
    fn it_falls_and_rises_as_apisix_counts() {
        let health = Health::new();
        let after = |verdicts: &[Verdict]| {
            for verdict in verdicts {
                health.note(*verdict, &BOUNDS);
            }
            health.state()
        };
        use Verdict::{HttpFailure as Http, Success, TcpFailure as Tcp, Timeout};
        assert_eq!(after(&[Success, Success]), State::Healthy);
        assert_eq!(after(&[Http]), State::MostlyHealthy);
        assert_eq!(after(&[Success, Http, Http]), State::MostlyHealthy, "a success clears the failures");
        assert_eq!(after(&[Tcp]), State::MostlyHealthy, "kinds are counted apart");
        assert_eq!(after(&[Http]), State::Unhealthy);
        assert_eq!(after(&[Http, Tcp, Timeout]), State::Unhealthy);
        assert_eq!(after(&[Success]), State::MostlyUnhealthy);
        assert_eq!(after(&[Timeout]), State::MostlyUnhealthy, "a bound of 0 disables the verdict");
        assert_eq!(after(&[Success]), State::Healthy);
        assert_eq!(after(&[Tcp, Tcp]), State::Unhealthy);
    }

    #[test]
    fn a_node_keeps_its_health_while_somebody_holds_it() {
        let first = of("upstreams/t1", "a:1");
        first.note(Verdict::TcpFailure, &BOUNDS);
        assert_eq!(of("upstreams/t1", "a:1").state(), State::MostlyHealthy);
        assert_eq!(of("upstreams/t2", "a:1").state(), State::Healthy);
        drop(first);
        assert_eq!(of("upstreams/t1", "a:1").state(), State::Healthy);
    }
}
