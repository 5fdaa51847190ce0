//! One route changed among many: how long until every worker serves it, what it costs in memory, and what a request feels of it.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::{eventually, nap};

use super::{Options, check_alive};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;
use crate::subject::Subject;

/// Changes measured per table size.
const CHANGES: u64 = 5;
/// The aim per route (0.2 s at 10,000; 2 s at 100,000) with the room a debug build or a shared host needs.
const ROOM: u32 = 10;

/// 10,000 and 100,000 routes; short: 2,000.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::default();
    let sizes: &[usize] = options.pick(&[10_000, 100_000], &[2_000]);
    for routes in sizes {
        report.extend(&format!("{routes} routes"), change_one(options, *routes)?);
    }
    Ok(report)
}

fn change_one(options: &Options, routes: usize) -> io::Result<Report> {
    let mut report = Report::default();
    let start = Instant::now();
    let (_upstreams, mut subject) = options.stage(1, routes, Duration::from_secs(60))?;
    report.figure("start until the first answer", format!("{} ms", start.elapsed().as_millis()));
    let (stop, prober) = (AtomicBool::new(false), Tally::default());
    let target = Target { address: subject.address, stop: &stop };
    let prober = &prober;
    nap(Duration::from_secs(1));
    let calm_kib = subject.resident_kib();
    let took = thread::scope(|scope| {
        let run = (|| {
            crowd::spawn(scope, move || crowd::probe(target, prober))?;
            nap(Duration::from_millis(500));
            report.figure(
                "prober before the changes, ms p99 / max",
                format!("{:.2} / {:.2}", prober.millis(0.99), prober.millis(1.0)),
            );
            (1..=CHANGES).map(|version| change(&mut subject, version, routes)).collect::<io::Result<Vec<_>>>()
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let aim = Duration::from_millis(200).mul_f64(routes as f64 / 10_000.0).max(Duration::from_millis(100));
    let millis: Vec<String> = took.iter().map(|t| t.map_or("never".into(), |t| t.as_millis().to_string())).collect();
    let within = took.iter().all(|t| t.is_some_and(|t| t <= aim * ROOM));
    report.check(
        format!("ms from the change to every worker (aim {}, bound {})", aim.as_millis(), (aim * ROOM).as_millis()),
        millis.join(" "),
        within,
    );
    report
        .figure("MiB in calm / at the peak (aim: two snapshots)", format!("{} / {}", calm_kib / 1024, subject.peak_kib() / 1024));
    if let Some(pause) = subject.metric_max("ringway_epoch_switch_seconds_max") {
        report.figure("largest pause of a worker by an epoch, ms (aim 1)", format!("{:.3}", pause * 1000.0));
    }
    report.figure("largest pause a keepalive client saw, ms", format!("{:.2}", prober.millis(1.0)));
    prober.report("prober", &mut report);
    prober.report_reopened("prober", &mut report);
    check_alive(&mut subject, &mut report);
    Ok(report)
}

/// Publishes a file in which one route differs; `None` where the workers never took it.
fn change(subject: &mut Subject, version: u64, routes: usize) -> io::Result<Option<Duration>> {
    let next = subject.directory().join("gateway.next");
    fs::write(&next, subject.text(version))?;
    let patience = Duration::from_secs(10 + routes as u64 / 2_000);
    let before = if subject.has_epochs() { subject.epochs()?.current } else { 0 };
    let start = Instant::now();
    subject.publish(&next)?;
    subject.set_version(version);
    let acknowledged = subject.has_epochs().then(|| subject.acknowledged(before, patience));
    let serves = eventually(patience, || subject.serves_current());
    let took = acknowledged.unwrap_or_else(|| Some(start.elapsed()));
    nap(Duration::from_millis(500));
    Ok(took.filter(|_| serves))
}
