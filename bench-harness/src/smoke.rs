//! A short comparison: does everything start, answer, and get measured?

use std::io;
use std::path::Path;

use clap::Parser;

use crate::args::{Action, Cli, CompareArgs, SmokeArgs};
use crate::children::Scratch;
use crate::compare::{self, Run};
use crate::peers::Kind;
use crate::report;

/// Runs two short rounds of a few loads and prints the tables. Well under two minutes.
///
/// # Errors
/// Where a peer that is there gave no sound measurement.
pub fn smoke(args: &SmokeArgs) -> io::Result<()> {
    let scratch = Scratch::new("bench-smoke")?;
    let mut compare = compare_defaults()?;
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/ringway");
    compare.ringway = args.ringway.clone().or_else(|| built.exists().then_some(built));
    compare.peers = args.peers.clone();
    if compare.ringway.is_none() {
        eprintln!("left out: ringway (no --ringway, and target/release/ringway is not built)");
        let without = compare.kinds().map_err(io::Error::other)?.into_iter();
        let names: Vec<&str> = without.filter(|k| !k.is_ringway()).map(Kind::name).collect();
        compare.peers = names.join(",");
    }
    compare.workloads = "c64,10k,post4k,conn,open".into();
    (compare.rounds, compare.seconds, compare.warmup) = (2, 0.4, 0.1);
    compare.out = scratch.path().to_owned();
    let run = compare::measure(&compare)?;
    println!("{}", report::markdown(&run));
    let lame = unmeasured(&run);
    if lame.is_empty() { Ok(()) } else { Err(io::Error::other(format!("not measured: {}", lame.join(", ")))) }
}

fn compare_defaults() -> io::Result<CompareArgs> {
    match Cli::try_parse_from(["bench-harness", "compare"]).map_err(io::Error::other)?.command {
        Action::Compare(args) => Ok(args),
        _ => Err(io::Error::other("compare did not parse as compare")),
    }
}

fn unmeasured(run: &Run) -> Vec<String> {
    let all = run.tables.iter().flat_map(|t| t.rows.iter().map(move |r| (t, r)));
    all.filter(|(t, r)| (r.kind != Kind::Floor || t.workload.has_floor()) && r.rounds.iter().any(Option::is_none))
        .map(|(t, r)| format!("{} under {}", r.kind.name(), t.workload.name))
        .collect()
}
