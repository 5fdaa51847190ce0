//! Chunks: byte buffers lent by a pool of the current thread and given back by dropping them.
//!
//! A chunk is a fixed allocation with a filled window `start..end`. Reading appends behind the window, consuming moves its
//! start. Chunks never move between threads with their pool: one dropped elsewhere joins that thread's pool.

use std::cell::RefCell;

use crate::base::limits;

/// A buffer lent by the thread's pool. One word, because operations, futures and results carry it about: its window changes
/// where it lies. The allocation is zeroed once and never shrinks.
#[derive(Debug, Default)]
pub struct Chunk(Option<Box<Buffer>>);

#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Chunk {
    /// Lends a chunk for heads and small bodies ([`limits::CHUNK_SMALL_BYTES`]).
    pub fn small() -> Self {
        Self::lend(limits::CHUNK_SMALL_BYTES)
    }

    /// Lends a chunk for large bodies ([`limits::CHUNK_LARGE_BYTES`]).
    pub fn large() -> Self {
        Self::lend(limits::CHUNK_LARGE_BYTES)
    }

    /// Lends a chunk of at least `bytes`. Sizes other than the two pooled ones are allocated.
    pub fn with_capacity(bytes: usize) -> Self {
        let classes = [limits::CHUNK_HEAD_BYTES, limits::CHUNK_SMALL_BYTES];
        Self::lend(classes.into_iter().find(|class| bytes <= *class).unwrap_or(bytes))
    }

    /// A chunk without memory, to stand where one was taken out.
    pub const fn empty() -> Self {
        Self(None)
    }

    fn lend(bytes: usize) -> Self {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().take(bytes)).ok().flatten();
        Self(Some(pooled.unwrap_or_else(|| Box::new(Buffer { bytes: vec![0; bytes].into(), start: 0, end: 0 }))))
    }

    /// Bytes in the window.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.end - buffer.start)
    }

    /// True when the window holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the whole allocation.
    pub fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.bytes.len())
    }

    /// Bytes that still fit behind the window.
    pub fn room(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.bytes.len() - buffer.end)
    }

    /// The window.
    pub fn filled(&self) -> &[u8] {
        self.0.as_ref().and_then(|buffer| buffer.bytes.get(buffer.start..buffer.end)).unwrap_or_default()
    }

    /// The window, writable.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().and_then(|buffer| buffer.bytes.get_mut(buffer.start..buffer.end)).unwrap_or_default()
    }

    /// The free bytes behind the window; call [`Chunk::advance`] after writing to them.
    pub fn room_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().and_then(|buffer| buffer.bytes.get_mut(buffer.end..)).unwrap_or_default()
    }

    /// Takes `n` bytes written behind the window into it (clamped to the room).
    pub fn advance(&mut self, n: usize) {
        if let Some(buffer) = &mut self.0 {
            buffer.end += n.min(buffer.bytes.len() - buffer.end);
        }
    }

    /// Drops `n` bytes from the front of the window (clamped to its length). An emptied window starts over at 0.
    pub fn consume(&mut self, n: usize) {
        if let Some(buffer) = &mut self.0 {
            buffer.start += n.min(buffer.end - buffer.start);
            if buffer.start == buffer.end {
                (buffer.start, buffer.end) = (0, 0);
            }
        }
    }

    /// Shortens the window to its first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        if let Some(buffer) = &mut self.0 {
            buffer.end = buffer.start + n.min(buffer.end - buffer.start);
        }
    }

    /// Empties the window.
    pub fn clear(&mut self) {
        if let Some(buffer) = &mut self.0 {
            (buffer.start, buffer.end) = (0, 0);
        }
    }

    /// Appends `data` if all of it fits; says whether it did.
    #[must_use]
    #[inline]
    pub fn append(&mut self, data: &[u8]) -> bool {
        let Some(buffer) = &mut self.0 else { return data.is_empty() };
        match buffer.bytes.get_mut(buffer.end..buffer.end + data.len()) {
            Some(room) => {
                room.copy_from_slice(data);
                buffer.end += data.len();
                true
            }
            None => false,
        }
    }

    /// Moves the empty window `n` bytes in, so that as much can be put in front of what will be read.
    pub fn reserve_front(&mut self, n: usize) {
        if let Some(buffer) = self.0.as_mut().filter(|buffer| buffer.start == buffer.end) {
            buffer.start = n.min(buffer.bytes.len());
            buffer.end = buffer.start;
        }
    }

    /// Puts `data` directly in front of the window if it fits there; says whether it did.
    #[must_use]
    pub fn prepend(&mut self, data: &[u8]) -> bool {
        let Some(buffer) = &mut self.0 else { return data.is_empty() };
        let Some(start) = buffer.start.checked_sub(data.len()) else { return false };
        match buffer.bytes.get_mut(start..buffer.start) {
            Some(front) => {
                front.copy_from_slice(data);
                buffer.start = start;
                true
            }
            None => false,
        }
    }

    /// Moves `len` bytes of the window from `from` to `to` (both counted from its start). Out of range does nothing.
    pub fn move_within(&mut self, from: usize, to: usize, len: usize) {
        let window = self.filled_mut();
        if from != to && from + len <= window.len() && to + len <= window.len() {
            window.copy_within(from..from + len, to);
        }
    }

    /// Makes [`Self::room`] at least `more`, whatever lies in front of the window: where it is less, one copy into twice as much.
    pub fn make_room(&mut self, more: usize) {
        if self.room() < more {
            let mut larger = Self::lend((self.len() + more).next_power_of_two());
            let _fits = larger.append(self.filled());
            *self = larger;
        }
    }

    /// Takes another chunk's bytes behind its own: as they lie where it is empty, else by a copy.
    pub fn join(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
        } else {
            self.make_room(other.len());
            let _fits = self.append(other.filled());
        }
    }

    /// The same bytes in no more memory than they need, for those that are kept for a while (one copy, if it saves half).
    #[must_use]
    pub fn fitted(self) -> Self {
        if self.len() > self.capacity() / 2 {
            return self;
        }
        let mut fitted = Self::with_capacity(self.len());
        let _fits = fitted.append(self.filled());
        fitted
    }

    /// What says where the bytes lie and which of them are filled, for `net` to have it near in time.
    pub(crate) fn buffer(&self) -> Option<&impl Sized> {
        self.0.as_deref()
    }

    /// Pointer and length of the free bytes, for an operation in flight. `net` alone uses it.
    pub(crate) fn room_ptr(&mut self) -> (*mut u8, usize) {
        let room = self.room_mut();
        (room.as_mut_ptr(), room.len())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            let _gone = POOL.try_with(|pool| pool.borrow_mut().give_back(buffer));
        }
    }
}

