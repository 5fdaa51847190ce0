//! The worker plan: how many, on which CPUs, and why. From the process's cpuset and the CPU quota of its cgroup (v1 or v2).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::gateway::Workers;

/// What will be started.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// CPU of each worker in order; `None` leaves it to the scheduler.
    pub cpus: Vec<Option<usize>>,
    /// Why so many and why there, in one sentence.
    pub reason: String,
    /// What the user should know, such as more workers than CPUs.
    pub warnings: Vec<String>,
}

/// Most workers that a configuration may ask for.
pub const WORKERS_MAX: usize = 1024;

/// Makes the plan. `affinity` is what the process may run on (`net::host::affinity`), `root` the file system's root (a fixture in
/// tests).
///
/// # Errors
/// A sentence, if `cpus` names a CPU outside the cpuset or `count` is beyond [`WORKERS_MAX`].
pub fn plan(workers: &Workers, affinity: &[usize], root: &Path) -> Result<Plan, String> {
    let allowed = allowed_cpus(affinity, root);
    let quota = quota(root);
    let mut warnings = Vec::new();
    let chosen = match &workers.cpus {
        Some(cpus) => {
            if let Some(outside) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                return Err(format!("workers.cpus names CPU {outside}; this process may run on {}", ranges(&allowed)));
            }
            cpus.clone()
        }
        None => allowed.clone(),
    };
    let limit = quota.map(|cpus| (cpus.ceil() as usize).max(1));
    let (count, mut reason) = match (workers.count, limit) {
        (Some(count), _) => (count, format!("count: {count} is configured")),
        (None, _) if workers.cpus.is_some() => (chosen.len(), "one per CPU of workers.cpus".to_string()),
        (None, Some(limit)) if limit < chosen.len() => {
            (limit, format!("the cgroup's CPU quota is {} CPUs of {}", trim(quota.unwrap_or_default()), chosen.len()))
        }
        (None, _) => (chosen.len(), format!("one per CPU of the cpuset ({})", ranges(&chosen))),
    };
    if count == 0 || count > WORKERS_MAX {
        return Err(format!("workers.count is {count}; it may be 1 to {WORKERS_MAX}"));
    }
    if count > chosen.len() {
        warnings.push(format!("{count} workers share {} CPUs: more workers than CPUs make latency worse", chosen.len()));
    }
    if let (Some(quota), true) = (quota, workers.count.is_some() || workers.cpus.is_some())
        && count > quota.ceil() as usize
    {
        warnings.push(format!("{count} workers, but the cgroup's CPU quota is {} CPUs: they will be throttled", trim(quota)));
    }
    // With a quota below the cpuset every container of the host would choose the same first CPUs: leave the place to the
    // scheduler.
    let pinned = workers.cpus.is_some() || limit.is_none_or(|limit| limit >= allowed.len());
    if !pinned {
        reason.push_str("; not pinned, since the quota lets them run on any CPU (workers.cpus pins)");
    }
    let cpus = (0..count).map(|index| if pinned { chosen.get(index % chosen.len()).copied() } else { None }).collect();
    Ok(Plan { cpus, reason, warnings })
}

/// The affinity, cut to the cgroup's cpuset where that is narrower.
fn allowed_cpus(affinity: &[usize], root: &Path) -> Vec<usize> {
    let cpuset =
        cgroup_files(root, "cpuset", &["cpuset.cpus.effective"], &["cpuset.effective_cpus", "cpuset.cpus"]).into_iter().next();
    let allowed: BTreeSet<usize> = affinity.iter().copied().collect();
    if let Some(cpuset) = cpuset.and_then(|text| parse_list(text.trim())) {
        let both: Vec<usize> = allowed.iter().copied().filter(|cpu| cpuset.contains(cpu)).collect();
        if !both.is_empty() {
            return both;
        }
    }
    if allowed.is_empty() { vec![0] } else { allowed.into_iter().collect() }
}

/// CPUs that the quota allows: the smallest on the way from the process's cgroup to the root; `None` without a quota.
fn quota(root: &Path) -> Option<f64> {
    let v2 = cgroup_files(root, "cpu", &["cpu.max"], &[]).into_iter().filter_map(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        ratio(quota, period)
    });
    let periods = cgroup_files(root, "cpu", &[], &["cpu.cfs_period_us"]);
    let v1 = cgroup_files(root, "cpu", &[], &["cpu.cfs_quota_us"])
        .into_iter()
        .zip(periods)
        .filter_map(|(quota, period)| ratio(quota.trim(), period.trim()));
    v2.chain(v1).min_by(f64::total_cmp)
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.parse().ok()?;
    let period: f64 = period.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// Contents of the first existing of the named files in the process's cgroup and each of its parents, innermost first.
