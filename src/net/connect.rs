//! Connecting to an upstream node with a deadline: the socket is ours before the handshake, so that the deadline can shut it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use monoio::net::{TcpStream, UnixStream};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::rt::{self, Carrier};
use super::stream::Stream;
use super::watch::{Wait, Watch};
use crate::base::address::Address;

/// Opens a connection, from `source` where one is given.
///
/// # Errors
/// `TimedOut` when the deadline passed, else as the operating system gives them.
pub async fn connect(address: Address, source: Option<IpAddr>, timeout: Duration) -> io::Result<Stream> {
    match (address.socket(), address.path()) {
        (Some(to), _) => tcp(to, source, timeout).await,
        (None, path) => unix(path.unwrap_or_default()),
    }
}

/// Has the kernel probe a connection after `idle` without a word, and end it when nothing answers: for one that may be silent
/// for long.
pub fn keep_alive(connection: &impl AsFd, idle: Duration) {
    let probes = TcpKeepalive::new().with_time(idle).with_interval(idle / 3).with_retries(3);
    let _best_effort = SockRef::from(connection).set_tcp_keepalive(&probes);
}

async fn tcp(to: SocketAddr, source: Option<IpAddr>, timeout: Duration) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        leave_port_to_connect(&socket);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&to.into()) {
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
    let socket = SockRef::from(&fd);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    if rt::carrier() == Carrier::IoUring {
        socket.set_nonblocking(false)?; // ring operations on a non-blocking descriptor give EAGAIN instead of waiting
    }
    drop(watch);
    Ok(Stream::tcp(stream))
}

/// A Unix socket connects at once or not at all: a full backlog is an error, and so another node's chance.
fn unix(path: &str) -> io::Result<Stream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::WouldBlock => io::ErrorKind::ConnectionRefused.into(),
        _ => error,
    })?;
    if rt::carrier() == Carrier::IoUring {
        socket.set_nonblocking(false)?;
    }
    Ok(Stream::unix(UnixStream::from_std(OwnedFd::from(socket).into())?))
}

/// The port is chosen by `connect`, which knows both ends: one source address can then hold a connection per port and node,
/// not only one per port.
fn leave_port_to_connect(socket: &Socket) {
    let on: libc::c_int = 1;
    // SAFETY: a valid descriptor of ours and a pointer to a live integer of the size given.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
