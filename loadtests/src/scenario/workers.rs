//! Two workers on two CPUs: a request must not cost more CPU because a second worker runs in the same process.
//!
//! The load and the upstream share the CPUs with the gateway, so requests per second say little: compared is the gateway's own
//! CPU per request. Each worker has the same number of connections in every arm, from load threads on both CPUs. What decides is
//! the arm `apart`, where two gateways of one worker each stand in the two workers' place: they share the machine, and nothing
//! else. Beside one worker alone the other CPU has time to spare, so that arm's requests are cheaper for the machine's reasons.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::load::{self, Mark, Spec};
use bench_harness::procfs::Cpu;
use bench_harness::stats::{Summary, paired};
use bench_harness::{backend, sys};

use super::Options;
use crate::report::Report;
use crate::subject::{Setup, Subject};

/// Two workers' CPU per request over that of two gateways of one worker. Medians of 15 rounds wander by 6 % on a shared host, so
/// less than this could not be told from nothing.
const BOUND: f64 = 1.15;
/// What short windows and few rounds need on top.
const SHORT_ROOM: f64 = 0.25;
/// Connections per worker.
const CONNECTIONS: usize = 64;
const CPUS: [usize; 2] = [0, 1];

/// Gateways of an arm: how many workers, and where.
struct Arm {
    name: &'static str,
    gateways: &'static [(usize, &'static str)],
}

const ARMS: [Arm; 3] = [
    Arm { name: "one worker on one CPU", gateways: &[(1, "cpus: \"0\"")] },
    Arm { name: "two workers on two", gateways: &[(2, "cpus: \"0-1\"")] },
    Arm { name: "two gateways apart", gateways: &[(1, "cpus: \"0\""), (1, "cpus: \"1\"")] },
];

struct Sample {
    micros: f64,
    rate: f64,
    errors: u64,
}

/// 15 interleaved rounds of 0.7 s per arm; short: 3 of a third.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let (rounds, time) = options.pick((15, Duration::from_millis(700)), (3, Duration::from_millis(350)));
    let listeners = CPUS.map(|_| sys::listen(SocketAddr::from(([127, 0, 0, 1], 0))));
    let listeners = listeners.into_iter().collect::<io::Result<Vec<_>>>()?;
    let nodes = listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        for (listener, cpu) in listeners.iter().zip(CPUS) {
            let stop = &stop;
            scope.spawn(move || {
                let _ = sys::pin(cpu);
                let _ = backend::serve(listener, Instant::now() + Duration::from_secs(3600), &|| stop.load(Ordering::Relaxed));
            });
        }
        let samples = measure_all(options, &nodes, rounds, time);
        stop.store(true, Ordering::Relaxed);
        samples
    })?;
    let room = options.pick(0.0, SHORT_ROOM);
    Ok(judge(&samples, room))
}

/// By arm, then by round. The order turns from round to round.
fn measure_all(options: &Options, nodes: &[SocketAddr], rounds: usize, time: Duration) -> io::Result<[Vec<Sample>; 3]> {
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..ARMS.len() {
            let at = (round + turn) % ARMS.len();
            samples[at].push(measure(options, nodes, &ARMS[at], time)?);
        }
    }
    Ok(samples)
}

fn measure(options: &Options, nodes: &[SocketAddr], arm: &Arm, time: Duration) -> io::Result<Sample> {
    let gateways = arm
        .gateways
        .iter()
        .map(|(workers, placement)| Subject::start(Setup { workers: *workers, placement, ..options.setup(nodes.to_vec()) }))
        .collect::<io::Result<Vec<_>>>()?;
    let workers: usize = arm.gateways.iter().map(|(workers, _)| workers).sum();
    // Four threads in every arm: of each CPU two, which ask the gateways by turns where there are two.
    let connections = CONNECTIONS * workers / (2 * CPUS.len());
    let (requests, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    let edges = Mutex::new(Vec::new());
    let spent = || -> Vec<Cpu> { gateways.iter().map(Subject::cpu).collect() };
    thread::scope(|scope| {
        for thread in 0..2 * CPUS.len() {
            let (cpu, target) = (CPUS[thread % 2], gateways[thread / 2 % gateways.len()].address);
            let (requests, errors, edges, spent) = (&requests, &errors, &edges, &spent);
            scope.spawn(move || {
                let _ = sys::pin(cpu);
                // The first thread's window is everybody's: they begin within a millisecond.
                let mut mark = |_: Mark| {
                    if thread == 0 {
                        edges.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), spent()));
                    }
                };
                match load::run(&Spec::get(target, "/echo/x", connections, time), &mut mark) {
                    Ok(outcome) => {
                        requests.fetch_add(outcome.requests, Ordering::Relaxed);
                        errors.fetch_add(outcome.errors.total(), Ordering::Relaxed);
                    }
                    Err(_) => drop(errors.fetch_add(1, Ordering::Relaxed)),
                }
            });
        }
    });
    let edges = edges.into_inner().unwrap_or_else(PoisonError::into_inner);
    let [(begin, before), (end, after)] = &edges[..] else { return Err(io::Error::other("the load did not run")) };
    let nanos: f64 = after.iter().zip(before).map(|(after, before)| after.since(before).nanos).sum();
    let requests = requests.into_inner() as f64;
    let rate = requests / (*end - *begin).as_secs_f64();
    Ok(Sample { micros: nanos / 1e3 / requests.max(1.0), rate, errors: errors.into_inner() })
}

fn judge(samples: &[Vec<Sample>; 3], room: f64) -> Report {
    let mut report = Report::default();
    let figures = |at: usize, figure: fn(&Sample) -> f64| samples[at].iter().map(|s| Some(figure(s))).collect::<Vec<_>>();
    let micros = |at: usize| figures(at, |s| s.micros);
    for (at, arm) in ARMS.iter().enumerate() {
        let of = |figure: fn(&Sample) -> f64| {
            Summary::of(samples[at].iter().map(figure)).map_or([f64::NAN; 3], |s| [s.median, s.min, s.max])
        };
        let ([cpu, least, most], [rate, ..]) = (of(|s| s.micros), of(|s| s.rate));
        report.figure(
            format!("{}: CPU µs per request, requests per second of CPU, per second", arm.name),
            format!("{cpu:.2} ({least:.2} to {most:.2}), {:.0}, {rate:.0}", 1e6 / cpu),
        );
    }
    let failed: u64 = samples.iter().flatten().map(|s| s.errors).sum();
    report.check("failed", failed, failed == 0);
    let over = |at: usize, other: usize| {
        let ratio = paired(&micros(at), &micros(other));
        let text = |r: Summary| format!("{:.3} ({:.3} to {:.3}, {} rounds)", r.median, r.min, r.max, r.rounds);
        (ratio.map_or("none".into(), text), ratio.map_or(f64::NAN, |r| r.median))
    };
    let ((text, ratio), bound) = (over(1, 2), BOUND + room);
    report.check(format!("CPU per request of two workers over two gateways apart (bound {bound:.2})"), text, ratio <= bound);
    report.figure("the same over one worker, the other CPU half idle", over(1, 0).0);
    report.figure("two gateways apart over one: what the machine adds", over(2, 0).0);
    report
}