pub(super) fn cgroup_files(root: &Path, controller: &str, v2_names: &[&str], v1_names: &[&str]) -> Vec<String> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mount = root.join("sys/fs/cgroup");
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (bases, names) = if controllers.is_empty() {
            // On a hybrid host the unified tree lies one level lower.
            (vec![mount.clone(), mount.join("unified")], v2_names)
        } else if controllers.split(',').any(|name| name == controller) {
            (vec![mount.join(controllers), mount.join(controller)], v1_names)
        } else {
            continue;
        };
        if names.is_empty() {
            continue;
        }
        for base in bases {
            let contents = up_from(&base, path, names);
            if !contents.is_empty() {
                found.extend(contents);
                break;
            }
        }
    }
    found
}

fn up_from(base: &Path, path: &str, names: &[&str]) -> Vec<String> {
    // In a cgroup namespace, or where only a part is mounted, the path may not exist below the mount: what exists of it counts.
    let relative = Path::new(path.trim_start_matches('/'));
    let mut directories: Vec<PathBuf> = relative.ancestors().map(|part| base.join(part)).collect();
    directories.dedup();
    let first_of = |directory: &PathBuf| names.iter().find_map(|name| fs::read_to_string(directory.join(name)).ok());
    directories.iter().filter_map(first_of).filter(|text| !text.trim().is_empty()).collect()
}

/// Reads `0-3,8`. `None` if it is not a list of CPUs.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last - first > 65_536 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Writes CPUs as `0-3,8`.
pub fn ranges(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        let comma = if text.is_empty() { "" } else { "," };
        text += &if first == last { format!("{comma}{first}") } else { format!("{comma}{first}-{last}") };
    }
    text
}

fn trim(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::gateway::Gateway;

    /// A tree of files below a directory of its own, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("ringway-plan-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn auto() -> Workers {
        Gateway::default().workers
    }

    #[test]
    fn without_cgroups_one_worker_per_cpu() {
        let tree = Tree::new("bare", &[]);
        let made = plan(&auto(), &[0, 1, 2, 3], &tree.0).unwrap();
        assert_eq!(made.cpus, [Some(0), Some(1), Some(2), Some(3)]);
        assert!(made.reason.contains("0-3"), "{}", made.reason);
    }

    #[test]
    fn a_v2_quota_is_rounded_up_and_a_parents_quota_counts() {
        let tree = Tree::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/pod/container\n"),
                ("sys/fs/cgroup/pod/container/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
            ],
        );
        let made = plan(&auto(), &[0, 1, 2, 3], &tree.0).unwrap();
        assert_eq!(made.cpus, [None, None]);
        assert!(made.reason.contains("1.5 CPUs of 4"), "{}", made.reason);
    }

    #[test]
    fn a_cgroup_namespace_shows_the_files_at_its_root() {
        let tree = Tree::new(
            "ns",
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "800000 100000\n"),
                ("sys/fs/cgroup/cpuset.cpus.effective", "1-2\n"),
            ],
        );
        let made = plan(&auto(), &[0, 1, 2, 3], &tree.0).unwrap();
        assert_eq!(made.cpus, [Some(1), Some(2)]);
    }

    #[test]
    fn a_v1_quota_and_cpuset_are_read_from_their_controllers() {
        let tree = Tree::new(
            "v1",
            &[
                ("proc/self/cgroup", "4:cpuset:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"),
                ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpuset/docker/abc/cpuset.cpus", "0-1\n"),
            ],
        );
        assert_eq!(plan(&auto(), &[0, 1, 2, 3], &tree.0).unwrap().cpus, [None]);
        let free = Tree::new(
            "v1-free",
            &[
                ("proc/self/cgroup", "3:cpu,cpuacct:/\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(plan(&auto(), &[0, 1], &free.0).unwrap().cpus, [Some(0), Some(1)]);
    }

    #[test]
    fn what_is_configured_holds_and_is_checked() {
        let tree = Tree::new("conf", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "100000 100000\n")]);
        let workers = Workers { cpus: Some(vec![2, 3]), ..auto() };
        let made = plan(&workers, &[0, 1, 2, 3], &tree.0).unwrap();
        assert_eq!(made.cpus, [Some(2), Some(3)]);
        assert!(made.warnings.iter().any(|warning| warning.contains("throttled")), "{:?}", made.warnings);
        let outside = Workers { cpus: Some(vec![9]), ..auto() };
        assert!(plan(&outside, &[0, 1], &tree.0).unwrap_err().contains("CPU 9"));
        let bare = Tree::new("conf-bare", &[]);
        let many = Workers { count: Some(3), ..auto() };
        let made = plan(&many, &[0, 1], &bare.0).unwrap();
        assert_eq!(made.cpus, [Some(0), Some(1), Some(0)]);
        assert_eq!(made.warnings.len(), 1);
    }

    #[test]
    fn lists_of_cpus_are_read_and_written() {
        assert_eq!(parse_list("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("3-1"), None);
        assert_eq!(ranges(&[0, 1, 2, 8]), "0-2,8");
    }
}
