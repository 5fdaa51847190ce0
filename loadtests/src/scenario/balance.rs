//! Sixteen workers, however few CPUs: how evenly they get connections, and whether anybody waits for long while one of them is
//! kept busy.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::{eventually, nap};

use super::{Options, check_alive};
use crate::crowd::{self, Tally, Target};
use crate::http::Connection;
use crate::report::Report;
use crate::subject::{Setup, Subject};
use crate::upstream::Upstream;

const WORKERS: usize = 16;
/// Where a share of hashed connections counts as uneven, in standard deviations: one of sixteen shares lies beyond it in one run
/// of two million by chance.
const DEVIATIONS: f64 = 5.5;
/// Connections that keep one worker busy, and the requests that each sends at once. Nothing is behind their path, so that no
/// upstream slows them.
const BUSY: usize = 4;
const AT_ONCE: usize = 64;
const BUSY_PATH: &str = "/nobody";
/// Connections looked at per worker while one is busy.
const WATCHED: usize = 4;
/// The longest that a request may take beside a busy worker, or at it: far above what a shared machine adds.
const PATIENCE: Duration = Duration::from_secs(1);

/// 3,200 connections, and 10 s beside a busy worker; short: 800, and 1.5 s.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::default();
    if options.nginx {
        report.check("left out", "nginx does not tell its workers apart", true);
        return Ok(report);
    }
    let (count, time) = options.pick((3_200, Duration::from_secs(10)), (800, Duration::from_millis(1_500)));
    let upstream = Upstream::start()?;
    let stage = |placement| {
        let setup = options.setup(vec![upstream.address]);
        Subject::start(Setup { workers: WORKERS, placement, log: "\"$request_uri $worker\"", ..setup })
    };
    let mut subject = stage("")?;
    let mut held = open(&subject, count)?;
    spread(&subject, count, &mut report)?;
    beside_a_busy_one(&subject, &mut held, time, &mut report)?;
    check_alive(&mut subject, &mut report);
    drop((held, subject));
    let shared = stage("accept: shared")?;
    let _held = open(&shared, count)?;
    let [least, most] = extremes(&connections(&shared, count)?);
    report.figure("accept: shared, least and most of a worker", format!("{least:.0} and {most:.0}"));
    Ok(report)
}

fn open(subject: &Subject, count: usize) -> io::Result<Vec<Connection>> {
    (0..count).map(|_| Connection::open(subject.address)).collect()
}

/// Connections of each worker, once all are counted.
fn connections(subject: &Subject, count: usize) -> io::Result<Vec<f64>> {
    let gauge = || subject.metric_by_worker("ringway_connections");
    eventually(Duration::from_secs(5), || gauge().is_ok_and(|all| all.iter().sum::<f64>() >= count as f64));
    gauge()
}

fn extremes(values: &[f64]) -> [f64; 2] {
    [values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max)]
}

/// The kernel hashes each connection to one of the sockets: shares are binomial, with a known spread.
fn spread(subject: &Subject, count: usize, report: &mut Report) -> io::Result<()> {
    let shares = connections(subject, count)?;
    let (workers, total) = (WORKERS as f64, shares.iter().sum::<f64>());
    report.check("connections counted by the workers", total, total == count as f64);
    let mean = count as f64 / workers;
    let deviation = (mean * (1.0 - 1.0 / workers)).sqrt();
    let bound = 1.0 + DEVIATIONS * deviation / mean;
    let [least, most] = extremes(&shares);
    report.check(
        format!("the most of a worker over the mean of {mean:.0} (bound {bound:.2})"),
        format!("{:.2} ({most:.0})", most / mean),
        most / mean <= bound,
    );
    report.check("the least of a worker", format!("{least:.0}"), least >= mean - DEVIATIONS * deviation);
    let square: f64 = shares.iter().map(|share| (share - mean).powi(2) / mean).sum();
    // Chi square with 15 degrees of freedom has a mean of 15 and a deviation of 5.5.
    let square_bound = (workers - 1.0) + DEVIATIONS * (2.0 * (workers - 1.0)).sqrt() * 1.5;
    report.check(
        format!("chi square over the workers (bound {square_bound:.0})"),
        format!("{square:.1}"),
        square <= square_bound,
    );
    Ok(())
}

