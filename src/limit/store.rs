//! Counters of the whole process by key, in shards. What is full forgets: first what is over, then what stands in the way.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::Tick;
use crate::base::limits;

/// One key's counter, on lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counter(Mutex<Counts>);

/// What is counted of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Until when the window counts.
    pub until: Tick,
    /// Requests in it, leased ones included.
    pub used: u64,
    /// Number of a window that is aligned to the clock, for sliding ones.
    pub id: u64,
    /// Requests in the window before.
    pub before: u64,
}

impl Counter {
    /// The counts, alone.
    pub fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SHARDS: usize = 64;

/// A part of the keys; its lock is on lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    counters: HashMap<Box<[u8]>, Arc<Counter>>,
    /// When they were looked through last, and whether workers held leases of all that were left.
    swept: Tick,
    held: bool,
}

/// Keys per shard.
const ROOM: usize = limits::LIMIT_KEYS / SHARDS;
/// A look through a full shard makes room for so many keys, so that each new one pays for sixteen.
const FREED: usize = ROOM / 16;
/// Where all were held there is no other look before this.
const SWEEP: Duration = Duration::from_secs(1);

static STORE: LazyLock<(RandomState, [Shard; SHARDS])> =
    LazyLock::new(|| (RandomState::new(), std::array::from_fn(|_| Shard::default())));

/// The counter of a key, made on first use.
pub fn counter(key: &[u8], now: Tick) -> Arc<Counter> {
    let (hasher, shards) = &*STORE;
    let at = hasher.hash_one(key) as usize % SHARDS;
    let Some(shard) = shards.get(at) else { return Arc::default() };
    let mut known = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(counter) = known.counters.get(key) {
        return counter.clone();
    }
    known.make_room(now);
    known.counters.entry(key.into()).or_default().clone()
}

impl Keys {
    fn make_room(&mut self, now: Tick) {
        if self.counters.len() < ROOM {
            return;
        }
        if !self.held || now >= self.swept.after(SWEEP) {
            self.swept = now;
            let held = |counter: &Arc<Counter>| Arc::strong_count(counter) > 1;
            self.counters.retain(|_, counter| held(counter) || counter.lock().until > now);
            let mut more = (self.counters.len() + FREED).saturating_sub(ROOM);
            self.counters.retain(|_, counter| {
                let goes = more > 0 && !held(counter);
                more -= usize::from(goes);
                !goes
            });
            self.held = self.counters.len() >= ROOM;
        }
        if self.counters.len() >= ROOM {
            let victim = self.counters.keys().next().cloned();
            victim.map(|victim| self.counters.remove(&victim));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_shard_forgets_what_is_over_and_what_nobody_holds() {
        let mut keys = Keys::default();
        let key = |n: usize| n.to_string().into_bytes().into_boxed_slice();
        let at = |seconds: u64| Tick::default().after(Duration::from_secs(seconds));
        for n in 0..ROOM {
            let counter: Arc<Counter> = Arc::default();
            counter.lock().until = at(if n % 2 == 0 { 5 } else { 50 });
            keys.counters.insert(key(n), counter);
        }
        keys.make_room(at(10));
        assert_eq!(keys.counters.len(), ROOM / 2, "what is over goes");
        let mut held: Vec<Arc<Counter>> = keys.counters.values().cloned().collect();
        for n in ROOM..ROOM + ROOM / 2 {
            let counter: Arc<Counter> = Arc::default();
            counter.lock().until = at(50);
            keys.counters.insert(key(n), counter);
        }
        keys.make_room(at(10));
        assert_eq!(keys.counters.len(), ROOM - FREED, "room for many, though nothing is over");
        let left = keys.counters.values().filter(|counter| Arc::strong_count(counter) > 1).count();
        assert_eq!(left, held.len(), "what is held stays");
        for n in 0..FREED {
            keys.counters.insert(key(10 * ROOM + n), Arc::default());
        }
        held.extend(keys.counters.values().cloned());
        keys.make_room(at(20));
        assert!(keys.held && keys.counters.len() == ROOM - 1, "where all are held one goes all the same");
    }
}
