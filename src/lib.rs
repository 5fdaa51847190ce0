//! Ringway: an API gateway for Linux. Modules are floors; a file uses its own floor and those below (docs/concepts.md,
//! kept by tests/tidy.rs). Read a request's way from `worker::accept` down to `proxy::access_log`.

// Floor 0
pub mod base;
// Floor 1
pub mod config;
pub mod convert;
pub mod proto;
pub mod route;
// Floor 2
pub mod net;
// Floor 3
pub mod limit;
pub mod plugin;
pub mod upstream;
// Floor 4
pub mod proxy;
pub mod snapshot;
// Floor 5
pub mod worker;
// Floor 6
pub mod control;
// Floor 7
pub mod cli;
