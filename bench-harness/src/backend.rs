//! The upstream everybody is measured against: HTTP/1.1 with keepalive and pipelining on one epoll thread.
//!
//! `GET /` gives 13 octets, `/bytes/N` gives N, `/echo` the head of the request, any request's body is drained first and its
//! length said in `X-Received`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{decimal, field, head_end};
use crate::sys::{self, Epoll};

/// The 13 octets of the small answer.
pub const SMALL: &[u8; 13] = b"Hello, bench\n";
/// The path whose answer is the head of the request, as it arrived.
pub const ECHO: &str = "/echo";

const HEAD_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 256 * 1024;
/// A body up to this size goes out with its head in one write.
const JOINED_BYTES: u64 = 32 * 1024;
const CONNECTIONS: usize = 32 * 1024;
/// Tokens from here on are listeners.
const LISTENERS: u64 = 1 << 32;

#[derive(Default)]
struct Request {
    body: Body,
    received: u64,
    answer_bytes: Option<u64>,
    echo: Option<Vec<u8>>,
    head_only: bool,
    close: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Body {
    #[default]
    Head,
    Length(u64),
    ChunkSize(u64),
    ChunkTail(u64),
    ChunkData(u64),
    ChunkEnd,
    Trailer(bool),
    Done,
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    filler: u64,
    request: Request,
    closing: bool,
    wants_out: bool,
}

/// Serves until `until`, a stop signal, or `stop` says so.
///
/// # Errors
/// Where epoll or the listener fails.
pub fn serve(listener: &TcpListener, until: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
    serve_all(slice::from_ref(listener), &AtomicU64::new(0), until, stop)
}

/// The same at many addresses; counts the connections it accepts.
///
/// # Errors
/// Where epoll or a listener fails.
pub fn serve_all(listeners: &[TcpListener], accepted: &AtomicU64, until: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    for (token, listener) in (LISTENERS..).zip(listeners) {
        epoll.add(listener, token, sys::IN)?;
    }
    let mut server = Server {
        accepted,
        connections: Vec::new(),
        free: Vec::new(),
        scratch: vec![0; READ_BYTES],
        filler: vec![b'x'; READ_BYTES],
    };
    while Instant::now() < until && !sys::stopped() && !stop() {
        for i in 0..epoll.wait(Duration::from_millis(100))? {
            match epoll.event(i) {
                (token @ LISTENERS.., _) => server.accept(&listeners[(token - LISTENERS) as usize], &epoll)?,
                (token, _) => server.turn(token as usize, &epoll),
            }
        }
    }
    Ok(())
}

struct Server<'a> {
    accepted: &'a AtomicU64,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    filler: Vec<u8>,
}

