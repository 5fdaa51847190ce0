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
        ("proc/sys/net/core/somaxconn", "128"),
        ("proc/sys/net/core/busy_poll", "50"),
        ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t212992"),
        ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t67108864"),
        ("proc/sys/fs/nr_open", "1073741816"),
        ("proc/sys/kernel/osrelease", "5.10.0-28-amd64"),
        ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
        ("proc/sys/net/ipv4/tcp_tw_reuse", "1"),
        ("proc/sys/kernel/io_uring_disabled", "2"),
        (
            "proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  65536  65536  bytes\nMax open files  1024  1048576  files",
        ),
        (
            "proc/interrupts",
            "  CPU0\n  9: 0 PCI-MSI 1-edge eth0-TxRx-0\n 10: 0 PCI-MSI 2-edge eth0-TxRx-1\n 11: 0 PCI-MSI 0-edge eth0-misc",
        ),
        ("proc/irq/9/smp_affinity_list", "0-7"),
        ("proc/irq/10/smp_affinity_list", "3"),
        ("proc/irq/11/smp_affinity_list", "0-7"),
        ("proc/99/comm", "irqbalance"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
        ("sys/devices/system/cpu/cpuidle/current_driver", "intel_idle"),
        ("sys/devices/system/cpu/cpu0/cpuidle/state0/latency", "0"),
        ("sys/devices/system/cpu/cpu0/cpuidle/state0/disable", "0"),
        ("sys/devices/system/cpu/cpu0/cpuidle/state3/name", "C6"),
        ("sys/devices/system/cpu/cpu0/cpuidle/state3/latency", "133"),
        ("sys/devices/system/cpu/cpu0/cpuidle/state3/disable", "0"),
        ("sys/devices/system/cpu/isolated", ""),
        ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines"),
        ("sys/devices/system/node/node1/cpulist", "8-15"),
        ("sys/class/net/eth0/operstate", "up"),
        ("sys/class/net/eth0/device/vendor", "0x8086"),
        ("sys/class/net/eth0/device/numa_node", "1"),
        ("sys/class/net/eth0/device/msi_irqs/9", ""),
        ("sys/class/net/eth0/device/msi_irqs/10", ""),
        ("sys/class/net/eth0/device/msi_irqs/11", ""),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "f"),
        ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0"),
        ("sys/class/net/eth0/queues/tx-0/xps_cpus", "00000000,0000000f"),
        ("sys/class/net/eth0/queues/tx-1/xps_cpus", "00000000,00000008"),
        ("sys/class/net/eth0/statistics/rx_missed_errors", "12"),
        ("ethtool/eth0-g", "Pre-set maximums:\nRX: 4096\nTX: 4096\nCurrent hardware settings:\nRX: 256\nTX: 256"),
        ("ethtool/eth0-c", "Adaptive RX: off  TX: off\nrx-usecs: 50\nrx-frames: 0"),
        ("ethtool/eth0-x", "RX flow hash indirection table for eth0 with 2 RX ring(s):\n    0:      0     0     0     0"),
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

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn found(host: &Scratch, args: &[&str]) -> Value {
    let output = tune(&host.0, &[&["audit", "--json"], args].concat());
    assert!(output.status.success(), "{}", told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What was found of one name: its state, and whether `apply` would change it.
fn state(found: &Value, id: &str) -> (String, bool) {
    let one = found.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} in {found:#}"));
    (one["state"].as_str().unwrap().to_owned(), !one["fix"].is_null())
}

#[test]
fn an_audit_finds_what_is_to_be_found_and_changes_nothing() {
    let host = host();
    let before = text(&host, "proc/sys/net/core/somaxconn");
    let found = found(&host, &["--workers", "2-3"]);
    let expected = [
        ("net.core.somaxconn", "improve", true),
        ("net.ipv4.ip_local_port_range", "improve", true),
        ("net.ipv4.tcp_tw_reuse", "good", false),
        ("net.ipv4.tcp_migrate_req", "absent", false),
        ("net.ipv4.tcp_rmem", "improve", true),
        ("net.ipv4.tcp_wmem", "good", false),
        ("net.core.busy_poll", "note", false),
        ("fs.nr_open", "good", false),
        ("kernel.io_uring_disabled", "improve", false), // a matter of policy is only told
        ("thp", "improve", true),
        ("governor", "absent", false), // those of CPUs 2 and 3 are not there
        ("c-states", "note", false),
        ("isolcpus", "note", false),
        ("mitigations", "note", false),
        ("nofile", "good", false), // the hard limit counts: the soft one is raised by the start
        ("memlock", "note", false),
        ("nic.eth0.queues", "good", false),
        ("nic.eth0.rss", "note", false),
        ("nic.eth0.numa", "note", false), // workers 2-3 are not on node 1
        ("nic.eth0.rps", "note", false),
        ("nic.eth0.xps.0", "improve", true),
        ("nic.eth0.xps.1", "good", false),
        ("nic.eth0.irq.9", "improve", true),
        ("nic.eth0.irq.10", "good", false),
        ("nic.eth0.rings", "note", false),
        ("nic.eth0.coalescing", "note", false),
        ("irqbalance", "note", false),
    ];
    for (id, is, fixable) in expected {
        assert_eq!(state(&found, id), (is.to_owned(), fixable), "{id}");
    }
    let silent = found.as_array().unwrap().iter().find(|one| one["why"].as_str().is_none_or(str::is_empty));
    assert_eq!(silent, None, "each finding says what it buys");
    assert!(!found.to_string().contains("irq.11"), "an interrupt that carries no packets is nobody's");
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), before);
    let told = told(&tune(&host.0, &["audit"]));
    assert!(told.contains("FIX  net.core.somaxconn: 128 -> 65535") && told.contains("cpu0: powersave"), "{told}");
    assert!(told.contains("rx 256 of 4096; 12 packets lost") && told.contains("rx-usecs 50, adaptive off"), "{told}");
}

