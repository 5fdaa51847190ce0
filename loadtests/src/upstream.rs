//! The scripted upstream: a thread per connection, answers that show what arrived, and a kill switch.
//!
//! `/echo/…` and `/upload/…` answer `METHOD PATH OCTETS HASH`, `/bytes/N` gives N octets of a known pattern, `/ws` echoes
//! WebSocket frames.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bench_harness::client::{decimal, field, head_end};
use bench_harness::sys;

use crate::websocket;

const STACK_BYTES: usize = 128 * 1024;
const HEAD_BYTES: usize = 64 * 1024;

/// A running upstream.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    serial: AtomicU64,
    connections: Mutex<HashMap<u64, TcpStream>>,
    uploads: Mutex<HashMap<String, u32>>,
    idle: Option<Duration>,
}

impl Upstream {
    /// Starts on a port of the kernel's choice.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start() -> io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::default())
    }

    /// The same; it closes connections that were idle for so long.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start_closing(idle: Duration) -> io::Result<Self> {
        let shared = Shared { idle: Some(idle), ..Shared::default() };
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(shared))
    }

    fn start_at(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = sys::listen(address)?;
        listener.set_nonblocking(false)?;
        let address = listener.local_addr()?;
        let inner = shared.clone();
        let acceptor = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || accept(&listener, &inner))?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Stops listening and breaks every connection, as a crash would.
    pub fn kill(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the acceptor
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for (_, stream) in lock(&self.shared.connections).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Comes back at the same address after a kill, remembering its uploads.
    ///
    /// # Errors
    /// Where the port is taken.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.shared.stop.store(false, Ordering::SeqCst);
        let again = Self::start_at(self.address, self.shared.clone())?;
        *self = again;
        Ok(())
    }

    /// Nobody is connected.
    pub fn is_quiet(&self) -> bool {
        lock(&self.shared.connections).is_empty()
    }

    /// How often each upload path arrived here.
    pub fn uploads(&self) -> HashMap<String, u32> {
        lock(&self.shared.uploads).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // A restart drops the handle it replaces, whose acceptor is gone already: what is shared lives on.
        if self.acceptor.is_some() {
            self.kill();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let id = shared.serial.fetch_add(1, Ordering::Relaxed);
        if let Ok(copy) = stream.try_clone() {
            lock(&shared.connections).insert(id, copy);
        }
        let inner = shared.clone();
        let served = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ = serve(stream, &inner);
            lock(&inner.connections).remove(&id);
        });
        if served.is_err() {
            lock(&shared.connections).remove(&id);
        }
    }
}

/// Answers requests until the peer closes.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    loop {
        let end = loop {
            match head_end(&unread, 0) {
                Some(end) => break end,
                None if unread.len() > HEAD_BYTES => return Err(ErrorKind::InvalidData.into()),
                None if !in_time(&stream, shared)? => return Ok(()),
                None if !more(&mut stream, &mut unread)? => return Ok(()),
                None => {}
            }
        };
        let head: Vec<u8> = unread.drain(..end).collect();
        let request = Request::parse(&head).ok_or(ErrorKind::InvalidData)?;
        if request.upgrade {
            stream.write_all(
                format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {}\r\n\r\n",
                    websocket::ACCEPT
                )
                .as_bytes(),
            )?;
            return websocket::serve(&mut stream, &unread);
        }
        let (octets, hash) = request.body(&mut stream, &mut unread)?;
        if request.path.starts_with("/upload/") {
            *lock(&shared.uploads).entry(request.path.clone()).or_default() += 1;
        }
        let body = match request.path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
            Some(n) => pattern(n),
            None => format!("{} {} {octets} {hash:016x}\n", request.method, request.path).into_bytes(),
        };
        // Head and body in one write: a kill leaves either the whole answer or none of it.
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        stream.write_all(&answer)?;
        if request.close {
            return Ok(());
        }
    }
}

/// Something comes before the connection has been idle for too long.
fn in_time(stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
    if shared.idle.is_none() {
        return Ok(true);
    }
    stream.set_read_timeout(shared.idle)?;
    let came = stream.peek(&mut [0]);
    stream.set_read_timeout(None)?;
    match came {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
        other => other.map(|_| true),
    }
}

/// The octets that `/bytes/N` gives.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut octets = (0..251).collect::<Vec<u8>>().repeat(length / 251 + 1);
    octets.truncate(length);
    octets
}

/// FNV-1a, continued from `hash`.
pub fn hash(hash: u64, octets: &[u8]) -> u64 {
    octets.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The begin of [`hash`].
pub const HASH: u64 = 0xcbf2_9ce4_8422_2325;

struct Request {
    method: String,
    path: String,
    length: u64,
    chunked: bool,
    upgrade: bool,
    close: bool,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Self> {
        let line = head.split(|b| *b == b'\r').next()?;
        let mut words = std::str::from_utf8(line).ok()?.split(' ').map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut request = Self { method, path, length: 0, chunked: false, upgrade: false, close: line.ends_with(b"HTTP/1.0") };
        for line in head.split(|b| *b == b'\n').skip(1) {
            let Some((name, value)) = field(line) else { continue };
            if name.eq_ignore_ascii_case(b"content-length") {
                request.length = decimal(value)?;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                request.chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"upgrade") {
                request.upgrade = value.eq_ignore_ascii_case(b"websocket");
            } else if name.eq_ignore_ascii_case(b"connection") {
                request.close |= value.eq_ignore_ascii_case(b"close");
            }
        }
        Some(request)
    }

    /// Drains the body: its octets and their hash.
    fn body(&self, stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<(u64, u64)> {
        let (mut octets, mut sum) = (0, HASH);
        if !self.chunked {
            take(stream, unread, self.length, &mut sum)?;
            return Ok((self.length, sum));
        }
        loop {
            let size = line(stream, unread)?;
            let size = std::str::from_utf8(&size).ok().and_then(|s| u64::from_str_radix(s.trim(), 16).ok());
            let size = size.ok_or(ErrorKind::InvalidData)?;
            take(stream, unread, size, &mut sum)?;
            octets += size;
            while size == 0 && !line(stream, unread)?.trim_ascii().is_empty() {}
            if size == 0 {
                return Ok((octets, sum));
            }
            line(stream, unread)?;
        }
    }
}

fn take(stream: &mut TcpStream, unread: &mut Vec<u8>, mut left: u64, sum: &mut u64) -> io::Result<()> {
    while left > 0 {
        if unread.is_empty() && !more(stream, unread)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let took = left.min(unread.len() as u64) as usize;
        *sum = hash(*sum, &unread[..took]);
        unread.drain(..took);
        left -= took as u64;
    }
    Ok(())
}

fn line(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        if let Some(end) = unread.iter().position(|b| *b == b'\n') {
            return Ok(unread.drain(..=end).collect());
        }
        if unread.len() > HEAD_BYTES || !more(stream, unread)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let n = stream.read(&mut buffer)?;
    unread.extend_from_slice(&buffer[..n]);
    Ok(n > 0)
}
