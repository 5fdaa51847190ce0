//! Ringway: boxes whose memory the thread keeps when they are dropped, for the next one of the same layout. What is made and dropped
//! with each connection comes in bursts, and some of it is large: glibc keeps seven blocks of a size, and none above a kilobyte,
//! where they are found again at once.

use std::{
    alloc::{alloc, dealloc, handle_alloc_error, Layout},
    cell::RefCell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    pin::Pin,
    ptr::NonNull,
};

/// Layouts of which a thread keeps memory: those that were given back first, as long as it lives. A worker has some seven kinds
/// of tasks and futures.
const LAYOUTS: usize = 8;
/// Blocks of each that it keeps.
const BLOCKS: usize = 128;

/// A box.
pub struct KeptBox<T> {
    value: NonNull<T>,
    owns: PhantomData<T>,
}

// The value does not move with the box.
impl<T> Unpin for KeptBox<T> {}

impl<T> KeptBox<T> {
    /// Moves a value there.
    #[inline]
    pub fn new(value: T) -> Self {
        const { assert!(size_of::<T>() > 0, "there is nothing to keep") };
        let place = take(Layout::new::<T>()).cast::<T>();
        // SAFETY: the memory is of its layout and nobody else's.
        unsafe { place.write(value) };
        Self {
            value: place,
            owns: PhantomData,
        }
    }

    /// The same for a value that does not move any more.
    #[inline]
    pub fn pin(value: T) -> Pin<Self> {
        // SAFETY: the value stays where it is until it is dropped.
        unsafe { Pin::new_unchecked(Self::new(value)) }
    }

    pub(crate) fn into_raw(self) -> NonNull<T> {
        ManuallyDrop::new(self).value
    }

    /// # Safety
    /// `value` is of `into_raw`, and this is the only box that is made of it.
    pub(crate) unsafe fn from_raw(value: NonNull<T>) -> Self {
        Self {
            value,
            owns: PhantomData,
        }
    }
}

impl<T> Deref for KeptBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: it is the box's own.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for KeptBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for KeptBox<T> {
    #[inline]
    fn drop(&mut self) {
        // The memory goes back even where dropping the value panics.
        let _block = Block(Layout::new::<T>(), self.value.cast());
        // SAFETY: it is dropped here and nowhere else.
        unsafe { self.value.drop_in_place() };
    }
}

struct Block(Layout, NonNull<u8>);

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        give(self.0, self.1);
    }
}

struct Shelf {
    layout: Layout,
    blocks: Vec<NonNull<u8>>,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            // SAFETY: what lies here was allocated with this layout and is nobody's.
            unsafe { dealloc(block.as_ptr(), self.layout) };
        }
    }
}

thread_local! {
    static SHELVES: RefCell<Vec<Shelf>> = const { RefCell::new(Vec::new()) };
}

/// Gives what this thread keeps back to the allocator.
pub fn give_back() {
    let _gone = SHELVES.try_with(|shelves| shelves.take());
}

#[inline]
fn take(layout: Layout) -> NonNull<u8> {
    let kept = SHELVES.try_with(|shelves| {
        let mut shelves = shelves.borrow_mut();
        shelves.iter_mut().find(|shelf| shelf.layout == layout)?.blocks.pop()
    });
    match kept.ok().flatten() {
        Some(block) => block,
        // SAFETY: the layout has a size.
        None => NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout)),
    }
}

#[inline]
fn give(layout: Layout, block: NonNull<u8>) {
    let kept = SHELVES.try_with(|shelves| {
        let mut shelves = shelves.borrow_mut();
        let shelf = match shelves.iter().position(|shelf| shelf.layout == layout) {
            Some(at) => &mut shelves[at],
            None if shelves.len() == LAYOUTS => return false,
            None => {
                shelves.push(Shelf {
                    layout,
                    blocks: Vec::new(),
                });
                let last = shelves.len() - 1;
                &mut shelves[last]
            }
        };
        let keeps = shelf.blocks.len() < BLOCKS;
        if keeps {
            shelf.blocks.push(block);
        }
        keeps
    });
    if !kept.unwrap_or(false) {
        // SAFETY: it was allocated with this layout and is nobody's any more.
        unsafe { dealloc(block.as_ptr(), layout) };
    }
}
