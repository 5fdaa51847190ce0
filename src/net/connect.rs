//! Connecting to an upstream node with a deadline: the socket is ours before the handshake, so that the deadline can shut it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use monoio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::rt::{self, Carrier};
use super::stream::Stream;
use super::watch::{Wait, Watch};

/// Opens a connection.
///
/// # Errors
/// `TimedOut` when the deadline passed, else as the operating system gives them.
pub async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    let watch = Watch::new(stream.as_raw_fd());
    watch.arm(Wait::Connect, timeout);
    let waited = stream.writable(false).await;
    if watch.fired().is_some() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    waited?;
    // SAFETY: the descriptor is open as long as `stream` lives; SockRef only borrows it.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let socket = socket2::SockRef::from(&fd);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    if rt::carrier() == Carrier::IoUring {
        socket.set_nonblocking(false)?; // ring operations on a non-blocking descriptor give EAGAIN instead of waiting
    }
    drop(watch);
    Ok(Stream::tcp(stream))
}
