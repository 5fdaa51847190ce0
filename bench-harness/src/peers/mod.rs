//! The peers that are compared, on equal terms: one worker each, keepalive to the upstream, the same log, the same forwarded
//! headers.
//!
//! A [`Kind`] says how one of them is found, configured and started; each has its own file here. [`KINDS`] is the table of them.

mod attached;
mod caddy;
mod envoy;
mod find;
mod haproxy;
mod harness;
mod install;
mod nginx;
mod pingora;
mod ringway;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use attached::Attached;
pub use find::find;
pub use install::ringway_program;

use crate::args::Programs;
use crate::children::{Child, START, free_address};
use crate::meter::Meter;
use crate::sys;

/// The peer that ratios are taken to.
pub const REFERENCE: &str = "nginx";
/// The peer that stands for the least a proxy can cost.
pub const FLOOR: &str = "floor";

/// All kinds, in the order of the report.
pub static KINDS: [&Kind; 16] = [
    &nginx::PLAIN,
    &nginx::LUA,
    &haproxy::KIND,
    &envoy::KIND,
    &pingora::KIND,
    &caddy::KIND,
    &ringway::RING,
    &ringway::EPOLL,
    &ringway::LIMIT,
    &ringway::PLUGINS,
    &ringway::ONE,
    &ringway::BEFORE,
    &ringway::BEFORE_EPOLL,
    &harness::FLOOR,
    &harness::FLOOR_RING,
    &harness::DIRECT,
];

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// What a peer is to the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No proxy: the load goes straight to the backend.
    Direct,
    /// A forwarder that reads no HTTP.
    Floor,
    /// Some Ringway, now or earlier.
    Ringway,
    /// Somebody else's proxy.
    Proxy,
}

impl Role {
    /// A proxy that reads HTTP.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::Ringway | Self::Proxy)
    }
}

/// How a kind of peer is found, configured and started.
#[derive(Debug)]
pub struct Kind {
    /// Its name on the command line and in the tables.
    pub name: &'static str,
    /// What it is to the report.
    pub role: Role,
    /// Where its program comes from.
    source: install::Source,
    /// The argument that makes it say its version.
    version: &'static str,
    /// The program that the command line gives.
    given: fn(&Programs) -> Option<&Path>,
    /// A file it can't do without.
    needs: Option<&'static str>,
    /// The text of its configuration file; empty where arguments say everything.
    configure: fn(&Site, &Terms) -> String,
    /// Its arguments and environment.
    command: fn(&mut Command, &Site, &Terms),
    /// What it gets when the harness dies without killing it: SIGTERM for a master that ends its workers, else SIGKILL.
    death: i32,
    /// It logs to its standard output, which is a file here.
    logs_to_output: bool,
    /// It answers at the addresses of `--routes` by routes of its own.
    pub routes: bool,
    /// It sets the forwarded headers, whatever the terms say.
    always_forwards: bool,
    /// It runs only where it is named: a question of its own, not one of the field.
    on_demand: bool,
}

impl Kind {
    /// What most kinds have in common; each states what it has not.
    const BASE: Self = Self {
        name: "",
        role: Role::Proxy,
        source: install::Source::Harness,
        version: "--version",
        given: |_| None,
        needs: None,
        configure: |_, _| String::new(),
        command: |_, _, _| {},
        death: libc::SIGKILL,
        logs_to_output: false,
        routes: false,
        always_forwards: false,
        on_demand: false,
    };

    /// There is none but the one that the command line gives.
    fn has_to_be_given(&self) -> bool {
        matches!(self.source, install::Source::Given)
    }
}

/// What all peers have in common in a run.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The backend.
    pub upstream: SocketAddr,
    /// Where configurations, logs and pid files go.
    pub directory: PathBuf,
    /// Each request is logged, to a file in that directory.
    pub access_log: bool,
    /// Each request gets the five forwarded headers that Ringway and APISIX always set.
    pub forwarded: bool,
    /// The CPU of the proxies.
    pub cpu: usize,
    /// The CPU of backend and load.
    pub load_cpu: usize,
    /// Client connections each peer is set up for: what the descriptor limit allows with as many to the upstream.
    pub connections: u64,
    /// Routes `/many/NNNNNN/*` beside the one for everything: Ringway's routes and nginx's locations.
    pub routes: usize,
}

impl Terms {
    /// The usual ones, with an upstream on a port that the kernel chooses.
    ///
    /// # Errors
    /// Where no port is left.
    pub fn usual(directory: &Path, cpu: usize, load_cpu: usize, routes: usize) -> io::Result<Self> {
        let (upstream, directory) = (free_address()?, directory.to_owned());
        let connections = connections(sys::raise_descriptors());
        Ok(Self { upstream, directory, access_log: true, forwarded: true, cpu, load_cpu, connections, routes })
    }
}

/// The client connections that go with `descriptors`.
pub fn connections(descriptors: u64) -> u64 {
    (descriptors.saturating_sub(200) / 2).clamp(256, 16_384)
}

