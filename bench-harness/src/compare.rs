//! The comparison: every peer, every load, in interleaved rounds on two CPUs (`rounds.rs`), then what is sampled once: syscalls
//! and the memory of idle connections.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::args::CompareArgs;
use crate::children::{self, Child, Scratch, free_address};
use crate::idle::{self, Idle};
use crate::load::{self, Errors, Mark};
use crate::peers::{self, Peer, Role, Running, Terms};
use crate::syscalls::{self, Counts, Who};
use crate::workload::{self, Workload};
use crate::{chart, host, report, rounds, sys};

/// One peer under one load in one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// CPU per request, µs: all, user, kernel.
    pub cpu: [f64; 3],
    /// Share of its CPU that the peer used.
    pub busy: f64,
    /// Requests per second.
    pub rate: f64,
    /// Mean latency, µs: from the intended time in the open loop, else from the sending.
    pub mean: f64,
    /// From the sending, µs: p50, p90, p99, p99.9.
    pub service: [f64; 4],
    /// From the intended time, µs; open loop only.
    pub scheduled: Option<[f64; 4]>,
    /// Inside the worker, µs, by Ringway's own histogram: p50, p99.
    pub inside: Option<[f64; 2]>,
    /// Resident KiB at the end.
    pub resident_kib: u64,
    /// Requests answered.
    pub requests: u64,
    /// What went wrong.
    pub errors: Errors,
    /// Keepalive connections the peer closed.
    pub reopened: u64,
}

/// One peer under one load.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// By round; `None` where it was not measured or failed.
    pub rounds: Vec<Option<Sample>>,
    /// Calls per request by kind, and operations on the ring, from one sample outside the rounds.
    pub syscalls: Option<(Counts, u64)>,
}

impl Row {
    /// A figure of each round.
    pub fn figures(&self, figure: impl Fn(&Sample) -> f64) -> Vec<Option<f64>> {
        self.rounds.iter().map(|sample| sample.as_ref().map(&figure)).collect()
    }
}

/// One load with all its rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// Which.
    pub workload: Workload,
    /// By peer.
    pub rows: Vec<Row>,
}

/// A whole run.
pub struct Run {
    /// When it began.
    pub date: String,
    /// The host.
    pub host: Value,
    /// Share of all CPU time that other guests took meanwhile.
    pub stolen: f64,
    /// The peers, with version and configuration.
    pub peers: Vec<(Peer, String)>,
    /// Peers asked for that are not there, and why.
    pub left_out: Vec<String>,
    /// Which peers do not keep the terms, and how: seen in the first round.
    pub faults: Vec<String>,
    /// The terms.
    pub terms: Terms,
    /// Seconds of one measurement.
    pub seconds: f64,
    /// The peers ran on from round to round.
    pub steady: bool,
    /// The bound of the floor's spread.
    pub noise_bound: f64,
    /// The command line.
    pub command: String,
    /// By load.
    pub tables: Vec<Table>,
    /// Memory with idle connections, one sample each, a peer started afresh for each.
    pub idle: Vec<(String, Idle)>,
}

/// Runs the comparison and writes the report.
///
/// # Errors
/// Where a peer that is there does not come up, or the report can't be written.
pub fn compare(args: &CompareArgs) -> io::Result<()> {
    let run = measure(args)?;
    let markdown = report::markdown(&run);
    fs::create_dir_all(&args.out)?;
    let name = format!("{}-{}", run.date[..16].replace(':', ""), args.label);
    let (md, json) = (args.out.join(format!("{name}.md")), args.out.join(format!("{name}.json")));
    fs::write(args.out.join(format!("{name}.svg")), chart::svg(&run))?;
    fs::write(&md, &markdown)?;
    fs::write(&json, serde_json::to_string_pretty(&report::json(&run))?)?;
    println!("{markdown}\nwritten to {} and {}", md.display(), json.display());
    Ok(())
}

