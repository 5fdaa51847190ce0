//! The system calls std does not offer, behind safe functions: epoll, non-blocking connect, timerfd, affinity, death signals.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Readable, or the peer closed its half.
pub const IN: u32 = libc::EPOLLIN as u32 | libc::EPOLLRDHUP as u32;
/// Writable.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// Error or hang-up; always reported.
pub const ERR: u32 = libc::EPOLLERR as u32 | libc::EPOLLHUP as u32;

/// Events taken from one `epoll_wait`.
const EVENTS: usize = 256;

/// Set by SIGINT and SIGTERM; every loop of the harness looks at it.
static STOP: AtomicBool = AtomicBool::new(false);

/// One epoll instance with its event buffer.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

impl Epoll {
    /// A new instance, closed on exec.
    ///
    /// # Errors
    /// What `epoll_create1` gives.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS], ready: 0 })
    }

    /// Watches `fd`, level-triggered.
    ///
    /// # Errors
    /// What `epoll_ctl` gives.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, interest)
    }

    /// Changes what `fd` is watched for.
    ///
    /// # Errors
    /// What `epoll_ctl` gives.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, interest)
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, interest: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token };
        // SAFETY: `event` outlives the call; a bad descriptor is reported as an error.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) }).map(drop)
    }

    /// Waits at most `timeout` (rounded up to a millisecond) and says how many events are ready. A signal counts as none.
    ///
    /// # Errors
    /// What `epoll_wait` gives, but for EINTR.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let millis = timeout.as_nanos().div_ceil(1_000_000).min(1_000) as i32;
        // SAFETY: the buffer has room for EVENTS entries and lives as long as the call.
        let got = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), EVENTS as i32, millis) };
        self.ready = match check(got) {
            Ok(n) => n as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        Ok(self.ready)
    }

    /// Event `i` of the last `wait`: its token and what happened.
    pub fn event(&self, i: usize) -> (u64, u32) {
        let event = self.events[i];
        (event.u64, event.events)
    }
}

/// A timer that an epoll instance can watch, with nanosecond deadlines.
pub struct Timer(OwnedFd);

impl Timer {
    /// A disarmed monotonic timer.
    ///
    /// # Errors
    /// What `timerfd_create` gives.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Fires once after `delay` (at least a nanosecond).
    ///
    /// # Errors
    /// What `timerfd_settime` gives.
    pub fn arm(&self, delay: Duration) -> io::Result<()> {
        let nanos = delay.subsec_nanos().max(u32::from(delay.as_secs() == 0));
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let at = libc::timespec { tv_sec: delay.as_secs() as libc::time_t, tv_nsec: libc::c_long::from(nanos) };
        let spec = libc::itimerspec { it_interval: zero, it_value: at };
        // SAFETY: `spec` outlives the call; a null old value is allowed.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &spec, std::ptr::null_mut()) }).map(drop)
    }

    /// Takes the expirations, so that a level-triggered watch falls silent.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer has the eight bytes a timerfd gives; EAGAIN is no harm.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Starts a TCP connection without waiting for it: writable means it is through or failed.
///
/// # Errors
/// What `socket` and `connect` give, but for EINPROGRESS.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was just opened and nobody else owns it.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    let _ = stream.set_nodelay(true);
    let done = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `raw` is a whole sockaddr_in and its size is given.
            unsafe { libc::connect(fd, (&raw const raw).cast(), size_of_val(&raw) as u32) }
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: `raw` is a whole sockaddr_in6 and its size is given.
            unsafe { libc::connect(fd, (&raw const raw).cast(), size_of_val(&raw) as u32) }
        }
    };
    match check(done) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(stream),
    }
}

/// A non-blocking listener with a deep queue. Port 0 lets the kernel choose.
///
/// # Errors
/// What bind and listen give.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // SAFETY: a listening descriptor may be told to listen again, which only changes its backlog.
    check(unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Makes closing this connection a reset: what was not sent is thrown away and the peer sees an error.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: `linger` is a whole struct linger, its size is given, and it outlives the call.
    unsafe {
        let length = size_of_val(&linger) as u32;
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length);
    }
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// Where the CPU is not in the allowed set.
pub fn pin(cpu: usize) -> io::Result<()> {
    let set = cpu_set(cpu);
    // SAFETY: `set` is a whole cpu_set_t and outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

fn cpu_set(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: cpu_set_t is a plain bit field, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu < libc::CPU_SETSIZE as usize {
        // SAFETY: the index was checked against the set's size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set
}

/// Prepares a child: a process group of its own, a CPU, and `signal` as soon as the thread that started it is gone.
pub fn as_child(command: &mut Command, cpu: Option<usize>, signal: i32) {
    let set = cpu.map(cpu_set);
    // SAFETY: between fork and exec only async-signal-safe calls are made and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, signal))?;
            check(libc::setpgid(0, 0))?;
            if let Some(set) = &set {
                check(libc::sched_setaffinity(0, size_of_val(set), set))?;
            }
            Ok(())
        })
    };
}

/// Sends a signal to one process.
///
/// # Errors
/// What `kill` gives.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid as i32, signal) }).map(drop)
}

/// Kills the process group a child of ours leads.
pub fn kill_group(pid: u32) {
    // SAFETY: no pointers; the group was made by `as_child`, so it holds only our own.
    unsafe { libc::killpg(pid as i32, libc::SIGKILL) };
}

/// From now on SIGINT and SIGTERM end the loops, so that children are killed and files removed; a second one ends the program.
pub fn stop_on_signals() {
    extern "C" fn note(signal: libc::c_int) {
        if STOP.swap(true, Ordering::Relaxed) {
            // SAFETY: _exit is async-signal-safe; the children have their death signal.
            unsafe { libc::_exit(128 + signal) };
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only touches an atomic and calls async-signal-safe functions.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// True once a signal asked to stop.
pub fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Raises the soft limit of descriptors to the hard one and says what it is now.
pub fn raise_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a whole rlimit and outlives both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            let wanted = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) == 0 {
                limit = wanted;
            }
        }
    }
    limit.rlim_cur
}

/// Clock ticks per second in `/proc/PID/stat`.
pub fn ticks_per_second() -> u64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64
}

/// Bytes of a page in `/proc/PID/statm`.
pub fn page_bytes() -> u64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
