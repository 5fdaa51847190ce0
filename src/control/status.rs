//! What the coordinator knows of itself, for the Control API, readiness and the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::fleet::Fleet;
use super::listeners::ListenerState;
use crate::config::gateway::Gateway;
use crate::config::model::Model;
use crate::snapshot::published::Pressure;
use crate::upstream::Spec;

/// A worker may lag behind an epoch for so long before the gateway counts as not ready.
pub const LAG_ALLOWED: Duration = Duration::from_secs(10);

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not all workers run.
    #[default]
    Starting,
    /// Serving.
    Serving,
    /// Told to stop: readiness fails, requests are still served.
    Draining,
}

/// Results of reading the configuration.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    /// The configuration read last is good.
    pub good: bool,
    /// When one was last read well, since 1970.
    pub last_good: Duration,
    /// Epochs after the first.
    pub published: u64,
    /// Refusals.
    pub failed: u64,
    /// Longest acknowledgement of the last epoch.
    pub ack: Duration,
    /// Reading and compiling of the last epoch.
    pub compile: Duration,
    /// The last attempt: `published`, `unchanged` or `refused`, with its report.
    pub last: Option<LastReload>,
}

/// The last attempt to read the configuration.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// `published`, `unchanged` or `refused`.
    pub outcome: &'static str,
    /// When, since 1970.
    pub at: Duration,
    /// The report (errors and warnings) as JSON.
    pub report: Json,
}

/// Shared between the coordinator's loop and the Control API; both live on one thread, so the locks are never waited for.
pub struct Shared {
    /// The workers.
    pub fleet: Fleet,
    /// This machine's name.
    pub hostname: String,
    /// When the process started.
    pub started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    epoch: u64,
    published_at: Instant,
    gateway: Arc<Gateway>,
    model: Arc<Model>,
    listeners: Vec<ListenerState>,
    reloads: Reloads,
    log_failures: u64,
    upstreams: Vec<Arc<Spec>>,
    memory: (Option<u64>, Pressure),
}

