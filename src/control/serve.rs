//! The coordinator's loop: events of the workers, reloads, signals, and the end.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tokio::sync::{Notify, watch};

use super::health::{self, Checkers};
use super::listeners::{Change, Listeners};
use super::load::{Files, Loaded, Outcome, Text};
use super::log_writer::LogWriter;
use super::notify::notify;
use super::reload::{Notice, Order};
use super::run::Failure;
use super::signals::{Ask, Signals};
use super::status::{LastReload, Phase, Shared};
use crate::base::address::Address;
use crate::base::{clock, log};
use crate::config::gateway::{Discovery, Dns, Gateway};
use crate::upstream::Node;
use crate::worker::{Event, Message, Published};

/// How often the workers' threads are looked at.
const TURN: Duration = Duration::from_secs(1);
/// A worker that lags for so long behind an epoch does not hold back the next reload.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// The coordinator, with everything it holds.
pub struct Coordinator {
    /// What the Control API sees too.
    pub shared: Arc<Shared>,
    /// Where workers look for the newest epoch.
    pub published: Arc<Published>,
    /// The listeners.
    pub listeners: Listeners,
    /// Events of the workers.
    pub events: flume::Receiver<Event>,
    /// The workers' threads.
    pub threads: Vec<JoinHandle<()>>,
    /// The access log.
    pub log: LogWriter,
    /// Orders for the helper thread.
    pub helper: flume::Sender<Order>,
    /// What the helper has read.
    pub results: flume::Receiver<Notice>,
    /// `dns` of the newest epoch.
    pub dns: watch::Sender<Dns>,
    /// `discovery` and `dns` of the newest epoch.
    pub registries: watch::Sender<(Discovery, Dns)>,
    /// Wakes the resolver.
    pub kick: Arc<Notify>,
    /// Probes of upstream nodes.
    pub checkers: Checkers,
}

/// An epoch whose acknowledgements are awaited.
pub(super) struct Awaited {
    epoch: u64,
    since: Instant,
    longest: Duration,
}

impl Coordinator {
    /// Gives the listeners to the workers and serves until a signal or a dead worker ends it.
    ///
    /// # Errors
    /// If a worker died.
    pub async fn run(mut self, change: Change, mut signals: Signals) -> Result<(), Failure> {
        let shared = self.shared.clone();
        self.listeners.apply(change, &shared.fleet);
        shared.note_listeners(self.listeners.states());
        self.checkers.follow(&self.published.current(), &shared);
        shared.enter(Phase::Serving);
        tracing::info!("serving epoch {}", shared.epoch());
        notify("READY=1");
        let (how, outcome) = match self.serve(&mut signals).await {
            End::Asked(how) => (how, Ok(())),
            End::Died(worker) => {
                tracing::error!("worker {worker} died: the gateway stops");
                if let Some(seat) = shared.fleet.seats.get(worker) {
                    seat.note_end();
                    self.listeners.ended(seat.index, &shared.fleet);
                }
                let message = format!("error: worker {worker} died; see the error log");
                (Ask::Drain, Err(Failure::configuration(message)))
            }
        };
        self.finish(&mut signals, how).await;
        outcome
    }

    async fn serve(&mut self, signals: &mut Signals) -> End {
        let mut turn = tokio::time::interval(TURN);
        let mut awaited = None;
        loop {
            tokio::select! {
                event = self.events.recv_async() => {
                    match event {
                        Ok(event) => self.on_event(event, &mut awaited),
                        // Every worker's end is gone.
                        Err(_) => return End::Died(0),
                    }
                }
                notice = self.results.recv_async() => {
                    if let Ok(notice) = notice {
                        awaited = self.on_notice(notice).or(awaited);
                    }
                }
                ask = signals.next() => match ask {
                    Ask::Reload => {
                        tracing::info!("HUP: reading the configuration again");
                        let _ = self.helper.send(Order::Reload);
                    }
                    Ask::Reopen => self.reopen_logs(),
                    how => return End::Asked(how),
                },
                _ = turn.tick() => {
                    if let Some(worker) = self.dead_worker() {
                        return End::Died(worker);
                    }
                    self.shared.note_log_failures(self.log.failures());
                }
            }
            self.look_at_acks(&mut awaited);
        }
    }

