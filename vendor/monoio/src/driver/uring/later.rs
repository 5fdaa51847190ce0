//! Ringway: receives that begin a turn later than they were asked for, where a thread has enough to do meanwhile. What they wait
//! for has often come by then: such a receive ends while it is submitted, where one that was there first costs the kernel an empty
//! try, a poll that is armed and taken down again, and a second try.
//!
//! The price: what an idle connection's receive would tell, that the peer closed, is seen a turn later too.

use std::collections::VecDeque;

use io_uring::squeue;

use super::UringInner;

/// Completions of a turn from which on the next one has enough to do.
const BUSY: usize = 8;

/// IORING_ENTER_GETEVENTS.
const GETEVENTS: u32 = 1;

/// Receives that are not submitted yet, each with the turn in which it was asked for.
#[derive(Default)]
pub(super) struct Later {
    queue: VecDeque<(u64, squeue::Entry)>,
    turn: u64,
    ended: usize, // completions of the last turn
}

impl Later {
    pub(super) fn add(&mut self, entry: squeue::Entry) {
        self.queue.push_back((self.turn, entry));
    }

    /// A turn ended so many operations.
    pub(super) fn note(&mut self, ended: usize) {
        self.ended = ended;
    }
}

impl UringInner {
    /// A turn is over: queues the receives of the turns before it.
    pub(super) fn begin_earlier(&mut self) {
        let turn = self.later.turn;
        self.begin_until(turn);
        self.later.turn = turn + 1;
    }

    /// Queues all receives.
    pub(super) fn begin_all(&mut self) {
        self.begin_until(u64::MAX);
    }

    fn begin_until(&mut self, until: u64) {
        while let Some((turn, entry)) = self.later.queue.front() {
            if *turn >= until {
                return;
            }
            // SAFETY: the operation keeps descriptor and buffer until its completion came.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                self.later.queue.pop_front();
            } else if self.submit().is_err() {
                return; // the next turn tries again
            }
        }
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
