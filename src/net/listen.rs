//! Listening sockets: opened by the coordinator before the workers start, or taken over from systemd.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// First descriptor that systemd hands over (sd_listen_fds(3)).
const FIRST_INHERITED_FD: RawFd = 3;
/// Most descriptors taken over from systemd.
const INHERITED_MAX: RawFd = 1024;

/// How a TCP socket is opened.
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions {
    /// Queue of connections that wait for accept; the kernel cuts it at `net.core.somaxconn`.
    pub backlog: u32,
    /// An IPv6 socket takes no IPv4.
    pub v6only: bool,
}

/// Says whether the address is free, without listening on it. Needed because [`tcp`] sets SO_REUSEPORT, under which a second
/// gateway of the same user would share the port silently.
///
/// # Errors
/// What bind(2) says: `AddrInUse`, `PermissionDenied`, `AddrNotAvailable`.
pub fn probe_tcp(address: SocketAddr, v6only: bool) -> io::Result<()> {
    let socket = tcp_socket(address, v6only)?;
    // Beside a socket that listens, SO_REUSEADDR alone does not let bind(2) succeed.
    socket.bind(&address.into())
}

/// Opens a listening TCP socket: SO_REUSEADDR, SO_REUSEPORT, TCP_NODELAY (inherited by what it accepts), close-on-exec, blocking.
///
/// # Errors
/// What socket(2), bind(2) or listen(2) say.
pub fn tcp(address: SocketAddr, options: TcpOptions) -> io::Result<TcpListener> {
    let socket = tcp_socket(address, options.v6only)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog(options.backlog))?;
    Ok(socket.into())
}

fn tcp_socket(address: SocketAddr, v6only: bool) -> io::Result<Socket> {
    // socket2 sets close-on-exec.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Opens a listening Unix socket. A socket file that nobody listens on any more is removed; one that is served is `AddrInUse`.
/// With `replace`, the file is swapped at once for the new one while the old socket still drains.
///
/// # Errors
/// What bind(2), chmod(2) or listen(2) say; `AlreadyExists` if the path is something other than a socket.
pub fn unix(path: &Path, mode: Option<u32>, queue: u32, replace: bool) -> io::Result<UnixListener> {
    if !replace {
        remove_stale(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Bound beside its place and renamed into it, so that nobody meets a socket that does not listen or has the wrong mode yet.
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let _ = std::fs::remove_file(&beside);
    socket.bind(&SockAddr::unix(&beside)?)?;
    let placed = (|| {
        if let Some(mode) = mode {
            std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode))?;
        }
        socket.listen(backlog(queue))?;
        std::fs::rename(&beside, path)
    })();
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        // A full queue, for example: somebody is there.
        Err(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
    }
}

/// Changes the queue of a listening socket; what waits in it stays.
///
/// # Errors
/// What listen(2) says.
pub fn set_backlog(socket: BorrowedFd<'_>, queue: u32) -> io::Result<()> {
    SockRef::from(&socket).listen(backlog(queue))
}

/// Makes accepting on the socket non-blocking, for every copy of it: before a worker empties its queue and closes it
/// (runtime.md §3.2).
///
/// # Errors
/// What fcntl(2) says.
pub fn set_nonblocking(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_nonblocking(true)
}

fn backlog(queue: u32) -> i32 {
    i32::try_from(queue).unwrap_or(i32::MAX)
}

/// A listening socket that systemd opened (socket activation).
#[derive(Debug)]
pub enum Inherited {
    /// TCP, with its address.
    Tcp(SocketAddr, TcpListener),
    /// Unix, with its path.
    Unix(PathBuf, UnixListener),
}

/// Takes over what LISTEN_FDS announces to this process. Call it once, first thing, while nothing else was opened: the
/// descriptors from 3 on are taken to be those. Descriptors that do not listen are left alone.
pub fn inherited() -> Vec<Inherited> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i64>().ok());
    if number("LISTEN_PID") != Some(i64::from(std::process::id())) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0).clamp(0, INHERITED_MAX);
    (FIRST_INHERITED_FD..FIRST_INHERITED_FD + count).filter_map(take_over).collect()
}

fn take_over(fd: RawFd) -> Option<Inherited> {
    // SAFETY: F_GETFD only asks whether the number is an open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open (just asked) and nobody in this process owns it: systemd's contract says that numbers from 3
    // on are ours, and the caller asks once, before anything else is opened.
    let socket = unsafe { Socket::from_raw_fd(fd) };
    let address = socket.local_addr().ok().filter(|_| socket.is_listener().unwrap_or(false));
    let Some(address) = address else {
        std::mem::forget(socket);
        return None;
    };
    socket.set_cloexec(true).ok()?;
    socket.set_nonblocking(false).ok()?;
    if let Some(tcp) = address.as_socket() {
        socket.set_tcp_nodelay(true).ok()?;
        return Some(Inherited::Tcp(tcp, socket.into()));
    }
    let path = address.as_pathname()?.to_path_buf();
    Some(Inherited::Unix(path, UnixListener::from(OwnedFd::from(socket))))
}

/// Device and inode of a Unix socket's file, to unlink at the end only what is still ours.
pub fn file_identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The kernel's number of a socket, as `/proc/net/tcp` shows it.
pub fn inode(socket: BorrowedFd<'_>) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd())).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> TcpOptions {
        TcpOptions { backlog: 16, v6only: false }
    }

    #[test]
    fn a_busy_port_is_seen_by_the_probe_though_reuseport_would_share_it() {
        let first = tcp(SocketAddr::from(([127, 0, 0, 1], 0)), options()).unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(probe_tcp(address, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let _second = tcp(address, options()).unwrap();
        drop(first);
    }

    #[test]
    fn accepted_connections_inherit_nodelay() {
        let listener = tcp(SocketAddr::from(([127, 0, 0, 1], 0)), options()).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_served_one_is_not() {
        let directory = std::env::temp_dir().join(format!("ringway-listen-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("http.sock");
        let first = unix(&path, Some(0o600), 16, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(unix(&path, None, 16, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = unix(&path, None, 16, false).unwrap();
        let third = unix(&path, None, 16, true).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        third.accept().unwrap();
        drop(second);
        std::fs::write(directory.join("file"), "").unwrap();
        assert_eq!(unix(&directory.join("file"), None, 16, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
