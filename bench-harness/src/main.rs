//! `bench-harness`: arguments to command.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench_harness::args::{Action, Cli, FloorArgs, FloorDriver, ListenArgs, LoadArgs};
use bench_harness::{backend, compare, floor, floor_ring, gate, load, smoke, stats, sys, train};
use clap::Parser;

fn main() -> ExitCode {
    sys::stop_on_signals();
    let done = match Cli::parse().command {
        Action::Compare(args) => compare::compare(&args),
        Action::Smoke(args) => smoke::smoke(&args),
        Action::Gate(args) => gate::gate(&args),
        Action::Train(args) => train::train(&args),
        Action::Load(args) => run_load(&args),
        Action::Backend(args) => run_backend(&args),
        Action::Floor(args) => run_floor(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-harness: {e}");
            ExitCode::FAILURE
        }
    }
}

fn listen(args: &ListenArgs) -> io::Result<(std::net::TcpListener, Instant)> {
    sys::raise_descriptors();
    let listener = sys::listen(args.listen)?;
    println!("listening on {}", listener.local_addr()?);
    Ok((listener, Instant::now() + Duration::from_secs(args.seconds)))
}

fn run_backend(args: &ListenArgs) -> io::Result<()> {
    let (listener, until) = listen(args)?;
    backend::serve(&listener, until, &|| false)
}

fn run_floor(args: &FloorArgs) -> io::Result<()> {
    let (listener, until) = listen(&args.listen)?;
    match args.driver {
        FloorDriver::Epoll => floor::forward(&listener, args.upstream, until, &|| false),
        FloorDriver::IoUring => floor_ring::forward(&listener, args.upstream, until, &|| false),
    }
}

fn run_load(args: &LoadArgs) -> io::Result<()> {
    sys::raise_descriptors();
    if let Some(cpu) = args.cpu {
        sys::pin(cpu)?;
    }
    let spec = load::Spec {
        method: args.method.clone(),
        headers: args.headers.clone(),
        variants: args.variants,
        body_bytes: args.body_bytes,
        close: args.close,
        pipeline: args.pipeline,
        rate: args.rate,
        expect_bytes: args.expect_bytes,
        ..load::Spec::get(args.target, &args.path, args.connections, Duration::from_secs_f64(args.duration))
    };
    let outcome = load::run(&spec, &mut |_| {})?;
    let quantiles = |h: &_| [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| format!("{:.0}", stats::micros(h, q))).join(" / ");
    println!("{} requests in {:.2} s: {:.0}/s", outcome.requests, outcome.elapsed.as_secs_f64(), outcome.rate());
    println!("{:?}, {} connections closed by the peer", outcome.errors, outcome.reopened);
    println!("µs from sending, p50 / p90 / p99 / p99.9 / max: {}", quantiles(&outcome.service));
    if let Some(scheduled) = &outcome.scheduled {
        println!("µs from the intended time: {}", quantiles(scheduled));
    }
    if outcome.errors.total() > 0 { Err(io::Error::other("there were errors")) } else { Ok(()) }
}
