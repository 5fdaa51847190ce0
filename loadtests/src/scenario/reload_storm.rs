//! Reloads in quick succession under every kind of load: no request fails, no connection is closed, memory stays flat, every
//! epoch is taken.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::{eventually, nap};

use super::{Options, check_alive, check_memory};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;
use crate::subject::Subject;

const SLACK_KIB: u64 = 8 * 1024;

/// 100 reloads in 8 s, then 200 in 20 s; short: 25 in 3 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::default();
    let storms: &[(u32, u64)] = options.pick(&[(100, 8), (200, 20)], &[(25, 3)]);
    for (reloads, seconds) in storms {
        let one = storm(options, *reloads, Duration::from_secs(*seconds))?;
        report.extend(&format!("{reloads} in {seconds} s"), one);
    }
    Ok(report)
}

fn storm(options: &Options, reloads: u32, time: Duration) -> io::Result<Report> {
    let (_upstreams, mut subject) = options.stage(1, 0, Duration::from_secs(60))?;
    let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    let (keep, new, tunnels, uploads) = (Tally::default(), Tally::default(), Tally::default(), Tally::default());
    let count = options.pick(1_000, 100);
    let upload_time = options.pick(Duration::from_secs(2), Duration::from_millis(700));
    let target = Target { address: subject.address, stop: &stop };
    let mut report = Report::default();
    let (keep, new, tunnels, uploads, opened) = (&keep, &new, &tunnels, &uploads, &opened);
    thread::scope(|scope| {
        let stormed = (|| {
            for id in 0..8 {
                crowd::spawn(scope, move || crowd::keepalive(target, id, keep))?;
                crowd::spawn(scope, move || crowd::uploads(target, id, upload_time, uploads))?;
            }
            for id in 0..2 {
                crowd::spawn(scope, move || crowd::newcomers(target, id, new))?;
            }
            crowd::spawn(scope, move || crowd::tunnels(target, count, opened, tunnels))?;
            eventually(Duration::from_secs(30), || opened.load(Ordering::Relaxed) >= count as u64);
            reload_at_pace(&mut subject, reloads, time, &mut report)
        })();
        stop.store(true, Ordering::Relaxed);
        stormed
    })?;
    for (who, tally) in [("keepalive", keep), ("new connections", new), ("tunnels", tunnels), ("uploads", uploads)] {
        tally.report(who, &mut report);
    }
    keep.report_reopened("keepalive", &mut report);
    uploads.report_reopened("uploads", &mut report);
    check_alive(&mut subject, &mut report);
    Ok(report)
}

fn reload_at_pace(subject: &mut Subject, reloads: u32, time: Duration, report: &mut Report) -> io::Result<()> {
    let first = if subject.has_epochs() { subject.epochs()?.current } else { 0 };
    // A few reloads first, so that memory that is kept for the next compilation does not count as growth.
    for _ in 0..3 {
        subject.reload()?;
        nap(Duration::from_millis(100));
    }
    eventually(Duration::from_secs(10), || subject.serves_current());
    let (before, start) = (subject.resident_kib(), Instant::now());
    for n in 1..=reloads {
        subject.reload()?;
        nap((time * n / reloads).saturating_sub(start.elapsed()));
    }
    report.figure("reloads took", format!("{:.2} s", start.elapsed().as_secs_f64()));
    let last = Instant::now();
    let current = eventually(Duration::from_secs(10), || subject.serves_current());
    report.check("the last configuration serves after", format!("{} ms", last.elapsed().as_millis()), current);
    if subject.has_epochs() {
        let settled = eventually(Duration::from_secs(10), || subject.epochs().is_ok_and(|e| e.settled()));
        let epochs = subject.epochs()?;
        report.check("every worker acknowledged the last epoch", format!("{epochs:?}"), settled);
        report.check("epochs published", epochs.current - first, epochs.current > first);
    }
    check_memory(before, subject.resident_kib(), SLACK_KIB, report);
    Ok(())
}
