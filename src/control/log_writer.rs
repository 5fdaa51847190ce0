//! The access log's writer: one thread that takes batches of lines from the workers and writes them. A slow disk or pipe stops
//! only this thread; workers drop and count what does not fit the queue.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};

use crate::base::{limits, log};

/// Longest wait between two looks at whether the file was moved away or a reopening was asked for.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for a pipe that takes nothing (its reader stopped, non-blocking): then the batch is given up.
const STALL: Duration = Duration::from_secs(5);

/// The coordinator's end of the writer.
pub struct LogWriter {
    sender: Sender<Vec<u8>>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    path: Mutex<Option<PathBuf>>,
    reopen: AtomicBool,
    stop: AtomicBool,
    failures: AtomicU64,
}

impl LogWriter {
    /// Opens the file and starts the thread. Without a path, batches are thrown away.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread not be made.
    pub fn start(path: Option<&Path>) -> io::Result<Self> {
        let out = path.map(open).transpose()?;
        let (sender, receiver) = flume::bounded(limits::LOG_BATCHES_WAITING);
        let shared = Arc::new(Shared { path: Mutex::new(path.map(Path::to_path_buf)), ..Shared::default() });
        let writing = Writing { out, path: path.map(Path::to_path_buf), shared: shared.clone(), looked: Instant::now() };
        let thread = std::thread::Builder::new().name("ringway-log".into()).spawn(move || writing.run(&receiver))?;
        Ok(Self { sender, shared, thread })
    }

    /// Where workers send their batches. Whole lines only; use `try_send`.
    pub fn sender(&self) -> Sender<Vec<u8>> {
        self.sender.clone()
    }

    /// Writes to another file from now on (a reload); what waits goes there too.
    pub fn set_path(&self, path: Option<&Path>) {
        let mut current = self.shared.path.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() != path {
            *current = path.map(Path::to_path_buf);
            drop(current);
            self.reopen();
        }
    }

    /// Opens the file again (USR1).
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // An empty batch wakes the thread; a full queue does so too.
        let _ = self.sender.try_send(Vec::new());
    }

    /// Batches that could not be written.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// Writes everything that waits and ends.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.sender.try_send(Vec::new());
        drop(self.sender);
        let _ = self.thread.join();
    }
}

/// The thread's end.
struct Writing {
    out: Option<File>,
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    looked: Instant,
}

impl Writing {
    fn run(mut self, receiver: &Receiver<Vec<u8>>) {
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(batch) => {
                    self.look();
                    self.write(&batch);
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.shared.stop.load(Ordering::Acquire) {
                receiver.drain().for_each(|batch| self.write(&batch));
                return;
            }
        }
    }

    /// Opens the file again if that was asked for, or if it was moved or removed.
    fn look(&mut self) {
        let asked = self.shared.reopen.swap(false, Ordering::AcqRel);
        if asked {
            self.path = self.shared.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        } else if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let Some(path) = &self.path else {
            self.out = None;
            return;
        };
        if asked || (self.out.as_ref().is_some_and(|out| was_moved(out, path))) || self.out.is_none() {
            match open(path) {
                Ok(file) => self.out = Some(file),
                Err(error) => log::limited!(error, "access log: cannot open {}: {error}", path.display()),
            }
        }
    }

    fn write(&mut self, batch: &[u8]) {
        let Some(out) = &mut self.out else { return };
        if let Err(error) = write_patiently(out, batch, &self.shared.stop) {
            self.shared.failures.fetch_add(1, Ordering::Relaxed);
            let path = self.path.as_deref().unwrap_or(Path::new("-"));
            log::limited!(error, "access log: cannot write to {}: {error}", path.display());
        }
    }
}

/// Standard streams may be pipes that somebody made non-blocking: wait a little instead of losing lines.
fn write_patiently(out: &mut File, mut rest: &[u8], stop: &AtomicBool) -> io::Result<()> {
    let mut progress = Instant::now();
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                progress = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if progress.elapsed() > STALL || stop.load(Ordering::Acquire) {
                    return Err(error);
                }
                pause();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    // Under systemd the standard streams are sockets, which open(2) refuses.
    match path.to_str() {
        Some("/dev/stdout") => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
        Some("/dev/stderr") => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
        _ => OpenOptions::new().append(true).create(true).open(path),
    }
}

fn was_moved(out: &File, path: &Path) -> bool {
    if path.starts_with("/dev") {
        return false;
    }
    let Ok(ours) = out.metadata() else { return false };
    std::fs::metadata(path).map_or(true, |there| (there.dev(), there.ino()) != (ours.dev(), ours.ino()))
}

/// A moment for a pipe's reader; the writer's thread has nothing else to do.
#[expect(clippy::disallowed_methods, reason = "the log writer has a thread of its own")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !what() {
            assert!(Instant::now() < deadline, "timed out");
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_follow_the_file_through_rotation_and_are_all_there_at_the_end() {
        let directory = std::env::temp_dir().join(format!("ringway-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (path, rotated) = (directory.join("access.log"), directory.join("access.log.1"));
        let writer = LogWriter::start(Some(&path)).unwrap();
        let sender = writer.sender();
        sender.send(b"one\n".to_vec()).unwrap();
        wait_for(|| std::fs::read(&path).is_ok_and(|text| text == b"one\n"));
        std::fs::rename(&path, &rotated).unwrap();
        writer.reopen();
        wait_for(|| path.exists());
        sender.send(b"two\n".to_vec()).unwrap();
        wait_for(|| std::fs::read(&path).is_ok_and(|text| text == b"two\n"));
        // Moved away without a word: noticed within the look's interval.
        std::fs::rename(&path, &rotated).unwrap();
        wait_for(|| path.exists());
        for _ in 0..100 {
            sender.send(b"three\n".to_vec()).unwrap();
        }
        writer.stop();
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n".repeat(100));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_full_disk_is_counted_and_survived() {
        let writer = LogWriter::start(Some(Path::new("/dev/full"))).unwrap();
        writer.sender().send(b"lost\n".to_vec()).unwrap();
        wait_for(|| writer.failures() == 1);
        writer.stop();
    }
}