/// What one start of a peer has for itself.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Its name, of which its files are named.
    name: String,
    /// Where it listens.
    listen: SocketAddr,
    /// Where its control plane listens, if it has one.
    control: SocketAddr,
    /// Its configuration file.
    config: PathBuf,
    /// Its access log; none where it writes none.
    log: Option<PathBuf>,
}

impl Site {
    fn new(kind: &Kind, listen: SocketAddr, control: SocketAddr, terms: &Terms) -> Self {
        let file = |suffix: &str| terms.directory.join(format!("{}{suffix}", kind.name));
        let log = terms.access_log.then(|| file(if kind.logs_to_output { ".out" } else { ".access.log" }));
        Self { name: kind.name.to_owned(), listen, control, config: file(".conf"), log }
    }
}

/// A peer that can be measured.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name in the tables.
    pub name: String,
    /// What it is to the report.
    pub role: Role,
    /// Its program; the harness itself for the floors.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: String,
    way: Way,
}

/// How a peer comes to run.
#[derive(Clone, Debug)]
enum Way {
    Start(&'static Kind),
    Attach(Attached),
}

/// A peer that runs.
pub struct Running {
    /// Its name in the tables.
    pub name: String,
    /// What it is to the report.
    pub role: Role,
    /// The address it serves on.
    pub address: SocketAddr,
    /// What its CPU time is read from; none for the direct path.
    pub meter: Option<Meter>,
    /// Where a Ringway exports its metrics.
    pub metrics: Option<SocketAddr>,
    child: Option<Child>,
    files: Vec<PathBuf>,
    promise: Promise,
}

/// What the terms ask of a peer that the harness configured: see `audit`.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// It logs here.
    pub log: Option<PathBuf>,
    /// Whether it sets the forwarded headers; nobody asked where `None`.
    pub forwards: Option<bool>,
}

impl Peer {
    /// Of this kind, with this program.
    ///
    /// # Errors
    /// Where it can't be run, in words for the report.
    pub fn new(kind: &'static Kind, program: &Path) -> Result<Self, String> {
        let name = kind.name;
        let version = install::version(kind, program).ok_or(format!("{name}: {} can't be run", program.display()))?;
        if let Some(file) = kind.needs.filter(|file| !Path::new(file).exists()) {
            return Err(format!("{name}: {file} is not there"));
        }
        Ok(Self { name: name.into(), role: kind.role, program: program.to_owned(), version, way: Way::Start(kind) })
    }

    /// One that runs already.
    ///
    /// # Errors
    /// Where it does not answer or can't be measured, in words for the report.
    pub fn attach(attached: &Attached) -> Result<Self, String> {
        attached.check()?;
        Ok(Self {
            name: attached.name.clone(),
            role: Role::Proxy,
            program: PathBuf::new(),
            version: attached.to_string(),
            way: Way::Attach(attached.clone()),
        })
    }

    /// It was running before, so it was neither configured nor pinned here and is not started afresh.
    pub fn is_attached(&self) -> bool {
        matches!(self.way, Way::Attach(_))
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// Where it does not come up, with the end of its log.
    pub fn start(&self, terms: &Terms) -> io::Result<Running> {
        let idle = |address, meter| Running {
            name: self.name.clone(),
            role: self.role,
            address,
            meter,
            metrics: None,
            child: None,
            files: Vec::new(),
            promise: Promise::default(),
        };
        let kind = match &self.way {
            Way::Attach(attached) => return Ok(idle(attached.address, Some(attached.meter.clone()))),
            Way::Start(kind) if kind.role == Role::Direct => return Ok(idle(terms.upstream, None)),
            Way::Start(kind) => kind,
        };
        let mut last = io::Error::other("not tried");
        // Between choosing a port and binding it somebody else may take it: a few tries.
        for _ in 0..3 {
            match self.start_on(kind, free_address()?, terms) {
                Ok(running) => return Ok(running),
                Err(e) => last = e,
            }
        }
        Err(io::Error::other(format!("{}: {last}", self.name)))
    }

    fn start_on(&self, kind: &Kind, listen: SocketAddr, terms: &Terms) -> io::Result<Running> {
        let site = Site::new(kind, listen, free_address()?, terms);
        let output = terms.directory.join(format!("{}.out", self.name));
        fs::write(&site.config, (kind.configure)(&site, terms))?;
        let mut command = Command::new(&self.program);
        (kind.command)(&mut command, &site, terms);
        let mut child = Child::start(command, Some(terms.cpu), &output, kind.death)?;
        child.wait_for(listen, START)?;
        let forwards = kind.role.is_proxy().then_some(terms.forwarded || kind.always_forwards);
        Ok(Running {
            name: self.name.clone(),
            role: self.role,
            address: listen,
            meter: Some(Meter::Tree(child.pid())),
            metrics: (kind.role == Role::Ringway).then_some(site.control),
            child: Some(child),
            files: site.log.clone().into_iter().chain([output]).collect(),
            promise: Promise { log: site.log.filter(|_| kind.role.is_proxy()), forwards },
        })
    }

    /// The configuration it runs with under these terms, on addresses that stand for those the kernel chooses; what is known of
    /// it where it was not the harness that configured it.
    pub fn describe(&self, terms: &Terms) -> String {
        match &self.way {
            Way::Attach(attached) => attached.to_string(),
            Way::Start(kind) => text(kind, terms),
        }
    }
}

/// The configuration file of a kind, or its arguments where it needs no file.
fn text(kind: &Kind, terms: &Terms) -> String {
    let any = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let site = Site::new(kind, any(7000), any(7002), terms);
    let file = (kind.configure)(&site, terms);
    if !file.is_empty() {
        return file;
    }
    let mut command = Command::new(kind.name);
    (kind.command)(&mut command, &site, terms);
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

impl Running {
    /// Its first process; none for the direct path and for a cgroup.
    pub fn pid(&self) -> Option<u32> {
        match self.meter {
            Some(Meter::Tree(pid)) => Some(pid),
            _ => None,
        }
    }

    /// Empties the logs, so that tmpfs does not fill up between measurements.
    pub fn empty_logs(&self) {
        for log in &self.files {
            if let Ok(file) = fs::File::options().write(true).open(log) {
                let _ = file.set_len(0);
            }
        }
    }

    /// Asks it to end by itself, and waits.
    ///
    /// # Errors
    /// Where it takes longer than `patience` or fails.
    pub fn end(mut self, patience: Duration) -> io::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        child.finish(libc::SIGTERM, patience);
        match child.ended() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(io::Error::other(format!("{} ended with {status}", self.name))),
            None => Err(io::Error::other(format!("{} does not end", self.name))),
        }
    }

