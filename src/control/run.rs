//! The coordinator's way from the configuration to a gateway that serves, top to bottom: read and compile, resolve names, open
//! listeners, raise limits, become the user, start the workers, serve.

use std::fmt;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};

use super::api;
use super::bind::{BindError, bind_control};
use super::discovery::Discovering;
use super::fleet::{Fleet, Seat};
use super::health::Checkers;
use super::listeners::{self, Change, Listeners};
use super::load::{self, Files, Loaded, Outcome, Source};
use super::log_writer::LogWriter;
use super::names::Resolving;
use super::plan::{self, Plan};
use super::reload::Helper;
use super::serve::Coordinator;
use super::signals::Signals;
use super::source::file::Watch;
use super::status::{Reloads, Shared};
use crate::base::{clock, log};
use crate::config::gateway::{Driver, Gateway};
use crate::net::{host, listen};
use crate::upstream::Spares;
use crate::upstream::names::Names;
use crate::worker::{self, Event, Published, Seed};

/// Longest wait for names before listeners open without them.
const NAMES_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for the workers to start.
const START_WAIT: Duration = Duration::from_secs(30);
/// Descriptors below which the start says that they are few.
const DESCRIPTORS_FEW: u64 = 65_536;
/// Descriptors asked for as root.
const DESCRIPTORS_WANTED: u64 = 1_048_576;
/// Events waiting for the coordinator.
const EVENTS: usize = 65_536;

/// Why the gateway does not run (any more).
#[derive(Debug)]
pub struct Failure {
    /// Exit code: 1 configuration, 3 can't bind.
    pub code: u8,
    /// What to show on standard error; may be several lines.
    pub message: String,
}

impl Failure {
    /// Exit code 1.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Runs the gateway until a signal ends it.
///
/// # Errors
/// See [`Failure`].
pub fn run(source: Source) -> Result<(), Failure> {
    let inherited = listen::inherited();
    // Until the coordinator's own thread serves: every thread made before then leaves signals to it.
    let blocked = host::SignalsBlocked::new();
    let names = Arc::new(Names::default());
    let mut watch = Watch::new(files_of(&source));
    let mut loaded = first_load(&source, &names)?;
    watch.follow(loaded.files.clone());
    start_log(&loaded)?;

    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::configuration(format!("error: cannot start the coordinator: {error}")))?;
    let gateway = loaded.gateway.clone();
    let plan = plan::plan(&gateway.workers, &host::affinity(), Path::new("/"))
        .map_err(|why| Failure::configuration(format!("error: {why}")))?;
    let (dns, dns_newest) = watch::channel(gateway.dns.clone());
    let kick = Arc::new(Notify::new());
    let mut resolving = Resolving::new(names.clone(), dns_newest, kick.clone());
    let unresolved = runtime.block_on(resolving.first(NAMES_WAIT));
    if unresolved > 0 {
        tracing::warn!("{unresolved} names of upstream nodes have no address yet; their requests fail until they have");
    }

    let (registries, registries_newest) = watch::channel((gateway.discovery.clone(), gateway.dns.clone()));
    let mut discovering = Discovering::new(names.clone(), registries_newest);
    if runtime.block_on(discovering.first(NAMES_WAIT)) {
        loaded = first_load(&source, &names)?; // with the nodes that are known now
    }

    let opened = Opened::open(&loaded, plan.cpus.len(), inherited)?;
    raise_limits(&gateway, plan.cpus.len());
    become_user(&gateway)?;
    print_plan(&plan, &gateway);
    let Opened { listeners, change, control, exporter, log } = opened;

    let signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(|error| Failure::configuration(format!("error: cannot catch signals: {error}")))?
    };
    let published = Arc::new(Published::new(loaded.snapshot.clone()));
    let (fleet, threads, events) = start_workers(&plan, &gateway, &published, &log)?;
    let Loaded { snapshot, digest, took, .. } = loaded;
    let reloads = Reloads { good: true, last_good: clock::wall(), compile: took, ..Reloads::default() };
    let shared = Arc::new(Shared::new(fleet, snapshot.epoch, gateway, snapshot.model.clone(), reloads));
    let (notices, results) = flume::bounded(1);
    let helper = Helper::new(source, names, watch, snapshot.clone(), digest)
        .start(notices)
        .map_err(|error| Failure::configuration(format!("error: cannot start the helper thread: {error}")))?;
    drop(snapshot);
    let coordinator = Coordinator {
        shared: shared.clone(),
        published,
        listeners,
        events,
        threads,
        log,
        helper,
        results,
        dns,
        registries,
        kick,
        checkers: Checkers::default(),
    };
    drop(blocked);
    serve(&runtime, coordinator, (change, signals), (resolving, discovering), shared, control, exporter)
}

