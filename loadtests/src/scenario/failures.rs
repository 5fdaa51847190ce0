//! Upstreams that die and come back: with two nodes and retries no idempotent request fails, and no upload arrives twice.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::nap;
use bench_harness::sys;

use super::{Options, check_alive};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;

/// Kills one of two nodes by turns for 20 s; short: 5 s.
///
/// # Errors
/// Where the stage can't be set or an upstream's port is taken meanwhile.
pub fn run(options: &Options) -> io::Result<Report> {
    let (mut upstreams, mut subject) = options.stage(2, 0, Duration::from_secs(60))?;
    let stop = AtomicBool::new(false);
    let (keep, new, uploads) = (Tally::default(), Tally::default(), Tally::default());
    let target = Target { address: subject.address, stop: &stop };
    let (keep, new, uploads) = (&keep, &new, &uploads);
    let (time, start) = (options.pick(Duration::from_secs(20), Duration::from_secs(5)), Instant::now());
    let mut kills = 0;
    thread::scope(|scope| {
        let run = (|| -> io::Result<()> {
            crowd::mixed(scope, target, Duration::from_millis(40), [keep, new, uploads])?;
            while start.elapsed() < time && !sys::stopped() {
                let one = &mut upstreams[kills % 2];
                nap(Duration::from_millis(200));
                one.kill();
                nap(Duration::from_millis(200));
                one.restart()?;
                kills += 1;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let mut report = Report::default();
    report.check("nodes killed and restarted", kills, kills > 3);
    keep.report("keepalive GETs", &mut report);
    keep.report_reopened("keepalive GETs", &mut report);
    new.report("GETs on new connections", &mut report);
    report.check("uploads: answered", uploads.count(), uploads.count() > 0);
    report.figure("uploads: failed (their node died; not sent again)", uploads.failures());
    let mut arrived: HashMap<String, u32> = HashMap::new();
    for (path, times) in upstreams.iter().flat_map(crate::upstream::Upstream::uploads) {
        *arrived.entry(path).or_default() += times;
    }
    let twice = arrived.values().filter(|times| **times > 1).count();
    report.check("uploads that arrived more than once", twice, twice == 0);
    check_alive(&mut subject, &mut report);
    Ok(report)
}
