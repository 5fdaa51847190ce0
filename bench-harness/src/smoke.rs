//! A short comparison: does everything start, answer, and get measured?

use std::io;

use clap::Parser;

use crate::args::{Action, Cli, CompareArgs, SmokeArgs};
use crate::children::Scratch;
use crate::compare::{self, Run};
use crate::peers::Role;
use crate::report;

/// Runs two short rounds of a few loads and prints the tables. Well under two minutes.
///
/// # Errors
/// Where a peer that is there gave no sound measurement, or does not keep the terms.
pub fn smoke(args: &SmokeArgs) -> io::Result<()> {
    let scratch = Scratch::new("bench-smoke")?;
    let mut compare = compare_defaults()?;
    compare.programs = args.programs.clone();
    compare.peers = args.peers.clone();
    compare.no_install = args.peers == "default";
    compare.workloads = "c64,10k,post4k,conn,open".into();
    (compare.rounds, compare.seconds, compare.warmup) = (2, 0.25, 0.1);
    compare.out = scratch.path().to_owned();
    let run = compare::measure(&compare)?;
    println!("{}", report::markdown(&run));
    let mut faults = run.faults.clone();
    faults.extend(unmeasured(&run));
    if faults.is_empty() { Ok(()) } else { Err(io::Error::other(faults.join("; "))) }
}

fn compare_defaults() -> io::Result<CompareArgs> {
    match Cli::try_parse_from(["bench-harness", "compare"]).map_err(io::Error::other)?.command {
        Action::Compare(args) => Ok(args),
        _ => Err(io::Error::other("compare did not parse as compare")),
    }
}

fn unmeasured(run: &Run) -> Vec<String> {
    let all = run.tables.iter().flat_map(|t| t.rows.iter().map(move |r| (t, r)));
    all.filter(|(t, r)| (r.role != Role::Floor || t.workload.has_floor()) && r.rounds.iter().any(Option::is_none))
        .map(|(t, r)| format!("not measured: {} under {}", r.name, t.workload.name))
        .collect()
}
