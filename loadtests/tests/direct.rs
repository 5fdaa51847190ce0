//! The crowds against the scripted upstream alone: they find nothing wrong where nothing is, and notice what is.
// In a test a failed unwrap is the report.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bench_harness::children::eventually;
use loadtests::crowd::{self, Tally, Target};
use loadtests::report::Report;
use loadtests::upstream::Upstream;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_crowd_is_content_with_a_sound_server() {
    let upstream = Upstream::start().unwrap();
    let (stop, opened, turns) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let tallies: [Tally; 5] = Default::default();
    let [keep, new, up, ws, probe] = &tallies;
    let target = Target { address: upstream.address, stop: &stop };
    thread::scope(|scope| {
        let (opened, turns) = (&opened, &turns);
        crowd::spawn(scope, move || crowd::keepalive(target, 0, keep)).unwrap();
        crowd::spawn(scope, move || crowd::newcomers(target, 0, new)).unwrap();
        crowd::spawn(scope, move || crowd::uploads(target, 0, Duration::from_millis(20), up)).unwrap();
        crowd::spawn(scope, move || crowd::tunnels(target, 20, opened, ws)).unwrap();
        crowd::spawn(scope, move || crowd::probe(target, probe)).unwrap();
        crowd::spawn(scope, move || crowd::churn(target, 0, turns)).unwrap();
        let busy = eventually(PATIENCE, || tallies.iter().all(|t| t.count() >= 60 || t.count() >= 4 && std::ptr::eq(t, up)));
        stop.store(true, Ordering::Relaxed);
        assert!(busy, "{:?}", tallies.iter().map(Tally::count).collect::<Vec<_>>());
    });
    let mut report = Report::default();
    for (who, tally) in ["keepalive", "new", "uploads", "tunnels", "probe"].into_iter().zip(&tallies) {
        tally.report(who, &mut report);
        tally.report_reopened(who, &mut report);
    }
    assert!(report.passed(), "{}", report.text("crowds"));
    assert!(turns.load(Ordering::Relaxed) > 0);
    assert!(upstream.uploads().len() >= 4);
}

#[test]
fn a_server_that_dies_is_noticed_and_comes_back() {
    let mut upstream = Upstream::start().unwrap();
    let (stop, tally) = (AtomicBool::new(false), Tally::default());
    let target = Target { address: upstream.address, stop: &stop };
    thread::scope(|scope| {
        let tally = &tally;
        crowd::spawn(scope, move || crowd::keepalive(target, 0, tally)).unwrap();
        let before = eventually(PATIENCE, || tally.count() > 3);
        upstream.kill();
        let noticed = eventually(PATIENCE, || tally.failures() > 3);
        upstream.restart().unwrap();
        let count = tally.count();
        let after = eventually(PATIENCE, || tally.count() > count + 3);
        stop.store(true, Ordering::Relaxed);
        assert_eq!((before, noticed, after), (true, true, true));
    });
}
