//! Sixteen workers in front of 200 nodes with little traffic: how many upstream connections are opened per request, beside
//! HAProxy, whose threads take each other's idle connections. Ringway's workers leave each other those that they did not come
//! back to for a moment.
//!
//! The first requests find no connection anywhere: that warm-up is counted apart.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::children::{self, Child, Scratch, free_address};
use bench_harness::load::{self, Mark, Spec};
use bench_harness::{backend, sys};

use super::Options;
use crate::report::Report;
use crate::subject::{Setup, Subject};

/// Ringway's connections per request over HAProxy's, after the warm-up.
const BOUND: f64 = 1.2;
/// Where both open next to none, their ratio says nothing: one in so many requests is as good as none.
const NONE_IN: f64 = 500.0;
/// Client connections that stay.
const KEPT: usize = 64;

/// How large it is.
#[derive(Clone, Copy)]
struct Size {
    workers: usize,
    nodes: usize,
    /// Requests per second.
    rate: f64,
    warmup: Duration,
    steady: Duration,
    /// Ringway's `keepalive_pool` and HAProxy's `default-server`, where they are not the defaults.
    pools: [&'static str; 2],
}

const FULL: Size = Size {
    workers: 16,
    nodes: 200,
    rate: 400.0,
    warmup: Duration::from_secs(25),
    steady: Duration::from_secs(40),
    pools: ["", ""],
};
const SHORT: Size =
    Size { workers: 4, nodes: 20, warmup: Duration::from_millis(1_000), steady: Duration::from_millis(1_000), ..FULL };
/// A worker comes back to a node every 16 seconds, later than a connection of its own would have stayed: as 16 workers with 200
/// nodes and 40 requests/s at the defaults, five times as fast.
const SPARSE: Size = Size {
    nodes: 40,
    rate: 40.0,
    warmup: Duration::from_secs(20),
    steady: Duration::from_secs(40),
    pools: ["{idle_timeout: 12}", "pool-purge-delay 1s"],
    ..FULL
};

/// Twenty times as fast: what a worker waits for before it leaves a connection weighs more.
const SPARSE_FAST: Size = Size {
    rate: 160.0,
    warmup: Duration::from_secs(8),
    steady: Duration::from_secs(8),
    pools: ["{idle_timeout: 3}", "pool-purge-delay 250ms"],
    ..SPARSE
};

/// What a peer opened.
struct Opened {
    peer: String,
    /// Requests and connections of the warm-up, then after it.
    parts: [(u64, u64); 2],
    failed: u64,
}

/// 16 workers, 200 nodes, 400 requests/s, half of them over new client connections: 25 s of warm-up and 40 s after it for each
/// peer, then two and a half minutes with less traffic; short: 4, 20, and a second each.
///
/// # Errors
/// Where the stage can't be set.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = on_a_stage(options.pick(FULL, SHORT), |size, nodes, accepted| beside(options, size, nodes, accepted))?;
    if !options.short {
        for (size, what) in [(SPARSE, "so little traffic that pools run empty"), (SPARSE_FAST, "the same four times as fast")] {
            let sparse = on_a_stage(size, |size, nodes, accepted| sparse(options, size, nodes, accepted))?;
            report.extend(what, sparse);
        }
    }
    Ok(report)
}

/// Starts the nodes, each an address of its own, all with one port.
fn on_a_stage(size: Size, work: impl Fn(Size, &[SocketAddr], &AtomicU64) -> io::Result<Report>) -> io::Result<Report> {
    let port = free_address()?.port();
    let nodes = (0..size.nodes).map(|n| SocketAddr::from(([127, 0, 1 + (n / 250) as u8, 1 + (n % 250) as u8], port)));
    let nodes: Vec<SocketAddr> = nodes.collect();
    let listeners = nodes.iter().map(|node| sys::listen(*node)).collect::<io::Result<Vec<_>>>()?;
    let (stop, accepted) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| serve(&listeners, &accepted, &stop));
        let report = work(size, &nodes, &accepted);
        stop.store(true, Ordering::Relaxed);
        report
    })
}

fn serve(listeners: &[TcpListener], accepted: &AtomicU64, stop: &AtomicBool) {
    let _ = backend::serve_all(listeners, accepted, Instant::now() + Duration::from_secs(3600), &|| stop.load(Ordering::Relaxed));
}

fn beside(options: &Options, size: Size, nodes: &[SocketAddr], accepted: &AtomicU64) -> io::Result<Report> {
    let mut report = Report::default();
    let ours = ringway(options, size, nodes, accepted)?;
    ours.note(&mut report);
    let most = (size.workers * size.nodes) as u64 + KEPT as u64;
    let [(_, warmup), _] = ours.parts;
    report.check(format!("Ringway: connections of the warm-up, at most {most}"), warmup, warmup <= most);
    report.check("Ringway: failed", ours.failed, ours.failed == 0);
    let Some((program, version)) = installed() else {
        report.figure("HAProxy is left out", "it is not installed");
        let each = ours.each();
        let holds = each <= 1.0 / NONE_IN;
        report.check(
            format!("Ringway alone: connections per request after the warm-up (bound 1 in {NONE_IN})"),
            format!("{each:.4}"),
            holds,
        );
        return Ok(report);
    };
    for reuse in ["always", "safe"] {
        let theirs = haproxy(&program, reuse, size, nodes, accepted)?;
        theirs.note(&mut report);
        if reuse == "always" {
            compare(&ours, &theirs, &mut report);
        }
    }
    report.figure("HAProxy", version);
    Ok(report)
}

