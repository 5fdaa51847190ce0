//! The gateway under load: Ringway, or nginx where one wants to know how a scenario treats it.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench_harness::children::{self, Child, Scratch, eventually, free_address};
use bench_harness::procfs::{self, Cpu};
use serde_json::Value;

use crate::http::Connection;

/// How it is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `ringway` or `nginx`, by path.
    pub program: PathBuf,
    /// The gateway is nginx.
    pub nginx: bool,
    /// `driver` of Ringway's workers.
    pub driver: String,
    /// Workers.
    pub workers: usize,
    /// What else the configuration says of Ringway's workers: `cpus: "0"`, `accept: shared`. Empty: nothing.
    pub placement: &'static str,
    /// Format of Ringway's access log.
    pub log: &'static str,
    /// `keepalive_pool` of Ringway's upstream. Empty: the defaults.
    pub pool: &'static str,
    /// The upstream's nodes.
    pub nodes: Vec<SocketAddr>,
    /// Routes beside those the scenarios use.
    pub routes: usize,
    /// Until a head must be whole.
    pub header_timeout: Duration,
}

/// A running gateway.
pub struct Subject {
    /// Where it serves.
    pub address: SocketAddr,
    control: SocketAddr,
    setup: Setup,
    scratch: Scratch,
    child: Child,
    version: u64,
}

/// What the Control API says of epochs.
#[derive(Clone, Debug, PartialEq)]
pub struct Epochs {
    /// The epoch published last.
    pub current: u64,
    /// What each worker has acknowledged.
    pub workers: Vec<u64>,
    /// What the gateway itself says of the last reload: ms to compile, ms until all had acknowledged.
    pub reload_millis: Option<[f64; 2]>,
}

impl Epochs {
    /// Reads `/v1/ringway`: `epoch`, and `workers` with an `epoch` each.
    pub fn parse(document: &Value) -> Option<Self> {
        let workers = document["workers"].as_array()?.iter().map(|w| w["epoch"].as_u64()).collect::<Option<Vec<u64>>>()?;
        let reload_millis = [document["reload"]["compile_ms"].as_f64(), document["reload"]["ack_ms"].as_f64()];
        let reload_millis = reload_millis[0].zip(reload_millis[1]).map(|(compile, ack)| [compile, ack]);
        Some(Self { current: document["epoch"].as_u64()?, workers, reload_millis })
    }

    /// Every worker serves the current epoch.
    pub fn settled(&self) -> bool {
        !self.workers.is_empty() && self.workers.iter().all(|epoch| *epoch == self.current)
    }
}

