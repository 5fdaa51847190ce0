//! Time: the only place that asks the operating system. A thread's clock is cached and refreshed when it matters, so that
//! a request pays for two or three readings and not for twenty.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time in nanoseconds since the process started. Copies, compares and subtracts without a syscall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// Nanoseconds from `earlier` to this, 0 if it is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus `duration`, saturating.
    pub fn after(self, duration: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

static ORIGIN: OnceLock<(Instant, SystemTime)> = OnceLock::new();

thread_local! {
    static NOW: Cell<Tick> = const { Cell::new(Tick(0)) };
}

/// Reads the clock and refreshes the thread's cached time.
pub fn refresh() -> Tick {
    let (origin, _) = *origin();
    let nanos = u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    NOW.set(Tick(nanos));
    Tick(nanos)
}

/// The thread's cached time; at most as old as its last completed operation.
pub fn now() -> Tick {
    let now = NOW.get();
    if now.0 == 0 { refresh() } else { now }
}

/// Wall-clock time of a tick, as the time since 1970. Drifts with NTP steps since the start: use [`wall`] for log stamps.
pub fn unix_of(tick: Tick) -> Duration {
    let (_, wall) = *origin();
    wall.duration_since(UNIX_EPOCH).unwrap_or_default() + Duration::from_nanos(tick.0)
}

/// The wall clock now, as the time since 1970.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn origin() -> &'static (Instant, SystemTime) {
    ORIGIN.get_or_init(|| (Instant::now(), SystemTime::now()))
}
