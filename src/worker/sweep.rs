//! The worker's one sweeper: deadlines, idle pools, the log's batch, and how late it is itself.

use std::rc::Rc;

use crate::base::clock;
use crate::limit::window;
use crate::net::{rt, watch};
use crate::proxy::Core;

/// Sweeps between two looks at the pools.
const POOLS_EVERY: u64 = 10;
/// Sweeps between two looks at what other workers may have.
const LEAVE_EVERY: u64 = 2;
/// Sweeps between two looks at what lies between the workers.
const SPARES_EVERY: u64 = 40;
/// Sweeps between two looks at the memory's pressure.
const PRESSURE_EVERY: u64 = 4;
/// Sweeps between two flushes of the log.
const LOG_EVERY: u64 = 2;

/// Sweeps for ever.
pub async fn run(core: Rc<Core>) {
    let mut sweep = 0_u64;
    let mut due = clock::refresh().after(watch::SWEEP);
    loop {
        rt::sleep(watch::SWEEP).await;
        let now = clock::now();
        let late_us = u64::try_from(now.since(due).as_micros()).unwrap_or(u64::MAX);
        if late_us > core.counters.loop_lag_us_max.get() {
            core.counters.loop_lag_us_max.set(late_us);
        }
        due = now.after(watch::SWEEP);
        sweep += 1;
        core.counters.sweeps.add(1);
        core.counters.panics.set(rt::panics());
        watch::sweep(now);
        window::give_back();
        if sweep.is_multiple_of(POOLS_EVERY) {
            let mut pools = core.pools.borrow_mut();
            core.upstreams.borrow_mut().refresh(&mut pools);
            pools.sweep(now);
        }
        if sweep.is_multiple_of(SPARES_EVERY) {
            core.pools.borrow().sweep_spares(now);
        }
        if sweep.is_multiple_of(LEAVE_EVERY) {
            core.pools.borrow_mut().leave(now);
        }
        if sweep.is_multiple_of(PRESSURE_EVERY) {
            core.follow_pressure();
        }
        if sweep.is_multiple_of(LOG_EVERY) {
            core.flush_log();
        }
        drop(core.view()); // an idle worker takes a new epoch here at the latest
    }
}
