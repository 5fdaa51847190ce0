//! The workers as the coordinator sees them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flume::Sender;

use crate::base::count::Counters;
use crate::upstream::Spares;
use crate::worker::{Message, Report};

/// Longest wait for a worker's part of a scrape.
const SCRAPE: Duration = Duration::from_secs(2);

/// All workers, in order of their index.
#[derive(Default)]
pub struct Fleet {
    /// One seat per worker.
    pub seats: Vec<Seat>,
    /// Idle upstream connections that lie between them.
    pub spares: Option<Arc<Spares>>,
}

/// One worker.
pub struct Seat {
    /// Its index.
    pub index: u16,
    /// CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Its inbox.
    pub inbox: Sender<Message>,
    /// What it counts.
    pub counters: Arc<Counters>,
    driver: OnceLock<String>,
    acked: AtomicU64,
    ended: AtomicBool,
}

impl Seat {
    /// A worker that was just started.
    pub fn new(index: u16, cpu: Option<usize>, inbox: Sender<Message>, counters: Arc<Counters>) -> Self {
        let (acked, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { index, cpu, inbox, counters, driver: OnceLock::new(), acked, ended }
    }

    /// Epoch it serves; 0 before the first.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Driver and flags it took; `None` while it starts.
    pub fn driver(&self) -> Option<&str> {
        self.driver.get().map(String::as_str)
    }

    /// True once it has ended.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Notes an acknowledgement.
    pub fn note_ack(&self, epoch: u64) {
        self.acked.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Notes that it runs.
    pub fn note_ready(&self, driver: String) {
        let _ = self.driver.set(driver);
    }

    /// Notes that it has ended.
    pub fn note_end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Sends a message. A worker that has ended, or whose inbox is full because it hangs, misses it.
    pub fn send(&self, message: Message) {
        if !self.ended() && self.inbox.try_send(message).is_err() {
            crate::limited!(error, "worker {} does not take messages", self.index);
        }
    }
}

impl Fleet {
    /// The seat of a worker.
    pub fn seat(&self, index: u16) -> Option<&Seat> {
        self.seats.get(usize::from(index))
    }

    /// Workers that still run.
    pub fn running(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| !seat.ended())
    }

    /// Sends each running worker a message.
    pub fn broadcast(&self, message: impl Fn() -> Message) {
        self.running().for_each(|seat| seat.send(message()));
    }

    /// Running workers that do not serve this epoch yet.
    pub fn lagging(&self, epoch: u64) -> Vec<u16> {
        self.running().filter(|seat| seat.acked() < epoch).map(|seat| seat.index).collect()
    }

    /// What the workers' plugins have gathered; a worker that does not answer in time is left out.
    pub async fn scrape(&self) -> Vec<Report> {
        let (reply, reports) = flume::bounded(self.seats.len().max(1));
        let expected = self.running().count();
        self.broadcast(|| Message::Scrape { reply: reply.clone() });
        drop(reply);
        let mut gathered = Vec::with_capacity(expected);
        let all = async {
            while let Ok(report) = reports.recv_async().await {
                gathered.push(report);
            }
        };
        if tokio::time::timeout(SCRAPE, all).await.is_err() {
            crate::limited!(warn, "{} of {expected} workers answered a scrape in time", gathered.len());
        }
        gathered
    }
}
