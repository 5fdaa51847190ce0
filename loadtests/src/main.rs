//! `cargo run -p loadtests -- <scenario|all> [--short]`

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bench_harness::{children, sys};
use clap::Parser;
use loadtests::scenario::{self, Options};

/// Starts the gateway and a scripted upstream, loads both, and ends in pass or fail with figures.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The scenarios' names, or all: reload-storm, churn, slow-clients, upstream-failures, node-removal, stale-connections,
    /// soak, scale, workers, balance, reuse.
    scenarios: Vec<String>,
    /// Smaller and quicker: all scenarios in about a minute.
    #[arg(long)]
    short: bool,
    /// The gateway; built with `cargo build --release` where not given.
    #[arg(long)]
    ringway: Option<PathBuf>,
    /// Take nginx instead, to see how a scenario treats it.
    #[arg(long)]
    nginx: bool,
    /// io_uring, epoll or auto.
    #[arg(long, default_value = "auto")]
    driver: String,
    /// Workers.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> ExitCode {
    sys::stop_on_signals();
    sys::raise_descriptors();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("loadtests: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool, String> {
    let names: Vec<&str> = cli.scenarios.iter().map(String::as_str).collect();
    let known = scenario::ALL.map(|(name, _)| name);
    if let Some(unknown) = names.iter().find(|n| **n != "all" && !known.contains(n)) {
        return Err(format!("no scenario {unknown}; there are {}, and all", known.join(", ")));
    }
    if names.is_empty() {
        return Err(format!("name a scenario: {}, or all", known.join(", ")));
    }
    let program = match (&cli.ringway, cli.nginx) {
        (_, true) => children::program(Path::new("nginx")),
        (Some(path), _) => path.clone(),
        (None, _) => build()?,
    };
    let (driver, workers) = (cli.driver.clone(), cli.workers);
    let options = Options { program, nginx: cli.nginx, driver, workers, short: cli.short };
    let mut passed = true;
    for (name, scenario) in scenario::ALL.into_iter().filter(|(n, _)| names.contains(&"all") || names.contains(n)) {
        if sys::stopped() {
            return Err("stopped by a signal".into());
        }
        let report = scenario(&options).map_err(|e| format!("{name}: {e}"))?;
        print!("{}", report.text(name));
        passed &= report.passed();
    }
    Ok(passed)
}

fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new("cargo").args(["build", "--release", "--bin", "ringway"]).current_dir(&root).status();
    match status {
        Ok(status) if status.success() => Ok(root.join("target/release/ringway")),
        _ => Err("cargo build --release failed".into()),
    }
}