impl Shared {
    /// With the first epoch published.
    pub fn new(fleet: Fleet, epoch: u64, gateway: Arc<Gateway>, model: Arc<Model>, reloads: Reloads) -> Self {
        let inner = Inner {
            phase: Phase::Starting,
            epoch,
            published_at: Instant::now(),
            gateway,
            model,
            listeners: Vec::new(),
            reloads,
            log_failures: 0,
            upstreams: Vec::new(),
            memory: (None, Pressure::Calm),
        };
        Self { fleet, hostname: crate::net::host::hostname(), started: Instant::now(), inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Phase of life.
    pub fn phase(&self) -> Phase {
        self.inner().phase
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.inner().phase = phase;
    }

    /// Notes a new epoch.
    pub fn note_epoch(&self, epoch: u64, gateway: Arc<Gateway>, model: Arc<Model>) {
        let mut inner = self.inner();
        (inner.epoch, inner.gateway, inner.model, inner.published_at) = (epoch, gateway, model, Instant::now());
    }

    /// Notes the listeners' state.
    pub fn note_listeners(&self, listeners: Vec<ListenerState>) {
        self.inner().listeners = listeners;
    }

    /// Notes the memory limit and how near it is.
    pub fn note_memory(&self, limit: Option<u64>, pressure: Pressure) {
        self.inner().memory = (limit, pressure);
    }

    /// The memory limit and how near it is.
    pub fn memory(&self) -> (Option<u64>, Pressure) {
        self.inner().memory
    }

    /// Notes the upstreams in use.
    pub fn note_upstreams(&self, upstreams: Vec<Arc<Spec>>) {
        self.inner().upstreams = upstreams;
    }

    /// The upstreams in use.
    pub fn upstreams(&self) -> Vec<Arc<Spec>> {
        self.inner().upstreams.clone()
    }

    /// The upstreams whose nodes are probed.
    pub fn checked(&self) -> Vec<Arc<Spec>> {
        self.inner().upstreams.iter().filter(|spec| spec.checks.is_some()).cloned().collect()
    }

    /// Notes how many batches of access log were lost.
    pub fn note_log_failures(&self, failures: u64) {
        self.inner().log_failures = failures;
    }

    /// Batches of access log that were lost.
    pub fn log_failures(&self) -> u64 {
        self.inner().log_failures
    }

    /// Changes what is known of reloads.
    pub fn note_reload(&self, change: impl FnOnce(&mut Reloads)) {
        change(&mut self.inner().reloads);
    }

    /// What is known of reloads.
    pub fn reloads(&self) -> Reloads {
        self.inner().reloads.clone()
    }

    /// Epoch published last.
    pub fn epoch(&self) -> u64 {
        self.inner().epoch
    }

    /// When it was published.
    pub fn published_at(&self) -> Instant {
        self.inner().published_at
    }

    /// Resources of the newest epoch.
    pub fn model(&self) -> Arc<Model> {
        self.inner().model.clone()
    }

    /// `gateway:` of the newest epoch.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.inner().gateway.clone()
    }

    /// `Ok` if the gateway should get requests, else why not, naming the worker (APISIX admin.md §5).
    ///
    /// # Errors
    /// The reason as a text.
    pub fn ready(&self) -> Result<(), String> {
        let (phase, epoch, published_at) = {
            let inner = self.inner();
            (inner.phase, inner.epoch, inner.published_at)
        };
        if let Some(seat) = self.fleet.seats.iter().find(|seat| seat.ended())
            && phase != Phase::Draining
        {
            return Err(format!("worker id: {} has ended", seat.index));
        }
        match phase {
            Phase::Draining => return Err("the gateway is stopping".into()),
            Phase::Starting => {
                let worker = self.fleet.seats.iter().find(|seat| seat.driver().is_none());
                return Err(worker.map_or("starting".into(), |seat| format!("worker id: {} is starting", seat.index)));
            }
            Phase::Serving => {}
        }
        if let Some(worker) = self.fleet.seats.iter().find(|seat| seat.acked() == 0) {
            return Err(format!("worker id: {} has not received configuration", worker.index));
        }
        match self.fleet.lagging(epoch).first() {
            Some(worker) if published_at.elapsed() > LAG_ALLOWED => {
                Err(format!("worker id: {worker} has not acknowledged epoch {epoch}"))
            }
            _ => Ok(()),
        }
    }

    /// The page `/v1/ringway`.
    pub fn page(&self) -> Json {
        let workers: Vec<Json> = self
            .fleet
            .seats
            .iter()
            .map(|seat| {
                json!({
                    "id": seat.index,
                    "cpu": seat.cpu,
                    "driver": seat.driver(),
                    "epoch": seat.acked(),
                    "ended": seat.ended(),
                    "connections": seat.counters.connections.get(),
                    "requests": seat.counters.requests.get(),
                })
            })
            .collect();
        let ready = self.ready();
        let inner = self.inner();
        let listeners: Vec<Json> = inner
            .listeners
            .iter()
            .map(|listener| {
                json!({
                    "id": listener.id,
                    "address": listener.address,
                    "accept": listener.accept,
                    "state": listener.state,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "phase": match inner.phase {
                Phase::Starting => "starting",
                Phase::Serving => "serving",
                Phase::Draining => "draining",
            },
            "ready": ready.is_ok(),
            "ready_error": ready.err(),
            "epoch": inner.epoch,
            "workers": workers,
            "listeners": listeners,
            "reload": {
                "good": inner.reloads.good,
                "published": inner.reloads.published,
                "failed": inner.reloads.failed,
                "ack_ms": inner.reloads.ack.as_secs_f64() * 1e3,
                "compile_ms": inner.reloads.compile.as_secs_f64() * 1e3,
                "last": inner.reloads.last.as_ref().map(|last| json!({
                    "outcome": last.outcome,
                    "at": last.at.as_secs_f64(),
                    "report": last.report,
                })),
            },
        })
    }
}