fn serve(
    runtime: &Runtime,
    coordinator: Coordinator,
    begin: (Change, Signals),
    names: (Resolving, Discovering),
    shared: Arc<Shared>,
    control: Option<TcpListener>,
    exporter: Option<TcpListener>,
) -> Result<(), Failure> {
    runtime.block_on(async {
        tokio::spawn(names.0.run());
        tokio::spawn(names.1.run(coordinator.helper.clone()));
        tokio::spawn(super::overload::watch(coordinator.published.clone(), shared.clone()));
        if let Some(socket) = control {
            tokio::spawn(report(api::serve(socket, shared.clone()), "the Control API"));
        }
        if let Some(socket) = exporter {
            tokio::spawn(report(api::serve_metrics(socket, shared), "the metrics exporter"));
        }
        coordinator.run(begin.0, begin.1).await
    })
}

async fn report(server: impl Future<Output = std::io::Result<()>>, what: &str) {
    if let Err(error) = server.await {
        tracing::error!("{what} has ended: {error}");
    }
}

/// Files to look at before anything is known of includes.
fn files_of(source: &Source) -> Files {
    let files = match source {
        Source::File(path) => vec![path.clone()],
        Source::Stdin(_) => Vec::new(),
    };
    Files { files, patterns: Vec::new() }
}

fn first_load(source: &Source, names: &Names) -> Result<Loaded, Failure> {
    match load::load(source, 1, None, names) {
        Outcome::Ready(loaded) => Ok(*loaded),
        Outcome::Broken(report) => Err(Failure::configuration(report.human)),
        Outcome::Unchanged => Err(Failure::configuration("error: no configuration was read")),
    }
}

fn start_log(loaded: &Loaded) -> Result<(), Failure> {
    let conf = &loaded.gateway.error_log;
    log::start(&conf.level);
    log::set_path(conf.path.as_deref()).map_err(|error| {
        let path = conf.path.as_deref().unwrap_or(Path::new(""));
        Failure::configuration(format!("error: cannot open error_log {}: {error}", path.display()))
    })?;
    worker::guard::name_panics();
    if !loaded.warnings.is_empty() {
        tracing::warn!("the configuration has warnings:\n{}", loaded.warnings.human.trim_end());
    }
    Ok(())
}

/// Everything that may need root.
struct Opened {
    listeners: Listeners,
    change: Change,
    control: Option<TcpListener>,
    exporter: Option<TcpListener>,
    log: LogWriter,
}

impl Opened {
    fn open(loaded: &Loaded, workers: usize, inherited: Vec<listen::Inherited>) -> Result<Self, Failure> {
        let gateway = &loaded.gateway;
        let refuse = |error: BindError| Failure { code: 3, message: format!("error: {error}") };
        let mut listeners = Listeners::new(workers, inherited);
        let change = listeners.prepare(gateway).map_err(refuse)?;
        let control = gateway.control.map(bind_control).transpose().map_err(refuse)?;
        if let Some(address) = gateway.control.filter(|address| !address.ip().is_loopback()) {
            tracing::warn!("the Control API listens on {address}: it asks nobody who he is; keep others away from it");
        }
        let exporter = super::metrics::apisix::export_address(loaded.snapshot.model.plugin_attr.get("prometheus"))
            .map_err(|why| Failure::configuration(format!("error: plugin_attr.prometheus.export_addr: {why}")))?
            .filter(|address| Some(*address) != gateway.control);
        let exporter = exporter.map(bind_control).transpose().map_err(refuse)?;
        let path = gateway.access_log.as_ref().map(|log| log.path.as_path());
        let log = LogWriter::start(path).map_err(|error| {
            let path = path.unwrap_or(Path::new("")).display();
            Failure::configuration(format!("error: cannot open access_log {path}: {error}"))
        })?;
        Ok(Self { listeners, change, control, exporter, log })
    }
}

fn raise_limits(gateway: &Gateway, workers: usize) {
    let per_worker = gateway.limits.connections.map_or(0, |connections| connections as u64);
    // A proxied request holds two descriptors; some hundred are Ringway's own.
    let needed = per_worker.saturating_mul(workers as u64).saturating_mul(2).saturating_add(1024);
    let limit = host::raise_descriptors(needed.max(DESCRIPTORS_WANTED));
    let advice = "raise it with `ulimit -n`, systemd's LimitNOFILE= or docker's --ulimit nofile";
    if per_worker > 0 && limit.soft < needed {
        tracing::warn!(
            "this process may open {} descriptors; {workers} workers with {per_worker} connections need {needed}: {advice}",
            limit.soft
        );
    } else if limit.soft < DESCRIPTORS_FEW {
        tracing::warn!(
            "this process may open {} descriptors, enough for about {} proxied connections: {advice}",
            limit.soft,
            limit.soft.saturating_sub(256) / 2
        );
    }
    let memlock = host::raise_memlock();
    let (release, version) = host::kernel();
    if version < (5, 12) && memlock.soft < 64 << 20 && gateway.workers.driver != Driver::Epoll {
        tracing::warn!(
            "this process may lock {} KiB of memory, and Linux {release} counts rings against it: raise it with `ulimit -l` or \
             systemd's LimitMEMLOCK=, or set workers.driver: epoll",
            memlock.soft / 1024
        );
    }
}

