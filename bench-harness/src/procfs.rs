//! What a process tree cost: CPU time from `/proc`, memory, and which thread did the work.

use std::collections::HashMap;
use std::fs;

use crate::sys;

/// CPU time of a process tree so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Nanoseconds on a CPU, from the scheduler; where `schedstat` is missing, from the ticks.
    pub nanos: f64,
    /// Nanoseconds in user mode, from the ticks.
    pub user_nanos: f64,
    /// Nanoseconds in the kernel, from the ticks.
    pub system_nanos: f64,
}

impl Cpu {
    /// What was used since `earlier`: the scheduler's total, split by the ticks' shares. Ticks alone are 10 ms coarse; their
    /// split is
    /// good over a second or more, not per request.
    pub fn since(&self, earlier: &Self) -> Self {
        let nanos = (self.nanos - earlier.nanos).max(0.0);
        let user = (self.user_nanos - earlier.user_nanos).max(0.0);
        let system = (self.system_nanos - earlier.system_nanos).max(0.0);
        let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        Self { nanos, user_nanos: nanos * share, system_nanos: nanos * (1.0 - share) }
    }
}

/// The process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat(&format!("/proc/{pid}/stat")).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut all, mut at) = (vec![root], 0);
    while at < all.len() {
        all.extend(children.remove(&all[at]).unwrap_or_default());
        at += 1;
    }
    all
}

/// CPU time of these processes, all threads.
pub fn cpu(pids: &[u32]) -> Cpu {
    let tick = 1e9 / sys::ticks_per_second() as f64;
    let mut sum = Cpu::default();
    for pid in pids {
        let Some(fields) = stat(&format!("/proc/{pid}/stat")) else { continue };
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) * tick;
        let (user, system) = (ticks(11), ticks(12));
        sum.user_nanos += user;
        sum.system_nanos += system;
        let exact: Option<f64> = threads(*pid).into_iter().map(|tid| thread_nanos(*pid, tid)).sum();
        sum.nanos += exact.filter(|n| *n > 0.0).unwrap_or(user + system);
    }
    sum
}

/// The threads of a process.
pub fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Nanoseconds one thread has run.
pub fn thread_nanos(pid: u32, tid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Resident KiB of these processes now.
pub fn resident_kib(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|pid| status_kib(*pid, "VmRSS:")).sum()
}

/// KiB of these processes now with shared pages divided among those that share them (PSS).
pub fn proportional_kib(pids: &[u32]) -> u64 {
    let pss = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    pids.iter().filter_map(pss).sum()
}

/// Peak resident KiB of one process.
pub fn peak_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:")
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count())
}

fn status_kib(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The fields of a stat file behind the command's name (which may hold anything): state, ppid, …; utime is 11, stime 12.
fn stat(path: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_and_is_split() {
        let me = [std::process::id()];
        let (before, start) = (cpu(&me), std::time::Instant::now());
        let mut x = 0u64;
        while start.elapsed().as_millis() < 60 {
            x = std::hint::black_box(x.wrapping_mul(31) + 1);
        }
        let used = cpu(&me).since(&before);
        assert!(used.nanos > 20e6, "{used:?}");
        assert!((used.user_nanos + used.system_nanos - used.nanos).abs() < 1.0 || used.user_nanos == 0.0);
        assert!(resident_kib(&me) > 0 && proportional_kib(&me) > 0 && descriptors(me[0]) > 2 && tree(me[0]).contains(&me[0]));
    }
}
