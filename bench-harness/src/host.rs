//! What is recorded of the machine a run was made on.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::date::{Date, date};

/// Kernel, CPU, settings and load, as JSON.
pub fn facts() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let meminfo = read("/proc/meminfo");
    let memory = meminfo.split_ascii_whitespace().nth(1).unwrap_or_default();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": model,
        "cpus": cpuinfo.lines().filter(|l| l.starts_with("processor")).count(),
        "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "io_uring_disabled": read("/proc/sys/kernel/io_uring_disabled"),
        "loadavg_at_start": read("/proc/loadavg"),
        "memory_kib": memory,
    })
}

/// Ticks of all CPUs so far: what other guests took (steal), and all together.
pub fn stolen() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().sum())
}

/// Now, as `2026-11-30T12:00:00Z`.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let Date { year, month, day, time: [hour, minute, second] } = date(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
