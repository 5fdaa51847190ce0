//! The load generator: one epoll thread, closed loop (each connection asks again when it was answered) or open loop at a fixed
//! rate.
//!
//! In the open loop a request has an intended time; its latency runs from there even when no connection was free, so a stall of
//! the proxy
//! is seen by every request that should have been sent meanwhile (no coordinated omission). `service` runs from the real sending.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{Answer, Reader};
use crate::stats;
use crate::sys::{self, Epoll, Timer};

const READ_BYTES: usize = 256 * 1024;
const TIMER: u64 = u64::MAX;
/// How long a broken connection waits before it is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// After the end, how long the open loop waits for what was sent; and from when on a request counts as timed out.
const GRACE: Duration = Duration::from_secs(1);

/// What to send.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where to.
    pub target: SocketAddr,
    /// Connections held open (or, with `close`, under way at once).
    pub connections: usize,
    /// Before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// The method.
    pub method: String,
    /// The target of the request line; with `variants`, `{}` in it is a number of six digits.
    pub path: String,
    /// How many numbers `{}` runs through, evenly over all connections.
    pub variants: usize,
    /// From one of them to the next.
    pub stride: usize,
    /// Lines such as `Accept: */*`.
    pub headers: Vec<String>,
    /// Octets of the request's body.
    pub body_bytes: usize,
    /// A connection per request.
    pub close: bool,
    /// Requests under way on a connection.
    pub pipeline: usize,
    /// Requests per second of the open loop; `None` is the closed loop.
    pub rate: Option<f64>,
    /// The length each answer's body must have.
    pub expect_bytes: Option<u64>,
}

impl Spec {
    /// A keepalive GET of `path`.
    pub fn get(target: SocketAddr, path: &str, connections: usize, duration: Duration) -> Self {
        Self {
            target,
            connections,
            warmup: Duration::from_millis(300),
            duration,
            method: "GET".into(),
            path: path.into(),
            variants: 1,
            stride: 1,
            headers: Vec::new(),
            body_bytes: 0,
            close: false,
            pipeline: 1,
            rate: None,
            expect_bytes: None,
        }
    }

    fn request(&self, variant: usize) -> Vec<u8> {
        let path = self.path.replace("{}", &format!("{variant:06}"));
        let mut text = format!("{} {path} HTTP/1.1\r\nHost: bench.local\r\n", self.method);
        for line in &self.headers {
            text.push_str(line);
            text.push_str("\r\n");
        }
        if self.close {
            text.push_str("Connection: close\r\n");
        }
        if self.body_bytes > 0 || self.method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", self.body_bytes));
        }
        text.push_str("\r\n");
        let mut request = text.into_bytes();
        request.resize(request.len() + self.body_bytes, b'x');
        request
    }
}

/// Edges of the measured window, told to the caller so that he can read clocks and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its begin.
    Begin,
    /// Its end.
    End,
}

/// What went wrong, by kind. All zero in a sound run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// Connections that could not be made.
    pub connect: u64,
    /// Connections lost, or answers that are no HTTP, with a request under way.
    pub broken: u64,
    /// Answers other than 200.
    pub status: u64,
    /// Bodies of another length than expected.
    pub length: u64,
    /// Requests without an answer at the end.
    pub timeout: u64,
}

impl Errors {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.connect + self.broken + self.status + self.length + self.timeout
    }
}

/// What came out of a measured window.
pub struct Outcome {
    /// Requests answered within the measured window.
    pub requests: u64,
    /// What went wrong, warm-up included.
    pub errors: Errors,
    /// Keepalive connections that the peer closed between two requests.
    pub reopened: u64,
    /// Octets of bodies received.
    pub body_bytes: u64,
    /// The length of the measured window.
    pub elapsed: Duration,
    /// Nanoseconds from sending to the end of the answer.
    pub service: Histogram<u64>,
    /// Nanoseconds from the intended time (open loop).
    pub scheduled: Option<Histogram<u64>>,
}

