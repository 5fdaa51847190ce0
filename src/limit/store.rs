//! Counters of the whole process by key, in shards. What is full forgets: first what is over, then what stands in the way.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

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
struct Shard(Mutex<HashMap<Box<[u8]>, Arc<Counter>>>);

static STORE: LazyLock<(RandomState, [Shard; SHARDS])> =
    LazyLock::new(|| (RandomState::new(), std::array::from_fn(|_| Shard::default())));

/// The counter of a key, made on first use.
pub fn counter(key: &[u8], now: Tick) -> Arc<Counter> {
    let (hasher, shards) = &*STORE;
    let at = hasher.hash_one(key) as usize % SHARDS;
    let Some(shard) = shards.get(at) else { return Arc::default() };
    let mut known = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(counter) = known.get(key) {
        return counter.clone();
    }
    if known.len() >= limits::LIMIT_KEYS / SHARDS {
        known.retain(|_, counter| Arc::strong_count(counter) > 1 || counter.lock().until > now);
        let victim = known.keys().next().filter(|_| known.len() >= limits::LIMIT_KEYS / SHARDS).cloned();
        victim.map(|victim| known.remove(&victim));
    }
    known.entry(key.into()).or_default().clone()
}