    pub(super) fn on_event(&mut self, event: Event, awaited: &mut Option<Awaited>) {
        let fleet = &self.shared.fleet;
        match event {
            Event::Acked { worker, epoch } => {
                if let Some(seat) = fleet.seat(worker) {
                    seat.note_ack(epoch);
                }
                if let Some(awaited) = awaited.as_mut().filter(|awaited| awaited.epoch == epoch) {
                    awaited.longest = awaited.longest.max(awaited.since.elapsed());
                }
            }
            Event::Returned(snapshot) => {
                let _ = self.helper.send(Order::Drop(Box::new(snapshot)));
            }
            Event::Judged(judged) => health::note_passive(&judged),
            Event::Stopped { worker, id } => {
                self.listeners.stopped(worker, id, fleet);
                self.shared.note_listeners(self.listeners.states());
            }
            Event::Closed { worker, id } => {
                self.listeners.closed(worker, id, fleet);
                self.shared.note_listeners(self.listeners.states());
            }
            Event::Ended { worker, cut } => {
                if let Some(seat) = fleet.seat(worker) {
                    seat.note_end();
                }
                self.listeners.ended(worker, fleet);
                match cut {
                    0 => tracing::info!("worker {worker} has ended"),
                    cut => tracing::warn!("worker {worker} has ended; {cut} connections were cut at the deadline"),
                }
            }
            Event::Failed { worker, error } => {
                if let Some(seat) = fleet.seat(worker) {
                    seat.note_end();
                }
                tracing::error!("worker {worker}: {error}");
            }
            Event::Ready { worker, driver } => {
                if let Some(seat) = fleet.seat(worker) {
                    seat.note_ready(driver);
                }
            }
        }
    }

    /// Deals with a configuration that was read; gives the epoch whose acknowledgements are awaited.
    fn on_notice(&mut self, notice: Notice) -> Option<Awaited> {
        match notice.outcome {
            Outcome::Unchanged => {
                if notice.asked {
                    tracing::info!("the configuration is unchanged");
                }
                let mended = !self.shared.reloads().good;
                if mended {
                    tracing::info!("the configuration is good again: the one that is served (epoch {})", self.shared.epoch());
                }
                self.note_result("unchanged", Json::Null);
                None
            }
            Outcome::Broken(report) => {
                self.refuse(&report);
                None
            }
            Outcome::Ready(loaded) => match self.listeners.prepare(&loaded.gateway) {
                Ok(change) => Some(self.publish(*loaded, change)),
                Err(error) => {
                    let human = format!("error: {error}");
                    self.refuse(&Text { json: Json::String(error.to_string()), human, files: Files::default() });
                    let _ = self.helper.send(Order::Done { published: false });
                    let _ = self.helper.send(Order::Drop(Box::new(loaded)));
                    None
                }
            },
        }
    }

    fn refuse(&self, report: &Text) {
        tracing::error!("the configuration is refused, epoch {} stays:\n{}", self.shared.epoch(), report.human.trim_end());
        self.note_result("refused", report.json.clone());
    }

    fn note_result(&self, outcome: &'static str, report: Json) {
        self.shared.note_reload(|reloads| {
            reloads.good = outcome != "refused";
            match outcome {
                "refused" => reloads.failed += 1,
                "published" => reloads.published += 1,
                _ => {}
            }
            if reloads.good {
                reloads.last_good = clock::wall();
            }
            reloads.last = Some(LastReload { outcome, at: clock::wall(), report });
        });
    }

