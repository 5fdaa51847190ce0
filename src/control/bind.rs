//! Addresses that cannot be bound: what to say about them; and the Control API's own address.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::port_holder;
use crate::config::gateway::ListenAddress;
use crate::net::listen::{self, TcpOptions};

/// A listener that cannot be opened: the address, the cause, the cure.
#[derive(Debug)]
pub struct BindError(String);

impl BindError {
    /// With a text of its own.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what is wrong with an address and what to do.
pub fn bind_error(address: &ListenAddress, error: &io::Error) -> BindError {
    let (cause, cure) = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, ListenAddress::Tcp(tcp)) => {
            let holder = port_holder::find(*tcp, Path::new("/"));
            let cause = holder.map_or_else(
                || "the address is in use by a process that cannot be seen from here".to_string(),
                |holder| format!("the address is in use by {holder}"),
            );
            (
                cause,
                format!("stop that process (`ss -ltnp 'sport = :{}'` shows it to root) or choose another address", tcp.port()),
            )
        }
        (io::ErrorKind::AddrInUse, ListenAddress::Unix { .. }) => {
            ("a running process serves this socket".into(), "stop that process or choose another path".into())
        }
        (io::ErrorKind::PermissionDenied, ListenAddress::Tcp(tcp)) => (
            format!("this user may not bind port {}", tcp.port()),
            "start as root with gateway.user set, grant CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), lower \
             net.ipv4.ip_unprivileged_port_start, or choose a port from 1024 on"
                .into(),
        ),
        (io::ErrorKind::PermissionDenied, ListenAddress::Unix { path, .. }) => {
            let directory = path.parent().unwrap_or(path);
            ("permission denied".into(), format!("give this user the right to write to {}", directory.display()))
        }
        (io::ErrorKind::AddrNotAvailable, _) => (
            "no interface of this machine has the address".into(),
            "use an address that `ip address` shows, or 0.0.0.0 or [::]".into(),
        ),
        (io::ErrorKind::NotFound, ListenAddress::Unix { path, .. }) => {
            let directory = path.parent().unwrap_or(path);
            (format!("{} does not exist", directory.display()), "make the directory".into())
        }
        _ => (error.to_string(), "see gateway.listeners".into()),
    };
    BindError(format!("cannot listen on {address}: {cause}; {cure}"))
}

/// Binds the Control API's or the exporter's address.
///
/// # Errors
/// As for listeners.
pub fn bind_control(address: SocketAddr) -> Result<TcpListener, BindError> {
    let fail = |error: io::Error| bind_error(&ListenAddress::Tcp(address), &error);
    listen::probe_tcp(address, false).map_err(fail)?;
    let socket = listen::tcp(address, TcpOptions { backlog: 128, v6only: false }).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    Ok(socket)
}
