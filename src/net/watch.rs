//! Deadlines: one per connection, one sweeper per worker. A deadline that passes shuts the *connection* down and lets the
//! operation in flight finish by itself; no I/O future is ever dropped for it (reference/runtime.md §3.1).

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use super::near::{Near, bring_near, keep_near};
use crate::base::clock::{self, Tick};
use crate::base::limits;
use crate::base::wheel::Wheel;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: no deadline.
    Nothing,
    /// The next request on an idle client connection.
    Keepalive,
    /// A request head.
    Header,
    /// Request body bytes.
    Body,
    /// The peer to take bytes.
    Send,
    /// An upstream connection.
    Connect,
    /// Upstream bytes.
    Read,
    /// Either side of a tunnel.
    Tunnel,
    /// The client's last bytes before a close.
    Linger,
    /// An idle pooled upstream connection.
    Pooled,
}

/// Width of a sweep: deadlines fire at most this much late. They may fire as much early as the turn was old in which they were
/// set, since a turn has one time.
pub const SWEEP: Duration = Duration::from_millis(50);

/// The deadline of one connection, and how far its sending has come: what both directions and the sweeper share.
#[derive(Clone, Debug)]
pub struct Watch(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: Cell<RawFd>,   // -1 while nobody has it
    at: Cell<Tick>,    // u64::MAX: none
    filed: Cell<Tick>, // the earliest moment at which the wheel looks at it
    entry: Cell<u32>,  // number of that entry in the wheel; older ones are forgotten when they come
    waits: Cell<Wait>,
    span: Cell<Duration>,
    fired: Cell<Option<Wait>>,
    sent: Cell<u64>,
    nudge: RefCell<Option<Waker>>,
    listed: Cell<bool>, // in NUDGES
}

const NEVER: Tick = Tick(u64::MAX);

thread_local! {
    static WHEEL: RefCell<Wheel<Entry>> = RefCell::new(Wheel::new(SWEEP));
    static NUDGES: RefCell<Vec<Weak<Inner>>> = const { RefCell::new(Vec::new()) };
    static ALL: RefCell<Registry> = RefCell::new(Registry::default());
    static FREE: RefCell<Vec<Rc<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// A watch in the wheel, and the number of this entry of it.
type Entry = (Weak<Inner>, u32);

/// Every watch of the thread, for draining.
#[derive(Default)]
struct Registry {
    list: Vec<Weak<Inner>>,
    cleaned_at: usize,
}

impl Watch {
    /// Watches over a descriptor, which must stay open as long as the watch lives. Used ones are taken first, with their entry
    /// in the wheel: else there would be one for each connection of the longest deadline's time, long after they have gone.
    pub(super) fn new(fd: RawFd) -> Self {
        if let Ok(Some(inner)) = FREE.try_with(|free| free.borrow_mut().pop()) {
            inner.fd.set(fd);
            return Self(inner);
        }
        let inner = Rc::new(Inner {
            fd: Cell::new(fd),
            at: Cell::new(NEVER),
            filed: Cell::new(NEVER),
            entry: Cell::new(0),
            waits: Cell::new(Wait::Nothing),
            span: Cell::new(Duration::ZERO),
            fired: Cell::new(None),
            sent: Cell::new(0),
            nudge: RefCell::new(None),
            listed: Cell::new(false),
        });
        let _gone = ALL.try_with(|all| all.borrow_mut().add(&inner));
        Self(inner)
    }

    pub(super) fn keep_near(&self, place: Near) {
        keep_near(place, &*self.0);
    }

    pub(super) fn bring_near(&self) {
        bring_near(&*self.0);
    }

    /// Sets the deadline to `span` from the thread's cached now.
    pub fn arm(&self, waits: Wait, span: Duration) {
        self.0.waits.set(waits);
        self.0.span.set(span);
        self.touch();
    }

    /// Sets the deadline to a moment.
    pub fn arm_at(&self, waits: Wait, at: Tick) {
        self.0.waits.set(waits);
        self.file(at);
    }

    /// There was an advance: the deadline's span starts over.
    pub fn touch(&self) {
        if self.0.waits.get() != Wait::Nothing {
            self.file(clock::now().after(self.0.span.get()));
        }
    }

    /// No deadline.
    pub fn disarm(&self) {
        self.0.waits.set(Wait::Nothing);
        self.0.at.set(NEVER);
    }

    /// What it waited for when it fired, if it did.
    pub fn fired(&self) -> Option<Wait> {
        self.0.fired.get()
    }

    /// Wakes `waker` at the next sweep, unless [`Watch::hush`] comes first.
    pub(super) fn nudge(&self, waker: &Waker) {
        *self.0.nudge.borrow_mut() = Some(waker.clone());
        if !self.0.listed.replace(true) {
            let _gone = NUDGES.try_with(|list| list.borrow_mut().push(Rc::downgrade(&self.0)));
        }
    }

    /// The nudge is not needed any more.
    pub(super) fn hush(&self) {
        self.0.nudge.borrow_mut().take();
    }

    /// The kernel took further bytes.
    pub(super) fn add_sent(&self, bytes: usize) {
        self.0.sent.set(self.0.sent.get() + bytes as u64);
    }

    /// Bytes the kernel took so far.
    pub(super) fn sent(&self) -> u64 {
        self.0.sent.get()
    }

    fn file(&self, at: Tick) {
        self.0.at.set(at);
        if at < self.0.filed.get() {
            self.0.filed.set(at);
            self.0.entry.set(self.0.entry.get().wrapping_add(1));
            let entry = (Rc::downgrade(&self.0), self.0.entry.get());
            let _gone = WHEEL.try_with(|wheel| wheel.borrow_mut().file(at, entry));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) > 1 {
            return;
        }
        let inner = &self.0;
        inner.fd.set(-1);
        inner.at.set(NEVER);
        inner.waits.set(Wait::Nothing);
        inner.span.set(Duration::ZERO);
        inner.fired.set(None);
        inner.sent.set(0);
        inner.nudge.borrow_mut().take();
        let _gone = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < limits::WATCHES_KEPT {
                free.push(inner.clone());
            }
        });
    }
}