impl Server<'_> {
    fn accept(&mut self, listener: &TcpListener, epoll: &Epoll) -> io::Result<()> {
        for _ in 0..64 {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => continue, // reset in the queue, or out of descriptors: the next turn tries again
            };
            self.accepted.fetch_add(1, Ordering::Relaxed);
            stream.set_nonblocking(true)?;
            let _ = stream.set_nodelay(true);
            let slot = match self.free.pop() {
                Some(slot) => slot,
                None if self.connections.len() < CONNECTIONS => {
                    self.connections.push(None);
                    self.connections.len() - 1
                }
                None => continue,
            };
            epoll.add(&stream, slot as u64, sys::IN)?;
            self.connections[slot] = Some(Connection {
                stream,
                unread: Vec::new(),
                out: Vec::new(),
                written: 0,
                filler: 0,
                request: Request::default(),
                closing: false,
                wants_out: false,
            });
        }
        Ok(())
    }

    fn turn(&mut self, slot: usize, epoll: &Epoll) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        if connection.turn(&mut self.scratch, &self.filler, slot as u64, epoll).is_err() {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

impl Connection {
    /// One turn: flush, read once, answer what is whole. An error ends the connection.
    fn turn(&mut self, scratch: &mut [u8], filler: &[u8], token: u64, epoll: &Epoll) -> io::Result<()> {
        if self.flush(filler)? {
            match self.stream.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.take(&scratch[..n], filler)?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.take(&[], filler)?,
                Err(e) => return Err(e),
            }
        }
        let pending = self.pending();
        if pending != self.wants_out {
            self.wants_out = pending;
            epoll.modify(&self.stream, token, if pending { sys::OUT } else { sys::IN })?;
        }
        Ok(())
    }

    fn pending(&self) -> bool {
        self.written < self.out.len() || self.filler > 0
    }

    /// Reads requests out of `data`; stops while an answer is still on its way out.
    fn take(&mut self, data: &[u8], filler: &[u8]) -> io::Result<()> {
        let joined;
        let mut rest = data;
        if !self.unread.is_empty() {
            let mut whole = std::mem::take(&mut self.unread);
            whole.extend_from_slice(data);
            joined = whole;
            rest = &joined;
        }
        loop {
            let took = self.request.feed(rest)?;
            rest = &rest[took..];
            if self.request.body == Body::Done {
                let request = std::mem::take(&mut self.request);
                self.answer(&request);
                // Pipelined requests share a write; a large answer goes out before the next is read.
                if (self.filler > 0 || self.out.len() > READ_BYTES) && !self.flush(filler)? {
                    break;
                }
            } else if took == 0 || rest.is_empty() {
                break;
            }
        }
        if rest.len() > HEAD_BYTES + READ_BYTES {
            return Err(ErrorKind::InvalidData.into());
        }
        self.unread.extend_from_slice(rest);
        self.flush(filler).map(drop)
    }

    fn answer(&mut self, request: &Request) {
        let small = request.echo.as_deref().unwrap_or(SMALL);
        let length = request.answer_bytes.unwrap_or(small.len() as u64);
        let close = if request.close { "Connection: close\r\n" } else { "" };
        self.closing |= request.close;
        let _ = write!(self.out, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n{close}");
        if request.received > 0 {
            let _ = write!(self.out, "X-Received: {}\r\n", request.received);
        }
        let _ = write!(self.out, "Content-Length: {length}\r\n\r\n");
        match request.answer_bytes {
            _ if request.head_only => {}
            None => self.out.extend_from_slice(small),
            Some(n) if n <= JOINED_BYTES => self.out.resize(self.out.len() + n as usize, b'x'),
            Some(n) => self.filler = n,
        }
    }

    /// Writes what is waiting. True if all of it went.
    fn flush(&mut self, filler: &[u8]) -> io::Result<bool> {
        while self.pending() {
            let head = self.written < self.out.len();
            let next = if head { &self.out[self.written..] } else { &filler[..self.filler.min(filler.len() as u64) as usize] };
            match self.stream.write(next) {
                Ok(n) if head => self.written += n,
                Ok(n) => self.filler -= n as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.written = 0;
        if self.closing { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(true) }
    }
}

impl Request {
    /// Takes octets of this request and says how many. `body` is `Done` once it is whole.
    fn feed(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while self.body != Body::Done {
            let rest = &data[at..];
            if self.body == Body::Length(0) {
                self.body = Body::Done;
                break;
            }
            let Some(&byte) = rest.first() else { break };
            let mut took = 1;
            self.body = match self.body {
                Body::Head => match head_end(rest, 0) {
                    Some(end) => {
                        took = end;
                        self.head(&rest[..end])?
                    }
                    None => break,
                },
                Body::Length(left) => {
                    took = left.min(rest.len() as u64) as usize;
                    self.received += took as u64;
                    Body::Length(left - took as u64)
                }
                Body::ChunkData(left) => {
                    took = left.min(rest.len() as u64) as usize;
                    self.received += took as u64;
                    if took as u64 == left { Body::ChunkEnd } else { Body::ChunkData(left - took as u64) }
                }
                Body::ChunkSize(size) | Body::ChunkTail(size) if byte == b'\n' => {
                    if size == 0 {
                        Body::Trailer(true)
                    } else {
                        Body::ChunkData(size)
                    }
                }
                Body::ChunkSize(size) => match (byte as char).to_digit(16) {
                    Some(digit) if size < 1 << 56 => Body::ChunkSize(size * 16 + u64::from(digit)),
                    Some(_) => return Err(ErrorKind::InvalidData.into()),
                    None => Body::ChunkTail(size),
                },
                Body::ChunkEnd if byte == b'\n' => Body::ChunkSize(0),
                Body::Trailer(true) if byte == b'\n' => Body::Done,
                Body::Trailer(empty) => Body::Trailer(byte == b'\n' || (empty && byte == b'\r')),
                same => same,
            };
            at += took;
        }
        Ok(at)
    }

    fn head(&mut self, head: &[u8]) -> io::Result<Body> {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        let mut words = line.split(|b| *b == b' ');
        self.head_only = words.next() == Some(b"HEAD");
        let path = words.next().ok_or(ErrorKind::InvalidData)?;
        self.answer_bytes = path.strip_prefix(b"/bytes/").and_then(decimal);
        self.echo = (path == ECHO.as_bytes()).then(|| head.to_vec());
        self.close = line.ends_with(b"HTTP/1.0");
        let mut body = Body::Length(0);
        for line in head[line.len()..].split(|b| *b == b'\n') {
            let Some((name, value)) = field(line) else { continue };
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    body = Body::Length(decimal(value).ok_or(ErrorKind::InvalidData)?)
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => body = Body::ChunkSize(0),
                10 if name.eq_ignore_ascii_case(b"connection") => self.close |= value.eq_ignore_ascii_case(b"close"),
                _ => {}
            }
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_at_any_split() {
        let text = b"POST /bytes/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
        for cut in 0..text.len() {
            let mut request = Request::default();
            let took = request.feed(&text[..cut]).unwrap();
            assert!(request.body != Body::Done, "whole after {cut}");
            let rest = &text[took..];
            assert_eq!(request.feed(rest).unwrap(), rest.len());
            assert!(request.body == Body::Done);
            assert_eq!((request.received, request.answer_bytes), (13, Some(7)));
        }
    }
}
