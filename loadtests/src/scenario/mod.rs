//! The scenarios, one file each.

pub mod balance;
pub mod churn;
pub mod failures;
pub mod reload_storm;
pub mod removal;
pub mod reuse;
pub mod scale;
pub mod slow;
pub mod soak;
pub mod stale;
pub mod workers;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::report::Report;
use crate::subject::{Setup, Subject};
use crate::upstream::Upstream;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's program.
    pub program: PathBuf,
    /// It is nginx.
    pub nginx: bool,
    /// The driver.
    pub driver: String,
    /// Workers.
    pub workers: usize,
    /// The short form.
    pub short: bool,
}

type Scenario = fn(&Options) -> io::Result<Report>;

/// All scenarios by name.
pub const ALL: [(&str, Scenario); 11] = [
    ("reload-storm", reload_storm::run),
    ("churn", churn::run),
    ("slow-clients", slow::run),
    ("upstream-failures", failures::run),
    ("node-removal", removal::run),
    ("stale-connections", stale::run),
    ("soak", soak::run),
    ("scale", scale::run),
    ("workers", workers::run),
    ("balance", balance::run),
    ("reuse", reuse::run),
];

impl Options {
    /// Starts `nodes` upstreams and the gateway in front of them.
    ///
    /// # Errors
    /// Where one of them does not come up.
    pub fn stage(&self, nodes: usize, routes: usize, header_timeout: Duration) -> io::Result<(Vec<Upstream>, Subject)> {
        let upstreams = (0..nodes).map(|_| Upstream::start()).collect::<io::Result<Vec<_>>>()?;
        self.in_front_of(upstreams, routes, header_timeout)
    }

    /// The same with one upstream that closes connections which were idle for so long.
    ///
    /// # Errors
    /// Where one of them does not come up.
    pub fn stage_with(&self, header_timeout: Duration, idle: Duration) -> io::Result<(Vec<Upstream>, Subject)> {
        self.in_front_of(vec![Upstream::start_closing(idle)?], 0, header_timeout)
    }

    fn in_front_of(
        &self,
        upstreams: Vec<Upstream>,
        routes: usize,
        header_timeout: Duration,
    ) -> io::Result<(Vec<Upstream>, Subject)> {
        let nodes: Vec<SocketAddr> = upstreams.iter().map(|u| u.address).collect();
        let subject = Subject::start(Setup { routes, header_timeout, ..self.setup(nodes) })?;
        Ok((upstreams, subject))
    }

    /// The gateway as the user chose it, in front of these nodes.
    pub fn setup(&self, nodes: Vec<SocketAddr>) -> Setup {
        Setup {
            program: self.program.clone(),
            nginx: self.nginx,
            driver: self.driver.clone(),
            workers: self.workers,
            placement: "",
            log: "combined",
            pool: "",
            nodes,
            routes: 0,
            header_timeout: Duration::from_secs(60),
        }
    }

    /// The full value, or the short form's.
    pub fn pick<T>(&self, full: T, short: T) -> T {
        if self.short { short } else { full }
    }
}

/// Notes that the gateway is still there, else its last words.
fn check_alive(subject: &mut Subject, report: &mut Report) {
    let alive = subject.alive();
    report.check("the gateway still runs", if alive { "yes".into() } else { subject.last_words() }, alive);
}

/// Memory may grow by a tenth and `slack_kib`.
fn check_memory(before_kib: u64, after_kib: u64, slack_kib: u64, report: &mut Report) {
    let flat = after_kib <= before_kib + before_kib / 10 + slack_kib;
    report.check("RSS KiB before → after", format!("{before_kib} → {after_kib}"), flat);
}
