//! Ringway: operations that their owner holds and polls itself. No future is around them, so that a connection needs no
//! allocation for each direction, and polling one that is under way looks at its slot in the driver and nothing else.
//!
//! Dropped while under way, an operation is what monoio's own are: the driver keeps its buffer until the kernel is done.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    buf::{IoBuf, IoBufMut},
    driver::{
        op::{poll::PollAdd, recv::Recv, send::Send, Op},
        shared_fd::SharedFd,
    },
    net::{TcpStream, UnixStream},
    BufResult,
};

/// A connected socket.
#[derive(Debug)]
pub struct Socket(SharedFd);

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(stream.into_shared_fd())
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self(stream.into_shared_fd())
    }
}

/// Bytes are received into a buffer.
pub struct Receive<T: IoBufMut>(Op<Recv<T>>);

/// Bytes of a buffer are sent.
pub struct Transmit<T: IoBuf>(Op<Send<T>>);

/// Something to read is waited for.
pub struct Readiness(Op<PollAdd>);

impl Socket {
    /// Puts what is kept of the descriptor in a place of the running task's (`task::near`).
    #[inline]
    pub fn keep_near(&self, place: usize) {
        self.0.keep_near(place);
    }

    /// Brings it near.
    #[inline]
    pub fn bring_near(&self) {
        self.0.bring_near();
    }

    /// Begins to receive; where `later`, in the next turn of a thread that has enough to do.
    #[inline]
    pub fn receive<T: IoBufMut>(&self, buffer: T, later: bool) -> io::Result<Receive<T>> {
        Op::recv_held(self.0.clone(), buffer, later).map(Receive)
    }

    /// Begins to send; `quiet` where nobody waits for its end.
    #[inline]
    pub fn transmit<T: IoBuf>(&self, buffer: T, quiet: bool) -> io::Result<Transmit<T>> {
        self.0.note_send();
        Op::send_held(self.0.clone(), buffer, quiet).map(Transmit)
    }

    /// Begins to wait for something to read.
    pub fn readiness(&self) -> io::Result<Readiness> {
        Op::poll_read(&self.0, false).map(Readiness)
    }
}

impl<T: IoBufMut> Receive<T> {
    /// Lets it begin later, if it has not begun.
    #[inline]
    pub fn put_off(&self) {
        // Those of turns before have begun, or wait already.
        if self.0.data.as_ref().is_some_and(|receive| receive.turn == crate::turn::number()) {
            self.0.put_off();
        }
    }

    /// Asks for its end. Its result is `ECANCELED` then, unless something came before.
    pub fn cancel(&self) {
        // SAFETY: the operation's place in the driver is its own as long as it is held.
        unsafe { self.0.op_canceller().cancel() }
    }

    /// Its buffer.
    #[inline]
    pub fn buffer(&self) -> Option<&T> {
        self.0.data.as_ref().map(|receive| &receive.buf)
    }

    /// How many bytes came, and the buffer. Must not be called again afterwards.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BufResult<usize, T>> {
        let complete = ready!(Pin::new(&mut self.0).poll(cx));
        let mut buffer = complete.data.buf;
        let result = complete.meta.result.map(|n| n as usize);
        if let Ok(n) = result {
            // SAFETY: the kernel wrote `n` bytes to the buffer.
            unsafe { buffer.set_init(n) }
        }
        Poll::Ready((result, buffer))
    }
}

impl<T: IoBuf> Transmit<T> {
    /// How many bytes were taken, and the buffer. Must not be called again afterwards.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BufResult<usize, T>> {
        let complete = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready((complete.meta.result.map(|n| n as usize), complete.data.buf))
    }
}

impl Readiness {
    /// Asks for its end, as [`Receive::cancel`].
    pub fn cancel(&self) {
        // SAFETY: as there.
        unsafe { self.0.op_canceller().cancel() }
    }

    /// Ready once there is something to read. Must not be called again afterwards.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let complete = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(complete.meta.result.map(|_| ()))
    }
}
