//! Floor 5: one core. A worker owns its ring, its listeners, connections, pools, timers and counters; the coordinator talks
//! to it through [`Message`]s and hears [`Event`]s.

pub mod accept;
pub mod guard;
pub mod inbox;
pub mod run;
pub mod sweep;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::count::Counters;
use crate::base::limits;
use crate::config::gateway::{Driver, Listener};
use crate::proxy::core::Judged;
use crate::snapshot::Snapshot;
pub use crate::snapshot::published::Published;
use crate::upstream::Spares;

/// What a worker is made of.
pub struct Seed {
    /// Its index, from 0.
    pub index: u16,
    /// CPU to pin to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Driver to take.
    pub driver: Driver,
    /// Where it finds the newest epoch.
    pub published: Arc<Published>,
    /// Its counters; the coordinator keeps the other end.
    pub counters: Arc<Counters>,
    /// Idle upstream connections that no worker holds; `None` where there is one worker.
    pub spares: Option<Arc<Spares>>,
    /// Where its events go.
    pub events: flume::Sender<Event>,
    /// Where its batches of access log go; `None` when there is no access log.
    pub log: Option<flume::Sender<Vec<u8>>>,
}

/// What the coordinator asks of a worker.
pub enum Message {
    /// Accept from this socket.
    Listen {
        /// Number that later messages name it by.
        id: u32,
        /// A bound and listening socket.
        socket: ListenSocket,
        /// Its configuration.
        conf: Arc<Listener>,
    },
    /// Stop accepting by cancelling; the socket stays open. Answered by [`Event::Stopped`].
    StopAccepting {
        /// Its number.
        id: u32,
    },
    /// Accept what is queued until EAGAIN (the coordinator made the socket non-blocking), then close it. Answered by
    /// [`Event::Closed`].
    CloseListener {
        /// Its number.
        id: u32,
    },
    /// Look at the published epoch now. Answered by [`Event::Acked`].
    Epoch,
    /// Finish what is begun, keep no connection alive, end after the deadline at the latest. Answered by [`Event::Ended`].
    Drain {
        /// Time left.
        deadline: Duration,
        /// Time left for tunnels.
        tunnels: Duration,
    },
    /// End now. Answered by [`Event::Ended`].
    Stop,
    /// Render what this worker's plugins have gathered.
    Scrape {
        /// Where the report goes.
        reply: flume::Sender<Report>,
    },
}

/// A socket to accept from.
pub enum ListenSocket {
    /// TCP
    Tcp(std::net::TcpListener),
    /// Unix
    Unix(std::os::unix::net::UnixListener),
}

/// What a worker tells the coordinator.
pub enum Event {
    /// The worker runs.
    Ready {
        /// Which worker.
        worker: u16,
        /// Driver and ring flags taken, for the start's message and `status`: `io_uring (SINGLE_ISSUER|DEFER_TASKRUN)`.
        driver: String,
    },
    /// The worker could not start.
    Failed {
        /// Which worker.
        worker: u16,
        /// Why.
        error: io::Error,
    },
    /// The worker serves this epoch now.
    Acked {
        /// Which worker.
        worker: u16,
        /// The epoch.
        epoch: u64,
    },
    /// A snapshot that the worker does not need any more, to be dropped by the coordinator.
    Returned(Arc<Snapshot>),
    /// A request says something about a node's health.
    Judged(Judged),
    /// Accepting from a listener has stopped.
    Stopped {
        /// Which worker.
        worker: u16,
        /// Which listener.
        id: u32,
    },
    /// A listener is closed.
    Closed {
        /// Which worker.
        worker: u16,
        /// Which listener.
        id: u32,
    },
    /// The worker has ended; connections cut by the deadline.
    Ended {
        /// Which worker.
        worker: u16,
        /// Connections still open when it ended.
        cut: u64,
    },
}

/// What a scrape gives.
#[derive(Debug, Default)]
pub struct Report {
    /// Series of the prometheus plugin: see `plugin::prometheus`.
    pub series: Vec<crate::plugin::Sample>,
    /// Idle pooled connections per upstream node address.
    pub pools: Vec<(String, u64)>,
}

/// A running worker as the coordinator holds it.
pub struct Handle {
    /// Its index.
    pub index: u16,
    /// Its inbox.
    pub inbox: flume::Sender<Message>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Its thread.
    pub thread: JoinHandle<()>,
}

/// Starts a worker's thread. [`Event::Ready`] or [`Event::Failed`] follows.
///
/// # Errors
/// If the thread cannot be made.
pub fn spawn(seed: Seed) -> io::Result<Handle> {
    let (inbox, messages) = flume::bounded(limits::INBOX_MESSAGES);
    let (index, counters) = (seed.index, seed.counters.clone());
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || run::run(seed, messages))?;
    Ok(Handle { index, inbox, counters, thread })
}
