//! So many requests in a window of time, over all workers. Fixed windows begin with their first request; a worker takes leases
//! out of them (a hundredth of the limit), so that the count is never over the limit, and under it by at most the leases that
//! lie unused, which are given back when they do. Sliding windows are counted one by one. APISIX plugins-traffic.md §1.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState; // a look-up per request, and keys may be the client's: quick, and keyed

use super::store::{self, Counter};
use crate::base::clock::{self, Tick};
use crate::base::limits;

/// What came of counting a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// It is within the limit.
    pub passes: bool,
    /// Requests left in the window.
    pub remaining: i64,
    /// Time to the window's end.
    pub reset: Duration,
}

/// A worker's share of a key's window.
struct Lease {
    counter: Arc<Counter>,
    limit: u64,
    until: Tick,
    /// All that was taken when the lease was.
    used: u64,
    left: u64,
    touched: bool,
    /// It is among the open ones.
    listed: bool,
}

#[derive(Default)]
struct Leases {
    by_key: HashMap<Box<[u8]>, usize, RandomState>,
    list: Vec<Lease>,
    /// Those with something left.
    open: Vec<usize>,
}

thread_local! {
    static LEASES: RefCell<Leases> = RefCell::default();
}

/// Counts a request in a fixed window.
pub fn fixed(key: &[u8], limit: u64, window: Duration, now: Tick) -> Verdict {
    LEASES.with_borrow_mut(|leases| leases.take(key, limit, window, now))
}

/// Gives back what this worker has leased and did not use since the last call. The worker's sweeper calls it.
pub fn give_back() {
    LEASES.with_borrow_mut(|leases| {
        let Leases { list, open, .. } = leases;
        open.retain(|at| list.get_mut(*at).is_some_and(Lease::keeps));
    });
}

impl Leases {
    fn take(&mut self, key: &[u8], limit: u64, window: Duration, now: Tick) -> Verdict {
        let at = match self.by_key.get(key) {
            Some(at) => *at,
            None => self.add(key, limit, now),
        };
        let Some(lease) = self.list.get_mut(at) else {
            return Verdict { passes: true, remaining: 0, reset: window };
        };
        lease.touched = true;
        if lease.left > 0 && lease.limit == limit && now < lease.until {
            lease.left -= 1;
            return lease.passes(now);
        }
        let verdict = lease.renew(limit, window, now);
        if lease.left > 0 && !std::mem::replace(&mut lease.listed, true) {
            self.open.push(at);
        }
        verdict
    }

    fn add(&mut self, key: &[u8], limit: u64, now: Tick) -> usize {
        if self.list.len() >= limits::LEASES {
            self.list.iter_mut().for_each(Lease::end);
            *self = Self::default();
        }
        let counter = store::counter(key, now);
        self.list.push(Lease { counter, limit, until: Tick(0), used: 0, left: 0, touched: false, listed: false });
        self.by_key.insert(key.into(), self.list.len() - 1);
        self.list.len() - 1
    }
}

impl Lease {
    /// Takes a new lease.
    fn renew(&mut self, limit: u64, window: Duration, now: Tick) -> Verdict {
        let mut counts = self.counter.lock();
        if self.left > 0 && self.until == counts.until {
            counts.used = counts.used.saturating_sub(self.left); // of another limit
        }
        if now >= counts.until {
            (counts.until, counts.used) = (now.after(window), 0);
        }
        let share = (limit / limits::LEASE_SHARE).max(1).min(limit.saturating_sub(counts.used));
        counts.used += share;
        (self.limit, self.until, self.used, self.left) = (limit, counts.until, counts.used, share);
        drop(counts);
        if share == 0 {
            return Verdict { passes: false, remaining: 0, reset: self.until.since(now) };
        }
        self.left -= 1;
        self.passes(now)
    }

    fn passes(&self, now: Tick) -> Verdict {
        let remaining = self.limit.saturating_sub(self.used) + self.left;
        Verdict { passes: true, remaining: i64::try_from(remaining).unwrap_or(i64::MAX), reset: self.until.since(now) }
    }

    /// It was used since the last look, and has something left; else what is left goes back.
    fn keeps(&mut self) -> bool {
        if std::mem::take(&mut self.touched) && self.left > 0 {
            return true;
        }
        self.end();
        self.listed = false;
        false
    }

