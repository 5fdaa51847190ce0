//! The clients of the scenarios: each runs on a thread of its own until told to stop, and every byte that comes back is checked.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use bench_harness::children::nap;
use bench_harness::{stats, sys};
use hdrhistogram::Histogram;

use crate::http::{Connection, Reply};
use crate::report::Report;
use crate::upstream::{HASH, hash, pattern};
use crate::websocket::Tunnel;

const STACK_BYTES: usize = 256 * 1024;
/// How many failures are quoted.
const QUOTED: usize = 5;
/// Pause of a keepalive client between two requests, so that the gateway is loaded but the machine not drowned.
const THINK: Duration = Duration::from_millis(1);
const PIECES: usize = 20;
const PIECE_BYTES: usize = 2_000;

/// What one kind of client saw.
pub struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    reopened: AtomicU64,
    quotes: Mutex<Vec<String>>,
    latency: Mutex<Histogram<u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Mutex::new(stats::histogram());
        Self { answered: 0.into(), failed: 0.into(), reopened: 0.into(), quotes: Mutex::default(), latency }
    }
}

impl Tally {
    /// A right answer that took `since` until now.
    pub fn answered(&self, since: Instant) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.saturating_record(since.elapsed().as_nanos() as u64);
    }

    /// A request that failed.
    pub fn failed(&self, why: impl Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut quotes = self.quotes.lock().unwrap_or_else(PoisonError::into_inner);
        if quotes.len() < QUOTED {
            quotes.push(why.to_string());
        }
    }

    /// A keepalive connection that the gateway closed.
    pub fn reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }

    /// Right answers so far.
    pub fn count(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// A latency quantile in milliseconds.
    pub fn millis(&self, quantile: f64) -> f64 {
        stats::micros(&self.latency.lock().unwrap_or_else(PoisonError::into_inner), quantile) / 1e3
    }

    /// Writes down: something was answered, nothing failed.
    pub fn report(&self, who: &str, report: &mut Report) {
        let (answered, failed) = (self.count(), self.failures());
        report.check(format!("{who}: answered"), answered, answered > 0);
        let quotes = self.quotes.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
        report.check(format!("{who}: failed"), format!("{failed} {quotes}"), failed == 0);
        report.figure(
            format!("{who}: ms p50 / p99 / max"),
            format!("{:.2} / {:.2} / {:.2}", self.millis(0.5), self.millis(0.99), self.millis(1.0)),
        );
    }

    /// Writes down that no connection was closed by the gateway.
    pub fn report_reopened(&self, who: &str, report: &mut Report) {
        let reopened = self.reopened.load(Ordering::Relaxed);
        report.check(format!("{who}: connections closed by the gateway"), reopened, reopened == 0);
    }
}

/// Starts `work` on a thread of the scope, with a small stack.
///
/// # Errors
/// Where no thread can be had.
pub fn spawn<'s, 'e>(scope: &'s Scope<'s, 'e>, work: impl FnOnce() + Send + 's) -> io::Result<ScopedJoinHandle<'s, ()>> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)
}

/// Whom to ask and how long.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The gateway.
    pub address: SocketAddr,
    /// The end.
    pub stop: &'a AtomicBool,
}

impl Target<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && !sys::stopped()
    }
}

fn is_echo(reply: &Reply, method: &str, path: &str, octets: usize, sum: u64) -> bool {
    reply.status == 200 && reply.body == format!("{method} {path} {octets} {sum:016x}\n").as_bytes()
}

fn judge(tally: &Tally, since: Instant, reply: &Reply, right: bool) {
    if right {
        tally.answered(since);
    } else {
        let body = String::from_utf8_lossy(&reply.body[..reply.body.len().min(60)]).into_owned();
        tally.failed(format!("status {} body {body:?}", reply.status));
    }
}

/// GETs over one keepalive connection; small answers, now and then a large one.
pub fn keepalive(target: Target<'_>, id: usize, tally: &Tally) {
    let mut held: Option<Connection> = None;
    let mut serial = 0;
    while target.goes_on() {
        if held.as_ref().is_some_and(Connection::stale) {
            tally.reopened();
            held = None;
        }
        let mut connection = match held.take().map_or_else(|| Connection::open(target.address), Ok) {
            Ok(connection) => connection,
            Err(e) => {
                tally.failed(format!("connect: {e}"));
                nap(THINK);
                continue;
            }
        };
        serial += 1;
        let large = serial % 50 == 0;
        let path = if large { "/bytes/100000".to_owned() } else { format!("/echo/k{id}-{serial}") };
        let since = Instant::now();
        match connection.get(&path) {
            Ok(reply) => {
                let right = if large { reply.body == pattern(100_000) } else { is_echo(&reply, "GET", &path, 0, HASH) };
                judge(tally, since, &reply, right);
                if reply.close {
                    tally.reopened();
                } else {
                    held = Some(connection);
                }
            }
            Err(e) => tally.failed(format!("{path}: {e}")),
        }
        nap(THINK);
    }
}

