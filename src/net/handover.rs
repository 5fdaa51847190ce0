//! Handing a connection over to another thread: out of one worker's runtime as a plain descriptor, into another's.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use monoio::net::{TcpStream, UnixStream};
use socket2::{Domain, SockRef};

use super::rt::{self, Carrier};
use super::stream::Stream;

/// A connection that belongs to no runtime.
#[derive(Debug)]
pub struct Descriptor(OwnedFd);

impl From<OwnedFd> for Descriptor {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl Descriptor {
    /// True while nothing came, neither bytes nor an end (one system call).
    pub fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let looked = SockRef::from(&self.0).recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Another descriptor of the same connection.
    ///
    /// # Errors
    /// When the process has too many open.
    pub fn duplicate(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl Stream {
    /// Takes the connection out of this thread. A receive that is posted is called back; `None` where it brought something, or
    /// something is on its way out, or a session lies on it. The watch stands guard until then.
    pub async fn release(mut self) -> Option<Descriptor> {
        if self.is_secured() || self.busy() || !self.call_back().await {
            return None;
        }
        self.watch().disarm();
        Some(Descriptor(self.as_fd().try_clone_to_owned().ok()?))
    }

    /// Takes a connection over into this thread.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn adopt(descriptor: Descriptor) -> io::Result<Self> {
        let socket = SockRef::from(&descriptor.0);
        socket.set_nonblocking(rt::carrier() == Carrier::Epoll)?; // the other thread may have had another driver
        if socket.domain()? == Domain::UNIX {
            return Ok(Self::unix(UnixStream::from_std(descriptor.0.into())?));
        }
        Ok(Self::tcp(TcpStream::from_std(descriptor.0.into())?))
    }
}
