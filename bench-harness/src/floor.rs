//! The floor: a TCP forwarder on epoll that reads no HTTP. One upstream connection per client connection, one thread.
//!
//! No HTTP proxy that moves octets through two sockets can be much cheaper than this; how near one comes is what the comparison
//! asks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll};

const BUFFER_BYTES: usize = 64 * 1024;
const PAIRS: usize = 16 * 1024;
const LISTENER: u64 = u64::MAX;

/// One direction: what was read from its source and could not be written yet.
#[derive(Default)]
struct Way {
    pending: Vec<u8>,
    ended: bool,
    shut: bool,
}

/// Side 0 is the client, side 1 the upstream; `ways[s]` carries what side `s` sent.
struct Pair {
    sides: [TcpStream; 2],
    ways: [Way; 2],
    interest: [u32; 2],
}

/// Forwards until `until`, a stop signal, or `stop` says so.
///
/// # Errors
/// Where epoll or the listener fails.
pub fn forward(listener: &TcpListener, upstream: SocketAddr, until: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    epoll.add(listener, LISTENER, sys::IN)?;
    let (mut pairs, mut free, mut scratch) = (Vec::<Option<Pair>>::new(), Vec::new(), vec![0; BUFFER_BYTES]);
    while Instant::now() < until && !sys::stopped() && !stop() {
        for i in 0..epoll.wait(Duration::from_millis(100))? {
            let (token, events) = epoll.event(i);
            if token == LISTENER {
                accept(listener, upstream, &epoll, &mut pairs, &mut free)?;
                continue;
            }
            let (slot, side) = ((token / 2) as usize, (token % 2) as usize);
            let Some(pair) = pairs.get_mut(slot).and_then(Option::as_mut) else { continue };
            if !pair.turn(side, events, token, &epoll, &mut scratch).unwrap_or(false) {
                pairs[slot] = None;
                free.push(slot);
            }
        }
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    upstream: SocketAddr,
    epoll: &Epoll,
    pairs: &mut Vec<Option<Pair>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    for _ in 0..64 {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(_) => continue,
        };
        client.set_nonblocking(true)?;
        let _ = client.set_nodelay(true);
        let Ok(server) = sys::connect(upstream) else { continue };
        let slot = match free.pop() {
            Some(slot) => slot,
            None if pairs.len() < PAIRS => {
                pairs.push(None);
                pairs.len() - 1
            }
            None => continue,
        };
        epoll.add(&client, slot as u64 * 2, sys::IN)?;
        epoll.add(&server, slot as u64 * 2 + 1, sys::IN)?;
        pairs[slot] = Some(Pair { sides: [client, server], ways: Default::default(), interest: [sys::IN; 2] });
    }
    Ok(())
}

impl Pair {
    /// One event on one side. False when both directions have ended.
    fn turn(&mut self, side: usize, events: u32, token: u64, epoll: &Epoll, scratch: &mut [u8]) -> io::Result<bool> {
        if events & sys::ERR != 0 && self.ways[side].ended {
            return Ok(false); // reset after its end: nothing more can come or go
        }
        if events & (sys::OUT | sys::ERR) != 0 {
            self.flush(1 - side)?;
        }
        if events & (sys::IN | sys::ERR) != 0 && self.ways[side].pending.is_empty() && !self.ways[side].ended {
            match self.sides[side].read(scratch) {
                Ok(0) => self.ways[side].ended = true,
                Ok(n) => self.pass(side, &scratch[..n])?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            self.flush(side)?;
        }
        self.watch(token & !1, epoll)?;
        Ok(!(self.ways[0].shut && self.ways[1].shut))
    }

    fn pass(&mut self, side: usize, data: &[u8]) -> io::Result<()> {
        let sent = match self.sides[1 - side].write(data) {
            Ok(n) => n,
            // The upstream's connect may still be under way.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => 0,
            Err(e) => return Err(e),
        };
        self.ways[side].pending.extend_from_slice(&data[sent..]);
        Ok(())
    }

    fn flush(&mut self, side: usize) -> io::Result<()> {
        if !self.ways[side].pending.is_empty() {
            let data = std::mem::take(&mut self.ways[side].pending);
            self.pass(side, &data)?;
        }
        let way = &mut self.ways[side];
        if way.ended && way.pending.is_empty() && !way.shut {
            way.shut = true;
            let _ = self.sides[1 - side].shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn watch(&mut self, base: u64, epoll: &Epoll) -> io::Result<()> {
        for side in 0..2 {
            let reads = self.ways[side].pending.is_empty() && !self.ways[side].ended;
            let writes = !self.ways[1 - side].pending.is_empty();
            let interest = if reads { sys::IN } else { 0 } | if writes { sys::OUT } else { 0 };
            if interest != self.interest[side] {
                self.interest[side] = interest;
                epoll.modify(&self.sides[side], base + side as u64, interest)?;
            }
        }
        Ok(())
    }
}
