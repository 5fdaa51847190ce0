//! The floor on a raw io_uring: the forwarder of `floor`, with multishot receives into buffers that the kernel picks and sends
//! from those same buffers, so that no octet is touched here.
//!
//! A client that does not read holds its buffers, and with enough of them everybody else's receives: none of the loads does that.

use std::collections::VecDeque;
use std::io;
use std::mem::take;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::ring::{ACCEPTED, Done, NO_BUFFER, Ring};
use crate::sys;

const PAIRS: usize = 16 * 1024;

/// What an operation of a pair was, in the low bits of its token; side 0 is the client, side 1 the upstream.
const RECEIVE: [u64; 2] = [0, 1];
/// Sending what a side sent to the other one.
const SEND: [u64; 2] = [2, 3];
const CONNECT: u64 = 4;
const OPERATIONS: u64 = 8;

/// One direction: what was received from its source and is not sent yet, the first of it under way.
#[derive(Default)]
struct Way {
    /// Buffer, where in it the rest begins, and where it ends.
    parts: VecDeque<(u16, usize, usize)>,
    ended: bool,
    shut: bool,
}

/// `ways[s]` carries what side `s` sent.
struct Pair {
    sides: [TcpStream; 2],
    ways: [Way; 2],
    /// Operations that the kernel still has: a pair goes when there are none.
    under_way: u32,
    broken: bool,
}

/// Forwards until `until`, a stop signal, or `stop` says so.
///
/// # Errors
/// Where the ring or the listener fails.
pub fn forward(listener: &TcpListener, upstream: SocketAddr, until: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
    // A descriptor that does not block makes the ring give EAGAIN instead of waiting. What is accepted inherits the other option.
    listener.set_nonblocking(false)?;
    SockRef::from(listener).set_tcp_nodelay(true)?;
    let mut forwarder = Forwarder {
        ring: Ring::new(upstream)?,
        domain: Domain::for_address(upstream),
        pairs: Vec::new(),
        free: Vec::new(),
        starved: Vec::new(),
    };
    forwarder.ring.accept(listener)?;
    let mut done = Vec::new();
    while Instant::now() < until && !sys::stopped() && !stop() {
        forwarder.ring.wait(Duration::from_millis(100), &mut done)?;
        for done in done.drain(..) {
            match done.token {
                ACCEPTED => forwarder.accepted(listener, done)?,
                _ => forwarder.turn(done)?,
            }
        }
        forwarder.feed_starved()?;
    }
    Ok(())
}

struct Forwarder {
    ring: Ring,
    domain: Domain,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Receives that found no buffer, as slot and side: begun again when the turn has given some back.
    starved: Vec<(usize, usize)>,
}

impl Forwarder {
    fn accepted(&mut self, listener: &TcpListener, done: Done) -> io::Result<()> {
        if !done.more {
            self.ring.accept(listener)?;
        }
        let Some(client) = done.connection else { return Ok(()) }; // reset in the queue, or out of descriptors
        if self.free.is_empty() && self.pairs.len() == PAIRS {
            return Ok(());
        }
        let server: TcpStream = Socket::new(self.domain, Type::STREAM, None)?.into();
        let _ = server.set_nodelay(true);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        self.ring.connect(server.as_raw_fd(), token(slot, CONNECT))?;
        self.pairs[slot] = Some(Pair { sides: [client, server], ways: Default::default(), under_way: 1, broken: false });
        Ok(())
    }

    fn turn(&mut self, done: Done) -> io::Result<()> {
        let (slot, operation) = ((done.token / OPERATIONS) as usize, done.token % OPERATIONS);
        let Some(pair) = self.pairs.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        pair.under_way -= u32::from(!done.more);
        let side = (operation % 2) as usize;
        match operation {
            CONNECT if done.result < 0 => pair.fail(),
            CONNECT => {
                for side in [0, 1] {
                    self.ring.receive(pair.sides[side].as_raw_fd(), token(slot, RECEIVE[side]))?;
                    pair.under_way += 1;
                }
            }
            o if SEND.contains(&o) => pair.sent(slot, side, done.result, &mut self.ring)?,
            _ if done.result == NO_BUFFER => {
                pair.under_way += 1; // the receive to come
                self.starved.push((slot, side));
            }
            _ => pair.received(slot, side, done, &mut self.ring)?,
        }
        pair.finish_ways(&mut self.ring);
        if pair.under_way == 0 {
            self.pairs[slot] = None;
            self.free.push(slot);
        }
        Ok(())
    }

    fn feed_starved(&mut self) -> io::Result<()> {
        if !self.ring.has_buffers() {
            return Ok(());
        }
        for (slot, side) in take(&mut self.starved) {
            if let Some(pair) = &self.pairs[slot] {
                self.ring.receive(pair.sides[side].as_raw_fd(), token(slot, RECEIVE[side]))?;
            }
        }
        Ok(())
    }
}

impl Pair {
    fn received(&mut self, slot: usize, side: usize, done: Done, ring: &mut Ring) -> io::Result<()> {
        if let Some(buffer) = done.buffer {
            if done.result > 0 && !self.broken {
                self.ways[side].parts.push_back((buffer, 0, done.result as usize));
                if self.ways[side].parts.len() == 1 {
                    self.send(slot, side, ring)?;
                }
            } else {
                ring.give_back(buffer);
            }
        }
        match done.result {
            0 => self.ways[side].ended = true,
            n if n < 0 => self.fail(),
            _ if !done.more && !self.broken => {
                ring.receive(self.sides[side].as_raw_fd(), token(slot, RECEIVE[side]))?;
                self.under_way += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn sent(&mut self, slot: usize, side: usize, result: i32, ring: &mut Ring) -> io::Result<()> {
        if result < 0 {
            self.fail();
            return Ok(());
        }
        let Some(first) = self.ways[side].parts.front_mut() else { return Ok(()) };
        first.1 += result as usize;
        if first.1 >= first.2 {
            ring.give_back(first.0);
            self.ways[side].parts.pop_front();
        }
        if self.ways[side].parts.is_empty() || self.broken { Ok(()) } else { self.send(slot, side, ring) }
    }

    fn send(&mut self, slot: usize, side: usize, ring: &mut Ring) -> io::Result<()> {
        let Some((buffer, start, end)) = self.ways[side].parts.front() else { return Ok(()) };
        ring.send(self.sides[1 - side].as_raw_fd(), *buffer, *start, end - start, token(slot, SEND[side]))?;
        self.under_way += 1;
        Ok(())
    }

    /// Passes the end of a direction on, and gives the buffers of a broken pair back once no send reads them.
    fn finish_ways(&mut self, ring: &mut Ring) {
        for (side, way) in self.ways.iter_mut().enumerate() {
            if way.ended && way.parts.is_empty() && !way.shut {
                way.shut = true;
                let _ = self.sides[1 - side].shutdown(Shutdown::Write);
            }
        }
        if self.under_way == 0 {
            let left = self.ways.iter_mut().flat_map(|way| way.parts.drain(..));
            left.for_each(|(buffer, ..)| ring.give_back(buffer));
        }
    }

    /// Ends whatever the kernel still does for this pair.
    fn fail(&mut self) {
        self.broken = true;
        self.sides.iter().for_each(|side| drop(side.shutdown(Shutdown::Both)));
    }
}

fn token(slot: usize, operation: u64) -> u64 {
    slot as u64 * OPERATIONS + operation
}
