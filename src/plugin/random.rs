//! Fast random numbers per thread (xoshiro256++), seeded by the operating system. For ids and samples, not for keys.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

thread_local! {
    static STATE: Cell<[u64; 4]> = Cell::new(seed());
}

fn seed() -> [u64; 4] {
    std::array::from_fn(|at| RandomState::new().hash_one(at)) // the keys of RandomState come from the operating system
}

/// The next 64 bits.
pub fn next() -> u64 {
    let mut state = STATE.get();
    let result = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
    let shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = state[3].rotate_left(45);
    STATE.set(state);
    result
}

/// True in `percentage` of 100 cases.
pub fn hits(percentage: u64) -> bool {
    next() % 100 < percentage
}
