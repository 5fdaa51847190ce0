//! How an epoch reaches the workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Snapshot;

/// The newest epoch, as workers look at it: once per request they read one line that nobody writes between two epochs.
#[derive(Debug)]
pub struct Published {
    epoch: PaddedEpoch,
    slot: Mutex<Arc<Snapshot>>,
}

#[derive(Debug)]
#[repr(align(128))]
struct PaddedEpoch(AtomicU64);

impl Published {
    /// Starts with the first epoch.
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self { epoch: PaddedEpoch(AtomicU64::new(first.epoch)), slot: Mutex::new(first) }
    }

    /// Number of the newest epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.0.load(Ordering::Acquire)
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
