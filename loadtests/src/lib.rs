//! Load scenarios: each starts the real gateway and a scripted upstream, works on both, and ends in pass or fail with figures.
//!
//! `scenario` holds one file per scenario; `crowd` the clients that make the load; `subject` the gateway; `upstream` what is
//! behind it.
// In a test a failed unwrap is the report.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod crowd;
pub mod http;
pub mod report;
pub mod scenario;
pub mod subject;
pub mod upstream;
pub mod websocket;
