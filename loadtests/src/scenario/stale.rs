//! An upstream that closes idle connections after one second, asked about once a second: the worst moment to take a connection
//! out of a pool. Nothing fails.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::nap;
use bench_harness::sys;

use super::{Options, check_alive};
use crate::crowd::{self, Tally, Target};
use crate::report::Report;

/// How long the upstream keeps an idle connection.
const IDLE: Duration = Duration::from_secs(1);

/// 32 clients for 30 s, each with a pause a little around one second; short: for 5 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let (_upstreams, mut subject) = options.stage_with(Duration::from_secs(60), IDLE)?;
    let stop = AtomicBool::new(false);
    let tally = Tally::default();
    let target = Target { address: subject.address, stop: &stop };
    let tally_of = &tally;
    let (time, start) = (options.pick(Duration::from_secs(30), Duration::from_secs(5)), Instant::now());
    thread::scope(|scope| {
        let run = (|| -> io::Result<()> {
            for id in 0..32_u64 {
                let pause = IDLE - Duration::from_millis(8) + Duration::from_micros(500 * id);
                crowd::spawn(scope, move || crowd::seldom(target, id as usize, pause, tally_of))?;
            }
            while start.elapsed() < time && !sys::stopped() {
                nap(Duration::from_millis(100));
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let mut report = Report::default();
    tally.report("once a second", &mut report);
    check_alive(&mut subject, &mut report);
    Ok(report)
}
