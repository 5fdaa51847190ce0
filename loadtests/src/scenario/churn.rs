//! Clients that come, misbehave and go, beside clients that behave: the latter notice nothing, and no descriptor is left behind.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bench_harness::children::{eventually, nap};

use super::{Options, check_alive, check_memory};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;

/// Descriptors that may stay: idle connections to the upstream.
const POOLED: usize = 64;
const SLACK_KIB: u64 = 16 * 1024;

/// 30 s; short: 4 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let (_upstreams, mut subject) = options.stage(1, 0, Duration::from_secs(2))?;
    let (stop, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let (keep, new) = (Tally::default(), Tally::default());
    let target = Target { address: subject.address, stop: &stop };
    let before = subject.descriptors();
    let mut warm_kib = 0;
    let time = options.pick(Duration::from_secs(30), Duration::from_secs(4));
    let (keep, new, turns) = (&keep, &new, &turns);
    thread::scope(|scope| {
        let run = (|| -> io::Result<()> {
            for id in 0..4 {
                crowd::spawn(scope, move || crowd::keepalive(target, id, keep))?;
                crowd::spawn(scope, move || crowd::churn(target, id, turns))?;
            }
            crowd::spawn(scope, move || crowd::newcomers(target, 0, new))?;
            nap(time / 4);
            warm_kib = subject.resident_kib();
            nap(time * 3 / 4);
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let mut report = Report::default();
    report.check("clients that misbehaved", turns.load(Ordering::Relaxed), turns.load(Ordering::Relaxed) > 100);
    keep.report("keepalive", &mut report);
    keep.report_reopened("keepalive", &mut report);
    new.report("new connections", &mut report);
    check_memory(warm_kib, subject.resident_kib(), SLACK_KIB, &mut report);
    let back = eventually(Duration::from_secs(10), || subject.descriptors() <= before + POOLED);
    report.check("descriptors before → after", format!("{before} → {}", subject.descriptors()), back);
    check_alive(&mut subject, &mut report);
    Ok(report)
}
