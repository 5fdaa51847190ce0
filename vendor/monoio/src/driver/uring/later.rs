//! Ringway: receives that begin a turn later than they were asked for, where a thread has enough to do meanwhile. What they wait
//! for has often come by then: such a receive ends while it is submitted, where one that was there first costs the kernel an empty
//! try, a poll that is armed and taken down again, and a second try.
//!
//! A receive that is to tell that an idle peer closed does not wait. It is put off when something is sent to that peer in the turn
//! in which it was asked for: then it waits for the answer like another.

use std::{cell::UnsafeCell, collections::VecDeque, rc::Rc};

use io_uring::squeue;

use super::{UringInner, GETEVENTS};

/// Completions of a turn from which on the next one has enough to do.
const BUSY: usize = 8;
/// Receives among which one is looked for that is to be put off, the last first: who sends takes the peer that was idle last.
const LOOKED_AT: usize = 16;

/// Receives that are not submitted yet, each with whether it may wait.
#[derive(Default)]
pub(super) struct Later {
    queue: VecDeque<(squeue::Entry, bool)>,
    earlier: usize, // of them, asked for before this turn; they are in front
    ended: usize,   // completions of the last turn
}

impl Later {
    pub(super) fn add(&mut self, entry: squeue::Entry, later: bool) {
        self.queue.push_back((entry, later));
    }

    /// A turn ended so many operations.
    pub(super) fn note(&mut self, ended: usize) {
        self.ended = ended;
    }
}

impl UringInner {
    /// Lets a receive wait, if it is one of the last that were asked for.
    #[inline]
    pub(crate) fn put_off(this: &Rc<UnsafeCell<UringInner>>, index: usize) {
        // SAFETY: nobody else holds the driver while an operation's owner runs.
        let queue = unsafe { &mut (*this.get()).later.queue };
        let mut last = queue.iter_mut().rev().take(LOOKED_AT);
        if let Some((_, later)) = last.find(|(entry, _)| entry.get_user_data() == index as u64) {
            *later = true;
        }
    }

    /// A turn is over: queues the receives of the turns before it, and those of this one that are not to wait.
    pub(super) fn begin_earlier(&mut self) {
        self.begin(self.later.earlier);
    }

    /// Queues all receives.
    pub(super) fn begin_all(&mut self) {
        self.begin(self.later.queue.len());
    }

    fn begin(&mut self, earlier: usize) {
        for number in 0..self.later.queue.len() {
            let Some((entry, later)) = self.later.queue.pop_front() else { break };
            if number >= earlier && later || !self.queue_entry(&entry) {
                self.later.queue.push_back((entry, later)); // what is refused waits for the next turn
            }
        }
        self.later.earlier = self.later.queue.len();
    }

    fn queue_entry(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the operation keeps descriptor and buffer until its completion came.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            if self.submit().is_err() {
                return false;
            }
        }
        true
    }

    /// Where receives wait and much has just ended, submits without waiting; true where something ended, so that this turn's
    /// receives can begin with the next. Else there is nothing to do meanwhile, and they begin at once.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.later.queue.is_empty() {
            return false;
        }
        if self.later.ended >= BUSY {
            let queued = self.uring.submission().len() as u32;
            // SAFETY: no argument is passed; what is queued keeps its memory until its completion came.
            // What is refused now is submitted with the rest.
            let _ = unsafe { self.uring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) };
            if !self.uring.completion().is_empty() {
                return true;
            }
        }
        self.begin_all();
        false
    }
}