    fn publish(&mut self, loaded: Loaded, change: Change) -> Awaited {
        let epoch = loaded.snapshot.epoch;
        let shared = self.shared.clone();
        let before = (self.published.current(), shared.model());
        let model = loaded.snapshot.model.clone();
        let tells = !loaded.refreshed || shared.reloads().good; // files that are broken still are
        if tells && !shared.reloads().good {
            tracing::info!("the configuration is good again");
        }
        warn_of_fixed_settings(&shared.gateway(), &loaded.gateway);
        if !loaded.warnings.is_empty() {
            tracing::warn!("the configuration has warnings:\n{}", loaded.warnings.human.trim_end());
        }
        let since = Instant::now();
        self.checkers.follow(&loaded.snapshot, &shared);
        self.published.publish(loaded.snapshot);
        shared.note_epoch(epoch, loaded.gateway.clone(), model);
        shared.fleet.broadcast(|| Message::Epoch);
        self.listeners.apply(change, &shared.fleet);
        shared.note_listeners(self.listeners.states());
        self.follow_settings(&loaded.gateway);
        shared.note_reload(|reloads| reloads.compile = loaded.took);
        match tells {
            true => self.note_result("published", loaded.warnings.json),
            false => shared.note_reload(|reloads| reloads.published += 1),
        }
        tracing::info!("epoch {epoch} is published, compiled in {:.1} ms", loaded.took.as_secs_f64() * 1e3);
        let _ = self.helper.send(Order::Drop(Box::new(before)));
        Awaited { epoch, since, longest: Duration::ZERO }
    }

    /// What of a new `gateway:` concerns the coordinator itself.
    fn follow_settings(&self, gateway: &Gateway) {
        log::set_level(&gateway.error_log.level);
        if let Err(error) = log::set_path(gateway.error_log.path.as_deref()) {
            tracing::error!("cannot open error_log: {error}");
        }
        self.log.set_path(gateway.access_log.as_ref().map(|log| log.path.as_path()));
        self.dns.send_if_modified(|dns| {
            let changed = *dns != gateway.dns;
            dns.clone_from(&gateway.dns);
            changed
        });
        self.registries.send_if_modified(|(discovery, dns)| {
            let changed = *discovery != gateway.discovery || *dns != gateway.dns;
            (*discovery, *dns) = (gateway.discovery.clone(), gateway.dns.clone());
            changed
        });
        self.kick.notify_one();
    }

    /// Once all workers serve the new epoch, or one takes too long, the helper may go on.
    fn look_at_acks(&self, awaited: &mut Option<Awaited>) {
        let Some(waiting) = awaited else { return };
        let lagging = self.shared.fleet.lagging(waiting.epoch);
        if lagging.is_empty() {
            let longest = waiting.longest;
            tracing::info!(
                "epoch {} is served by all workers, the last after {:.1} ms",
                waiting.epoch,
                longest.as_secs_f64() * 1e3
            );
            self.shared.note_reload(|reloads| reloads.ack = longest);
            self.close_spares();
        } else if waiting.since.elapsed() > ACK_WAIT {
            tracing::error!("workers {lagging:?} do not acknowledge epoch {}", waiting.epoch);
        } else {
            return;
        }
        *awaited = None;
        let _ = self.helper.send(Order::Done { published: true });
    }

    /// Nobody will ask for a spare connection to a node that the newest epoch does not name.
    fn close_spares(&self) {
        let Some(spares) = &self.shared.fleet.spares else { return };
        spares.begin_season();
        if spares.is_empty() {
            return;
        }
        let snapshot = self.published.current();
        let nodes = snapshot.upstreams.values().flat_map(|spec| &spec.nodes);
        let addresses: HashSet<Address> = nodes.flat_map(Node::addresses).collect();
        spares.retain(|address| addresses.contains(address));
    }

    fn dead_worker(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    fn reopen_logs(&self) {
        self.log.reopen();
        match log::reopen() {
            Ok(()) => tracing::info!("USR1: log files are opened again"),
            Err(error) => tracing::error!("USR1: cannot open the error log again: {error}"),
        }
    }
}

/// How serving ended.
enum End {
    Asked(Ask),
    Died(usize),
}

/// Settings that a running process cannot change.
fn warn_of_fixed_settings(before: &Gateway, after: &Gateway) {
    let fixed = [
        ("workers", before.workers != after.workers),
        ("user", before.user != after.user),
        ("control", before.control != after.control),
    ];
    for (name, changed) in fixed {
        if changed {
            tracing::warn!("gateway.{name} has changed: that takes effect at the next start");
        }
    }
}
