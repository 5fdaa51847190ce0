//! What all exchanges of a worker share: its view of the epoch, its pools, counters and log. One thread, no locks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::clock::{self, Tick};
use crate::base::count::{Bound, Counters};
use crate::base::limits;
use crate::plugin::chain::Merged;
use crate::plugin::ctx::Parts;
use crate::proto::message::Reason;
use crate::route::regex;
use crate::snapshot::Snapshot;
use crate::snapshot::published::{Pressure, Published};
use crate::upstream::health::Verdict;
use crate::upstream::{Pools, Spares, Spec, Upstreams};

/// The worker as its exchanges see it.
pub struct Core {
    /// Index of the worker.
    pub index: u16,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Its upstream pools.
    pub pools: RefCell<Pools>,
    /// Its upstream states.
    pub upstreams: RefCell<Upstreams>,
    /// The worker drains: no connection is kept alive.
    pub draining: Cell<bool>,
    /// Client connections now open.
    pub open: Cell<usize>,
    /// How near the process is to its memory limit, as the last sweep saw it.
    pub pressure: Cell<Pressure>,
    /// Bytes of bodies that are kept in memory.
    buffered: Cell<usize>,
    /// Copies of requests under way.
    pub mirrors: Cell<usize>,
    published: Arc<Published>,
    view: RefCell<Rc<View>>,
    #[expect(clippy::vec_box, reason = "they go to connections and come back as they are")]
    parts: RefCell<Vec<Box<Parts>>>,
    home: Rc<dyn Home>,
    log: RefCell<LogBatch>,
    log_sender: Option<flume::Sender<Vec<u8>>>,
}

/// The floor above, as exchanges call it.
pub trait Home {
    /// The worker serves this epoch from now on.
    fn took(&self, epoch: u64);
    /// Nobody here needs this snapshot any more; it is dropped elsewhere.
    fn returned(&self, snapshot: Arc<Snapshot>);
    /// A request says something about a node's health.
    fn judged(&self, judged: Judged);
}

/// What a request met at a node whose health is watched.
pub struct Judged {
    /// The upstream.
    pub spec: Arc<Spec>,
    /// Index of the node.
    pub node: u16,
    /// What it met.
    pub verdict: Verdict,
}

/// One epoch as a worker holds it. A request keeps the view it began with.
pub struct View {
    /// The epoch.
    pub snapshot: Held,
    /// Chains merged with a consumer's plugins, by route slot and consumer; made on first use.
    pub merged: RefCell<HashMap<(u32, usize), Rc<Merged>>>,
}

/// A snapshot that goes home when it is let go: a worker never frees one, which takes long for a large one.
pub struct Held(Option<Arc<Snapshot>>, Rc<dyn Home>);

impl std::ops::Deref for Held {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        match &self.0 {
            Some(snapshot) => snapshot,
            None => unreachable!("a held snapshot is taken out by dropping alone"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(snapshot) = self.0.take() {
            self.1.returned(snapshot);
        }
    }
}

impl View {
    fn new(snapshot: Arc<Snapshot>, home: Rc<dyn Home>) -> Self {
        Self { snapshot: Held(Some(snapshot), home), merged: RefCell::default() }
    }
}

#[derive(Default)]
struct LogBatch {
    bytes: Vec<u8>,
    lines: u64,
}

impl Core {
    /// The moment in which a head begins: that of the turn, or the very one of a request that is to be sampled.
    pub(super) fn head_begun(&self) -> Tick {
        let sampled = (self.counters.requests.get() + 1).is_multiple_of(limits::SAMPLED);
        if sampled { clock::refresh() } else { clock::now() }
    }

    /// True if the request that was counted last is one whose time inside the worker is told.
    pub(super) fn is_sampled(&self) -> bool {
        self.counters.requests.get().is_multiple_of(limits::SAMPLED)
    }

    /// A worker's core, serving the newest epoch.
    pub fn new(
        index: u16,
        counters: Arc<Counters>,
        spares: Option<Arc<Spares>>,
        published: Arc<Published>,
        home: Rc<dyn Home>,
        log_sender: Option<flume::Sender<Vec<u8>>>,
    ) -> Self {
        let view = View::new(published.current(), home.clone());
        home.took(view.snapshot.epoch);
        Self {
            index,
            pools: RefCell::new(Pools::new(index, counters.clone(), spares)),
            upstreams: RefCell::default(),
            counters,
            draining: Cell::new(false),
            open: Cell::new(0),
            pressure: Cell::default(),
            buffered: Cell::new(0),
            mirrors: Cell::new(0),
            published,
            view: RefCell::new(Rc::new(view)),
            parts: RefCell::default(),
            home,
            log: RefCell::default(),
            log_sender,
        }
    }