#[derive(Default)]
#[expect(clippy::vec_box, reason = "a chunk takes its buffer out and gives it back as it is")]
struct Pool {
    head: Vec<Box<Buffer>>,
    small: Vec<Box<Buffer>>,
    large: Vec<Box<Buffer>>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::default());
}

/// Gives the chunks that this thread's pool keeps back to the allocator.
pub fn give_back() {
    POOL.with_borrow_mut(|pool| *pool = Pool::default());
}

impl Pool {
    fn take(&mut self, bytes: usize) -> Option<Box<Buffer>> {
        match bytes {
            limits::CHUNK_HEAD_BYTES => self.head.pop(),
            limits::CHUNK_SMALL_BYTES => self.small.pop(),
            limits::CHUNK_LARGE_BYTES => self.large.pop(),
            _ => None,
        }
    }

    fn give_back(&mut self, mut buffer: Box<Buffer>) {
        let (list, kept) = match buffer.bytes.len() {
            limits::CHUNK_HEAD_BYTES => (&mut self.head, limits::CHUNK_SMALL_KEPT),
            limits::CHUNK_SMALL_BYTES => (&mut self.small, limits::CHUNK_SMALL_KEPT),
            limits::CHUNK_LARGE_BYTES => (&mut self.large, limits::CHUNK_LARGE_KEPT),
            _ => return,
        };
        if list.len() < kept {
            (buffer.start, buffer.end) = (0, 0);
            list.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_moves_and_starts_over() {
        let mut chunk = Chunk::small();
        assert!(chunk.append(b"hello world"));
        chunk.consume(6);
        assert_eq!(chunk.filled(), b"world");
        let whole = chunk.capacity();
        chunk.make_room(whole - 5);
        assert_eq!((chunk.room() >= whole - 5, chunk.filled()), (true, &b"world"[..]));
        chunk.consume(99);
        assert!(chunk.is_empty());
        assert_eq!(chunk.room(), chunk.capacity());
    }

    #[test]
    fn a_dropped_chunk_is_lent_again() {
        let pointer = Chunk::large().room_ptr().0;
        assert_eq!(Chunk::large().room_ptr().0, pointer);
    }

    #[test]
    fn append_refuses_what_does_not_fit_and_make_room_lets_it_in() {
        let mut chunk = Chunk::small();
        let filler = vec![b'x'; chunk.capacity()];
        assert!(chunk.append(&filler));
        assert!(!chunk.append(b"y"));
        chunk.make_room(1);
        assert!(chunk.append(b"y"));
        assert_eq!(chunk.len(), filler.len() + 1);
    }

    #[test]
    fn room_is_counted_behind_the_window_not_in_front_of_it() {
        let capacity = Chunk::small().capacity();
        for front in [1, 16, 256, 1000] {
            for already in [1, 100, 272] {
                let mut chunk = Chunk::small();
                chunk.reserve_front(front);
                assert!(chunk.append(&vec![b'a'; already]));
                let mut other = Chunk::small();
                let more = capacity - already - front / 2; // fits the allocation, not the room
                assert!(other.append(&vec![b'b'; more]));
                chunk.join(other);
                assert_eq!(chunk.len(), already + more, "{front} {already}");
            }
        }
    }
}
