//! The error log: `tracing` to standard error or a file, its level changed and its file reopened while running, and a macro for
//! places of the data path that a broken peer could make talk without end.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Lines that one [`limited!`](crate::limited) place may write per second.
pub const LINES_PER_SECOND: u64 = 10;

/// Overrides the configured level: error, warn, info or debug.
pub const LEVEL_VARIABLE: &str = "RINGWAY_LOG";

static SINK: Sink = Sink { out: Mutex::new(Out { path: None, file: None }) };
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log on standard error at a level; calls after the first change only the level. Lines of libraries are shown from
/// `warn` on.
pub fn start(level: &str) {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = fmt::layer().with_writer(Writer).with_target(false).with_ansi(io::stderr().is_terminal());
    if tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines)).is_ok() {
        let _ = LEVEL.set(handle);
    } else {
        set_level(level);
    }
}

/// Changes the level: `error`, `warn`, `info` or `debug`; anything else counts as `info`.
pub fn set_level(level: &str) {
    if let Some(handle) = LEVEL.get() {
        let _ = handle.reload(targets(level));
    }
}

/// Sends the log to a file (appended to, made where it is missing) or, with `None`, back to standard error.
///
/// # Errors
/// If the file cannot be opened; the log then stays where it was.
pub fn set_path(path: Option<&Path>) -> io::Result<()> {
    let mut out = SINK.out.lock().unwrap_or_else(PoisonError::into_inner);
    let path = path.filter(|path| *path != Path::new("/dev/stderr"));
    if out.path.as_deref() == path {
        return Ok(());
    }
    let file = path.map(open).transpose()?;
    *out = Out { path: path.map(Path::to_path_buf), file };
    Ok(())
}

/// Opens the log's file again, after it was rotated away.
///
/// # Errors
/// If the file cannot be opened; the log then stays in the old one.
pub fn reopen() -> io::Result<()> {
    let mut out = SINK.out.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = out.path.as_deref().map(open).transpose()? {
        out.file = Some(file);
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn targets(configured: &str) -> Targets {
    let forced = std::env::var(LEVEL_VARIABLE).ok();
    let level = match forced.as_deref().unwrap_or(configured) {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    };
    Targets::new().with_target("ringway", level).with_default(level.min(LevelFilter::WARN))
}

struct Sink {
    out: Mutex<Out>,
}

struct Out {
    path: Option<PathBuf>,
    file: Option<File>,
}

/// Hands each line to the sink in one write.
#[derive(Clone, Copy)]
struct Writer;

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut out = SINK.out.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut out.file {
            Some(file) => file.write_all(line)?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets a bounded number of lines per second pass; one per place, made by [`limited!`](crate::limited).
#[derive(Debug, Default)]
pub struct Gate {
    second: AtomicU64,
    lines: AtomicU64,
    skipped: AtomicU64,
}

impl Gate {
    /// A gate that has let nothing pass.
    pub const fn new() -> Self {
        Self { second: AtomicU64::new(0), lines: AtomicU64::new(0), skipped: AtomicU64::new(0) }
    }

    /// `Some(lines kept back since the last one)` if a line may be written at this second.
    pub fn pass(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND {
            return Some(self.skipped.swap(0, Ordering::Relaxed));
        }
        self.skipped.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Logs at a level (`error`, `warn`, `info`, `debug`) at most [`LINES_PER_SECOND`] times a second per place in the code; the next
/// line that passes says how many were kept back.
#[macro_export]
macro_rules! limited {
    ($level:ident, $($message:tt)*) => {{
        static GATE: $crate::base::log::Gate = $crate::base::log::Gate::new();
        match GATE.pass($crate::base::clock::wall().as_secs()) {
            Some(0) => ::tracing::$level!($($message)*),
            Some(kept_back) => ::tracing::$level!(kept_back, $($message)*),
            None => {}
        }
    }};
}

pub use crate::limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts_what_it_keeps_back() {
        let gate = Gate::new();
        let passed = (0..100).filter(|_| gate.pass(7).is_some()).count() as u64;
        assert_eq!(passed, LINES_PER_SECOND);
        assert_eq!(gate.pass(8), Some(100 - LINES_PER_SECOND));
        assert_eq!(gate.pass(8), Some(0));
    }
}
