//! What a connection's task works with, said so that the runtime brings it near before the task's turn comes. Among hundreds of
//! connections a request otherwise waits for some sixty lines of memory, mostly one after the other (docs/performance.md).

use monoio::task::near;

use crate::base::buf::Chunk;

/// Of a head: what an access log reads of it when the answer is there.
const HEAD_BYTES_NEAR: usize = 256;

/// A place for memory: what is put there takes the place of what was. Those of an exchange lie side by side, for
/// [`forget_exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// The future of a connection's exchanges.
    Work,
    /// The client's deadline.
    ClientWatch,
    /// The client's descriptor.
    ClientSocket,
    /// Where the window of the client's head is said.
    RequestChunk,
    /// The beginning of that head.
    RequestHead,
    /// The upstream connection.
    Upstream,
    /// Its deadline.
    UpstreamWatch,
    /// Its descriptor.
    UpstreamSocket,
    /// What is received from it next.
    UpstreamChunk,
    /// The parts of an exchange.
    Parts,
    /// Its tries.
    Tries,
    /// Fields of the request.
    RequestFields,
    /// Fields of the response.
    ResponseFields,
}

/// True where this thread has so many tasks that it is worth it to say what goes with a request: with few, all of it stays near.
/// What goes with a connection is said in any case, since there may be many before it ends.
#[inline]
pub fn wanted() -> bool {
    near::wanted()
}

const _: () = assert!(Near::ResponseFields as usize + 1 == near::PLACES);

/// Puts memory that the running task works with in a place. It may be given back at any time: nothing is read there.
#[inline]
pub fn keep_near<T: ?Sized>(place: Near, memory: &T) {
    near::keep(place as usize, memory);
}

/// The same for the first `count` of a list's room, filled or not.
#[inline]
pub fn keep_list_near<T>(place: Near, list: &[T], count: usize) {
    near::keep_at(place as usize, list.as_ptr().cast(), count * size_of::<T>());
}

/// Names a chunk that the running task has just lent to an operation, in place of the fourth before it.
#[inline]
pub(super) fn keep_chunk_near(chunk: &Chunk) {
    if wanted()
        && let Some(buffer) = chunk.buffer()
    {
        near::keep_recent(buffer);
    }
}

/// Puts a received head in its places.
#[inline]
pub fn keep_head_near(head: &Chunk) {
    if wanted()
        && let Some(buffer) = head.buffer()
    {
        keep_near(Near::RequestChunk, buffer);
        keep_list_near(Near::RequestHead, head.filled(), HEAD_BYTES_NEAR);
    }
}

/// Empties the places of what goes with an exchange: the client's head, the upstream connection.
#[inline]
pub fn forget_exchange() {
    near::forget(Near::RequestChunk as usize..=Near::UpstreamChunk as usize);
}

/// Brings memory near that is needed soon.
#[inline]
pub fn bring_near<T: ?Sized>(memory: &T) {
    near::bring(memory);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::rt;
    use super::*;
    use crate::config::gateway::Driver;

    /// Names all that can be named, and gives it back.
    fn name_and_drop(bytes: usize) {
        let memory = vec![0_u8; bytes];
        keep_near(Near::Work, &*memory);
        keep_near(Near::ResponseFields, &*memory);
        keep_list_near(Near::Tries, &Vec::<u64>::new(), 1_000);
        let mut head = Chunk::with_capacity(bytes);
        assert!(head.append(&memory));
        keep_head_near(&head);
        keep_chunk_near(&head);
        keep_chunk_near(&Chunk::empty());
        bring_near(&*memory);
    }

    #[test]
    fn memory_may_go_while_its_place_names_it() {
        forget_exchange();
        name_and_drop(1); // no task runs: nothing is named
        const TASKS: usize = 128;
        for driver in [Driver::Epoll, Driver::Auto] {
            let ended = rt::run(driver, |_| async {
                let ended = Rc::new(Cell::new(0));
                for task in 0..TASKS {
                    let ended = ended.clone();
                    rt::spawn(async move {
                        for turn in 0..4 {
                            name_and_drop(1 << (4 * turn + task % 4));
                            if task % 2 == 0 {
                                forget_exchange();
                            }
                            rt::yield_now().await;
                        }
                        ended.set(ended.get() + 1);
                    });
                }
                assert!(wanted(), "so many tasks are not near");
                while ended.get() < TASKS {
                    rt::yield_now().await;
                }
                assert!(!wanted(), "they are gone");
                name_and_drop(1); // the last task that ran is gone
                ended.get()
            });
            assert_eq!(ended.ok(), Some(TASKS));
        }
    }
}
