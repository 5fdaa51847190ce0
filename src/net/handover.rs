//! Handing a connection over to another thread: out of one worker's runtime as a plain descriptor, into another's.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use monoio::net::{TcpStream, UnixStream};
use socket2::SockRef;

use super::rt::{self, Carrier};
use super::stream::Stream;
use crate::base::address::Address;

/// True while nothing came, neither bytes nor an end (one system call).
pub fn is_quiet(descriptor: &OwnedFd) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let looked = SockRef::from(descriptor).recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
    looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

impl Stream {
    /// Takes the connection out of this thread. A receive that is posted is called back; `None` where it brought something, or
    /// something is on its way out, or a session lies on it. The watch stands guard until then.
    pub async fn release(mut self) -> Option<OwnedFd> {
        if self.is_secured() || self.busy() || !self.call_back().await {
            return None;
        }
        self.watch().disarm();
        self.as_fd().try_clone_to_owned().ok()
    }

    /// Takes a connection to `address` over into this thread.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn adopt(descriptor: OwnedFd, address: Address) -> io::Result<Self> {
        // The other thread may have had another driver.
        SockRef::from(&descriptor).set_nonblocking(rt::carrier() == Carrier::Epoll)?;
        match address.socket() {
            Some(_) => Ok(Self::tcp(TcpStream::from_std(descriptor.into())?)),
            None => Ok(Self::unix(UnixStream::from_std(descriptor.into())?)),
        }
    }
}