/// The worker of each of these connections: one request on each, and what the access log says of it.
fn owners(subject: &Subject, held: &mut [Connection]) -> io::Result<Vec<usize>> {
    for (at, connection) in held.iter_mut().enumerate() {
        connection.get(&format!("/echo/owner-{at}"))?;
    }
    let read = || -> HashMap<usize, usize> {
        let pair = |line: String| {
            let (path, worker) = line.split_once(' ')?;
            Some((path.strip_prefix("/echo/owner-")?.parse().ok()?, worker.parse().ok()?))
        };
        subject.log_lines().into_iter().filter_map(pair).collect()
    };
    eventually(Duration::from_secs(5), || read().len() == held.len());
    let found = read();
    let owner =
        |at| found.get(&at).copied().ok_or_else(|| io::Error::other("the access log does not tell a connection's worker"));
    (0..held.len()).map(owner).collect()
}

fn beside_a_busy_one(subject: &Subject, held: &mut [Connection], time: Duration, report: &mut Report) -> io::Result<()> {
    let looked_at = held.len().min(WORKERS * 25);
    let held = &mut held[..looked_at];
    let owners = owners(subject, held)?;
    let mut by_worker: [Vec<&mut Connection>; WORKERS] = Default::default();
    for (connection, owner) in held.iter_mut().zip(owners) {
        by_worker[owner.min(WORKERS - 1)].push(connection);
    }
    let busy = (0..WORKERS).max_by_key(|worker| by_worker[*worker].len()).unwrap_or(0);
    let keeping_busy = by_worker[busy].split_off(by_worker[busy].len().saturating_sub(BUSY));
    let (stop, newcomers) = (AtomicBool::new(false), Tally::default());
    let watched: [Tally; WORKERS] = std::array::from_fn(|_| Tally::default());
    let before = subject.metric_by_worker("ringway_requests_total")?;
    thread::scope(|scope| {
        let run = (|| -> io::Result<()> {
            let (stop, newcomers, target) = (&stop, &newcomers, Target { address: subject.address, stop: &stop });
            for connection in keeping_busy {
                crowd::spawn(scope, move || keep_busy(connection, stop))?;
            }
            for (connections, tally) in by_worker.into_iter().zip(&watched) {
                crowd::spawn(scope, move || watch(connections, stop, tally))?;
            }
            crowd::spawn(scope, move || crowd::newcomers(target, 0, newcomers))?;
            nap(time);
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        run
    })?;
    let after = subject.metric_by_worker("ringway_requests_total")?;
    let share = (after[busy] - before[busy]) / (after.iter().sum::<f64>() - before.iter().sum::<f64>()).max(1.0);
    report.figure(
        "requests of the busy worker, share of all",
        format!("{:.0}, {:.1} %", after[busy] - before[busy], share * 100.0),
    );
    let slowest = |which: &dyn Fn(usize) -> bool| {
        (0..WORKERS).filter(|at| which(*at)).map(|at| watched[at].millis(1.0)).fold(0.0, f64::max)
    };
    let (others, own) = (slowest(&|at| at != busy), slowest(&|at| at == busy));
    let bound = PATIENCE.as_millis() as f64;
    report.check(format!("longest answer of the fifteen others, ms (bound {bound})"), format!("{others:.1}"), others <= bound);
    report.check(format!("longest answer of the busy one, ms (bound {bound})"), format!("{own:.1}"), own <= bound);
    let least = watched.iter().map(Tally::count).min().unwrap_or(0);
    report.check("answers of each worker, at least", least, least > 0);
    let failed: u64 = watched.iter().map(Tally::failures).sum();
    report.check("failed", failed, failed == 0);
    newcomers.report("new connections", report);
    Ok(())
}

/// Sends requests in packs that the worker answers itself.
fn keep_busy(connection: &mut Connection, stop: &AtomicBool) {
    let pack = format!("GET {BUSY_PATH} HTTP/1.1\r\nHost: load.local\r\n\r\n").repeat(AT_ONCE);
    while !stop.load(Ordering::Relaxed) && connection.send(pack.as_bytes()).is_ok() {
        if (0..AT_ONCE).any(|_| connection.reply().is_err()) {
            return;
        }
    }
}

/// Asks over a worker's connections by turns.
fn watch(mut connections: Vec<&mut Connection>, stop: &AtomicBool, tally: &Tally) {
    connections.truncate(WATCHED);
    while !stop.load(Ordering::Relaxed) {
        for connection in &mut connections {
            let since = Instant::now();
            match connection.get("/echo/watched") {
                Ok(reply) if reply.status == 200 => tally.answered(since),
                Ok(reply) => tally.failed(format!("status {}", reply.status)),
                Err(e) => return tally.failed(e),
            }
            nap(Duration::from_millis(5));
        }
    }
}