impl Subject {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// Where it does not come up, with the end of its log.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let scratch = Scratch::new("loadtests")?;
        let (address, control) = (free_address()?, free_address()?);
        let config = scratch.path().join("gateway.conf");
        fs::write(&config, config_text(&setup, address, control, scratch.path(), 0))?;
        let mut command = Command::new(&setup.program);
        let death = if setup.nginx {
            command.arg("-p").arg(scratch.path()).arg("-c").arg(&config);
            libc::SIGTERM
        } else {
            command.arg("run").arg("-c").arg(&config);
            libc::SIGKILL
        };
        let mut child = Child::start(command, None, &scratch.path().join("gateway.out"), death)?;
        child.wait_for(address, children::START + Duration::from_millis(setup.routes as u64))?;
        Ok(Self { address, control, setup, scratch, child, version: 0 })
    }

    /// True where there is a Control API to ask.
    pub fn has_epochs(&self) -> bool {
        !self.setup.nginx
    }

    /// The number of the configuration written last.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Replaces the file by its next version, as one rename, and sends HUP.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn reload(&mut self) -> io::Result<()> {
        self.version += 1;
        let directory = self.scratch.path();
        let next = directory.join("gateway.next");
        fs::write(&next, config_text(&self.setup, self.address, self.control, directory, self.version))?;
        self.publish(&next)
    }

    /// Replaces the upstream's nodes by the next reload.
    pub fn set_nodes(&mut self, nodes: Vec<SocketAddr>) {
        self.setup.nodes = nodes;
    }

    /// Makes a prepared file the configuration and sends HUP.
    ///
    /// # Errors
    /// Where it can't be renamed.
    pub fn publish(&self, prepared: &Path) -> io::Result<()> {
        fs::rename(prepared, self.scratch.path().join("gateway.conf"))?;
        self.child.signal(libc::SIGHUP)
    }

    /// True once new connections are served by the version written last and no worker still takes the one before.
    pub fn serves_current(&self) -> bool {
        let status = |version: u64| {
            let reply = Connection::open(self.address).and_then(|mut c| c.get(&format!("/epoch/{version}")));
            reply.map_or(0, |reply| reply.status)
        };
        let current = (0..2 * self.setup.workers).all(|_| status(self.version) == 200);
        current && self.version.checked_sub(1).is_none_or(|before| status(before) == 404)
    }

    /// What the Control API says of epochs.
    ///
    /// # Errors
    /// Where it does not answer, or not in this shape.
    pub fn epochs(&self) -> io::Result<Epochs> {
        let reply = Connection::open(self.control)?.get("/v1/ringway")?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let document = serde_json::from_str(&text).map_err(|e| io::Error::other(format!("{e}: {text}")))?;
        Epochs::parse(&document).ok_or_else(|| io::Error::other(format!("no epochs in {text}")))
    }

    /// The largest value of a metric over its series; `None` where the gateway has none of that name.
    pub fn metric_max(&self, name: &str) -> Option<f64> {
        let reply = Connection::open(self.control).ok()?.get("/metrics").ok()?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        values.reduce(f64::max)
    }

    /// Waits until every worker has acknowledged an epoch later than `before`; gives how long that took.
    pub fn acknowledged(&self, before: u64, patience: Duration) -> Option<Duration> {
        let start = Instant::now();
        eventually(patience, || self.epochs().is_ok_and(|e| e.settled() && e.current > before)).then(|| start.elapsed())
    }

    /// Still running.
    pub fn alive(&mut self) -> bool {
        self.child.ended().is_none()
    }

    /// A metric of each worker, in their order.
    ///
    /// # Errors
    /// Where the Control API does not answer.
    pub fn metric_by_worker(&self, name: &str) -> io::Result<Vec<f64>> {
        let reply = Connection::open(self.control)?.get("/metrics")?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        Ok((0..self.setup.workers).map(|worker| of_worker(&text, name, worker)).collect())
    }

    /// The lines of its access log so far.
    pub fn log_lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.scratch.path().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// CPU time of all its processes so far.
    pub fn cpu(&self) -> Cpu {
        procfs::cpu(&procfs::tree(self.child.pid()))
    }

    /// Resident KiB of all its processes.
    pub fn resident_kib(&self) -> u64 {
        procfs::resident_kib(&procfs::tree(self.child.pid()))
    }

    /// Peak resident KiB of its first process.
    pub fn peak_kib(&self) -> u64 {
        procfs::peak_kib(self.child.pid()).unwrap_or(0)
    }

    /// Open descriptors of all its processes.
    pub fn descriptors(&self) -> usize {
        procfs::tree(self.child.pid()).into_iter().map(procfs::descriptors).sum()
    }

    /// The end of its output.
    pub fn last_words(&self) -> String {
        children::tail(self.child.log())
    }

    /// The text of the configuration's version `version`, to be prepared outside of what is timed.
    pub fn text(&self, version: u64) -> String {
        config_text(&self.setup, self.address, self.control, self.scratch.path(), version)
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Sets the number of the configuration written last, after [`Self::publish`].
    pub fn set_version(&mut self, version: u64) {
        self.version = version;
    }
}

