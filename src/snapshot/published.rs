//! How an epoch reaches the workers.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Snapshot;

/// The newest epoch, as workers look at it: once per request they read one line that nobody writes between two epochs.
#[derive(Debug)]
pub struct Published {
    epoch: PaddedEpoch,
    pressure: AtomicU8,
    slot: Mutex<Arc<Snapshot>>,
}

/// How near the process is to its memory limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Far from it.
    #[default]
    Calm,
    /// Near: connections end after their answer, caches are given back.
    Near,
    /// At it: new requests get 503.
    Full,
}

#[derive(Debug)]
#[repr(align(128))]
struct PaddedEpoch(AtomicU64);

impl Published {
    /// Starts with the first epoch.
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self { epoch: PaddedEpoch(AtomicU64::new(first.epoch)), pressure: AtomicU8::new(0), slot: Mutex::new(first) }
    }

    /// Number of the newest epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.0.load(Ordering::Acquire)
    }

    /// How near the process is to its memory limit.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::Calm,
            1 => Pressure::Near,
            _ => Pressure::Full,
        }
    }

    /// Tells the workers how near it is; each looks with its sweep.
    pub fn press(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Relaxed);
    }

    /// The newest snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a snapshot the newest. The coordinator sends [`Message::Epoch`] to each worker afterwards, for idle ones.
    pub fn publish(&self, next: Arc<Snapshot>) {
        let epoch = next.epoch;
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.epoch.0.store(epoch, Ordering::Release);
    }
}
