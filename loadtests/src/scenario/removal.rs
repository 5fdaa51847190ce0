//! Nodes that come and go by reloads under load: nothing fails, and a node that left is not asked any more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::{eventually, nap};
use bench_harness::sys;

use super::{Options, check_alive};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;

/// One of two nodes leaves and comes back by turns for 20 s; short: 4 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let (mut upstreams, mut subject) = options.stage(2, 0, Duration::from_secs(60))?;
    let stop = AtomicBool::new(false);
    let (keep, new, uploads) = (Tally::default(), Tally::default(), Tally::default());
    let target = Target { address: subject.address, stop: &stop };
    let (keep, new, uploads) = (&keep, &new, &uploads);
    let (time, start) = (options.pick(Duration::from_secs(20), Duration::from_secs(4)), Instant::now());
    let both: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let (mut reloads, mut settled) = (0_usize, 0_usize);
    let (mut quiet, mut went_on) = (false, false);
    thread::scope(|scope| {
        let run = (|| -> io::Result<()> {
            crowd::mixed(scope, target, Duration::from_millis(100), [keep, new, uploads])?;
            while start.elapsed() < time && !sys::stopped() {
                let stays = reloads / 2 % 2;
                subject.set_nodes(if reloads % 2 == 0 { vec![both[stays]] } else { both.clone() });
                subject.reload()?;
                reloads += 1;
                settled += usize::from(eventually(Duration::from_secs(5), || subject.serves_current()));
                nap(Duration::from_millis(100));
            }
            // At the end one node has left: it can die without anyone noticing.
            subject.set_nodes(vec![both[0]]);
            subject.reload()?;
            reloads += 1;
            settled += usize::from(eventually(Duration::from_secs(5), || subject.serves_current()));
            quiet = eventually(Duration::from_secs(5), || upstreams[1].is_quiet());
            upstreams[1].kill();
            let seen = [keep, new, uploads].map(Tally::count);
            went_on = eventually(Duration::from_secs(5), || {
                [keep, new, uploads].iter().zip(seen).all(|(tally, seen)| tally.count() >= seen + 10)
            });
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let mut report = Report::default();
    report.check("reloads, and those that were served", format!("{reloads}, {settled}"), reloads == settled && reloads > 3);
    report.check("nobody is connected to the node that left", quiet, quiet);
    report.check("everybody is served after its death", went_on, went_on);
    for (who, tally) in [("keepalive", keep), ("new connections", new), ("uploads", uploads)] {
        tally.report(who, &mut report);
    }
    keep.report_reopened("keepalive", &mut report);
    check_alive(&mut subject, &mut report);
    Ok(report)
}