#[test]
fn interrupts_without_names_are_taken_by_number() {
    let host = host();
    std::fs::remove_file(host.0.join("proc/interrupts")).unwrap();
    let found = found(&host, &["--workers", "2-3"]);
    assert_eq!(state(&found, "nic.eth0.irq.10"), ("good".into(), false), "9 is the first and 10 the second");
}

#[test]
fn the_workers_are_those_of_a_ringway_that_runs() {
    let host = host();
    let file = |name: &str, text: &str| {
        let path = host.0.join("proc/7").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    file("comm", "ringway\n");
    file("limits", "Max open files  1024  4096  files\n");
    for (task, cpu) in [("8", "2"), ("9", "3")] {
        file(&format!("task/{task}/comm"), "worker-0\n");
        file(&format!("task/{task}/status"), &format!("Name:\tworker\nCpus_allowed_list:\t{cpu}\n"));
    }
    let found = found(&host, &[]);
    assert_eq!(state(&found, "nic.eth0.irq.10"), ("good".into(), false));
    assert_eq!(state(&found, "nofile"), ("note".into(), false), "its own limits are looked at");
}

#[test]
fn what_is_applied_can_be_undone() {
    let host = host();
    let dry = tune(&host.0, &["apply", "--dry-run", "--workers", "2-3"]);
    assert!(dry.status.success() && text(&host, "proc/sys/net/core/somaxconn") == "128");
    let some = tune(&host.0, &["apply", "--only", "net.core.somaxconn", "thp"]);
    assert!(some.status.success(), "{}", told(&some));
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), "65535");
    assert_eq!(text(&host, "sys/kernel/mm/transparent_hugepage/enabled"), "madvise");
    assert_eq!(text(&host, "proc/sys/net/ipv4/ip_local_port_range"), "32768\t60999", "not asked for");
    let rest = tune(&host.0, &["apply", "--workers", "2-3"]);
    assert!(rest.status.success(), "{}", told(&rest));
    assert_eq!(text(&host, "proc/irq/9/smp_affinity_list"), "2");
    assert_eq!(text(&host, "proc/sys/net/ipv4/tcp_rmem"), "4096 131072 16777216");
    assert_eq!(text(&host, "proc/sys/kernel/io_uring_disabled"), "2");
    let dry = tune(&host.0, &["undo", "--dry-run"]);
    assert!(dry.status.success() && told(&dry).contains("/proc/irq/9/smp_affinity_list: 2 -> 0-7"), "{}", told(&dry));
    assert_eq!(text(&host, "proc/irq/9/smp_affinity_list"), "2", "only said");
    let undone = tune(&host.0, &["undo"]);
    assert!(undone.status.success(), "a dry run keeps the record: {}", told(&undone));
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), "128");
    assert_eq!(text(&host, "sys/kernel/mm/transparent_hugepage/enabled"), "always");
    assert_eq!(text(&host, "proc/irq/9/smp_affinity_list"), "0-7");
    let twice = tune(&host.0, &["undo"]);
    assert!(!twice.status.success() && told(&twice).contains("nothing was applied"));
    let typo = tune(&host.0, &["apply", "--only", "net.core.somaxcon"]);
    assert!(!typo.status.success() && told(&typo).contains("somaxcon"));
}

