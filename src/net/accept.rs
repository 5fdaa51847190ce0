//! Accepting. A listener is stopped by cancelling its accept, never by `shutdown`, which would reset its queue and end it
//! for every other holder (reference/runtime.md §3.2).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use monoio::io::Canceller;
use monoio::net::{TcpListener, UnixListener};

use super::rt::{self, Carrier};
use super::stream::Stream;

/// A listening socket of this worker.
pub struct Acceptor {
    socket: Socket,
    canceller: RefCell<Canceller>,
    stopped: Cell<bool>,
}

enum Socket {
    Tcp(TcpListener, std::net::TcpListener),
    Unix(UnixListener, std::os::unix::net::UnixListener),
}

/// An accepted connection: the stream and, for TCP, its peer.
pub type Accepted = (Stream, Option<SocketAddr>);

impl Acceptor {
    /// Takes a bound, listening TCP socket.
    ///
    /// # Errors
    /// If its descriptor cannot be duplicated or registered.
    pub fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(rt::carrier() == Carrier::Epoll)?;
        let twin = listener.try_clone()?;
        Ok(Self::new(Socket::Tcp(TcpListener::from_std(listener)?, twin)))
    }

    /// Takes a bound, listening Unix socket.
    ///
    /// # Errors
    /// If its descriptor cannot be duplicated or registered.
    pub fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(rt::carrier() == Carrier::Epoll)?;
        let twin = listener.try_clone()?;
        Ok(Self::new(Socket::Unix(UnixListener::from_std(listener)?, twin)))
    }

    fn new(socket: Socket) -> Self {
        Self { socket, canceller: RefCell::new(Canceller::new()), stopped: Cell::new(false) }
    }

    /// The next connection; `None` once stopped.
    ///
    /// # Errors
    /// As the operating system gives them (EMFILE among them); accepting may go on afterwards.
    pub async fn accept(&self) -> io::Result<Option<Accepted>> {
        if self.stopped.get() {
            return Ok(None);
        }
        let cancel = self.canceller.borrow().handle();
        let accepted = match &self.socket {
            Socket::Tcp(listener, _) => {
                listener.cancelable_accept(cancel).await.map(|(stream, peer)| (Stream::tcp(stream), Some(peer)))
            }
            Socket::Unix(listener, _) => listener.cancelable_accept(cancel).await.map(|(stream, _)| (Stream::unix(stream), None)),
        };
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(_) if self.stopped.get() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Cancels the accept in flight. The socket stays open and keeps its queue.
    pub fn stop(&self) {
        self.stopped.set(true);
        let canceller = self.canceller.replace(Canceller::new());
        drop(canceller.cancel());
    }

    /// Takes what is queued without waiting. The socket must be non-blocking by now.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is empty.
    pub fn accept_queued(&self) -> io::Result<Accepted> {
        let blocking = rt::carrier() == Carrier::IoUring;
        match &self.socket {
            Socket::Tcp(_, listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(!blocking)?;
                Ok((Stream::tcp(monoio::net::TcpStream::from_std(stream)?), Some(peer)))
            }
            Socket::Unix(_, listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(!blocking)?;
                Ok((Stream::unix(monoio::net::UnixStream::from_std(stream)?), None))
            }
        }
    }

    /// Makes the socket non-blocking, for [`Acceptor::accept_queued`].
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(_, listener) => listener.set_nonblocking(true),
            Socket::Unix(_, listener) => listener.set_nonblocking(true),
        }
    }

    /// Local address of a TCP listener.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(_, listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Its descriptor, for messages.
    pub fn fd(&self) -> i32 {
        match &self.socket {
            Socket::Tcp(_, listener) => listener.as_raw_fd(),
            Socket::Unix(_, listener) => listener.as_raw_fd(),
        }
    }
}
