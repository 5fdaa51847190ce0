//! Lanes: the slots of design.md §4. A lane is one direction of a connection and carries one operation at a time. The
//! operation lives in the lane until it has finished; nothing is allocated for it but the chunk that it fills.

use std::io;
use std::task::{Context, Poll, ready};

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::held::{Readiness, Receive, Socket, Transmit};

use super::near::keep_chunk_near;
use super::watch::Watch;
use crate::base::buf::Chunk;
use crate::base::clock;

/// Bytes kept free in front of what is read, for framing to be put there, or a head somewhat longer than the one received.
pub(super) const FRONT: usize = 256;
/// Bytes kept free behind what is read, likewise.
pub(super) const BACK: usize = 16;

/// What a receive shall do.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecvAsk {
    /// Bytes of the chunk to lend.
    pub(super) size: usize,
    /// Wait until there is something, and lend only then: no memory is pinned meanwhile, at the price of one operation.
    pub(super) gated: bool,
    /// It may begin a turn later, where much is going on: what it waits for has come by then, as a rule.
    pub(super) later: bool,
}

/// The receiving lane.
#[derive(Default)]
pub(super) enum Receiving {
    #[default]
    Idle,
    Waits(Readiness, usize),
    Receives(Receive<RecvBuf>),
    Failed(io::Error),
}

