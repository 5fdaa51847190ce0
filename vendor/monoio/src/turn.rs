//! Ringway: turns of a thread's loop are numbered, so that what is the same for all of a turn is found out once.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(1) };
}

/// The number of this thread's turn, from 1; it never is that of another turn of this thread.
#[inline]
pub fn number() -> u64 {
    TURN.with(Cell::get)
}

/// A turn is over: the driver was asked for what ended.
#[inline]
pub(crate) fn next() {
    TURN.with(|turn| turn.set(turn.get().wrapping_add(1)));
}
