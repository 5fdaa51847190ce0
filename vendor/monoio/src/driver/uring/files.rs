//! Ringway: the ring's own table of descriptors. A socket that has shown that it stays is entered, and its operations name its slot:
//! the kernel need not look the descriptor up then, nor count them among the holders of the file.
//!
//! A slot belongs to one `Inner` (`driver/shared_fd.rs`), until that is dropped or gives its descriptor away; every operation that
//! names it holds its `Inner`, so none is under way by then. What stays in the table stays open, whoever closes the descriptor: so
//! a slot is emptied before.
//!
//! Before Linux 6.13 a slot that was emptied kept its file until every operation that had begun earlier was over, those on other
//! sockets too: an idle connection would have kept others from being closed. So it takes a kernel that is newer for certain.

use std::{cell::UnsafeCell, os::fd::RawFd, rc::Rc};

use io_uring::Probe;

use super::UringInner;

/// Slots of a ring, 8 bytes each in the kernel and a little more where taken. Sockets beyond are named by their descriptor.
const SLOTS: u32 = 16 * 1024;
/// IORING_OP_EPOLL_WAIT, which came with Linux 6.15.
const NEWER: u8 = 59;

/// The slots of a ring.
#[derive(Default)]
pub(super) struct Files {
    /// None before the first socket is entered; 0 where there is no table to be had.
    slots: Option<u32>,
    /// How many were ever given.
    given: u32,
    free: Vec<u32>,
}

impl UringInner {
    /// A slot for a descriptor, if one is left.
    pub(crate) fn enter_file(this: &Rc<UnsafeCell<UringInner>>, fd: RawFd) -> Option<u32> {
        // SAFETY: nobody else holds the driver while an operation is begun.
        let inner = unsafe { &mut *this.get() };
        let slots = match inner.files.slots {
            Some(slots) => slots,
            None => inner.new_table(),
        };
        let slot = match inner.files.free.pop() {
            Some(slot) => slot,
            None if inner.files.given < slots => {
                inner.files.given += 1;
                inner.files.given - 1
            }
            None => return None,
        };
        if inner.uring.submitter().register_files_update(slot, &[fd]).is_ok() {
            return Some(slot);
        }
        inner.files.free.push(slot);
        None
    }

    /// Empties a slot.
    pub(crate) fn leave_file(this: &Rc<UnsafeCell<UringInner>>, slot: u32) {
        // SAFETY: where this is called while a turn ends, because an operation ended whose owner is gone, that looks at completions
        // and at the places of operations; neither is touched here.
        let inner = unsafe { &mut *this.get() };
        // A slot that can't be emptied, for which the kernel has no reason, is not given again.
        if inner.uring.submitter().register_files_update(slot, &[-1]).is_ok() {
            inner.files.free.push(slot);
        }
    }

    fn new_table(&mut self) -> u32 {
        let submitter = self.uring.submitter();
        let mut probe = Probe::new();
        let newer = submitter.register_probe(&mut probe).is_ok() && probe.is_supported(NEWER);
        let sizes = [SLOTS, SLOTS / 16]; // no more than the process may open
        let fits = |slots: &u32| submitter.register_files_sparse(*slots).is_ok();
        let slots = sizes.into_iter().filter(|_| newer).find(fits).unwrap_or(0);
        self.files.slots = Some(slots);
        slots
    }
}
