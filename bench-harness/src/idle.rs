//! What an idle keepalive connection costs in memory: one request each, then silence.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::children::nap;
use crate::meter::Meter;
use crate::procfs;

/// Memory of a peer with so many idle connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Idle {
    /// Connections held.
    pub connections: usize,
    /// PSS in KiB before the first was opened.
    pub before_kib: u64,
    /// PSS in KiB with all of them idle.
    pub after_kib: u64,
}

impl Idle {
    /// Bytes per connection. Peers that allocate ahead or reuse pools show too little: compare totals as well.
    pub fn bytes_each(&self) -> f64 {
        self.after_kib.saturating_sub(self.before_kib) as f64 * 1024.0 / self.connections.max(1) as f64
    }
}

/// Opens `connections`, asks once on each, and looks at the memory of what `meter` stands for.
///
/// # Errors
/// Where a connection can't be made or its answer does not come.
pub fn measure(address: SocketAddr, meter: &Meter, connections: usize) -> io::Result<Idle> {
    let kib = || procfs::proportional_kib(&meter.pids());
    // One request first: it is answered when the whole tree is there.
    ask(address)?;
    let before_kib = kib();
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        held.push(ask(address)?);
    }
    nap(Duration::from_millis(300));
    Ok(Idle { connections, before_kib, after_kib: kib() })
}

/// A connection on which one request was answered.
fn ask(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.local\r\n\r\n")?;
    match stream.read(&mut [0; 2048])? {
        0 => Err(io::Error::other("closed before an answer")),
        _ => Ok(stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_each_never_fall_below_zero() {
        assert_eq!(Idle { connections: 1024, before_kib: 10, after_kib: 2058 }.bytes_each(), 2048.0);
        assert_eq!(Idle { connections: 8, before_kib: 10, after_kib: 9 }.bytes_each(), 0.0);
    }
}
