//! The short forms of the load scenarios (loadtests/): mixed load for a while, clients that misbehave, nodes that die and leave.

use std::sync::{Mutex, PoisonError};

use loadtests::scenario::{self, Options};

/// One at a time: each loads the machine by itself.
static ONE: Mutex<()> = Mutex::new(());

/// Runs a scenario in its short form on both drivers.
fn passes(name: &str, workers: usize) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, scenario) = scenario::ALL.into_iter().find(|(known, _)| *known == name).unwrap();
    let forbidden = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|flag| flag.trim() == "2");
    for driver in ["io_uring", "epoll"] {
        if forbidden && driver == "io_uring" {
            eprintln!("io_uring is forbidden here: only epoll is tested");
            continue;
        }
        let program = env!("CARGO_BIN_EXE_ringway").into();
        let options = Options { program, nginx: false, driver: driver.to_owned(), workers, short: true };
        let report = scenario(&options).unwrap();
        assert!(report.passed(), "{}", report.text(&format!("{name} on {driver}")));
    }
}

#[test]
fn soak() {
    passes("soak", 2);
}

#[test]
fn churn() {
    passes("churn", 1);
}

#[test]
fn slow_clients() {
    passes("slow-clients", 1);
}

#[test]
fn upstream_failures() {
    passes("upstream-failures", 2);
}

#[test]
fn node_removal() {
    passes("node-removal", 2);
}

#[test]
fn stale_connections() {
    passes("stale-connections", 1);
}
