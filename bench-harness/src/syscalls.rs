//! Syscalls by kind, counted outside the timed rounds: perf's tracepoints, which hardly disturb, or strace where perf may not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::children::{Child, eventually, nap, tail};
use crate::procfs::threads;

/// The kinds that perf counts one by one; what is none of them is `other`.
const KINDS: [&str; 28] = [
    "io_uring_enter",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "read",
    "write",
    "readv",
    "writev",
    "recvfrom",
    "recvmsg",
    "sendto",
    "sendmsg",
    "splice",
    "accept4",
    "connect",
    "socket",
    "close",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "getsockname",
    "getpeername",
    "ioctl",
    "futex",
    "mmap",
    "madvise",
    "clock_gettime",
    "getpid",
];
const ALL: &str = "raw_syscalls:sys_enter";
const SQES: &str = "io_uring:io_uring_submit_req";

/// Counts of one sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Calls by kind, none of them zero.
    pub kinds: BTreeMap<String, u64>,
    /// Operations submitted to a ring, where perf can see them.
    pub sqes: Option<u64>,
    /// Which tool counted.
    pub tool: &'static str,
}

impl Counts {
    /// All calls.
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }
}

/// Which processes or which single thread.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// Processes with all their threads.
    Processes(&'a [u32]),
    /// One thread.
    Thread(u32),
}

/// A count under way.
pub struct Counting {
    child: Child,
    perf: bool,
    log: std::path::PathBuf,
}

/// Begins to count. Where perf's tracepoints are out of reach strace is taken.
///
/// # Errors
/// Where neither can be run.
pub fn begin(who: Who<'_>, directory: &Path) -> io::Result<Counting> {
    let log = directory.join("syscalls.out");
    let _ = fs::remove_file(&log);
    let perf = tracepoints();
    let child = Child::start(if perf { perf_command(who) } else { strace_command(who) }, None, &log, libc::SIGKILL)?;
    if perf {
        nap(Duration::from_millis(200)); // perf says nothing when it has attached; it is quick
    } else if !eventually(Duration::from_secs(5), || traced(who)) {
        return Err(io::Error::other(format!("strace did not attach: {}", tail(&log))));
    }
    Ok(Counting { child, perf, log })
}

impl Counting {
    /// Ends the count.
    ///
    /// # Errors
    /// Where the tool said nothing that can be read.
    pub fn end(mut self) -> io::Result<Counts> {
        self.child.finish(libc::SIGINT, Duration::from_secs(5));
        let text = fs::read_to_string(&self.log)?;
        let counts = if self.perf { parse_perf(&text) } else { parse_strace(&text) };
        counts.ok_or_else(|| io::Error::other(format!("no counts in: {}", tail(&self.log))))
    }
}

fn tracepoints() -> bool {
    let tried = Command::new("perf").args(["stat", "-x,", "-e", ALL, "-e", SQES, "true"]).output();
    tried.is_ok_and(|o| o.status.success() && parse_perf(&String::from_utf8_lossy(&o.stderr)).is_some())
}

/// A tracer holds every thread that is to be counted.
fn traced(who: Who<'_>) -> bool {
    let held = |path: String| fs::read_to_string(path).is_ok_and(|text| !text.contains("TracerPid:\t0\n"));
    match who {
        Who::Processes(pids) => {
            pids.iter().all(|pid| threads(*pid).iter().all(|tid| held(format!("/proc/{pid}/task/{tid}/status"))))
        }
        Who::Thread(tid) => held(format!("/proc/{tid}/status")),
    }
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn perf_command(who: Who<'_>) -> Command {
    let mut command = Command::new("perf");
    command.args(["stat", "-x,", "-e", ALL, "-e", SQES]);
    for kind in KINDS {
        command.args(["-e", &format!("syscalls:sys_enter_{kind}")]);
    }
    match who {
        Who::Processes(pids) => command.args(["-p", &list(pids)]),
        Who::Thread(tid) => command.args(["-t", &tid.to_string()]),
    };
    command
}

fn strace_command(who: Who<'_>) -> Command {
    let mut command = Command::new("strace");
    command.args(["-c", "-U", "calls,name", "-q"]);
    match who {
        Who::Processes(pids) => {
            command.arg("-f");
            for pid in pids {
                command.args(["-p", &pid.to_string()]);
            }
        }
        Who::Thread(tid) => {
            command.args(["-p", &tid.to_string()]);
        }
    }
    command
}

/// Lines such as `42,,syscalls:sys_enter_read,…`.
fn parse_perf(text: &str) -> Option<Counts> {
    let (mut all, mut counts) = (None, Counts { tool: "perf", ..Counts::default() });
    for line in text.lines() {
        let mut fields = line.split(',');
        let (Some(count), _, Some(event)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let Ok(count) = count.parse::<u64>() else { continue };
        match event {
            ALL => all = Some(count),
            SQES => counts.sqes = Some(count),
            _ => {
                if let Some(kind) = event.strip_prefix("syscalls:sys_enter_").filter(|_| count > 0) {
                    counts.kinds.insert(kind.to_owned(), count);
                }
            }
        }
    }
    let other = all?.saturating_sub(counts.total());
    if other > 0 {
        counts.kinds.insert("other".into(), other);
    }
    Some(counts)
}

/// Lines such as `   42 read` between two rules, then the total.
fn parse_strace(text: &str) -> Option<Counts> {
    let mut counts = Counts { tool: "strace", ..Counts::default() };
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(Ok(calls)), Some(name), None) = (words.next().map(str::parse::<u64>), words.next(), words.next())
            && name != "total"
            && calls > 0
        {
            counts.kinds.insert(name.to_owned(), calls);
        }
    }
    text.contains("total").then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_is_read_and_the_rest_is_other() {
        let text = "noise\n10,,raw_syscalls:sys_enter,1,100.00,,\n\
            7,,io_uring:io_uring_submit_req,1,1,,\n4,,syscalls:sys_enter_read,1,1,,\n\
            0,,syscalls:sys_enter_write,1,1,,\n<not supported>,,syscalls:sys_enter_x,0,1,,\n";
        let counts = parse_perf(text).unwrap();
        assert_eq!((counts.total(), counts.sqes), (10, Some(7)));
        assert_eq!(counts.kinds.get("other"), Some(&6));
        assert!(!counts.kinds.contains_key("write"));
        assert!(parse_perf("nothing").is_none());
    }

    #[test]
    fn strace_is_read() {
        let text = "    calls syscall\n--------- ----------------\n       12 epoll_wait\n        3 sendto\n\
            --------- ----------------\n       15 total\n";
        let counts = parse_strace(text).unwrap();
        assert_eq!((counts.total(), counts.kinds["sendto"]), (15, 3));
    }
}