fn become_user(gateway: &Gateway) -> Result<(), Failure> {
    match (&gateway.user, host::is_root()) {
        (None, true) => {
            tracing::warn!("running as root: set gateway.user to the user to become once the ports are bound");
            Ok(())
        }
        (Some(name), true) => {
            let user = host::user(name).map_err(|why| Failure::configuration(format!("error: gateway.user: {why}")))?;
            host::become_user(&user).map_err(|error| Failure::configuration(format!("error: cannot become user {name}: {error}")))
        }
        (Some(name), false) => {
            tracing::debug!("gateway.user: {name} is ignored: only root can become another user");
            Ok(())
        }
        (None, false) => Ok(()),
    }
}

fn print_plan(plan: &Plan, gateway: &Gateway) {
    tracing::info!(
        "ringway {} (pid {}): {} workers, {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        plan.cpus.len(),
        plan.reason
    );
    plan.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    tracing::info!("accept: {}", listeners::mode_name(gateway.workers.accept));
}

type Started = (Fleet, Vec<std::thread::JoinHandle<()>>, flume::Receiver<Event>);

fn start_workers(plan: &Plan, gateway: &Gateway, published: &Arc<Published>, log: &LogWriter) -> Result<Started, Failure> {
    let (events_out, events) = flume::bounded(EVENTS);
    let (mut seats, mut threads) = (Vec::new(), Vec::new());
    let spares = Spares::between(plan.cpus.len()).map(Arc::new);
    for (index, cpu) in plan.cpus.iter().enumerate() {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let seed = Seed {
            index,
            cpu: *cpu,
            driver: gateway.workers.driver,
            published: published.clone(),
            counters: Arc::default(),
            spares: spares.clone(),
            events: events_out.clone(),
            log: Some(log.sender()),
        };
        let handle = worker::spawn(seed)
            .map_err(|error| Failure::configuration(format!("error: cannot start worker {index}: {error}")))?;
        seats.push(Seat::new(index, *cpu, handle.inbox, handle.counters));
        threads.push(handle.thread);
    }
    let fleet = Fleet { seats, spares };
    wait_for_workers(&fleet, &events)?;
    print_drivers(&fleet, gateway.workers.driver);
    Ok((fleet, threads, events))
}

/// Waits until every worker runs; other events of that time are acknowledgements of the first epoch.
fn wait_for_workers(fleet: &Fleet, events: &flume::Receiver<Event>) -> Result<(), Failure> {
    let deadline = Instant::now() + START_WAIT;
    while let Some(starting) = fleet.seats.iter().find(|seat| seat.driver().is_none()) {
        match events.recv_deadline(deadline) {
            Ok(Event::Ready { worker, driver }) => {
                if let Some(seat) = fleet.seat(worker) {
                    seat.note_ready(driver);
                }
            }
            Ok(Event::Acked { worker, epoch }) => {
                if let Some(seat) = fleet.seat(worker) {
                    seat.note_ack(epoch);
                }
            }
            Ok(Event::Failed { worker, error }) => {
                return Err(Failure::configuration(format!("error: worker {worker} cannot start: {error}")));
            }
            Ok(_) => {}
            Err(_) => {
                let message = format!("error: worker {} did not start within {START_WAIT:?}", starting.index);
                return Err(Failure::configuration(message));
            }
        }
    }
    Ok(())
}

/// Says loudly which driver was taken, and why not a better one.
fn print_drivers(fleet: &Fleet, asked: Driver) {
    for seat in &fleet.seats {
        let place = seat.cpu.map_or("any CPU".to_string(), |cpu| format!("CPU {cpu}"));
        tracing::info!("worker {} on {place}: {}", seat.index, seat.driver().unwrap_or("starting"));
    }
    let best = host::ladder().into_iter().next();
    if let (Some(best), Some(taken), false) = (best, fleet.seats.first().and_then(Seat::driver), asked == Driver::Epoll)
        && !taken.starts_with(best.name)
    {
        let why = best.missing.unwrap_or_else(|| "it could not be set up with its full size".into());
        tracing::warn!("driver: {taken} instead of {}: {why}", best.name);
    }
}
