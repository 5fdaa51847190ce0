//! Clients that trickle their heads (slow loris) while others work: the others are answered, memory is bounded, the slow ones
//! are ended in time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::nap;
use bench_harness::sys;

use super::{Options, check_alive};
use crate::crowd::{self, Tally, Target};
use crate::http::Connection;
use crate::report::Report;

/// The most a connection that trickles may cost: the head it may fill (`limits.header_bytes`, 32 KiB) and its own state.
const KIB_PER_CONNECTION: f64 = 40.0;

/// 9,800 trickling clients with a header timeout of 10 s, or what descriptors allow; short: 800 and 3 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let (timeout, wanted) = options.pick((Duration::from_secs(10), 9_800), (Duration::from_secs(3), 800));
    let count = wanted.min(sys::raise_descriptors().saturating_sub(1_000) as usize);
    let (_upstreams, mut subject) = options.stage(1, 0, timeout)?;
    let stop = AtomicBool::new(false);
    let (keep, new) = (Tally::default(), Tally::default());
    let target = Target { address: subject.address, stop: &stop };
    let (keep, new) = (&keep, &new);
    let mut report = Report::default();
    thread::scope(|scope| {
        let run = (|| {
            for id in 0..4 {
                crowd::spawn(scope, move || crowd::keepalive(target, id, keep))?;
            }
            crowd::spawn(scope, move || crowd::newcomers(target, 0, new))?;
            nap(Duration::from_millis(500));
            let before = subject.resident_kib();
            let mut slow = Slow::open(&subject, count)?;
            let (opened, cost) = (slow.open.len(), subject.resident_kib().saturating_sub(before));
            let each = cost as f64 / opened.max(1) as f64;
            report.check("trickling clients", opened, opened == count);
            report.check("KiB of RSS per trickling client", format!("{each:.2}"), each <= KIB_PER_CONNECTION);
            let left = slow.trickle(timeout + Duration::from_secs(3) + slow.opening);
            report.check("trickling clients ended by the header timeout", opened - left, left == 0);
            Ok::<_, io::Error>(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    keep.report("keepalive", &mut report);
    keep.report_reopened("keepalive", &mut report);
    new.report("new connections", &mut report);
    check_alive(&mut subject, &mut report);
    Ok(report)
}

struct Slow {
    open: Vec<Connection>,
    opening: Duration,
}

impl Slow {
    fn open(subject: &crate::subject::Subject, count: usize) -> io::Result<Self> {
        let start = Instant::now();
        let mut open = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Connection::open(subject.address)?;
            connection.send(b"GET /echo/slow HTTP/1.1\r\nHost: load.local\r\nX-Slow: ")?;
            connection.stream().set_nonblocking(true)?;
            open.push(connection);
        }
        Ok(Self { open, opening: start.elapsed() })
    }

    /// An octet each second from each, until all were ended or `patience` is over. Gives how many are left.
    fn trickle(&mut self, patience: Duration) -> usize {
        let start = Instant::now();
        while !self.open.is_empty() && start.elapsed() < patience && !sys::stopped() {
            let round = Instant::now();
            self.open.retain_mut(|connection| {
                let alive = connection.send(b"x").is_ok() && !connection.ended();
                nap(Duration::from_micros(50));
                alive
            });
            nap(Duration::from_millis(500).saturating_sub(round.elapsed()));
        }
        self.open.len()
    }
}
