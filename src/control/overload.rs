//! Memory: what the process may use, what it uses, and what follows. Looked at four times a second; the workers learn of it
//! with their sweeps.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::plan;
use super::status::Shared;
use crate::config::gateway::MemoryLimit;
use crate::net::host;
use crate::snapshot::published::{Pressure, Published};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Percent of the limit at which memory is near it, and at it; both are left a little lower than they are entered.
const NEAR: u64 = 85;
const FULL: u64 = 95;
const SLACK: u64 = 3;

/// Watches for ever.
pub async fn watch(published: Arc<Published>, shared: Arc<Shared>) {
    let mut before = Pressure::Calm;
    loop {
        tokio::time::sleep(LOOK).await;
        let limit = limit(shared.gateway().limits.memory, Path::new("/"));
        let mut used = host::resident_bytes().unwrap_or(0);
        if before > Pressure::Calm {
            host::give_back_memory(); // what is free inside the allocator must not keep requests out
            used = host::resident_bytes().unwrap_or(0);
        }
        let pressure = judge(used, limit, before);
        if pressure != before {
            tell(pressure, used, limit.unwrap_or(0));
        }
        published.press(pressure);
        shared.note_memory(limit, pressure);
        before = pressure;
    }
}

fn tell(pressure: Pressure, used: u64, limit: u64) {
    let (used, limit) = (used >> 20, limit >> 20);
    match pressure {
        Pressure::Calm => tracing::info!("memory: {used} of {limit} MiB: calm again"),
        Pressure::Near => tracing::warn!("memory: {used} of {limit} MiB: connections end early, caches are given back"),
        Pressure::Full => tracing::error!("memory: {used} of {limit} MiB: new requests get 503"),
    }
}

fn judge(used: u64, limit: Option<u64>, before: Pressure) -> Pressure {
    let Some(limit) = limit.filter(|limit| *limit > 0) else { return Pressure::Calm };
    let percent = used.saturating_mul(100) / limit;
    let enters = |at: u64, level: Pressure| percent >= if before >= level { at - SLACK } else { at };
    match (enters(FULL, Pressure::Full), enters(NEAR, Pressure::Near)) {
        (true, _) => Pressure::Full,
        (false, true) => Pressure::Near,
        (false, false) => Pressure::Calm,
    }
}

/// Bytes the process may use: as configured, else the least of its cgroups' limits and the machine's memory. `root` is the
/// file system's (a fixture in tests).
pub fn limit(configured: MemoryLimit, root: &Path) -> Option<u64> {
    match configured {
        MemoryLimit::Off => None,
        MemoryLimit::Bytes(bytes) => Some(bytes),
        MemoryLimit::Auto => {
            let groups = plan::cgroup_files(root, "memory", &["memory.max"], &["memory.limit_in_bytes"]);
            let groups = groups.iter().filter_map(|text| text.trim().parse::<u64>().ok());
            groups.chain(machine_bytes(root)).min()
        }
    }
}

fn machine_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_entered_and_left_with_some_slack() {
        let mut level = Pressure::Calm;
        let mut after = |used: u64| {
            level = judge(used, Some(100), level);
            level
        };
        assert_eq!(
            [84, 85, 83, 82, 81].map(&mut after),
            [Pressure::Calm, Pressure::Near, Pressure::Near, Pressure::Near, Pressure::Calm]
        );
        assert_eq!(
            [95, 92, 91, 200, 10].map(&mut after),
            [Pressure::Full, Pressure::Full, Pressure::Near, Pressure::Full, Pressure::Calm]
        );
        assert_eq!(judge(u64::MAX, None, Pressure::Full), Pressure::Calm);
    }

    #[test]
    fn the_least_limit_counts() {
        let root = std::env::temp_dir().join(format!("ringway-memory-{}", std::process::id()));
        let file = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\n");
        assert_eq!(limit(MemoryLimit::Auto, &root), Some(1_024_000));
        file("proc/self/cgroup", "0::/a/b\n");
        file("sys/fs/cgroup/a/memory.max", "500000\n");
        file("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(limit(MemoryLimit::Auto, &root), Some(500_000), "a parent's limit holds");
        assert_eq!(limit(MemoryLimit::Bytes(7), &root), Some(7));
        assert_eq!(limit(MemoryLimit::Off, &root), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
