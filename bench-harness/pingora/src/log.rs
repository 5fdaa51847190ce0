//! The access log: the combined format, in a buffer that is written when full and once a second, as nginx is told to here.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pingora_proxy::Session;

use crate::date::{Date, date};

const BUFFER_BYTES: usize = 64 * 1024;
const FLUSH: Duration = Duration::from_secs(1);
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A log that is open.
pub struct Log(Mutex<State>);

struct State {
    file: File,
    lines: Vec<u8>,
    /// The second that `stamp` says.
    second: u64,
    stamp: String,
}

impl Log {
    /// Opens `path` for appending and starts the thread that writes what is waiting.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = File::options().create(true).append(true).open(path)?;
        let lines = Vec::with_capacity(BUFFER_BYTES);
        let log = Arc::new(Self(Mutex::new(State { file, lines, second: 0, stamp: String::new() })));
        let writer = log.clone();
        thread::spawn(move || {
            loop {
                thread::park_timeout(FLUSH);
                writer.0.lock().unwrap_or_else(PoisonError::into_inner).flush();
            }
        });
        Ok(log)
    }

    /// One line for the request that `session` has served.
    pub fn write(&self, session: &Session) {
        let head = session.req_header();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let status = session.response_written().map_or(0, |answer| answer.status.as_u16());
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.tick();
        let State { lines, stamp, .. } = &mut *state;
        match session.client_addr().and_then(|address| address.as_inet()) {
            Some(address) => drop(write!(lines, "{}", address.ip())),
            None => lines.push(b'-'),
        }
        let _ = writeln!(
            lines,
            " - - [{stamp}] \"{} {} {:?}\" {status} {} \"{}\" \"{}\"",
            head.method,
            head.uri,
            head.version,
            session.body_bytes_sent(),
            header("referer"),
            header("user-agent")
        );
        if state.lines.len() > BUFFER_BYTES - 1024 {
            state.flush();
        }
    }
}

impl State {
    /// Makes the stamp anew where a second has passed.
    fn tick(&mut self) {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if second != self.second {
            self.second = second;
            self.stamp = stamp(second);
        }
    }

    fn flush(&mut self) {
        let _ = self.file.write_all(&self.lines);
        self.lines.clear();
    }
}

/// Seconds since 1970 as `28/Nov/2026:18:42:24 +0000`.
fn stamp(seconds: u64) -> String {
    let Date { year, month, day, time: [hour, minute, second] } = date(seconds);
    let name = MONTHS[month as usize - 1];
    format!("{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}
