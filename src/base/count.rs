//! Counters of one worker: plain increments on lines that only their worker writes; the coordinator reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::limits;

/// A counter or gauge written by one thread and read by any. No read-modify-write instruction is used.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning worker may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` off. Only the owning worker may call it.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets the value. Only the owning worker may call it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads it, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Times by size, written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Times {
    counts: [Count; Times::BOUNDS.len() + 1],
    nanos: Count,
}

impl Times {
    /// Upper bounds of the buckets, in seconds; the last bucket has none.
    pub const BOUNDS: [f64; 11] = [5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2];

    /// Counts a time. Only the owning worker may call it.
    pub fn note(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = Self::BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(Self::BOUNDS.len());
        if let Some(count) = self.counts.get(at) {
            count.add(1);
        }
        self.nanos.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts per bucket, not added up, and the sum in seconds.
    pub fn read(&self) -> ([u64; Self::BOUNDS.len() + 1], f64) {
        (std::array::from_fn(|at| self.counts.get(at).map_or(0, Count::get)), self.nanos.get() as f64 / 1e9)
    }
}

/// Limits that requests may meet, each counted by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `gateway.limits.connections`
    Connections,
    /// `gateway.limits.memory`
    Memory,
    /// `limits.pending` of an upstream: too many wait.
    Pending,
    /// `limits.pending_timeout` of an upstream: one waited too long.
    PendingTimeout,
    /// `retry_budget` of an upstream.
    RetryBudget,
    /// Bytes of buffered bodies.
    Buffering,
    /// Copies of requests under way.
    Mirrors,
}

impl Bound {
    /// All of them, as they are numbered.
    pub const ALL: [Self; 7] =
        [Self::Connections, Self::Memory, Self::Pending, Self::PendingTimeout, Self::RetryBudget, Self::Buffering, Self::Mirrors];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Memory => "memory",
            Self::Pending => "upstream_pending",
            Self::PendingTimeout => "upstream_pending_timeout",
            Self::RetryBudget => "retry_budget",
            Self::Buffering => "buffering",
            Self::Mirrors => "mirrors",
        }
    }
}

/// What one worker counts. Aligned so that no line is shared with another worker's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Client connections accepted.
    pub accepted: Count,
    /// Client connections now open.
    pub connections: Count,
    /// Of those, waiting for a request.
    pub idle: Count,
    /// Of those, WebSocket tunnels.
    pub tunnels: Count,
    /// Connections refused at the limit.
    pub refused: Count,
    /// Requests begun.
    pub requests: Count,
    /// Exchanges by reason, indexed by `Reason as usize` (`proto::message::Reason::ALL`).
    pub reasons: [Count; limits::REASONS_MAX],
    /// Limits that were met, indexed by `Bound as usize`.
    pub bounds: [Count; Bound::ALL.len()],
    /// Nodes put out for their failures.
    pub ejections: Count,
    /// Upstream connections opened.
    pub upstream_connects: Count,
    /// Upstream connections now open, idle ones included.
    pub upstream_connections: Count,
    /// Requests that found a pooled connection.
    pub pool_hits: Count,
    /// Connections taken from those that lie between the workers.
    pub pool_borrowed: Count,
    /// Requests that found none.
    pub pool_misses: Count,
    /// Upstream tries after the first.
    pub retries: Count,
    /// Tasks that panicked; each cost one connection.
    pub panics: Count,
    /// Access log lines dropped because the writer was behind.
    pub log_dropped: Count,
    /// Access log lines written.
    pub log_lines: Count,
    /// Turns of the sweeper.
    pub sweeps: Count,
    /// Longest delay of the sweeper behind its schedule since the last scrape, in microseconds.
    pub loop_lag_us_max: Count,
    /// Longest time that taking a new epoch held the worker up since the last scrape, in microseconds.
    pub epoch_us_max: Count,
    /// Time that one in [`limits::SAMPLED`] requests spent inside the worker: from the read of its head to its send to the node,
    /// and from the read of the answer's head to its send to the client.
    pub inside: Times,
    /// Bytes received from clients.
    pub bytes_in: Count,
    /// Bytes sent to clients.
    pub bytes_out: Count,
}
