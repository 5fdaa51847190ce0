//! What the process asks of the kernel it runs on: CPUs, limits, users, and which io_uring it offers.

use std::ffi::{CStr, CString};
use std::io;
use std::path::Path;

/// CPUs that this process may run on (its cpuset, inherited affinity included), ascending.
pub fn affinity() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours and as large as said.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return (0..count).collect();
    }
    // SAFETY: CPU_ISSET reads inside the set for numbers below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// A resource limit: soft and hard. `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In force now.
    pub soft: u64,
    /// Up to where a process without privileges may raise it.
    pub hard: u64,
}

/// Raises the number of open descriptors to the hard limit, and as root to at least `wanted`. Gives what holds afterwards.
pub fn raise_descriptors(wanted: u64) -> Limit {
    raise(libc::RLIMIT_NOFILE, wanted)
}

/// Raises locked memory to the hard limit, and as root to no limit (kernels before 5.12 count rings against it).
pub fn raise_memlock() -> Limit {
    raise(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY)
}

/// The limit of open descriptors.
pub fn descriptors() -> Limit {
    limit(libc::RLIMIT_NOFILE)
}

fn limit(resource: libc::__rlimit_resource_t) -> Limit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours and of the type asked for.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    Limit { soft: limit.rlim_cur, hard: limit.rlim_max }
}

fn raise(resource: libc::__rlimit_resource_t, wanted: u64) -> Limit {
    let before = limit(resource);
    let tries = [before.hard.max(wanted), before.hard];
    for soft in tries {
        if soft <= before.soft {
            break;
        }
        let next = libc::rlimit { rlim_cur: soft, rlim_max: soft.max(before.hard) };
        // SAFETY: the struct is ours; a refusal changes nothing.
        if unsafe { libc::setrlimit(resource, &raw const next) } == 0 {
            break;
        }
    }
    limit(resource)
}

/// Memory of this process that is in RAM.
pub fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: a plain query without pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(resident * u64::try_from(page).unwrap_or(4096))
}

/// Gives free memory of the allocator back to the system.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's own call; it takes the allocator's locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// True if the process runs as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A user by name or number, looked up as the system does (NSS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id: the primary one, or the one that was named.
    pub gid: u32,
    /// Name, for its further groups; `None` for a bare number that no entry has.
    name: Option<CString>,
}

/// Finds `user` or `user:group`; both may be numbers.
///
/// # Errors
/// A sentence that names what does not exist.
pub fn user(spec: &str) -> Result<User, String> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let mut found = find_user(user)?;
    if let Some(group) = group {
        found.gid = find_group(group)?;
    }
    Ok(found)
}

fn find_user(user: &str) -> Result<User, String> {
    let name = CString::new(user).map_err(|_| format!("user {user:?} holds a NUL"))?;
    let mut buffer = vec![0_u8; LOOKUP_BYTES];
    // SAFETY: passwd holds integers and pointers; all-zero is a valid value of it.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are ours and live through the call; the buffer's length is its own.
    unsafe {
        libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut found);
    }
    if !found.is_null() {
        return Ok(User { uid: entry.pw_uid, gid: entry.pw_gid, name: Some(name) });
    }
    match user.parse::<u32>() {
        Ok(uid) => Ok(User { uid, gid: uid, name: None }),
        Err(_) => Err(format!("user {user:?} does not exist")),
    }
}

fn find_group(group: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse::<u32>() {
        return Ok(gid);
    }
    let name = CString::new(group).map_err(|_| format!("group {group:?} holds a NUL"))?;
    let mut buffer = vec![0_u8; LOOKUP_BYTES];
    // SAFETY: group holds integers and pointers; all-zero is a valid value of it.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are ours and live through the call; the buffer's length is its own.
    unsafe {
        libc::getgrnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut found);
    }
    if found.is_null() { Err(format!("group {group:?} does not exist")) } else { Ok(entry.gr_gid) }
}

/// Bytes for one entry of passwd or group; a group with thousands of members fits.
const LOOKUP_BYTES: usize = 256 * 1024;

