//! Whose CPU time and memory are measured: a process with its descendants, or a cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use crate::procfs::{self, Cpu};

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meter {
    /// A process and all its descendants.
    Tree(u32),
    /// All processes of a cgroup and those below it: a container, or a systemd unit.
    Cgroup(PathBuf),
}

impl Meter {
    /// The cgroup at `path`, which is absolute or below where cgroups are mounted.
    pub fn cgroup(path: &str) -> Self {
        let given = Path::new(path);
        Self::Cgroup(if given.is_dir() && given.is_absolute() {
            given.to_owned()
        } else {
            Path::new(CGROUPS).join(path.trim_start_matches('/'))
        })
    }

    /// Its processes now. A master that listens already may fork its worker a moment later, so ask late.
    pub fn pids(&self) -> Vec<u32> {
        match self {
            Self::Tree(pid) => procfs::tree(*pid),
            Self::Cgroup(path) => members(path),
        }
    }

    /// Its CPU time so far: of `pids` for a process, of the whole cgroup for one, in which processes come and go.
    pub fn cpu(&self, pids: &[u32]) -> Cpu {
        match self {
            Self::Tree(_) => procfs::cpu(pids),
            Self::Cgroup(path) => cgroup_cpu(path).unwrap_or_default(),
        }
    }

    /// Says what is missing where it can't be measured.
    ///
    /// # Errors
    /// Where the process or the cgroup's account is not there.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Tree(pid) if !Path::new(&format!("/proc/{pid}/stat")).exists() => Err(format!("there is no process {pid}")),
            Self::Cgroup(path) if cgroup_cpu(path).is_none() => {
                Err(format!("{} has neither cpu.stat with usage_usec nor cpuacct.usage", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The account of a cgroup: `cpu.stat` of version 2, the `cpuacct` files of version 1.
fn cgroup_cpu(path: &Path) -> Option<Cpu> {
    let read = |name: &str| fs::read_to_string(path.join(name)).ok();
    read("cpu.stat").and_then(|text| cpu_stat(&text)).or_else(|| {
        let nanos = |name: &str| read(name)?.trim().parse::<f64>().ok();
        let (user_nanos, system_nanos) = (nanos("cpuacct.usage_user")?, nanos("cpuacct.usage_sys")?);
        Some(Cpu { nanos: nanos("cpuacct.usage")?, user_nanos, system_nanos })
    })
}

/// `usage_usec`, `user_usec` and `system_usec`, a line each.
fn cpu_stat(text: &str) -> Option<Cpu> {
    let micros = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        value.trim().parse::<f64>().ok()
    };
    let nanos = |key| Some(micros(key)? * 1e3);
    Some(Cpu { nanos: nanos("usage_usec")?, user_nanos: nanos("user_usec")?, system_nanos: nanos("system_usec")? })
}

/// The processes of a cgroup and of those below it, as far as this host's process ids can name them.
fn members(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for below in fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        all.extend(members(&below.path()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::children::Scratch;

    #[test]
    fn a_cgroup_is_read_in_both_versions_with_what_is_below_it() {
        let scratch = Scratch::new("bench-meter").unwrap();
        let (two, one) = (scratch.path().join("two"), scratch.path().join("one"));
        fs::create_dir_all(two.join("below")).unwrap();
        fs::create_dir_all(&one).unwrap();
        fs::write(two.join("cpu.stat"), "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 0\n").unwrap();
        fs::write(two.join("cgroup.procs"), "7\n0\n").unwrap();
        fs::write(two.join("below/cgroup.procs"), "8\n").unwrap();
        fs::write(one.join("cpu.stat"), "nr_periods 0\n").unwrap();
        for (name, nanos) in [("usage", 3_000), ("usage_user", 1_000), ("usage_sys", 2_000)] {
            fs::write(one.join(format!("cpuacct.{name}")), format!("{nanos}\n")).unwrap();
        }
        let two = Meter::cgroup(two.to_str().unwrap());
        assert_eq!(two.cpu(&[]), Cpu { nanos: 30e3, user_nanos: 10e3, system_nanos: 20e3 });
        assert_eq!(two.pids(), [7, 8]);
        let one = Meter::cgroup(one.to_str().unwrap());
        assert_eq!(one.cpu(&[]), Cpu { nanos: 3e3, user_nanos: 1e3, system_nanos: 2e3 });
        assert!(one.check().is_ok() && Meter::cgroup("no/such").check().unwrap_err().contains("/sys/fs/cgroup/no/such"));
        assert!(Meter::Tree(u32::MAX).check().is_err() && Meter::Tree(std::process::id()).check().is_ok());
    }
}