/// The value of one worker's series in a page of metrics; 0 where there is none.
fn of_worker(page: &str, name: &str, worker: usize) -> f64 {
    let begin = format!("{name}{{worker=\"{worker}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&begin)?.trim().parse().ok()).unwrap_or(0.0)
}

fn config_text(setup: &Setup, address: SocketAddr, control: SocketAddr, directory: &Path, version: u64) -> String {
    if setup.nginx { nginx(setup, address, directory, version) } else { ringway(setup, address, control, directory, version) }
}

fn ringway(setup: &Setup, address: SocketAddr, control: SocketAddr, directory: &Path, version: u64) -> String {
    let nodes: Vec<String> = setup.nodes.iter().map(|node| format!("\"{node}\": 1")).collect();
    let mut text = format!(
        "gateway:\n  workers: {{count: {}, driver: {}{}}}\n  listeners:\n    - {{address: \"{address}\"}}\n  control: \
        {{address: \"{control}\"}}\n  \
         access_log: {{path: \"{}/access.log\", format: {}}}\n  \
         keepalive: {{requests: 100000000}}\n  timeouts: {{header: {}ms, drain: 2s}}\n\
         upstreams:\n  - id: nodes\n    type: roundrobin\n    retries: {}\n    {}nodes: {{{}}}\n\
         routes:\n  - id: main\n    uris: [/echo/*, /upload/*, /bytes/*, /ws]\n    enable_websocket: true\n    upstream_id: \
         nodes\n  \
         - id: epoch\n    uri: /epoch/{version}\n    upstream_id: nodes\n",
        setup.workers,
        setup.driver,
        if setup.placement.is_empty() { String::new() } else { format!(", {}", setup.placement) },
        directory.display(),
        setup.log,
        setup.header_timeout.as_millis(),
        setup.nodes.len().saturating_sub(1),
        if setup.pool.is_empty() { String::new() } else { format!("keepalive_pool: {}\n    ", setup.pool) },
        nodes.join(", "),
    );
    for i in 0..setup.routes {
        let _ = writeln!(text, "  - {{id: r{i}, uri: /many/{i}/*, methods: [GET, POST], upstream_id: nodes}}");
    }
    text
}

fn nginx(setup: &Setup, address: SocketAddr, directory: &Path, version: u64) -> String {
    let dir = directory.display();
    let nodes: String = setup.nodes.iter().map(|node| format!("server {node} max_fails=0; ")).collect();
    let temp: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|k| format!("{k}_temp_path {dir}/{k}; ")).concat();
    format!(
        "daemon off; user root; worker_processes {}; pid {dir}/nginx.pid; error_log {dir}/error.log warn;\n\
         events {{ worker_connections 8000; }}\nhttp {{ access_log {dir}/access.log; {temp}\n\
         map $http_upgrade $up {{ default upgrade; '' ''; }}\n\
         keepalive_requests 1000000; client_header_timeout {}ms; client_max_body_size 0;\n\
         upstream nodes {{ {nodes} keepalive 512; }}\nserver {{ listen {address} backlog=4096;\n\
         proxy_http_version 1.1; proxy_set_header Connection $up; proxy_set_header Upgrade $http_upgrade; \
         proxy_request_buffering off;\n\
         location ~ ^/(echo|upload|bytes)/ {{ proxy_pass http://nodes; }}\nlocation = /ws {{ proxy_pass http://nodes; }}\n\
         location = /epoch/{version} {{ proxy_pass http://nodes; }}\nlocation / {{ return 404; }}\n}} }}\n",
        setup.workers,
        setup.header_timeout.as_millis(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn epochs_are_read_and_settle() {
        let mut document =
            json!({"epoch": 7, "workers": [{"epoch": 7}, {"epoch": 6}], "reload": {"compile_ms": 3.5, "ack_ms": 1.5}});
        let epochs = Epochs::parse(&document).unwrap();
        assert_eq!((epochs.current, epochs.settled(), epochs.reload_millis), (7, false, Some([3.5, 1.5])));
        document["workers"][1]["epoch"] = json!(7);
        assert!(Epochs::parse(&document).unwrap().settled());
        assert!(!Epochs::parse(&json!({"epoch": 7, "workers": []})).unwrap().settled());
        assert_eq!(Epochs::parse(&json!({"workers": []})), None);
    }

    #[test]
    fn a_configuration_names_its_version_and_all_routes() {
        let node: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let setup = Setup {
            program: "ringway".into(),
            nginx: false,
            driver: "epoll".into(),
            workers: 2,
            placement: "cpus: \"0-1\"",
            log: "combined",
            pool: "{size: 5}",
            nodes: vec![node, node],
            routes: 3,
            header_timeout: Duration::from_secs(5),
        };
        let text = config_text(&setup, node, node, Path::new("/x"), 42);
        assert!(text.contains("/epoch/42") && text.contains("retries: 1") && text.contains("header: 5000ms"));
        assert!(text.contains("{count: 2, driver: epoll, cpus: \"0-1\"}") && text.contains("format: combined}"));
        assert!(text.contains("\n    keepalive_pool: {size: 5}\n    nodes:"));
        assert_eq!(text.matches("/many/").count(), 3);
    }

    #[test]
    fn a_workers_series_is_found() {
        let page = "m{worker=\"1\"} 7\nm{worker=\"10\"} 3\nm_total{worker=\"0\"} 9\n";
        assert_eq!([0, 1, 10].map(|worker| of_worker(page, "m", worker)), [0.0, 7.0, 3.0]);
    }
}
