//! The gate that reads no clock: which syscalls, how many ring operations and how many instructions a request costs in steady
//! state.

use std::fs;
use std::io;
use std::time::Duration;

use serde_json::Value;

use crate::args::GateArgs;
use crate::children::Scratch;
use crate::compare::{sample_syscalls, start_backend};
use crate::instructions::{self, Counted};
use crate::load;
use crate::peers::{Peer, Running, Terms, kind, ringway_program};
use crate::procfs;
use crate::sys;
use crate::syscalls::{Counts, Who};
use crate::workload;

/// Measures each budget's load and compares. Prints every figure.
///
/// # Errors
/// Where a budget is broken or can't be measured.
pub fn gate(args: &GateArgs) -> io::Result<()> {
    let budgets: Value = serde_json::from_str(&fs::read_to_string(&args.budgets)?)?;
    let scratch = Scratch::new("bench-gate")?;
    let terms = Terms::usual(scratch.path(), args.proxy_cpu, args.load_cpu, 0)?;
    let program = ringway_program(args.ringway.as_deref())?;
    let _backend = start_backend(&terms, args.load_cpu)?;
    sys::pin(args.load_cpu)?;
    let mut broken = Vec::new();
    for (name, budget) in budgets.as_object().into_iter().flatten() {
        let driver = if budget["driver"] == "epoll" { "ringway-epoll" } else { "ringway" };
        let kind = kind(driver).ok_or_else(|| io::Error::other("no such peer"))?;
        let running = Peer::new(kind, &program).map_err(io::Error::other)?.start(&terms)?;
        let load = workload::pick(budget["workload"].as_str().unwrap_or("c64")).map_err(io::Error::other)?;
        let Some(load) = load.first() else { continue };
        let spec = load.spec(running.address, Duration::from_secs(2), 0);
        let worker = busiest_thread(&running, &spec)?;
        let (counts, requests) = sample_syscalls(&spec, Who::Thread(worker), &terms.directory)?;
        print_counts(name, load.name, &counts, requests);
        broken.extend(check(name, budget, &counts, requests));
        drop(running);
        if let Some(limit) = budget["instructions_per_request"].as_f64() {
            match instructions::can_count() {
                true => broken.extend(check_instructions(name, limit, instructions::count(&program, load, &terms)?)),
                false if args.all => broken.push(format!("{name}: instructions can't be counted: install valgrind")),
                false => println!("  instructions: left out, valgrind is not installed"),
            }
        }
    }
    if broken.is_empty() {
        println!("every budget is kept");
        return Ok(());
    }
    Err(io::Error::other(broken.join("\n")))
}

/// The worker is the thread that runs while requests pass: found by its CPU time, so no name is relied on.
fn busiest_thread(running: &Running, spec: &load::Spec) -> io::Result<u32> {
    let pid = running.pid().ok_or_else(|| io::Error::other("no process"))?;
    let times = || procfs::threads(pid).into_iter().map(|tid| (tid, procfs::thread_nanos(pid, tid).unwrap_or(0.0)));
    let before: std::collections::HashMap<u32, f64> = times().collect();
    let warm = load::Spec { duration: Duration::from_millis(500), ..spec.clone() };
    load::answered(&warm)?;
    let grown = times().map(|(tid, now)| (tid, now - before.get(&tid).copied().unwrap_or(0.0)));
    grown.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(tid, _)| tid).ok_or_else(|| io::Error::other("no threads"))
}

fn print_counts(name: &str, load: &str, counts: &Counts, requests: u64) {
    let per = |n: u64| n as f64 / requests.max(1) as f64;
    println!("{name}: {requests} requests of {load}, counted by {} on the worker's thread", counts.tool);
    counts.kinds.iter().for_each(|(kind, n)| println!("  {kind:<16} {:.4} per request ({n})", per(*n)));
    if let Some(n) = counts.sqes.filter(|n| *n > 0) {
        println!("  ring operations  {:.4} per request ({n})", per(n));
    }
}

/// The budgets that were broken, in words.
fn check(name: &str, budget: &Value, counts: &Counts, requests: u64) -> Vec<String> {
    let mut broken = Vec::new();
    if requests == 0 {
        return vec![format!("{name}: no request was answered")];
    }
    let per = |n: u64| n as f64 / requests as f64;
    let limits = budget["calls_per_request"].as_object();
    let stray = budget["other_calls_per_request"].as_f64().unwrap_or(0.0);
    let mut other = 0;
    for (kind, n) in &counts.kinds {
        match limits.and_then(|limits| limits.get(kind)).and_then(Value::as_f64) {
            Some(limit) if per(*n) > limit => broken.push(format!("{name}: {kind} {:.3} per request, budget {limit}", per(*n))),
            Some(_) => {}
            None => other += n,
        }
    }
    if per(other) > stray {
        broken.push(format!(
            "{name}: calls outside the budget {:.4} per request, allowed {stray}: {:?}",
            per(other),
            counts.kinds
        ));
    }
    if let (Some(limit), Some(n)) = (budget["ring_operations_per_request"].as_f64(), counts.sqes)
        && per(n) > limit
    {
        broken.push(format!("{name}: ring operations {:.3} per request, budget {limit}", per(n)));
    }
    broken
}

fn check_instructions(name: &str, limit: f64, counted: Counted) -> Option<String> {
    let each = counted.instructions as f64 / counted.requests as f64;
    println!("  instructions     {each:.0} per request in user space ({} requests, callgrind)", counted.requests);
    (each > limit).then(|| format!("{name}: {each:.0} instructions per request, budget {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn counts(kinds: &[(&str, u64)], sqes: u64) -> Counts {
        Counts { kinds: kinds.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect(), sqes: Some(sqes), tool: "perf" }
    }

    #[test]
    fn a_budget_breaks_by_kind_by_strays_and_by_ring_operations() {
        let budget = json!({"calls_per_request": {"io_uring_enter": 1.0},
            "other_calls_per_request": 0.01, "ring_operations_per_request": 5});
        assert!(check("b", &budget, &counts(&[("io_uring_enter", 900), ("write", 9)], 4_500), 1_000).is_empty());
        assert_eq!(check("b", &budget, &counts(&[("io_uring_enter", 1_100), ("write", 11)], 5_500), 1_000).len(), 3);
        assert_eq!(check("b", &budget, &counts(&[], 0), 0).len(), 1);
    }
}