/// Makes it a file that holds a number and refuses every write, root's too.
fn refuses(host: &Scratch, name: &str) {
    std::fs::remove_file(host.0.join(name)).unwrap();
    std::os::unix::fs::symlink("/proc/sys/kernel/cap_last_cap", host.0.join(name)).unwrap();
}

fn writes(host: &Scratch, name: &str, text: &str) {
    let path = host.0.join(name);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path, format!("{text}\n")).unwrap();
}

#[test]
fn a_write_that_fails_stops_no_other() {
    let host = host();
    let (thp, somaxconn) = ("sys/kernel/mm/transparent_hugepage/enabled", "proc/sys/net/core/somaxconn");
    let apply = ["apply", "--only", "net.core.somaxconn", "thp"];
    refuses(&host, somaxconn);
    let applied = tune(&host.0, &apply);
    assert!(!applied.status.success() && told(&applied).contains("somaxconn: ["), "{}", told(&applied));
    assert_eq!(text(&host, thp), "madvise");
    let undone = tune(&host.0, &["undo"]);
    assert!(undone.status.success(), "what was not changed is not in the record: {}", told(&undone));

    writes(&host, somaxconn, "128");
    assert!(tune(&host.0, &apply).status.success());
    refuses(&host, thp);
    let undone = tune(&host.0, &["undo", "--force"]);
    assert!(!undone.status.success() && told(&undone).contains("1 of 2 changes not taken back"), "{}", told(&undone));
    assert_eq!(text(&host, somaxconn), "128", "the newest change failed, and the one before was still taken back");
    writes(&host, thp, "madvise");
    let again = tune(&host.0, &["undo"]);
    assert!(again.status.success(), "what is left stayed in the record: {}", told(&again));
    assert_eq!((text(&host, thp), text(&host, somaxconn)), ("always".into(), "128".into()));
    assert!(!host.0.join("var/lib/ringway/tune.json").exists());
}

#[test]
fn what_somebody_changed_since_is_left_alone() {
    let host = host();
    assert!(tune(&host.0, &["apply", "--only", "net.core.somaxconn", "net.ipv4.ip_local_port_range", "thp"]).status.success());
    writes(&host, "proc/sys/net/core/somaxconn", "32768");
    writes(&host, "proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"); // back already
    let undone = tune(&host.0, &["undo"]);
    assert!(!undone.status.success() && told(&undone).contains("is 32768, not 65535: changed since"), "{}", told(&undone));
    assert!(told(&undone).contains("is 32768 60999 already"), "{}", told(&undone));
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), "32768");
    assert_eq!(text(&host, "sys/kernel/mm/transparent_hugepage/enabled"), "always");
    assert!(tune(&host.0, &["undo", "--force"]).status.success());
    assert_eq!(text(&host, "proc/sys/net/core/somaxconn"), "128");
}

#[test]
fn the_sysctl_file_is_the_tools_own_and_lowers_nothing_on_the_host_it_was_made_on() {
    let made = tune(Path::new("/"), &["sysctl", "--any-host"]).stdout;
    let kept = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/99-ringway.conf")).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&made),
        String::from_utf8_lossy(&kept),
        "ringway-tune sysctl --any-host > tuning/99-ringway.conf"
    );
    let here = told(&tune(&host().0, &["sysctl"]));
    assert!(
        here.contains("\nnet.core.somaxconn = 65535\n") && here.contains("# net.ipv4.tcp_wmem: this host has more"),
        "{here}"
    );
    assert!(!here.contains("fs."), "systemd sets these higher than any file would: {here}");
}

/// The real files of a network namespace that nobody else uses; where that can't be had, it is said.
#[test]
fn it_works_on_a_real_kernel() {
    match Command::new("unshare").args(["--net", "true"]).output() {
        Ok(probe) if probe.status.success() => {}
        Ok(probe) => return eprintln!("no network namespace to test in: {}", told(&probe)),
        Err(error) => return eprintln!("no network namespace to test in: {error}"),
    }
    let scratch = Scratch::new();
    let record = scratch.0.join("record.json").display().to_string();
    let script = format!(
        "set -e; values() {{ cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/tcp_slow_start_after_idle; }}; \
         python3 {tool} apply --record {record} --only net.ipv4.ip_local_port_range net.ipv4.tcp_slow_start_after_idle >&2; \
         values; python3 {tool} undo --record {record} >&2; values",
        tool = tool()
    );
    let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1024\t65535\n0\n32768\t60999\n1\n", "{}", told(&output));
}