impl Receiving {
    /// True while an operation is in flight or its result was not taken.
    pub(super) fn busy(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// Starts a receive; the ring gets it with what else the thread starts in this turn. Must not be called while busy.
    #[inline]
    pub(super) fn start(&mut self, socket: &Socket, ask: RecvAsk) {
        debug_assert!(!self.busy(), "one operation at a time");
        *self = match ask.gated {
            false => Self::receive(socket, ask.size, ask.later),
            true => socket.readiness().map_or_else(Self::Failed, |readiness| Self::Waits(readiness, ask.size)),
        };
    }

    #[inline]
    fn receive(socket: &Socket, size: usize, later: bool) -> Self {
        let mut chunk = Chunk::with_capacity(size);
        chunk.reserve_front(FRONT);
        keep_chunk_near(&chunk);
        socket.receive(RecvBuf(chunk), later).map_or_else(Self::Failed, Self::Receives)
    }

    /// Something is sent now that the receive in flight is to bring the answer of: it may begin later.
    #[inline]
    pub(super) fn put_off(&self) {
        if let Self::Receives(receive) = self {
            receive.put_off();
        }
    }

    /// The chunk of the receive in flight.
    #[inline]
    pub(super) fn chunk(&self) -> Option<&Chunk> {
        match self {
            Self::Receives(receive) => receive.buffer().map(|buffer| &buffer.0),
            _ => None,
        }
    }

    /// Calls the receive in flight back: its result is `ECANCELED` then, unless something came before.
    pub(super) fn cancel(&self) {
        match self {
            Self::Receives(receive) => receive.cancel(),
            Self::Waits(readiness, _) => readiness.cancel(),
            Self::Idle | Self::Failed(_) => {}
        }
    }

    /// Goes on with the receive in flight; pending for ever when there is none.
    #[inline]
    pub(super) fn poll(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let reply = match self {
            Self::Receives(receive) => {
                let (result, RecvBuf(chunk)) = ready!(receive.poll(cx));
                result.map(|_| chunk)
            }
            _ => return self.poll_rare(socket, cx),
        };
        *self = Self::Idle;
        Poll::Ready(reply)
    }

    #[cold]
    fn poll_rare(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match std::mem::take(self) {
            Self::Waits(mut readiness, size) => match readiness.poll(cx) {
                Poll::Ready(Ok(())) => {
                    *self = Self::receive(socket, size, false); // it has come
                    self.poll(socket, cx)
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => {
                    *self = Self::Waits(readiness, size);
                    Poll::Pending
                }
            },
            Self::Failed(error) => Poll::Ready(Err(error)),
            Self::Idle | Self::Receives(_) => Poll::Pending, // the latter is not given here
        }
    }
}

/// The sending lane: sends the whole window, telling each advance.
#[derive(Default)]
pub(super) enum Sending {
    #[default]
    Idle,
    Sends(Transmit<SendBuf>),
    Failed(io::Error),
}

impl Sending {
    /// True while an operation is in flight or its result was not taken.
    pub(super) fn busy(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// Starts to send a chunk's window, whole; `quiet` where nobody waits for its end. Must not be called while busy.
    #[inline]
    pub(super) fn start(&mut self, socket: &Socket, chunk: Chunk, quiet: bool) {
        debug_assert!(!self.busy(), "one operation at a time");
        keep_chunk_near(&chunk);
        *self = socket.transmit(SendBuf(chunk), quiet).map_or_else(Self::Failed, Self::Sends);
    }

    /// Goes on with the send in flight, and gives the emptied chunk back; pending for ever when there is none.
    #[inline]
    pub(super) fn poll(&mut self, socket: &Socket, watch: &Watch, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        loop {
            let (result, SendBuf(mut chunk)) = match self {
                Self::Sends(transmit) => ready!(transmit.poll(cx)),
                Self::Idle => return Poll::Pending,
                Self::Failed(_) => return self.failed(),
            };
            *self = Self::Idle;
            let taken = match result {
                Ok(0) if !chunk.is_empty() => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(taken) => taken,
                Err(error) => return Poll::Ready(Err(error)),
            };
            watch.add_sent(taken);
            chunk.consume(taken);
            if chunk.is_empty() {
                return Poll::Ready(Ok(chunk));
            }
            clock::refresh();
            watch.touch();
            self.start(socket, chunk, false);
        }
    }

    #[cold]
    fn failed(&mut self) -> Poll<io::Result<Chunk>> {
        match std::mem::take(self) {
            Self::Failed(error) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }
}

pub(super) struct RecvBuf(Chunk);

// SAFETY: the pointer and length are of the chunk's own allocation, which is owned by the operation, never reallocated while
// it is in flight and stays in place when the chunk is moved; the bytes are initialised.
unsafe impl IoBufMut for RecvBuf {
    fn write_ptr(&mut self) -> *mut u8 {
        self.0.room_ptr().0
    }

    fn bytes_total(&mut self) -> usize {
        self.0.room_ptr().1.saturating_sub(BACK)
    }

    unsafe fn set_init(&mut self, n: usize) {
        self.0.advance(n);
    }
}

pub(super) struct SendBuf(Chunk);

// SAFETY: as above; the window is initialised.
unsafe impl IoBuf for SendBuf {
    fn read_ptr(&self) -> *const u8 {
        self.0.filled().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use super::super::rt::{self, Carrier};
    use super::super::stream::Stream;
    use super::*;
    use crate::config::gateway::Driver;

    fn pair() -> (Stream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (stream(near), far)
    }

    fn stream(end: UnixStream) -> Stream {
        end.set_nonblocking(rt::carrier() == Carrier::Epoll).unwrap();
        Stream::unix(monoio::net::UnixStream::from_std(end).unwrap())
    }

    /// Sends back what comes, until `over`.
    fn echo(mut end: Stream, over: Rc<Cell<bool>>, count: Rc<Cell<u64>>) {
        rt::spawn(async move {
            while !over.get() {
                let Ok(chunk) = end.recv().await else { break };
                count.set(count.get() + 1);
                if chunk.is_empty() || end.send(chunk).await.is_err() {
                    break;
                }
            }
            end.shut();
        });
    }

    /// On the ring a receive begins later where much is going on.
    #[test]
    fn a_receive_that_waits_for_its_turn_can_be_called_back_and_dropped() {
        const PAIRS: usize = 32;
        const TURNS: usize = 300;
        for driver in [Driver::Epoll, Driver::Auto] {
            let echoed = rt::run(driver, |_| async {
                let (over, count) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
                for _ in 0..PAIRS {
                    let (near, mut far) = pair();
                    far.write_all(b"ping").unwrap();
                    echo(near, over.clone(), count.clone());
                    echo(stream(far), over.clone(), count.clone());
                }
                for turn in 0..TURNS {
                    let (mut near, mut far) = pair();
                    let asked = poll_fn(|cx| Poll::Ready(near.poll_recv(cx).is_pending())).await;
                    assert!(asked, "nothing is there");
                    for _ in 0..turn % 3 {
                        rt::yield_now().await;
                    }
                    if turn % 2 == 0 {
                        drop(near);
                        assert_eq!(far.read(&mut [0]).unwrap(), 0, "it is closed at once");
                        continue;
                    }
                    assert!(near.call_back().await, "nothing had come");
                    far.write_all(b"late").unwrap();
                    assert_eq!(near.recv().await.unwrap().filled(), b"late", "nor did what was called back take it");
                }
                over.set(true);
                count.get()
            });
            assert!(echoed.unwrap() > 2 * PAIRS as u64, "there was little going on");
        }
    }
}