    /// The newest epoch: one load of a line nobody writes, unless the epoch changed.
    pub fn view(&self) -> Rc<View> {
        let mut current = self.view.borrow_mut();
        if current.snapshot.epoch != self.published.epoch() {
            let snapshot = self.published.current();
            let epoch = snapshot.epoch;
            *current = Rc::new(View::new(snapshot, self.home.clone()));
            regex::forget();
            self.home.took(epoch);
        }
        current.clone()
    }

    /// Tells the coordinator about a node's health.
    pub fn judge(&self, judged: Judged) {
        self.home.judged(judged);
    }

    /// Idle client connections lend no memory once this many are open.
    pub fn gates_receives(&self) -> bool {
        self.open.get() > limits::POSTED_RECEIVES
    }

    /// Parts for a connection's exchanges, used ones first.
    pub fn parts(&self) -> Box<Parts> {
        self.parts.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes parts back.
    pub fn keep_parts(&self, mut parts: Box<Parts>) {
        let mut kept = self.parts.borrow_mut();
        if kept.len() < limits::PARTS_KEPT {
            parts.reset();
            kept.push(parts);
        }
    }

    /// Client connections this worker may hold.
    pub fn connection_limit(&self) -> usize {
        self.view.borrow().snapshot.connection_limit
    }

    /// Counts the end of an exchange.
    pub fn count(&self, reason: Reason) {
        if let Some(count) = self.counters.reasons.get(reason as usize) {
            count.add(1);
        }
    }

    /// Looks at the memory's pressure, and gives caches back where it is there.
    pub fn follow_pressure(&self) {
        let pressure = self.published.pressure();
        self.pressure.set(pressure);
        let short = pressure > Pressure::Calm;
        if short {
            crate::base::buf::give_back();
            crate::net::rt::give_back();
        }
        self.pools.borrow_mut().follow_pressure(short);
    }

    /// Room for bytes of a body that is kept in memory; `None` where the worker has none left.
    pub fn keep(self: &Rc<Self>, bytes: usize, most: usize) -> Option<Kept> {
        let all = self.buffered.get().saturating_add(bytes);
        if all > most {
            self.met(Bound::Buffering);
            return None;
        }
        self.buffered.set(all);
        Some(Kept { core: self.clone(), bytes })
    }

    /// Counts a limit that was met.
    pub fn met(&self, bound: Bound) {
        if let Some(count) = self.counters.bounds.get(bound as usize) {
            count.add(1);
        }
    }

    /// Writes a line of access log by `write`, which appends it with its newline.
    pub fn log_line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.log_sender.is_none() {
            return;
        }
        let mut batch = self.log.borrow_mut();
        write(&mut batch.bytes);
        batch.lines += 1;
        if batch.bytes.len() >= limits::LOG_BATCH_BYTES {
            drop(batch);
            self.flush_log();
        }
    }

    /// Hands gathered log lines to the writer; drops and counts them when it is behind.
    pub fn flush_log(&self) {
        let Some(sender) = &self.log_sender else { return };
        let mut batch = self.log.borrow_mut();
        if batch.lines == 0 {
            return;
        }
        let lines = std::mem::take(&mut batch.lines);
        let room = limits::LOG_BATCH_BYTES + limits::HEADER_BYTES;
        let bytes = std::mem::replace(&mut batch.bytes, Vec::with_capacity(room));
        match sender.try_send(bytes) {
            Ok(()) => self.counters.log_lines.add(lines),
            Err(refused) => {
                self.counters.log_dropped.add(lines);
                batch.bytes = refused.into_inner();
                batch.bytes.clear();
            }
        }
    }
}

/// Room for bytes that are kept in memory, until it is dropped.
pub struct Kept {
    core: Rc<Core>,
    bytes: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.core.buffered.set(self.core.buffered.get().saturating_sub(self.bytes));
    }
}

/// The date for responses, made once a second per thread.
pub fn date() -> Rc<str> {
    thread_local! {
        static KEPT: RefCell<(u64, Rc<str>)> = RefCell::new((u64::MAX, Rc::from("")));
    }
    let second = crate::base::clock::unix_second_of(crate::base::clock::now());
    KEPT.with_borrow_mut(|(kept, text)| {
        if *kept != second {
            (*kept, *text) = (second, crate::base::date::http(second).into());
        }
        text.clone()
    })
}