impl Inner {
    /// Where the client is waited for, only receiving ends: what had arrived is still read, and an answer can be sent.
    fn fire(&self) {
        let side = match self.waits.get() {
            Wait::Keepalive | Wait::Header | Wait::Body | Wait::Linger => super::stream::Side::Read,
            _ => super::stream::Side::Both,
        };
        self.fired.set(Some(self.waits.get()));
        self.at.set(NEVER);
        super::stream::shutdown(self.fd.get(), side);
    }
}

impl Registry {
    fn add(&mut self, inner: &Rc<Inner>) {
        if self.list.len() >= self.cleaned_at * 2 + 1024 {
            self.list.retain(|watch| watch.strong_count() > 0);
            self.cleaned_at = self.list.len();
        }
        self.list.push(Rc::downgrade(inner));
    }
}

/// Fires every deadline that has passed, and gives the nudges that were asked for since the last call. The worker's sweeper
/// calls it every [`SWEEP`].
pub fn sweep(now: Tick) {
    for inner in NUDGES.take().iter().filter_map(Weak::upgrade) {
        inner.listed.set(false);
        let nudge = inner.nudge.borrow_mut().take();
        if let Some(waker) = nudge {
            waker.wake();
        }
    }
    WHEEL.with_borrow_mut(|wheel| {
        wheel.turn(now, |(weak, number)| {
            let inner = weak.upgrade().filter(|inner| inner.entry.get() == *number)?;
            let at = inner.at.get();
            if at <= now {
                inner.filed.set(NEVER);
                inner.fire();
                return None;
            }
            inner.filed.set(at);
            (at != NEVER).then_some(at)
        });
    });
}

/// Fires the watches that `which` names, deadline or not. Says how many.
pub fn fire_all(which: impl Fn(Wait) -> bool) -> u64 {
    let list = ALL.with_borrow_mut(|all| all.list.clone());
    let mut count = 0;
    for inner in list.iter().filter_map(Weak::upgrade) {
        if inner.fd.get() >= 0 && inner.fired.get().is_none() && which(inner.waits.get()) {
            inner.fire();
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of this thread's wheel that come up to a moment.
    fn take_entries(until: Tick) -> usize {
        let mut taken = 0;
        WHEEL.with_borrow_mut(|wheel| {
            wheel.turn(until, |_| {
                taken += 1;
                None
            });
        });
        taken
    }

    #[test]
    fn a_used_watch_is_as_good_as_a_new_one_and_keeps_its_entry() {
        let start = clock::refresh();
        for turn in 0..200_u32 {
            let watch = Watch::new(-2);
            let other = watch.clone();
            watch.add_sent(7);
            watch.arm_at(Wait::Header, start.after(Duration::from_secs(60)));
            assert_eq!((other.fired(), other.sent()), (None, 7), "nothing of its former life, turn {turn}");
        }
        let watch = Watch::new(-2);
        assert_eq!((watch.0.waits.get(), watch.0.at.get(), watch.sent()), (Wait::Nothing, NEVER, 0));
        watch.arm_at(Wait::Send, start.after(Duration::from_secs(90)));
        sweep(start.after(Duration::from_secs(61)));
        assert_eq!(watch.fired(), None, "the entry of the first is filed for the last");
        assert_eq!(take_entries(start.after(Duration::from_secs(91))), 1, "one entry for all of them");
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let open = Watch::new(std::os::fd::AsRawFd::as_raw_fd(&near));
        drop(Watch::new(-2));
        assert_eq!(fire_all(|_| true), 1, "those that nobody has are left alone");
        assert_eq!(open.fired(), Some(Wait::Nothing));
    }

    #[test]
    fn short_and_long_deadlines_by_turns_leave_one_entry() {
        let watch = Watch::new(-1);
        let start = clock::refresh();
        for turn in 0..200_u64 {
            watch.arm_at(Wait::Read, start.after(Duration::from_secs(40)));
            watch.arm_at(Wait::Send, start.after(SWEEP * (turn as u32 + 2)));
            watch.arm_at(Wait::Read, start.after(Duration::from_secs(40)));
            sweep(start.after(SWEEP * (turn as u32 + 3)));
        }
        assert_eq!(watch.fired(), None);
        sweep(start.after(Duration::from_secs(41)));
        assert_eq!(watch.fired(), Some(Wait::Read));
        let left = take_entries(start.after(Duration::from_secs(200)));
        assert_eq!(left, 0, "entries that nobody needs have gone with their time");
    }
}