/// Where a worker comes back to a node later than the idle timeout, so that it lives off what the others leave.
fn sparse(options: &Options, size: Size, nodes: &[SocketAddr], accepted: &AtomicU64) -> io::Result<Report> {
    let mut report = Report::default();
    let ours = ringway(options, size, nodes, accepted)?;
    ours.note(&mut report);
    if let Some((program, _)) = installed() {
        let theirs = haproxy(&program, "always", size, nodes, accepted)?;
        theirs.note(&mut report);
        compare(&ours, &theirs, &mut report);
    }
    Ok(report)
}

/// HAProxy's program and version.
fn installed() -> Option<(PathBuf, String)> {
    let program = children::program(Path::new("haproxy"));
    let version = children::version(&program, "-v")?;
    Some((program, version))
}

impl Opened {
    /// Connections per request after the warm-up.
    fn each(&self) -> f64 {
        let [_, (requests, opened)] = self.parts;
        opened as f64 / requests.max(1) as f64
    }

    fn note(&self, report: &mut Report) {
        let text = self.parts.map(|(requests, opened)| format!("{opened} for {requests}"));
        let what = format!("{}: upstream connections for requests, warm-up / after it", self.peer);
        report.figure(what, text.join(" / "));
    }
}

fn compare(ours: &Opened, theirs: &Opened, report: &mut Report) {
    let (our, their) = (ours.each(), theirs.each());
    report.check(
        format!("connections per request after the warm-up, Ringway and HAProxy (bound {BOUND} of it, or 1 in {NONE_IN})"),
        format!("{our:.4} and {their:.4}"),
        our <= (their * BOUND).max(1.0 / NONE_IN),
    );
    let [(requests, our), (_, their)] = [ours.parts[0], theirs.parts[0]];
    report.figure(
        "the warm-up's connections over HAProxy's",
        format!("{:.1} in {requests} requests", our as f64 / their.max(1) as f64),
    );
}

/// The load on one peer: half over connections that stay, half over new ones.
fn measure(peer: String, address: SocketAddr, size: Size, accepted: &AtomicU64) -> io::Result<Opened> {
    let mut failed = 0;
    let mut parts = [(0, 0); 2];
    for (part, time) in parts.iter_mut().zip([size.warmup, size.steady]) {
        let before = accepted.load(Ordering::Relaxed);
        let (kept, new) = thread::scope(|scope| {
            let new = scope.spawn(|| half(address, size.rate, time, true));
            let kept = half(address, size.rate, time, false);
            (kept, new.join())
        });
        let (kept, new) = (kept?, new.map_err(|_| io::Error::other("the load panicked"))??);
        failed += kept.1 + new.1;
        *part = (kept.0 + new.0, accepted.load(Ordering::Relaxed) - before);
    }
    Ok(Opened { peer, parts, failed })
}

fn half(address: SocketAddr, rate: f64, time: Duration, close: bool) -> io::Result<(u64, u64)> {
    let (connections, rate) = (if close { 4 } else { KEPT }, Some(rate / 2.0));
    let spec = Spec { close, rate, warmup: Duration::ZERO, ..Spec::get(address, "/echo/x", connections, time) };
    let outcome = load::run(&spec, &mut |_: Mark| {})?;
    Ok((outcome.requests, outcome.errors.total()))
}

fn ringway(options: &Options, size: Size, nodes: &[SocketAddr], accepted: &AtomicU64) -> io::Result<Opened> {
    let setup = options.setup(nodes.to_vec());
    let subject = Subject::start(Setup { workers: size.workers, pool: size.pools[0], ..setup })?;
    measure("Ringway".into(), subject.address, size, accepted)
}

fn haproxy(program: &Path, reuse: &str, size: Size, nodes: &[SocketAddr], accepted: &AtomicU64) -> io::Result<Opened> {
    let (scratch, address) = (Scratch::new("loadtests")?, free_address()?);
    let mut text = format!(
        "global\n  nbthread {}\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
         timeout server 60s\n  http-reuse {reuse}\nfrontend front\n  bind {address} backlog 4096\n  default_backend nodes\n\
         backend nodes\n",
        size.workers
    );
    if !size.pools[1].is_empty() {
        let _ = writeln!(text, "  default-server {}", size.pools[1]);
    }
    for (n, node) in nodes.iter().enumerate() {
        let _ = writeln!(text, "  server n{n} {node}");
    }
    let config = scratch.path().join("haproxy.cfg");
    fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    let mut child = Child::start(command, None, &scratch.path().join("haproxy.out"), libc::SIGKILL)?;
    child.wait_for(address, children::START)?;
    measure(format!("HAProxy, http-reuse {reuse}"), address, size, accepted)
}
