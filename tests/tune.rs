//! `tuning/ringway-tune` on a fixture tree, and in a network namespace of its own.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::Scratch;

fn tool() -> String {
    format!("{}/tuning/ringway-tune", env!("CARGO_MANIFEST_DIR"))
}

fn tune(root: &Path, args: &[&str]) -> Output {
    Command::new("python3").arg(tool()).args(args).arg("--root").arg(root).output().unwrap()
}

fn host() -> Scratch {
    let scratch = Scratch::new();
    let files = [
        ("proc/sys/net/core/somaxconn", "4096"),
        ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
        ("proc/sys/net/ipv4/tcp_tw_reuse", "1"),
        ("proc/sys/kernel/io_uring_disabled", "2"),
        (
            "proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 1048576              files",
        ),
        ("proc/irq/40/smp_affinity_list", "0-7"),
        ("proc/irq/41/smp_affinity_list", "3"),
        ("proc/99/comm", "irqbalance"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
        ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines"),
        ("sys/devices/system/node/node1/cpulist", "8-15"),
        ("sys/class/net/eth0/operstate", "up"),
        ("sys/class/net/eth0/device/vendor", "0x8086"),
        ("sys/class/net/eth0/device/numa_node", "1"),
        ("sys/class/net/eth0/device/msi_irqs/40", ""),
        ("sys/class/net/eth0/device/msi_irqs/41", ""),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "f"),
        ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0"),
    ];
    for (name, text) in files {
        let path = scratch.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }
    scratch
}

fn text(scratch: &Scratch, name: &str) -> String {
    std::fs::read_to_string(scratch.0.join(name)).unwrap().trim().to_owned()
}

#[test]
fn an_audit_finds_what_is_to_be_found_and_changes_nothing() {
    let host = host();
    let before = text(&host, "proc/sys/net/core/somaxconn");
    let output = tune(&host.0, &["audit", "--json", "--workers", "2-3"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = |id: &str| {
        let one = found.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} in {found:#}"));
        (one["state"].as_str().unwrap().to_owned(), one["fix"].is_null())
    };
    assert_eq!(state("net.core.somaxconn"), ("improve".into(), false));
    assert_eq!(state("net.ipv4.ip_local_port_range"), ("improve".into(), false));
    assert_eq!(state("net.ipv4.tcp_tw_reuse"), ("good".into(), true));
    assert_eq!(state("kernel.io_uring_disabled"), ("improve".into(), true), "a matter of policy is only told");
    assert_eq!(state("thp"), ("improve".into(), false));
    assert_eq!(state("nofile"), ("note".into(), true));
    assert_eq!(state("mitigations"), ("note".into(), true));
    assert_eq!(state("nic.eth0.numa"), ("note".into(), true), "workers 2-3 are not on node 1");
    assert_eq!(state("nic.eth0.rps"), ("note".into(), true));
    assert_eq!((state("nic.eth0.irq.40"), state("nic.eth0.irq.41")), (("improve".into(), false), ("good".into(), true)));
    assert_eq!(state("irqbalance"), ("note".into(), true));
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), before);
    let told = String::from_utf8(tune(&host.0, &["audit"]).stdout).unwrap();
    assert!(told.contains("FIX  net.core.somaxconn: 4096 -> 65535") && told.contains("cpu0: powersave"), "{told}");
}

#[test]
fn what_is_applied_can_be_undone() {
    let host = host();
    let dry = tune(&host.0, &["apply", "--dry-run", "--workers", "2-3"]);
    assert!(dry.status.success() && text(&host, "proc/sys/net/core/somaxconn") == "4096");
    let some = tune(&host.0, &["apply", "--only", "net.core.somaxconn", "thp"]);
    assert!(some.status.success(), "{}", String::from_utf8_lossy(&some.stderr));
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), "65535");
    assert_eq!(text(&host, "sys/kernel/mm/transparent_hugepage/enabled"), "madvise");
    assert_eq!(text(&host, "proc/sys/net/ipv4/ip_local_port_range"), "32768\t60999", "not asked for");
    let rest = tune(&host.0, &["apply", "--workers", "2-3"]);
    assert!(rest.status.success());
    assert_eq!(text(&host, "proc/irq/40/smp_affinity_list"), "2");
    assert_eq!(text(&host, "proc/sys/kernel/io_uring_disabled"), "2");
    assert!(tune(&host.0, &["undo"]).status.success());
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), "4096");
    assert_eq!(text(&host, "sys/kernel/mm/transparent_hugepage/enabled"), "always");
    assert_eq!(text(&host, "proc/irq/40/smp_affinity_list"), "0-7");
    let twice = tune(&host.0, &["undo"]);
    assert!(!twice.status.success() && String::from_utf8_lossy(&twice.stderr).contains("nothing was applied"));
    let typo = tune(&host.0, &["apply", "--only", "net.core.somaxcon"]);
    assert!(!typo.status.success() && String::from_utf8_lossy(&typo.stderr).contains("somaxcon"));
}

#[test]
fn the_sysctl_file_is_the_tools_own() {
    let made = tune(Path::new("/"), &["sysctl"]).stdout;
    let kept = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/99-ringway.conf")).unwrap();
    assert_eq!(String::from_utf8_lossy(&made), String::from_utf8_lossy(&kept), "ringway-tune sysctl > tuning/99-ringway.conf");
}

/// The real files of a network namespace that nobody else uses; where that can't be had, it is said.
#[test]
fn it_works_on_a_real_kernel() {
    let scratch = Scratch::new();
    let record = scratch.0.join("record.json").display().to_string();
    let script = format!(
        "set -e; python3 {tool} apply --record {record} --only net.core.somaxconn net.ipv4.tcp_slow_start_after_idle >/dev/null; \
         cat /proc/sys/net/core/somaxconn; python3 {tool} undo --record {record} >/dev/null; cat /proc/sys/net/core/somaxconn",
        tool = tool()
    );
    let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).output();
    match output {
        Ok(output) if output.status.success() => {
            let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
            assert_eq!(lines[0], "65535");
            assert_ne!(lines[1], "65535", "taken back");
        }
        Ok(output) => eprintln!("no network namespace to test in: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("no network namespace to test in: {error}"),
    }
}
