//! What a worker remembers of a node: requests under way, failures in a row, since when it serves.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::pick::ewma::Latency;
use crate::base::clock::Tick;
use crate::config::model::Outlier;

/// One node. Kept over epochs with it.
#[derive(Clone)]
pub(super) struct Track {
    pub(super) load: Load,
    pub(super) latency: Latency,
    /// When it began to serve (again); `None` where it always did.
    pub(super) joined: Option<Tick>,
    /// It was usable when a request was last given out.
    pub(super) was_usable: bool,
    failures: u32,
    ejections: u32,
    out_until: Tick,
}

/// Ejections after which they grow no longer.
const EJECTIONS_MAX: u32 = 10;
/// Share of its weight that a node begins with.
const SLOW_START_LEAST: f64 = 0.1;

impl Track {
    pub(super) fn new(queue: &Rc<Queue>, joined: Option<Tick>) -> Self {
        Self {
            load: Load(Rc::new((Cell::new(0), queue.clone()))),
            latency: Latency::default(),
            joined,
            was_usable: true,
            failures: 0,
            ejections: 0,
            out_until: Tick(0),
        }
    }

    /// It was put out for its failures.
    pub(super) fn is_out(&self, now: Tick) -> bool {
        self.out_until > now
    }

    /// A request succeeded or failed there. `may_eject` says whether the node may be put out; true where it was.
    pub(super) fn note(&mut self, failed: bool, policy: &Outlier, now: Tick, may_eject: bool) -> bool {
        if !failed {
            self.failures = 0;
            if !self.is_out(now) {
                self.ejections = self.ejections.saturating_sub(1);
            }
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < policy.failures || self.is_out(now) || !may_eject {
            return false;
        }
        self.failures = 0;
        self.ejections = (self.ejections + 1).min(EJECTIONS_MAX);
        self.out_until = now.after(policy.ejection * self.ejections);
        true
    }

    /// Its weight in thousandths of what is configured, while it starts slowly.
    pub(super) fn warmth(&self, span: Duration, now: Tick) -> u32 {
        let Some(joined) = self.joined else { return 1000 };
        let served = now.since(joined).as_secs_f64() / span.as_secs_f64().max(0.001);
        (served.clamp(SLOW_START_LEAST, 1.0) * 1000.0) as u32
    }
}

/// Requests under way at one node.
#[derive(Clone)]
pub struct Load(Rc<(Cell<u32>, Rc<Queue>)>);

/// Counts a request at its node until it is dropped; whoever waits for a node is called then.
pub struct Underway(Load);

impl Load {
    /// One request more, until what is given back is dropped.
    pub fn enter(&self) -> Underway {
        let count = &self.0.0;
        count.set(count.get().saturating_add(1));
        Underway(self.clone())
    }

    /// Requests under way.
    pub fn get(&self) -> u32 {
        self.0.0.get()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let (count, queue) = &*self.0.0;
        count.set(count.get().saturating_sub(1));
        queue.call();
    }
}

/// Requests that wait until one of an upstream's nodes is below its limit, the oldest first.
#[derive(Default)]
pub struct Queue {
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    aside: RefCell<VecDeque<Rc<Waiter>>>,
}

/// Where a request stands in a [`Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Behind those who came before.
    Last,
    /// In front: it was called and found nothing.
    First,
    /// Beside the line: not every node will do, so each call is for it as well, and nobody waits behind it.
    Aside,
}

#[derive(Default)]
struct Waiter {
    called: Cell<bool>,
    answered: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place in a [`Queue`]; given up by dropping it.
pub struct Place {
    queue: Rc<Queue>,
    waiter: Rc<Waiter>,
}

impl Queue {
    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len() + self.aside.borrow().len()
    }

    /// Nobody waits in the line.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Takes a place.
    pub fn join(self: &Rc<Self>, line: Line) -> Place {
        let waiter = Rc::new(Waiter::default());
        match line {
            Line::Last => self.waiting.borrow_mut().push_back(waiter.clone()),
            Line::First => self.waiting.borrow_mut().push_front(waiter.clone()),
            Line::Aside => self.aside.borrow_mut().push_back(waiter.clone()),
        }
        Place { queue: self.clone(), waiter }
    }

