//! Lanes: the slots of design.md §4. A lane is one direction of a connection: a small state machine, made once with the
//! connection, that carries one operation at a time. Starting an operation, polling it and taking its result allocate
//! nothing, and the operation's future lives in the lane until it has finished.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::BufResult;
use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::AsyncReadRent;

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
}

type Mail<Ask, Reply> = Rc<RefCell<(Option<Ask>, Option<Reply>)>>;

/// One direction of a connection.
pub(super) struct Lane<Ask, Reply> {
    carrier: Pin<Box<dyn Future<Output = ()>>>,
    mail: Mail<Ask, Reply>,
    busy: bool,
}

impl<Ask: 'static, Reply: 'static> Lane<Ask, Reply> {
    fn new<F: Future<Output = ()> + 'static>(carrier: impl FnOnce(Mail<Ask, Reply>) -> F) -> Self {
        let mail: Mail<Ask, Reply> = Rc::new(RefCell::new((None, None)));
        Self { carrier: Box::pin(carrier(mail.clone())), mail, busy: false }
    }

    /// True while an operation is in flight or its result was not taken.
    pub(super) fn busy(&self) -> bool {
        self.busy
    }

    /// Starts an operation; it is submitted at the next poll. Must not be called while busy.
    #[inline]
    pub(super) fn start(&mut self, ask: Ask) {
        debug_assert!(!self.busy, "one operation at a time");
        self.mail.borrow_mut().0 = Some(ask);
        self.busy = true;
    }

    /// Polls the operation in flight; pending for ever when there is none.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        if !self.busy {
            return Poll::Pending;
        }
        let _never_ends = self.carrier.as_mut().poll(cx);
        match self.mail.borrow_mut().1.take() {
            Some(reply) => {
                self.busy = false;
                Poll::Ready(reply)
            }
            None => Poll::Pending,
        }
    }
}

async fn next<Ask, Reply>(mail: &Mail<Ask, Reply>) -> Ask {
    poll_fn(|_| match mail.borrow_mut().0.take() {
        Some(ask) => Poll::Ready(ask),
        None => Poll::Pending, // `start` is always followed by a poll
    })
    .await
}

/// A half that can wait until there is something to read.
pub(super) trait Readable {
    async fn readable(&self) -> io::Result<()>;
}

/// A half that writes.
pub(super) trait Writable {
    /// Writes some of a buffer.
    fn write<B: IoBuf>(&mut self, buffer: B) -> impl Future<Output = BufResult<usize, B>>;
}

/// The receiving lane.
pub(super) fn receiving<H: AsyncReadRent + Readable + 'static>(mut half: H) -> Lane<RecvAsk, io::Result<Chunk>> {
    Lane::new(|mail| async move {
        loop {
            let ask: RecvAsk = next(&mail).await;
            let ready = if ask.gated { half.readable().await } else { Ok(()) };
            let reply = match ready {
                Ok(()) => {
                    let mut chunk = Chunk::with_capacity(ask.size);
                    chunk.reserve_front(FRONT);
                    let (result, RecvBuf(chunk)) = half.read(RecvBuf(chunk)).await;
                    result.map(|_| chunk)
                }
                Err(error) => Err(error),
            };
            mail.borrow_mut().1 = Some(reply);
        }
    })
}

/// The sending lane: sends the whole window, telling each advance.
pub(super) fn sending<H: Writable + 'static>(mut half: H, watch: Watch) -> Lane<Chunk, io::Result<Chunk>> {
    Lane::new(|mail| async move {
        loop {
            let mut chunk: Chunk = next(&mail).await;
            let reply = loop {
                let (result, SendBuf(back)) = half.write(SendBuf(chunk)).await;
                chunk = back;
                match result {
                    Ok(0) if !chunk.is_empty() => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => {
                        watch.add_sent(n);
                        chunk.consume(n);
                        if chunk.is_empty() {
                            break Ok(chunk);
                        }
                        clock::refresh();
                        watch.touch();
                    }
                    Err(error) => break Err(error),
                }
            };
            mail.borrow_mut().1 = Some(reply);
        }
    })
}

struct RecvBuf(Chunk);

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

struct SendBuf(Chunk);

// SAFETY: as above; the window is initialised.
unsafe impl IoBuf for SendBuf {
    fn read_ptr(&self) -> *const u8 {
        self.0.filled().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }
}