/// Runs the comparison.
///
/// # Errors
/// As [`compare`].
pub fn measure(args: &CompareArgs) -> io::Result<Run> {
    let workloads = workload::pick(&args.workloads).map_err(io::Error::other)?;
    let scratch = Scratch::new("bench-harness")?;
    let terms = Terms {
        upstream: match args.backend_port {
            0 => free_address()?,
            port => SocketAddr::from(([127, 0, 0, 1], port)),
        },
        directory: scratch.path().to_owned(),
        access_log: args.access_log.on(),
        forwarded: args.forwarded.on(),
        cpu: args.proxy_cpu,
        load_cpu: args.load_cpu,
        connections: peers::connections(sys::raise_descriptors()),
        routes: args.routes,
    };
    // What is asked through a peer that runs already needs the backend, so it is first.
    let backend = start_backend(&terms, args.load_cpu)?;
    let (found, left_out) = peers::find(args)?;
    left_out.iter().for_each(|why| eprintln!("left out: {why}"));
    sys::pin(args.load_cpu)?;
    let (date, facts, before) = (host::now(), host::facts(), host::stolen());
    let mut tables: Vec<Table> = workloads.iter().map(|w| Table { workload: *w, rows: rows(&found) }).collect();
    let faults = rounds::run(&found, &mut tables, &terms, backend.pid(), args)?;
    if !args.no_syscalls {
        count_syscalls(&found, &mut tables, &terms, args)?;
    }
    let idle = idle_memory(&found, &terms, args);
    let after = host::stolen();
    let described = found.into_iter().map(|peer| (peer.clone(), peer.describe(&terms))).collect();
    Ok(Run {
        date,
        host: facts,
        stolen: (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64,
        peers: described,
        left_out,
        faults,
        terms,
        seconds: args.seconds,
        steady: args.steady,
        noise_bound: args.noise,
        command: std::env::args().collect::<Vec<_>>().join(" "),
        tables,
        idle,
    })
}

/// Starts the backend as a process of its own, pinned to the load's CPU.
///
/// # Errors
/// Where it does not come up.
pub fn start_backend(terms: &Terms, cpu: usize) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["backend", "--listen", &terms.upstream.to_string()]);
    let mut backend = Child::start(command, Some(cpu), &terms.directory.join("backend.out"), libc::SIGKILL)?;
    backend.wait_for(terms.upstream, children::START)?;
    Ok(backend)
}

fn rows(peers: &[Peer]) -> Vec<Row> {
    let row = |peer: &Peer| Row { name: peer.name.clone(), role: peer.role, rounds: Vec::new(), syscalls: None };
    peers.iter().map(row).collect()
}

/// Starts all of them.
///
/// # Errors
/// Where one does not come up.
pub(crate) fn start_all(peers: &[Peer], terms: &Terms) -> io::Result<Vec<Running>> {
    peers.iter().map(|peer| peer.start(terms)).collect()
}

fn idle_memory(peers: &[Peer], terms: &Terms, args: &CompareArgs) -> Vec<(String, Idle)> {
    let mut all = Vec::new();
    // What runs already can't be started afresh, so nothing could be said of it before the first connection.
    for peer in peers.iter().filter(|p| p.role.is_proxy() && !p.is_attached()) {
        // Half of the descriptors are for the other end, which is this process.
        for connections in args.idle.iter().filter(|n| (1..terms.connections).contains(&(**n as u64))) {
            let measured = peer.start(terms).and_then(|running| {
                let meter = running.meter.as_ref().ok_or(io::ErrorKind::NotFound)?;
                idle::measure(running.address, meter, *connections)
            });
            match measured {
                Ok(idle) => all.push((peer.name.clone(), idle)),
                Err(e) => eprintln!("{} idle connections of {}: {e}", connections, peer.name),
            }
        }
    }
    all
}

fn count_syscalls(peers: &[Peer], tables: &mut [Table], terms: &Terms, args: &CompareArgs) -> io::Result<()> {
    let running = start_all(peers, terms)?;
    for table in tables {
        for row in &mut table.rows {
            let Some(peer) = running.iter().find(|peer| peer.name == row.name) else { continue };
            let Some(meter) = peer.meter.as_ref().filter(|_| row.role != Role::Floor || table.workload.has_floor()) else {
                continue;
            };
            let mut spec = table.workload.spec(peer.address, Duration::from_secs_f64(args.seconds.min(1.5)), args.routes);
            spec.warmup = Duration::from_millis(200);
            match sample_syscalls(&spec, Who::Processes(&meter.pids()), &terms.directory) {
                Ok(counted) => row.syscalls = Some(counted),
                Err(e) => eprintln!("syscalls of {}: {e}", row.name),
            }
            peer.empty_logs();
        }
    }
    Ok(())
}

/// Counts the calls of `who` within the measured window of `spec`, and the requests.
///
/// # Errors
/// Where neither perf nor strace can count.
pub fn sample_syscalls(spec: &load::Spec, who: Who<'_>, directory: &Path) -> io::Result<(Counts, u64)> {
    let (mut counting, mut counted) = (None, None);
    let outcome = load::run(spec, &mut |mark| match mark {
        Mark::Begin => counting = Some(syscalls::begin(who, directory)),
        Mark::End => {
            if let Some(Ok(counting)) = counting.take() {
                counted = Some(counting.end());
            }
        }
    })?;
    let counts = counted.unwrap_or_else(|| Err(io::Error::other("the counter did not start")))?;
    Ok((counts, outcome.requests))
}
