//! Time: the only place that asks the operating system. A thread's clock is cached: what a turn of its loop does happens at one
//! time, unless more is asked for. So requests share the readings, as in nginx.

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
        let nanos = duration.as_secs().saturating_mul(NANOS).saturating_add(u64::from(duration.subsec_nanos()));
        Tick(self.0.saturating_add(nanos))
    }
}

/// Where ticks count from, and the wall clock's nanoseconds since 1970 at that moment.
static ORIGIN: OnceLock<(Instant, u64)> = OnceLock::new();

thread_local! {
    static NOW: Cell<Tick> = const { Cell::new(Tick(0)) };
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// Reads the clock and refreshes the thread's cached time.
pub fn refresh() -> Tick {
    let tick = read();
    NOW.set(tick);
    tick
}

/// Refreshes the thread's cached time if it was not done in this `turn` of its loop (they count from 1).
#[inline]
pub fn refresh_once(turn: u64) {
    if TURN.replace(turn) != turn {
        refresh();
    }
}

/// Reads the clock and leaves the thread's cached time as it is.
pub fn read() -> Tick {
    let elapsed = origin().0.elapsed();
    Tick(elapsed.as_secs().wrapping_mul(NANOS).wrapping_add(u64::from(elapsed.subsec_nanos())))
}

const NANOS: u64 = 1_000_000_000;

/// The thread's cached time; at most as old as the turn of its loop in which something was received or a sleep ended last.
pub fn now() -> Tick {
    let now = NOW.get();
    if now.0 == 0 { refresh() } else { now }
}

/// Wall-clock time of a tick, as the time since 1970. Drifts with NTP steps since the start: use [`wall`] for log stamps.
pub fn unix_of(tick: Tick) -> Duration {
    Duration::from_nanos(origin().1.wrapping_add(tick.0))
}

/// The same in whole seconds.
pub fn unix_second_of(tick: Tick) -> u64 {
    origin().1.wrapping_add(tick.0) / NANOS
}

/// The wall clock now, as the time since 1970.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn origin() -> &'static (Instant, u64) {
    ORIGIN.get_or_init(|| (Instant::now(), u64::try_from(wall().as_nanos()).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_one_time() {
        std::thread::spawn(|| {
            refresh_once(1);
            let first = now();
            while read() == first {}
            refresh_once(1);
            assert_eq!(now(), first);
            refresh_once(2);
            assert!(now() > first);
        })
        .join()
        .unwrap();
    }
}