    fn end(&mut self) {
        if self.left > 0 {
            let mut counts = self.counter.lock();
            if counts.until == self.until {
                counts.used = counts.used.saturating_sub(self.left);
            }
            self.left = 0;
        }
    }
}

/// Counts a request in a sliding window: the window before counts with the share of it that is still in sight.
pub fn sliding(key: &[u8], limit: u64, window: Duration, now: Tick) -> Verdict {
    let wall = clock::unix_of(now).as_secs_f64();
    let span = window.as_secs_f64().max(0.001);
    let id = (wall / span) as u64;
    let left = span - (wall - id as f64 * span);
    let counter = store::counter(key, now);
    let mut counts = counter.lock();
    if counts.id != id {
        counts.before = if counts.id + 1 == id { counts.used } else { 0 };
        (counts.id, counts.used) = (id, 0);
    }
    counts.until = now.after(window * 2);
    let (most, current) = (limit as f64, counts.used as f64);
    let last = counts.before.min(limit) as f64;
    let in_sight = last / span * left;
    if current >= most || in_sight + current >= most {
        let wait = match (current >= most, last > 0.0) {
            (true, _) | (false, false) => left,
            (false, true) => (left - (most - current) / (last / span)).max(0.0),
        };
        return Verdict { passes: false, remaining: 0, reset: Duration::from_secs_f64(wait) };
    }
    counts.used += 1;
    let remaining = (most - (current + 1.0) - in_sight).floor() as i64;
    Verdict { passes: true, remaining, reset: Duration::from_secs_f64(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick((1000 + millis) * 1_000_000)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_window_begins_with_its_first_request_and_is_never_passed() {
        let ask = |now: u64| fixed(b"fixed", 3, SECOND, at(now));
        let verdicts: Vec<_> = [0, 100, 200, 300, 999].map(ask).into();
        assert_eq!(verdicts.iter().map(|one| one.remaining).collect::<Vec<_>>(), [2, 1, 0, 0, 0]);
        assert_eq!(verdicts.iter().map(|one| one.passes).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!((verdicts[0].reset, verdicts[3].reset), (SECOND, Duration::from_millis(700)));
        assert_eq!(ask(1000).remaining, 2, "a new window");
    }

    #[test]
    fn workers_never_pass_the_limit_and_leave_little_of_it() {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let passed = (0..1000).filter(|_| fixed(b"shared", 1000, SECOND * 60, at(0)).passes).count();
                    give_back();
                    give_back();
                    passed
                })
            })
            .collect();
        let passed: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert!((960..=1000).contains(&passed), "{passed}");
        let rest = (0..100).filter(|_| fixed(b"shared", 1000, SECOND * 60, at(1)).passes).count();
        assert_eq!(passed + rest, 1000, "what lay unused was given back");
    }

    #[test]
    fn an_idle_lease_goes_back() {
        assert_eq!(fixed(b"idle", 1000, SECOND * 60, at(0)).remaining, 999);
        let others = std::thread::spawn(|| (0..1000).filter(|_| fixed(b"idle", 1000, SECOND * 60, at(1)).passes).count());
        assert_eq!(others.join().unwrap(), 990, "ten are leased here, one of them used");
        give_back(); // used since the last look
        give_back();
        assert!((0..9).all(|_| fixed(b"idle", 1000, SECOND * 60, at(2)).passes));
        assert!(!fixed(b"idle", 1000, SECOND * 60, at(2)).passes);
    }

    #[test]
    fn a_sliding_window_sees_what_came_before_it() {
        // Aligned to the wall clock: the moments are put where its windows lie.
        let wall = clock::unix_of(at(0)).as_millis() as u64;
        let start = 10_000 - wall % 10_000;
        let ask = |millis: u64| sliding(b"sliding", 10, SECOND * 10, at(start + millis));
        assert!((0..10).all(|_| ask(9_000).passes));
        assert!(!ask(9_500).passes);
        // Half a window later half of the ten are in sight.
        let passed = (0..10).filter(|_| ask(14_900).passes).count();
        assert_eq!(passed, 5);
        let refused = ask(14_900);
        assert!(!refused.passes && refused.reset <= SECOND * 6);
    }
}