    /// What the terms ask of it.
    pub fn promise(&self) -> &Promise {
        &self.promise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(access_log: bool, forwarded: bool) -> Terms {
        Terms {
            upstream: "127.0.0.1:7001".parse().unwrap(),
            directory: "/dev/shm/t".into(),
            access_log,
            forwarded,
            cpu: 0,
            load_cpu: 1,
            connections: 4096,
            routes: 3,
        }
    }

    fn proxies() -> impl Iterator<Item = &'static Kind> {
        KINDS.into_iter().filter(|kind| kind.role.is_proxy())
    }

    #[test]
    fn names_are_known_once() {
        assert!(KINDS.iter().all(|k| std::ptr::eq(*k, kind(k.name).unwrap())));
        assert!(kind(REFERENCE).is_some() && kind(FLOOR).is_some() && kind("apache").is_none());
    }

    #[test]
    fn every_peer_gets_the_same_terms() {
        for kind in proxies() {
            let text = text(kind, &terms(true, true));
            assert!(text.contains("7000"), "{} listens\n{text}", kind.name);
            assert!(text.contains("7001"), "{} has its upstream\n{text}", kind.name);
            assert_eq!(text.matches("/many/").count(), if kind.routes { 3 } else { 0 }, "{}", kind.name);
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{}\n{text}", kind.name);
        }
    }

    #[test]
    fn the_forwarded_headers_are_set_by_all_or_left_out() {
        for kind in ["nginx", "nginx-lua", "haproxy", "envoy"].map(|name| kind(name).unwrap()) {
            for header in ["X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Port"] {
                assert!(text(kind, &terms(true, true)).contains(header), "{} {header}", kind.name);
                assert!(!text(kind, &terms(true, false)).contains(header), "{} {header}", kind.name);
            }
        }
        // These set them by themselves, or with one word: what is said then is the other way round, or the word.
        let caddy = |forwarded| text(&caddy::KIND, &terms(true, forwarded));
        assert!(caddy(true).contains("X-Forwarded-Port 7000") && !caddy(true).contains("-X-Forwarded-For"));
        assert!(caddy(false).contains("-X-Forwarded-For") && !caddy(false).contains("X-Real-IP"));
        let pingora = |forwarded| text(&pingora::KIND, &terms(true, forwarded));
        assert!(pingora(true).contains("--forwarded") && !pingora(false).contains("--forwarded"));
    }

    #[test]
    fn the_log_is_on_or_off_for_all() {
        let on = |kind: &Kind| text(kind, &terms(true, true));
        let off = |kind: &Kind| text(kind, &terms(false, true));
        for kind in proxies().filter(|kind| !kind.logs_to_output) {
            let log = format!("/dev/shm/t/{}.access.log", kind.name);
            assert!(on(kind).contains(&log) && !off(kind).contains(&log), "{}\n{}", kind.name, on(kind));
        }
        assert!(on(&nginx::PLAIN).contains("combined buffer=64k flush=1s") && off(&nginx::PLAIN).contains("access_log off;"));
        assert!(on(&haproxy::KIND).contains("option httplog") && !off(&haproxy::KIND).contains("httplog"));
        assert!(off(&ringway::EPOLL).contains("access_log: \"off\"") && off(&ringway::EPOLL).contains("driver: epoll"));
    }

    #[test]
    fn envoy_reads_its_configuration_as_json() {
        for (log, forwarded) in [(true, true), (false, false)] {
            let text = text(&envoy::KIND, &terms(log, forwarded));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(value["static_resources"]["clusters"][0]["name"] == "bench", "{text}");
        }
    }
}
