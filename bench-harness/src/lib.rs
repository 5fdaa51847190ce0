//! The side by side runner: its backend, floor and load generator, and what starts, measures and compares the peers.
//!
//! Top to bottom: `compare` (with `rounds`), `gate` and `smoke` are what a user runs; `peers` writes each proxy's configuration
//! and starts it; `load` drives requests through it; `audit` sees that it kept the terms; `meter`, `procfs` and `syscalls`
//! measure what it cost; `stats` and `report` say what that means. `sys` and `ring` hold every `unsafe`.
// In a test a failed unwrap is the report.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
pub mod audit;
pub mod backend;
pub mod chart;
pub mod children;
pub mod client;
pub mod compare;
pub mod date;
pub mod fetch;
pub mod floor;
pub mod floor_ring;
pub mod gate;
pub mod host;
pub mod idle;
pub mod inside;
pub mod instructions;
pub mod load;
pub mod meter;
pub mod peers;
pub mod procfs;
pub mod report;
pub mod ring;
pub mod rounds;
pub mod smoke;
pub mod stats;
pub mod sys;
pub mod syscalls;
pub mod train;
pub mod workload;
