//! Ringway: memory that a task works with, brought near while tasks before it run. Among many connections none of a task's
//! memory is in the first caches when its turn comes, and what it reads first says where to read next: one wait after the other.
//!
//! A place is a hint and nothing is read through it: memory that was given back meanwhile is fetched for nothing.

use std::{
    cell::Cell,
    ops::RangeInclusive,
    ptr::{addr_of, null},
    task::Waker,
};

use super::core::Header;

/// Places that a task can name.
pub const PLACES: usize = 13;
/// Memory that it named last without a place.
pub const RECENT: usize = 4;

/// Tasks of a thread whose memory stays near by itself: a connection of 62 lines each, they fill 370 KB.
const TASKS_FEW: usize = 96;
/// Most lines that are fetched of one piece of memory.
const LINES_MOST: u64 = 32;
/// Lines that are fetched of a task's own allocation, whether it is that long or not.
const TASK_LINES: usize = 8;
const LINE: usize = 64;
const LINE_BITS: u32 = LINE.trailing_zeros();
const COUNT_BITS: u32 = 8;
const _: () = assert!(LINES_MOST < 1 << COUNT_BITS);
/// Nothing lies below: a list without memory points there.
const LOWEST: u64 = 4096;

/// What a task named, each the number of its first line and how many.
#[derive(Default)]
pub(crate) struct Near {
    named: [Cell<u64>; PLACES + RECENT],
    turn: Cell<usize>,
}

thread_local! {
    static RUNNING: Cell<*const Header> = const { Cell::new(null()) };
    static TASKS: Cell<usize> = const { Cell::new(0) };
}

/// True where this thread has so many tasks that bringing memory near is worth it.
#[inline]
pub fn wanted() -> bool {
    TASKS.with(Cell::get) > TASKS_FEW
}

/// A task is made.
pub(super) fn made() {
    TASKS.with(|tasks| tasks.set(tasks.get() + 1));
}

/// A task's memory is given back.
pub(super) fn gone() {
    TASKS.with(|tasks| tasks.set(tasks.get().saturating_sub(1)));
}

/// Names memory that the running task works with, in one of its [`PLACES`] in place of what was there. Does nothing outside
/// a task.
#[inline]
pub fn keep<T: ?Sized>(place: usize, memory: &T) {
    keep_at(place, addr_of!(*memory).cast(), size_of_val(memory));
}

/// The same by address and size.
#[inline]
pub fn keep_at(place: usize, at: *const u8, bytes: usize) {
    if let Some(kept) = running().and_then(|near| near.named.get(place)) {
        kept.set(lines(at, bytes));
    }
}

/// Empties places of the running task.
#[inline]
pub fn forget(places: RangeInclusive<usize>) {
    for kept in running().and_then(|near| near.named.get(places)).into_iter().flatten() {
        kept.set(0);
    }
}

/// Names memory that the running task has just begun to work with, in place of what it named so longest ago.
#[inline]
pub fn keep_recent<T: ?Sized>(memory: &T) {
    if let Some(near) = running() {
        let turn = near.turn.get().wrapping_add(1);
        near.turn.set(turn);
        near.named[PLACES + turn % RECENT].set(lines(addr_of!(*memory).cast(), size_of_val(memory)));
    }
}

#[inline]
fn running<'a>() -> Option<&'a Near> {
    let header = RUNNING.with(Cell::get);
    // SAFETY: `Running` took it from a task that is alive as long as it runs, and takes it away again; nobody keeps this longer.
    (!header.is_null()).then(|| unsafe { &*addr_of!((*header).near) })
}

#[inline]
fn lines(at: *const u8, bytes: usize) -> u64 {
    let at = at as usize as u64;
    if at < LOWEST || bytes == 0 {
        return 0;
    }
    let first = at >> LINE_BITS;
    let last = at.wrapping_add(bytes as u64 - 1) >> LINE_BITS;
    first << COUNT_BITS | (last.wrapping_sub(first) + 1).min(LINES_MOST)
}

/// Brings memory near.
#[inline]
pub fn bring<T: ?Sized>(memory: &T) {
    bring_at(addr_of!(*memory).cast(), size_of_val(memory));
}

#[inline]
pub(crate) fn bring_at(at: *const u8, bytes: usize) {
    bring_lines(lines(at, bytes));
}

#[inline(always)]
fn bring_lines(named: u64) {
    let first = ((named >> COUNT_BITS) << LINE_BITS) as usize as *const u8;
    for number in 0..(named & ((1 << COUNT_BITS) - 1)) as usize {
        line(first.wrapping_add(number * LINE));
    }
}

/// Brings a task's own memory near.
#[inline]
pub(super) fn bring_task(header: *const Header) {
    for number in 0..TASK_LINES {
        line(header.cast::<u8>().wrapping_add(number * LINE));
    }
}

/// Brings near the first line of what a waker points to: of a task, where it is one of this runtime's.
#[inline]
pub(crate) fn bring_woken(waker: &Waker) {
    line(waker.data().cast());
}

impl Near {
    /// Brings near what was named.
    #[inline]
    pub(super) fn bring(&self) {
        for named in &self.named {
            bring_lines(named.get());
        }
    }
}

/// Says which task runs, as long as it lives; then which did before.
pub(super) struct Running(*const Header);

impl Running {
    #[inline]
    pub(super) fn new(header: *const Header) -> Self {
        Self(RUNNING.with(|running| running.replace(header)))
    }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        RUNNING.with(|running| running.set(self.0));
    }
}

#[inline(always)]
fn line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which does nothing where there is no memory.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast())
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