    /// Calls those aside, and the one in the line who waits longest.
    pub fn call(&self) {
        let aside = std::mem::take(&mut *self.aside.borrow_mut());
        let first = self.waiting.borrow_mut().pop_front();
        for waiter in aside.into_iter().chain(first) {
            waiter.called.set(true);
            let waker = waiter.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Place {
    /// Ready once it was called. Whoever leaves without having seen that passes the call on.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiter.called.get() {
            self.waiter.answered.set(true);
            return Poll::Ready(());
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match (self.waiter.called.get(), self.waiter.answered.get()) {
            (false, _) => {
                for line in [&self.queue.waiting, &self.queue.aside] {
                    line.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiter));
                }
            }
            (true, false) => self.queue.call(),
            (true, true) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Tick {
        Tick(second * 1_000_000_000)
    }

    #[test]
    fn a_node_is_put_out_for_longer_each_time_and_forgiven_slowly() {
        let policy = Outlier { failures: 2, ejection: Duration::from_secs(10), max_ejected: 50 };
        let mut track = Track::new(&Rc::default(), None);
        assert!(!track.note(true, &policy, at(1), true));
        assert!(!track.note(false, &policy, at(1), true), "a success in between");
        assert!(!track.note(true, &policy, at(1), true));
        assert!(!track.note(true, &policy, at(1), false), "too many are out already");
        assert!(track.note(true, &policy, at(1), true));
        assert!(track.is_out(at(10)) && !track.is_out(at(11)));
        assert!(!track.note(true, &policy, at(12), true));
        assert!(track.note(true, &policy, at(12), true));
        assert!(track.is_out(at(31)) && !track.is_out(at(32)), "twice as long");
        (0..2).for_each(|_| assert!(!track.note(false, &policy, at(40), true)));
        assert!(!track.note(true, &policy, at(50), true) && track.note(true, &policy, at(50), true));
        assert!(track.is_out(at(59)) && !track.is_out(at(60)), "as at first");
    }

    #[test]
    fn a_node_starts_with_a_tenth_and_grows() {
        let mut track = Track::new(&Rc::default(), None);
        assert_eq!(track.warmth(Duration::from_secs(10), at(5)), 1000);
        track.joined = Some(at(5));
        let weights: Vec<u32> = [5, 6, 10, 15, 90].map(|second| track.warmth(Duration::from_secs(10), at(second))).into();
        assert_eq!(weights, [100, 100, 500, 1000, 1000]);
    }

    #[test]
    fn a_request_counts_until_it_is_over_and_calls_the_next() {
        let queue: Rc<Queue> = Rc::default();
        let load = Track::new(&queue, None).load;
        let (one, two) = (load.enter(), load.enter());
        assert_eq!(load.get(), 2);
        let mut cx = Context::from_waker(Waker::noop());
        let (first, second) = (queue.join(Line::Last), queue.join(Line::Last));
        let ahead = queue.join(Line::First);
        assert!(first.poll(&mut cx).is_pending());
        drop(ahead);
        drop(one);
        assert!(first.poll(&mut cx).is_ready() && second.poll(&mut cx).is_pending());
        let third = queue.join(Line::Last);
        drop(two);
        drop(second); // it was called and left without knowing
        assert!(third.poll(&mut cx).is_ready());
        drop(third);
        assert_eq!((load.get(), queue.len()), (0, 0));
    }

    #[test]
    fn one_who_waits_for_a_certain_node_holds_nobody_up() {
        let queue: Rc<Queue> = Rc::default();
        let mut cx = Context::from_waker(Waker::noop());
        let picky = queue.join(Line::Aside);
        assert!(queue.is_empty() && queue.len() == 1, "newcomers see no line");
        let plain = queue.join(Line::Last);
        queue.call();
        assert!(picky.poll(&mut cx).is_ready() && plain.poll(&mut cx).is_ready());
        assert_eq!(queue.len(), 0);
    }
}
