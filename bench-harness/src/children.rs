//! Processes the harness starts: pinned, in a group of their own, gone when the harness is.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::sys;

/// How long a process may take until it accepts connections.
pub const START: Duration = Duration::from_secs(10);
/// Between two looks at something that is waited for.
pub const POLL: Duration = Duration::from_millis(5);
/// How many of the addresses given last stay reserved.
const RESERVATIONS: usize = 256;

/// A running child. Dropping it kills its whole group and reaps it.
pub struct Child {
    child: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `command` pinned to `cpu`; its output is appended to `log`. `death` is what it gets when the harness dies without
    /// dropping
    /// it: SIGTERM for a master that ends its workers, else SIGKILL.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(mut command: Command, cpu: Option<usize>, log: &Path, death: i32) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        sys::as_child(&mut command, cpu, death);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|e| io::Error::other(format!("{program}: {e}")))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status once it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// What `kill` gives.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::signal(self.pid(), signal)
    }

    /// Asks it to end by a signal and waits; true if it did in time.
    pub fn finish(&mut self, signal: i32, patience: Duration) -> bool {
        let _ = self.signal(signal);
        eventually(patience, || self.ended().is_some())
    }

    /// Waits until `address` accepts.
    ///
    /// # Errors
    /// Where the process ends before, or time is up; the end of its output is part of the message.
    pub fn wait_for(&mut self, address: SocketAddr, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= until || sys::stopped() {
                let what = ended.map_or("does not accept".to_owned(), |status| format!("ended with {status}"));
                return Err(io::Error::other(format!("{address}: {what}: {}", tail(&self.log))));
            }
            nap(POLL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            sys::kill_group(self.child.id());
            let _ = self.child.wait();
        }
    }
}

/// A directory of its own, on tmpfs where there is one, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// Where neither `/dev/shm` nor the temporary directory can be written.
    pub fn new(name: &str) -> io::Result<Self> {
        static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("{name}-{}-{serial}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A loopback address whose port the kernel chose and nobody listens on. It stays reserved: a socket that is bound with
/// `SO_REUSEADDR` and does not listen keeps the kernel from giving the port to a connection or another caller, and does not
/// keep a server that sets the same option from listening there.
///
/// # Errors
/// Where no port or no descriptor is left.
pub fn free_address() -> io::Result<SocketAddr> {
    static RESERVED: Mutex<VecDeque<Socket>> = Mutex::new(VecDeque::new());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    if reserved.len() == RESERVATIONS {
        reserved.pop_front();
    }
    reserved.push_back(socket);
    Ok(address)
}

/// The last lines of a log, on one line.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Looks at `holds` until it does or `patience` is over; says which.
pub fn eventually(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= until || sys::stopped() {
            return false;
        }
        nap(POLL);
    }
}

/// A short rest between two looks, or the pace of a scripted client.
pub fn nap(time: Duration) {
    std::thread::park_timeout(time);
}

/// Where a program is: as given, or in /usr/sbin, which is not on every user's path.
pub fn program(name: &Path) -> PathBuf {
    find_program(name).unwrap_or_else(|| name.to_owned())
}

/// The same; none where it is nowhere.
pub fn find_program(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// What a program says of its version: the first line of its output that is not empty, standard error included.
pub fn version(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text).lines().map(str::trim).find(|line| !line.is_empty())?.to_owned();
    Some(line.split_once("version: ").map_or(line.as_str(), |(_, version)| version).to_owned())
}