impl Outcome {
    fn none_yet(spec: &Spec) -> Self {
        Self {
            requests: 0,
            errors: Errors::default(),
            reopened: 0,
            body_bytes: 0,
            elapsed: spec.duration,
            service: stats::histogram(),
            scheduled: spec.rate.map(|_| stats::histogram()),
        }
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

struct Connection {
    stream: Option<TcpStream>,
    reader: Reader,
    /// Sent, and meant to be sent.
    under_way: VecDeque<(Instant, Instant)>,
    /// Where in the ring of requests it writes next, and how many octets are still to be written.
    at: usize,
    unsent: usize,
    wants_out: bool,
}

/// A load with its connections. It runs on the calling thread, and only within [`Load::window`]: between two of them its
/// connections stay open, and what was under way waits.
pub struct Load {
    spec: Spec,
    epoll: Epoll,
    timer: Timer,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    broken: VecDeque<(Instant, usize)>,
    request_bytes: usize,
    /// All variants of the request, or the one as often as the pipeline is deep: a ring that connections write from.
    requests: Vec<u8>,
    scratch: Vec<u8>,
    begin: Instant,
    end: Instant,
    measuring: bool,
    next_due: u64,
    outcome: Outcome,
}

/// Runs the load once, on the calling thread. `mark` is called at both edges of the measured window.
///
/// # Errors
/// Where epoll or timers fail. What the peer does wrong is counted in the outcome.
pub fn run(spec: &Spec, mark: &mut dyn FnMut(Mark)) -> io::Result<Outcome> {
    Load::open(spec.clone())?.window(mark)
}

/// Runs a load of which every request is to succeed, and gives their number.
///
/// # Errors
/// As [`run`], and where a request failed or none was answered.
pub fn answered(spec: &Spec) -> io::Result<u64> {
    let outcome = run(spec, &mut |_| {})?;
    if outcome.requests == 0 || outcome.errors.total() > 0 {
        return Err(io::Error::other(format!("the load failed: {:?} in {} requests", outcome.errors, outcome.requests)));
    }
    Ok(outcome.requests)
}

impl Load {
    /// Opens the connections.
    ///
    /// # Errors
    /// Where there is no epoll or timer to be had.
    pub fn open(spec: Spec) -> io::Result<Self> {
        let (epoll, timer) = (Epoll::new()?, Timer::new()?);
        epoll.add(&timer, TIMER, sys::IN)?;
        let variants = spec.variants.max(1);
        let request_bytes = spec.request(0).len();
        let ring = variants * spec.pipeline.max(1).div_ceil(variants);
        // Neighbours begin far apart, so that at any time all parts of the ring are asked for.
        let connection = |i: usize| Connection {
            stream: None,
            reader: Reader::default(),
            under_way: VecDeque::new(),
            at: i * 7_919 % ring * request_bytes,
            unsent: 0,
            wants_out: false,
        };
        let now = Instant::now();
        let mut load = Self {
            epoll,
            timer,
            connections: (0..spec.connections.max(1)).map(connection).collect(),
            idle: VecDeque::new(),
            broken: VecDeque::new(),
            request_bytes,
            requests: (0..ring).flat_map(|n| spec.request(n % variants * spec.stride)).collect(),
            scratch: vec![0; READ_BYTES],
            begin: now,
            end: now,
            measuring: false,
            next_due: 0,
            outcome: Outcome::none_yet(&spec),
            spec,
        };
        (0..load.connections.len()).for_each(|i| load.connect(i));
        Ok(load)
    }

    /// Runs the load through the warm-up and the measured window, and calls `mark` at both edges of the latter. In the warm-up it
    /// reads what came since the window before.
    ///
    /// # Errors
    /// Where epoll or timers fail. What the peer does wrong is counted in the outcome.
    pub fn window(&mut self, mark: &mut dyn FnMut(Mark)) -> io::Result<Outcome> {
        self.begin = Instant::now() + self.spec.warmup;
        self.end = self.begin + self.spec.duration;
        (self.next_due, self.measuring) = (0, false);
        self.turns_until(self.begin)?;
        mark(Mark::Begin);
        let began = Instant::now();
        self.measuring = true;
        self.turns_until(self.end)?;
        self.measuring = false;
        self.outcome.elapsed = began.elapsed();
        mark(Mark::End);
        self.finish()?;
        Ok(std::mem::replace(&mut self.outcome, Outcome::none_yet(&self.spec)))
    }

    fn turns_until(&mut self, until: Instant) -> io::Result<()> {
        loop {
            let now = Instant::now();
            if now >= until || sys::stopped() {
                return Ok(());
            }
            self.dispatch(now)?;
            while self.broken.front().is_some_and(|(at, _)| *at <= now) {
                if let Some((_, i)) = self.broken.pop_front() {
                    self.connect(i);
                }
            }
            let nap = (until - now).min(RETRY);
            for e in 0..self.epoll.wait(nap)? {
                match self.epoll.event(e) {
                    (TIMER, _) => self.timer.clear(),
                    (i, events) => self.turn(i as usize, events),
                }
            }
        }
    }

    /// Open loop: sends what is due while connections are free, and sets the timer for what comes next.
    fn dispatch(&mut self, now: Instant) -> io::Result<()> {
        while let Some(due) = self.due(self.next_due).filter(|_| !self.idle.is_empty()) {
            if due > now {
                return self.timer.arm(due - now);
            }
            self.next_due += 1;
            if let Some(i) = self.idle.pop_front() {
                self.send(i, due);
            }
        }
        Ok(())
    }

    /// The open loop's intended time of a request; none behind the window's end.
    fn due(&self, number: u64) -> Option<Instant> {
        let first = self.begin - self.spec.warmup;
        let due = first + Duration::from_secs_f64(number as f64 / self.spec.rate?);
        (due < self.end).then_some(due)
    }

    fn connect(&mut self, i: usize) {
        let now = Instant::now();
        let stream = match sys::connect(self.spec.target) {
            Ok(stream) => stream,
            Err(_) => return self.failed_to_connect(i, now),
        };
        let connection = &mut self.connections[i];
        connection.reader = Reader::default();
        connection.reader.head_only = self.spec.method == "HEAD";
        connection.under_way.clear();
        connection.at -= connection.at % self.request_bytes; // a request that was cut off is sent anew
        connection.unsent = 0;
        connection.wants_out = false;
        if self.epoll.add(&stream, i as u64, sys::IN).is_err() {
            return self.failed_to_connect(i, now);
        }
        connection.stream = Some(stream);
        if self.spec.rate.is_some() {
            self.idle.push_back(i);
        } else {
            for _ in 0..self.spec.pipeline.max(1) {
                self.connections[i].under_way.push_back((now, now));
            }
            self.connections[i].unsent = self.request_bytes * self.spec.pipeline.max(1);
            self.flush(i);
        }
    }

    fn failed_to_connect(&mut self, i: usize, now: Instant) {
        self.outcome.errors.connect += 1;
        self.connections[i].stream = None;
        self.broken.push_back((now + RETRY, i));
    }

    fn send(&mut self, i: usize, intended: Instant) {
        let connection = &mut self.connections[i];
        connection.under_way.push_back((Instant::now(), intended));
        connection.unsent += self.request_bytes;
        self.flush(i);
    }

    fn flush(&mut self, i: usize) {
        let connection = &mut self.connections[i];
        let Some(stream) = &mut connection.stream else { return };
        while connection.unsent > 0 {
            let until = self.requests.len().min(connection.at + connection.unsent);
            match stream.write(&self.requests[connection.at..until]) {
                Ok(n) => {
                    connection.unsent -= n;
                    connection.at = (connection.at + n) % self.requests.len();
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(_) => return self.lost(i),
            }
        }
        let wants_out = connection.unsent > 0;
        if wants_out != connection.wants_out {
            connection.wants_out = wants_out;
            let interest = if wants_out { sys::IN | sys::OUT } else { sys::IN };
            if self.epoll.modify(stream, i as u64, interest).is_err() {
                self.lost(i);
            }
        }
    }

    fn turn(&mut self, i: usize, events: u32) {
        if events & sys::OUT != 0 {
            self.flush(i);
        }
        if events & (sys::IN | sys::ERR) == 0 {
            return;
        }
        let Some(stream) = &mut self.connections[i].stream else { return };
        match stream.read(&mut self.scratch) {
            Ok(0) => match self.connections[i].reader.closed() {
                Ok(Some(answer)) => self.answered(i, answer),
                _ => self.lost(i),
            },
            Ok(n) => self.take(i, n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.lost(i),
        }
    }

    fn take(&mut self, i: usize, received: usize) {
        let mut at = 0;
        while at < received {
            match self.connections[i].reader.feed(&self.scratch[at..received]) {
                Ok((took, Some(answer))) => {
                    at += took;
                    if self.connections[i].under_way.is_empty() {
                        return self.lost(i); // an answer nobody asked for
                    }
                    self.answered(i, answer);
                    if answer.close || self.spec.close {
                        return;
                    }
                }
                Ok((took, None)) => at += took,
                Err(_) => return self.lost(i),
            }
        }
    }

    fn answered(&mut self, i: usize, answer: Answer) {
        let now = Instant::now();
        if let Some((sent, intended)) = self.connections[i].under_way.pop_front() {
            self.record(now, sent, intended);
        }
        self.outcome.body_bytes += answer.body_bytes;
        self.outcome.errors.status += u64::from(answer.status != 200);
        self.outcome.errors.length += u64::from(self.spec.expect_bytes.is_some_and(|n| n != answer.body_bytes));
        if answer.close || self.spec.close {
            if !self.spec.close {
                self.outcome.reopened += 1;
                self.outcome.errors.broken += self.connections[i].under_way.len() as u64;
            }
            self.connections[i].stream = None;
            self.connect(i);
        } else if self.spec.rate.is_some() {
            self.idle.push_back(i);
        } else {
            self.send(i, now);
        }
    }

    fn record(&mut self, now: Instant, sent: Instant, intended: Instant) {
        let nanos = |since: Instant| now.saturating_duration_since(since).as_nanos() as u64;
        match &mut self.outcome.scheduled {
            Some(scheduled) if intended >= self.begin && intended < self.end => {
                scheduled.saturating_record(nanos(intended));
                self.outcome.service.saturating_record(nanos(sent));
                self.outcome.requests += 1;
            }
            None if self.measuring => {
                self.outcome.service.saturating_record(nanos(sent));
                self.outcome.requests += 1;
            }
            _ => {}
        }
    }

    /// The connection broke or was closed by the peer.
    fn lost(&mut self, i: usize) {
        let connection = &mut self.connections[i];
        if connection.stream.take().is_none() {
            return;
        }
        match connection.under_way.len() as u64 {
            0 => self.outcome.reopened += 1,
            lost => self.outcome.errors.broken += lost,
        }
        self.idle.retain(|idle| *idle != i);
        self.broken.push_back((Instant::now() + RETRY, i));
    }

    /// After the window: the open loop still waits for what was due; whatever stays unanswered for too long is an error.
    fn finish(&mut self) -> io::Result<()> {
        if self.spec.rate.is_none() {
            self.give_up(|sent| sent.elapsed() > GRACE);
            return Ok(());
        }
        let give_up = Instant::now() + GRACE;
        while Instant::now() < give_up && !sys::stopped() {
            if self.due(self.next_due).is_none() && self.connections.iter().all(|c| c.under_way.is_empty()) {
                return Ok(());
            }
            self.turns_until(give_up.min(Instant::now() + RETRY))?;
        }
        let now = Instant::now();
        let under_way = self.connections.iter().flat_map(|c| &c.under_way).map(|(_, intended)| *intended);
        let unsent: Vec<Instant> = (self.next_due..).map_while(|number| self.due(number)).collect();
        if let Some(scheduled) = &mut self.outcome.scheduled {
            for intended in under_way.chain(unsent.iter().copied()) {
                scheduled.saturating_record(now.saturating_duration_since(intended).as_nanos() as u64);
            }
        }
        self.outcome.errors.timeout += unsent.len() as u64;
        self.give_up(|_| true);
        Ok(())
    }

    /// Counts the requests that are late by when they were sent, and gives up their connections: the next window has others.
    fn give_up(&mut self, late: impl Fn(Instant) -> bool) {
        for (i, connection) in self.connections.iter_mut().enumerate() {
            let count = connection.under_way.iter().filter(|(sent, _)| late(*sent)).count();
            if count > 0 {
                self.outcome.errors.timeout += count as u64;
                connection.under_way.clear();
                connection.stream = None;
                self.idle.retain(|idle| *idle != i);
                self.broken.push_back((Instant::now() + RETRY, i));
            }
        }
    }
}
