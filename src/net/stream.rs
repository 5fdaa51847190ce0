//! Streams. A stream lends chunks (`recv`), takes chunks (`send`), and carries one operation per direction in a slot that
//! its owner polls. The owner never brings a buffer and never drops an operation on a live connection.

mod secured;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll, Waker};

use monoio::io::held::Socket;
use monoio::net::{TcpStream, UnixStream};

use super::lane::{Receiving, RecvAsk, Sending};
use super::near::{Near, keep_near};
use super::rt::{self, Carrier};
use super::watch::Watch;
use crate::base::buf::Chunk;
use crate::base::limits;
use secured::Session;

/// Which direction to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Receiving: what has arrived can still be read, then the end is seen.
    Read,
    /// Sending: the peer sees FIN.
    Write,
    /// Both; operations in flight end.
    Both,
}

/// A connected stream, TCP or Unix.
pub struct Stream {
    fd: RawFd,
    socket: Socket,
    recv: Receiving,
    send: Sending,
    watch: Watch,
    session: Option<Box<Session>>, // of TLS
    quiet: bool,
    shut: bool,
}

impl Stream {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self::of(stream.as_raw_fd(), stream.into())
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        Self::of(stream.as_raw_fd(), stream.into())
    }

    fn of(fd: RawFd, socket: Socket) -> Self {
        let (recv, send) = (Receiving::default(), Sending::default());
        Self { fd, socket, recv, send, watch: Watch::new(fd), session: None, quiet: false, shut: false }
    }

    /// Puts what lies outside a stream in places of the running task's.
    #[inline]
    pub fn keep_near(&self, watch: Near, socket: Near) {
        self.watch.keep_near(watch);
        self.socket.keep_near(socket as usize);
    }

    /// Puts what says where the receive in flight fills in a place: of a stream whose receive another task began.
    #[inline]
    pub fn keep_received_near(&self, place: Near) {
        if let Some(buffer) = self.recv.chunk().and_then(Chunk::buffer) {
            keep_near(place, buffer);
        }
    }

    /// Brings it near.
    #[inline]
    pub fn bring_near(&self) {
        self.watch.bring_near();
        self.socket.bring_near();
    }

    /// The connection's deadline.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Bytes sent so far, without what TLS adds.
    pub fn sent(&self) -> u64 {
        self.session.as_ref().map_or_else(|| self.watch.sent(), |session| session.sent)
    }

    /// Receives into a small chunk, or goes on with the receive in flight. An empty chunk is the end of the stream.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.poll_recv_sized(cx, limits::CHUNK_SMALL_BYTES)
    }

    /// The same into a chunk of `size` bytes, should a receive be started. One into a large chunk does not wait on a busy thread:
    /// a transfer is under way, whose next part is there already.
    pub fn poll_recv_sized(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<Chunk>> {
        self.poll_recv_as(cx, RecvAsk { size, gated: false, later: size <= limits::CHUNK_SMALL_BYTES })
    }

    /// The same, lending memory only once there is something to read (one operation more).
    pub fn poll_recv_gated(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<Chunk>> {
        self.poll_recv_as(cx, RecvAsk { size, gated: true, later: true })
    }

    /// The same into a small chunk, for an idle connection: what comes is to be seen as soon as it can be, most of all the end.
    pub fn poll_recv_soon(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.poll_recv_as(cx, RecvAsk { size: limits::CHUNK_SMALL_BYTES, gated: false, later: false })
    }

    fn poll_recv_as(&mut self, cx: &mut Context<'_>, ask: RecvAsk) -> Poll<io::Result<Chunk>> {
        if self.session.is_some() {
            return self.poll_recv_secured(cx, ask);
        }
        if !self.recv.busy() {
            self.recv.start(&self.socket, ask);
        }
        let polled = self.recv.poll(&self.socket, cx);
        if polled.is_ready() {
            rt::time_moves();
        }
        polled
    }

    /// Receives once.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub async fn recv(&mut self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Starts sending a chunk's window, whole. Must not be called while [`Stream::sending`].
    #[inline]
    pub fn start_send(&mut self, chunk: Chunk) {
        match self.session {
            None => self.send.start(&self.socket, chunk, false),
            Some(_) => self.start_send_secured(&chunk),
        }
    }

    /// The same for a send whose end nobody waits for, because it shows in what comes next (an answer): its completion
    /// wakes no one. The task is woken by the next sweep instead, should nothing else have woken it: for the send that the
    /// kernel takes in parts, and so that deadlines of what follows begin. On epoll it is a send like another: the task itself
    /// must come to send what the socket does not take at once.
    pub fn start_send_quietly(&mut self, chunk: Chunk) {
        if self.session.is_some() {
            self.start_send(chunk);
        } else {
            self.send.start(&self.socket, chunk, true);
        }
        self.recv.put_off();
        self.quiet = rt::carrier() == Carrier::IoUring;
    }

    /// True while a send is in flight.
    pub fn sending(&self) -> bool {
        self.session.as_ref().map_or_else(|| self.send.busy(), |session| session.owed)
    }

    /// True while something is on its way out, the owner's or TLS's own.
    pub(super) fn busy(&self) -> bool {
        self.send.busy()
    }

    /// Goes on with the send in flight; the emptied chunk comes back.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if !std::mem::take(&mut self.quiet) {
            self.watch.hush();
            return self.poll_send_lane(cx);
        }
        let polled = self.poll_send_lane(&mut Context::from_waker(Waker::noop()));
        if polled.is_pending() {
            self.watch.nudge(cx.waker());
        }
        polled
    }

    #[inline]
    fn poll_send_lane(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self.session {
            None => self.send.poll(&self.socket, &self.watch, cx),
            Some(_) => self.poll_send_secured(cx),
        }
    }

    /// Sends a chunk's window, whole.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub async fn send(&mut self, chunk: Chunk) -> io::Result<Chunk> {
        self.start_send(chunk);
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Sends FIN; receiving goes on.
    pub fn finish(&mut self) {
        if self.session.is_some() {
            self.say_goodbye();
        }
        shutdown(self.fd, Side::Write);
    }

    /// Ends both directions; operations in flight finish by themselves.
    pub fn shut(&mut self) {
        if !self.shut {
            self.shut = true;
            shutdown(self.fd, Side::Both);
        }
    }

    /// Closes with a reset instead of FIN: the peer must not take what it got for whole.
    pub fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: a valid descriptor of ours and a pointer to a live struct of the size given.
        unsafe {
            libc::setsockopt(
                self.fd,
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
    }

    /// Local address of a TCP stream (one syscall).
    pub fn local_addr(&self) -> Option<SocketAddr> {
        socket2::SockRef::from(self).local_addr().ok()?.as_socket()
    }

    /// True where TLS lies on it.
    pub(super) fn is_secured(&self) -> bool {
        self.session.is_some()
    }

    /// Calls the posted receive back. False where it had brought something: that is lost, and the stream of no use any more. (On
    /// epoll nothing was taken yet, and what is there is still to be read.)
    pub(super) async fn call_back(&mut self) -> bool {
        if !self.recv.busy() {
            return true;
        }
        self.recv.cancel();
        let ended = poll_fn(|cx| self.recv.poll(&self.socket, cx)).await;
        ended.is_err_and(|error| error.raw_os_error() == Some(libc::ECANCELED))
    }

    /// True while an operation is in flight, which [`Stream::close`] waits for; else dropping it is all that closing it takes.
    pub fn in_flight(&self) -> bool {
        self.recv.busy() || self.send.busy()
    }

    /// Lets the operations in flight finish on a connection that is shut down, then closes it.
    pub async fn close(mut self) {
        if self.session.is_some() {
            self.say_goodbye();
        }
        if self.in_flight() {
            self.shut();
        }
        poll_fn(|cx| {
            let received = !self.recv.busy() || self.recv.poll(&self.socket, cx).is_ready();
            let sent = !self.send.busy() || self.send.poll(&self.socket, &self.watch, cx).is_ready();
            if received && sent { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Whoever did not `close` (a panicked task) leaves an operation behind; monoio keeps its buffer until the kernel is
        // done, and on a shut socket nothing can be lost.
        if self.session.is_some() {
            self.say_goodbye();
        }
        if self.in_flight() {
            self.shut();
        }
    }
}

/// `shutdown(2)`; errors mean that the peer was faster.
pub(super) fn shutdown(fd: RawFd, side: Side) {
    let how = match side {
        Side::Read => libc::SHUT_RD,
        Side::Write => libc::SHUT_WR,
        Side::Both => libc::SHUT_RDWR,
    };
    // SAFETY: a plain syscall on a descriptor that the caller keeps open.
    unsafe {
        libc::shutdown(fd, how);
    }
}