/// Gives root up for good: groups, group, user, in this order, for every thread of the process.
///
/// # Errors
/// What the kernel refused.
pub fn become_user(user: &User) -> io::Result<()> {
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    match &user.name {
        // SAFETY: the name is a C string that lives through the call.
        Some(name) => check(unsafe { libc::initgroups(name.as_ptr(), user.gid) })?,
        // SAFETY: one group from a variable that lives through the call.
        None => check(unsafe { libc::setgroups(1, &raw const user.gid) })?,
    }
    // SAFETY: no preconditions.
    check(unsafe { libc::setgid(user.gid) })?;
    // SAFETY: no preconditions.
    check(unsafe { libc::setuid(user.uid) })
}

/// Changes the owner of a file.
///
/// # Errors
/// What chown(2) says.
pub fn change_owner(path: &Path, user: &User) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
}

/// Keeps the signals that the coordinator handles away from threads made while it lives: they would interrupt a ring's wait.
pub struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    /// Blocks HUP, INT, QUIT, TERM and USR1 in this thread, and in every thread it makes, until dropped.
    pub fn new() -> Self {
        // SAFETY: all-zero is a valid sigset_t; both sets are ours and live through the calls.
        unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut blocked);
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1] {
                libc::sigaddset(&raw mut blocked, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before);
            Self(before)
        }
    }
}

impl Default for SignalsBlocked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Release of the running kernel, for example `6.1.0-18-amd64`, and its first two numbers.
pub fn kernel() -> (String, (u32, u32)) {
    // SAFETY: utsname holds byte arrays; all-zero is a valid value of it.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is ours.
    unsafe { libc::uname(&raw mut name) };
    // SAFETY: the kernel ends the field with NUL, and it was zeroed before.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) }.to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

/// This machine's name.
pub fn hostname() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    text.trim().to_string()
}

/// One rung of the ladder of drivers (design.md §2), best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Driver and flags, for example `io_uring (SINGLE_ISSUER|DEFER_TASKRUN)`.
    pub name: &'static str,
    /// First kernel that has it.
    pub since: &'static str,
    /// Why it can't be had here; `None` if it can.
    pub missing: Option<String>,
}

/// Tries every rung. The first without `missing` is what a worker takes.
pub fn ladder() -> Vec<Rung> {
    let ring = |name, since, build: &dyn Fn(&mut io_uring::Builder)| {
        let mut builder = io_uring::IoUring::builder();
        build(&mut builder);
        Rung { name, since, missing: builder.build(8).err().map(|error: io::Error| ring_refusal(&error)) }
    };
    vec![
        ring("io_uring (SINGLE_ISSUER|DEFER_TASKRUN)", "6.1", &|builder| {
            builder.setup_single_issuer().setup_defer_taskrun();
        }),
        ring("io_uring (COOP_TASKRUN)", "5.19", &|builder| {
            builder.setup_coop_taskrun();
        }),
        ring("io_uring", "5.6", &|_| {}),
        Rung { name: "epoll", since: "2.6", missing: None },
    ]
}

fn ring_refusal(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring, or a sandbox hides it".into(),
        Some(libc::EPERM) if matches!(disabled.trim(), "1" | "2") => {
            format!("forbidden by kernel.io_uring_disabled = {}", disabled.trim())
        }
        Some(libc::EPERM) => "forbidden, most likely by a container's seccomp profile (tuning/ has one that allows it)".into(),
        Some(libc::EINVAL) => "this kernel does not know the flags".into(),
        Some(libc::ENOMEM) => "not enough locked memory (RLIMIT_MEMLOCK)".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user("root").unwrap().uid, 0);
        assert_eq!(user("root:0").unwrap().gid, 0);
        assert_eq!(user("12345").unwrap().uid, 12345);
        assert!(user("no-such-user").unwrap_err().contains("no-such-user"));
        assert!(user("root:no-such-group").unwrap_err().contains("no-such-group"));
    }

    #[test]
    fn the_ladder_ends_on_epoll_and_the_kernel_has_a_number() {
        let ladder = ladder();
        assert_eq!(ladder.last().map(|rung| (rung.name, rung.missing.is_none())), Some(("epoll", true)));
        assert!(kernel().1.0 >= 3);
        assert!(!affinity().is_empty());
    }
}