/// Eight keepalive clients, one with a new connection each time, and four uploads that take `length`; each kind on its own tally.
///
/// # Errors
/// Where threads are short.
pub fn mixed<'s, 'e>(
    scope: &'s Scope<'s, 'e>,
    target: Target<'s>,
    length: Duration,
    [keep, new, uploading]: [&'s Tally; 3],
) -> io::Result<()> {
    for id in 0..8 {
        spawn(scope, move || keepalive(target, id, keep))?;
    }
    spawn(scope, move || newcomers(target, 0, new))?;
    for id in 0..4 {
        spawn(scope, move || uploads(target, id, length, uploading))?;
    }
    Ok(())
}

/// One exchange on the connection that is held, or else on a new one.
fn again<T>(
    held: &mut Option<Connection>,
    target: Target<'_>,
    exchange: impl FnOnce(&mut Connection) -> io::Result<T>,
) -> io::Result<(Connection, T)> {
    let mut connection = held.take().map_or_else(|| Connection::open(target.address), Ok)?;
    let done = exchange(&mut connection)?;
    Ok((connection, done))
}

/// GETs with a pause in between, each on the same connection; GETs and uploads by turns would differ in what may be repeated.
pub fn seldom(target: Target<'_>, id: usize, pause: Duration, tally: &Tally) {
    let mut held: Option<Connection> = None;
    let mut serial = 0;
    while target.goes_on() {
        serial += 1;
        let path = format!("/echo/s{id}-{serial}");
        let since = Instant::now();
        match again(&mut held, target, |connection| connection.get(&path)) {
            Ok((connection, reply)) => {
                judge(tally, since, &reply, is_echo(&reply, "GET", &path, 0, HASH));
                held = (!reply.close).then_some(connection);
            }
            Err(e) => tally.failed(format!("{path}: {e}")),
        }
        let due = since + pause;
        while Instant::now() < due && target.goes_on() {
            nap(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
    }
}

/// Heads that trickle until the gateway ends them, `count` at once, over and over.
pub fn trickle(target: Target<'_>, count: usize, ended: &AtomicU64) {
    let mut open: Vec<Connection> = Vec::new();
    while target.goes_on() {
        while open.len() < count {
            let Ok(mut connection) = Connection::open(target.address) else { break };
            let begun = connection.send(b"GET /echo/slow HTTP/1.1\r\nHost: load.local\r\nX-Slow: ");
            if begun.is_err() || connection.stream().set_nonblocking(true).is_err() {
                break;
            }
            open.push(connection);
        }
        open.retain_mut(|connection| {
            let alive = connection.send(b"x").is_ok() && !connection.ended();
            ended.fetch_add(u64::from(!alive), Ordering::Relaxed);
            alive
        });
        nap(Duration::from_millis(100));
    }
}

/// Small GETs over one connection without a pause: what a pause of a worker looks like from outside.
pub fn probe(target: Target<'_>, tally: &Tally) {
    let mut held: Option<Connection> = None;
    while target.goes_on() {
        let since = Instant::now();
        let fresh = held.is_none();
        match again(&mut held, target, |connection| connection.get("/echo/probe")) {
            Ok((connection, reply)) => {
                judge(tally, since, &reply, is_echo(&reply, "GET", "/echo/probe", 0, HASH));
                if reply.close {
                    tally.reopened();
                } else {
                    held = Some(connection);
                }
            }
            Err(e) if fresh => tally.failed(format!("probe: {e}")),
            Err(e) => {
                tally.reopened();
                tally.failed(format!("probe: {e}"));
            }
        }
    }
}

/// A new connection for each GET.
pub fn newcomers(target: Target<'_>, id: usize, tally: &Tally) {
    let mut serial = 0;
    while target.goes_on() {
        serial += 1;
        let path = format!("/echo/n{id}-{serial}");
        let since = Instant::now();
        match Connection::open(target.address).and_then(|mut c| c.get(&path)) {
            Ok(reply) => judge(tally, since, &reply, is_echo(&reply, "GET", &path, 0, HASH)),
            Err(e) => tally.failed(format!("new connection: {e}")),
        }
        nap(THINK);
    }
}

/// Uploads that take `length` each, on one keepalive connection; by turns with a length and chunked.
pub fn uploads(target: Target<'_>, id: usize, length: Duration, tally: &Tally) {
    let mut held: Option<Connection> = None;
    let mut serial = 0;
    while target.goes_on() {
        if held.as_ref().is_some_and(Connection::stale) {
            tally.reopened();
            held = None;
        }
        serial += 1;
        let path = format!("/upload/{id}-{serial}");
        let since = Instant::now();
        match again(&mut held, target, |connection| upload(connection, &path, length, serial % 2 == 0)) {
            Ok((connection, (reply, sum))) => {
                judge(tally, since, &reply, is_echo(&reply, "POST", &path, PIECES * PIECE_BYTES, sum));
                held = (!reply.close).then_some(connection);
            }
            Err(e) => tally.failed(format!("{path}: {e}")),
        }
    }
}

fn upload(connection: &mut Connection, path: &str, length: Duration, chunked: bool) -> io::Result<(Reply, u64)> {
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", PIECES * PIECE_BYTES) };
    connection.send(format!("POST {path} HTTP/1.1\r\nHost: load.local\r\n{framing}\r\n\r\n").as_bytes())?;
    let (piece, mut sum) = (pattern(PIECE_BYTES), HASH);
    for _ in 0..PIECES {
        nap(length / PIECES as u32);
        sum = hash(sum, &piece);
        if chunked {
            connection.send(&[format!("{PIECE_BYTES:x}\r\n").as_bytes(), &piece, b"\r\n"].concat())?;
        } else {
            connection.send(&piece)?;
        }
    }
    if chunked {
        connection.send(b"0\r\n\r\n")?;
    }
    Ok((connection.reply()?, sum))
}

/// Holds `count` WebSocket tunnels and echoes through one after the other; at the end each says goodbye.
pub fn tunnels(target: Target<'_>, count: usize, opened: &AtomicU64, tally: &Tally) {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        match Tunnel::open(target.address, "/ws") {
            Ok(tunnel) => held.push(tunnel),
            Err(e) => tally.failed(format!("tunnel: {e}")),
        }
        opened.fetch_add(1, Ordering::Relaxed);
    }
    let mut serial = 0;
    while target.goes_on() && !held.is_empty() {
        let mut i = 0;
        while i < held.len() && target.goes_on() {
            serial += 1;
            let since = Instant::now();
            match held[i].echo(&format!("t{i}-{serial}")) {
                Ok(true) => tally.answered(since),
                Ok(false) => tally.failed("tunnel: a wrong echo"),
                Err(e) => {
                    tally.failed(format!("tunnel: {e}"));
                    held.swap_remove(i);
                    continue;
                }
            }
            i += 1;
            if i % 10 == 0 {
                nap(THINK);
            }
        }
    }
    for tunnel in held {
        if let Err(e) = tunnel.close() {
            tally.failed(format!("tunnel's end: {e}"));
        }
    }
}

/// Clients that misbehave while others work: they leave at once, in the middle of a head or a body, reset, or do not read their
/// answer.
pub fn churn(target: Target<'_>, id: usize, turns: &AtomicU64) {
    let mut serial = id;
    while target.goes_on() {
        serial += 1;
        let Ok(mut connection) = Connection::open(target.address) else { continue };
        let _ = match serial % 6 {
            0 => Ok(()),
            1 => connection.send(b"GET /echo/half HTTP/1.1\r\nHo"),
            2 => connection.send(b"POST /upload/gone HTTP/1.1\r\nHost: load.local\r\nContent-Length: 100000\r\n\r\nsome"),
            3 => {
                sys::reset_on_close(connection.stream());
                connection.send(b"GET /bytes/3000000 HTTP/1.1\r\nHost: load.local\r\n\r\n")
            }
            4 => {
                sys::reset_on_close(connection.stream());
                connection.send(b"POST /upload/reset HTTP/1.1\r\nHost: load.local\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
            }
            // Its refusal is waited for: so the gateway sets the pace, and is not buried under what it has no time to accept.
            _ => connection.send(b"\x16\x03\x01 no HTTP at all\r\n\r\n").and_then(|()| connection.reply().map(drop)),
        };
        nap(THINK);
        turns.fetch_add(1, Ordering::Relaxed);
    }
}
