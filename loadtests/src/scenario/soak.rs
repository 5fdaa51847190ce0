//! Everything at once for a while, a reload each second included; then silence: memory flat, descriptors back.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::{eventually, nap};
use bench_harness::sys;

use super::{Options, check_alive, check_memory};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;

const POOLED: usize = 64;
const SLACK_KIB: u64 = 16 * 1024;

/// 10 minutes; short: 8 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let (_upstreams, mut subject) = options.stage(2, 100, Duration::from_secs(2))?;
    let (stop, turns, opened, slow) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (keep, new, tunnels, uploads) = (Tally::default(), Tally::default(), Tally::default(), Tally::default());
    let target = Target { address: subject.address, stop: &stop };
    let (time, count) = options.pick((Duration::from_secs(600), 200), (Duration::from_secs(8), 50));
    let (before, start) = (subject.descriptors(), Instant::now());
    let (mut warm_kib, mut reloads) = (0, 0);
    let (keep, new, tunnels, uploads, turns, opened, slow) = (&keep, &new, &tunnels, &uploads, &turns, &opened, &slow);
    thread::scope(|scope| {
        let run = (|| -> io::Result<()> {
            for id in 0..8 {
                crowd::spawn(scope, move || crowd::keepalive(target, id, keep))?;
            }
            for id in 0..2 {
                crowd::spawn(scope, move || crowd::newcomers(target, id, new))?;
                crowd::spawn(scope, move || crowd::churn(target, id, turns))?;
                crowd::spawn(scope, move || crowd::uploads(target, id, Duration::from_millis(500), uploads))?;
            }
            crowd::spawn(scope, move || crowd::tunnels(target, count, opened, tunnels))?;
            crowd::spawn(scope, move || crowd::trickle(target, count, slow))?;
            while start.elapsed() < time && !sys::stopped() {
                nap(Duration::from_secs(1));
                subject.reload()?;
                reloads += 1;
                if warm_kib == 0 && start.elapsed() > time / 3 {
                    warm_kib = subject.resident_kib();
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let mut report = Report::default();
    report.figure("reloads", reloads);
    report.figure("clients that left, reset or sent no HTTP", turns.load(Ordering::Relaxed));
    let slow = slow.load(Ordering::Relaxed);
    report.check("clients that trickled and were ended", slow, slow > 0);
    for (who, tally) in [("keepalive", keep), ("new connections", new), ("tunnels", tunnels), ("uploads", uploads)] {
        tally.report(who, &mut report);
    }
    keep.report_reopened("keepalive", &mut report);
    check_memory(warm_kib, subject.resident_kib(), SLACK_KIB, &mut report);
    let back = eventually(Duration::from_secs(15), || subject.descriptors() <= before + POOLED);
    report.check("descriptors before → after", format!("{before} → {}", subject.descriptors()), back);
    check_alive(&mut subject, &mut report);
    Ok(report)
}
