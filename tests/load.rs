//! The short forms of the load scenarios (loadtests/): mixed load for a while, clients that misbehave, nodes that die and leave.

mod support;

use std::sync::{Mutex, PoisonError};

use loadtests::scenario::{self, Options};

/// One at a time: each loads the machine by itself.
static ONE: Mutex<()> = Mutex::new(());

/// Runs a scenario in its short form on both drivers.
fn passes(name: &str, workers: usize) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, scenario) = scenario::ALL.into_iter().find(|(known, _)| *known == name).unwrap();
    for driver in support::drivers() {
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
