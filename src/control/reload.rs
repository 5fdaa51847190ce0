//! The helper thread: looks at the files, reads and compiles a changed configuration, and drops old snapshots, so that none of it
//! is done on the coordinator, and nothing on a worker.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};

use super::load::{self, Files, Outcome, Source};
use super::source::file::{self, Look, Watch};
use crate::snapshot::Snapshot;
use crate::upstream::names::Names;

/// What the helper is told.
pub enum Order {
    /// Read now (HUP).
    Reload,
    /// A registry has news: compile what is in force again.
    Refresh,
    /// The last outcome is dealt with: the new epoch is published, or refused (`false`) because a listener could not be opened.
    Done {
        /// It was published.
        published: bool,
    },
    /// Drop this, here: a snapshot or model of 100,000 routes takes its time.
    Drop(Box<dyn Any + Send>),
}

/// What the helper tells: the outcome, and whether a signal asked for it.
pub struct Notice {
    /// What came of reading.
    pub outcome: Outcome,
    /// A signal asked for it.
    pub asked: bool,
}

/// The helper's state.
pub struct Helper {
    source: Source,
    names: Arc<Names>,
    watch: Watch,
    current: Arc<Snapshot>,
    digest: u64,
    /// An outcome was handed over and not dealt with yet: (the snapshot and digest before it).
    before: Option<(Arc<Snapshot>, u64)>,
    waiting: bool,
    reload_asked: bool,
    reload_due: bool,
    refresh_due: bool,
}

impl Helper {
    /// Begins after the first epoch. `watch` was taken before its files were read.
    pub fn new(source: Source, names: Arc<Names>, watch: Watch, current: Arc<Snapshot>, digest: u64) -> Self {
        let (before, waiting, reload_asked, reload_due, refresh_due) = (None, false, false, false, false);
        Self { source, names, watch, current, digest, before, waiting, reload_asked, reload_due, refresh_due }
    }

    /// Starts the thread. It ends when the sender of orders is dropped.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn start(self, notices: Sender<Notice>) -> std::io::Result<Sender<Order>> {
        let (sender, orders) = flume::unbounded();
        std::thread::Builder::new().name("ringway-helper".into()).spawn(move || self.run(&orders, &notices))?;
        Ok(sender)
    }

    fn run(mut self, orders: &Receiver<Order>, notices: &Sender<Notice>) {
        let mut pause = file::POLL;
        loop {
            match orders.recv_timeout(pause) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => pause = self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Old snapshots go before a new one is built: at most two lie in memory.
            orders.try_iter().for_each(|order| self.obey(order));
            if !self.waiting && (self.reload_asked || self.reload_due) {
                let notice = self.load();
                if notices.send(notice).is_err() {
                    return;
                }
            }
            if !self.waiting && std::mem::take(&mut self.refresh_due) {
                let outcome = load::refresh(&self.current, self.digest, &self.names);
                self.note(&outcome);
                if !matches!(outcome, Outcome::Unchanged) && notices.send(Notice { outcome, asked: false }).is_err() {
                    return;
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Reload => self.reload_asked = true,
            Order::Refresh => self.refresh_due = true,
            Order::Drop(garbage) => drop(garbage),
            Order::Done { published } => {
                self.waiting = false;
                if let (Some((snapshot, digest)), false) = (self.before.take(), published) {
                    self.current = snapshot;
                    self.digest = digest;
                }
            }
        }
    }

    /// Looks at the files; gives the time to the next look.
    fn look(&mut self) -> Duration {
        match self.watch.look() {
            Look::Same => file::POLL,
            Look::Settling => file::QUIET,
            Look::Changed => {
                self.reload_due = true;
                file::POLL
            }
        }
    }

    fn load(&mut self) -> Notice {
        let asked = std::mem::take(&mut self.reload_asked);
        self.reload_due = false;
        if asked {
            self.watch.accept();
        }
        let epoch = self.current.epoch + 1;
        let outcome = load::load(&self.source, epoch, Some((&self.current, self.digest)), &self.names);
        self.note(&outcome);
        match &outcome {
            Outcome::Ready(loaded) => self.watch.follow(loaded.files.clone()),
            // What was mended may lie in a file that only the broken version names.
            Outcome::Broken(broken) => self.watch.follow(merge(self.watch.files(), &broken.files)),
            Outcome::Unchanged => {}
        }
        Notice { outcome, asked }
    }

    /// Keeps what may become the epoch, and what was before it.
    fn note(&mut self, outcome: &Outcome) {
        if let Outcome::Ready(loaded) = outcome {
            let before = std::mem::replace(&mut self.current, loaded.snapshot.clone());
            self.before = Some((before, std::mem::replace(&mut self.digest, loaded.digest)));
            self.waiting = true;
        }
    }
}

fn merge(watched: &Files, more: &Files) -> Files {
    let join = |one: &[PathBuf], other: &[PathBuf]| {
        let mut joined = one.to_vec();
        joined.extend(other.iter().filter(|path| !one.contains(path)).cloned());
        joined
    };
    Files { files: join(&watched.files, &more.files), patterns: join(&watched.patterns, &more.patterns) }
}
