//! The proxies that are compared, on equal terms: one worker each, keepalive to the upstream, the same log, the same forwarded
//! headers.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::children::{Child, START, free_address, version};
use crate::procfs;

/// Directory of Debian's nginx modules.
const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The load goes straight to the backend.
    Direct,
    /// The TCP forwarder.
    Floor,
    /// nginx.
    Nginx,
    /// nginx with a no-op Lua handler in each phase, the least APISIX can cost.
    NginxLua,
    /// HAProxy.
    Haproxy,
    /// Ringway on io_uring.
    Ringway,
    /// Ringway on epoll.
    RingwayEpoll,
    /// An earlier Ringway, on io_uring.
    Before,
    /// The same on epoll.
    BeforeEpoll,
}

impl Kind {
    /// All, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Nginx,
        Self::NginxLua,
        Self::Haproxy,
        Self::Ringway,
        Self::RingwayEpoll,
        Self::Before,
        Self::BeforeEpoll,
        Self::Floor,
        Self::Direct,
    ];

    /// Some Ringway.
    pub fn is_ringway(self) -> bool {
        matches!(self, Self::Ringway | Self::RingwayEpoll) || self.is_before()
    }

    /// An earlier Ringway: measured where its program is given.
    pub fn is_before(self) -> bool {
        matches!(self, Self::Before | Self::BeforeEpoll)
    }

    /// Its name on the command line and in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Nginx => "nginx",
            Self::NginxLua => "nginx-lua",
            Self::Haproxy => "haproxy",
            Self::Ringway => "ringway",
            Self::RingwayEpoll => "ringway-epoll",
            Self::Before => "before",
            Self::BeforeEpoll => "before-epoll",
        }
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

/// The client connections that go with `descriptors`.
pub fn connections(descriptors: u64) -> u64 {
    (descriptors.saturating_sub(200) / 2).clamp(256, 16_384)
}

/// A peer that can be started.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Which.
    pub kind: Kind,
    /// Its program; the harness itself for the floor.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// A peer that runs.
pub struct Running {
    /// The address it serves on.
    pub address: SocketAddr,
    child: Option<Child>,
    logs: Vec<PathBuf>,
}

impl Peer {
    /// Looks for the program.
    ///
    /// # Errors
    /// Where it is not there, in words for the report.
    pub fn find(kind: Kind, program: &Path) -> Result<Self, String> {
        let name = kind.name();
        let version = match kind {
            Kind::Direct | Kind::Floor => Some(format!("bench-harness {}", env!("CARGO_PKG_VERSION"))),
            Kind::Nginx | Kind::NginxLua | Kind::Haproxy => version(program, "-v"),
            _ => version(program, "--version"),
        };
        let version = version.ok_or(format!("{name}: {} can't be run", program.display()))?;
        let lua = Path::new(NGINX_MODULES).join("ngx_http_lua_module.so");
        if kind == Kind::NginxLua && !lua.exists() {
            return Err(format!("{name}: {} is not installed (libnginx-mod-http-lua)", lua.display()));
        }
        Ok(Self { kind, program: program.to_owned(), version })
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// Where it does not come up, with the end of its log.
    pub fn start(&self, terms: &Terms) -> io::Result<Running> {
        if self.kind == Kind::Direct {
            return Ok(Running { address: terms.upstream, child: None, logs: Vec::new() });
        }
        let mut last = io::Error::other("not tried");
        // Between choosing a port and binding it somebody else may take it: a few tries.
        for _ in 0..3 {
            match self.start_on(free_address()?, terms) {
                Ok(running) => return Ok(running),
                Err(e) => last = e,
            }
        }
        Err(io::Error::other(format!("{}: {last}", self.kind.name())))
    }

    fn start_on(&self, address: SocketAddr, terms: &Terms) -> io::Result<Running> {
        let name = self.kind.name();
        let file = |suffix: &str| terms.directory.join(format!("{name}{suffix}"));
        let (config, output, access) = (file(".conf"), file(".out"), file(".access.log"));
        let log = terms.access_log.then_some(access.as_path());
        let text = config_text(self.kind, address, free_address()?, log, terms);
        fs::write(&config, &text)?;
        let mut command = Command::new(&self.program);
        let death = match self.kind {
            Kind::Direct | Kind::Floor => {
                command.args(["floor", "--listen", &address.to_string(), "--upstream", &terms.upstream.to_string()]);
                libc::SIGKILL
            }
            Kind::Nginx | Kind::NginxLua => {
                command.arg("-p").arg(&terms.directory).arg("-c").arg(&config);
                libc::SIGTERM
            }
            Kind::Haproxy => {
                command.arg("-db").arg("-f").arg(&config);
                libc::SIGKILL
            }
            _ => {
                command.arg("run").arg("-c").arg(&config);
                libc::SIGKILL
            }
        };
        let mut child = Child::start(command, Some(terms.cpu), &output, death)?;
        child.wait_for(address, START)?;
        Ok(Running { address, child: Some(child), logs: vec![access, output] })
    }
}

impl Running {
    /// The first process; none for the direct path.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// Its processes now; none for the direct path. A master that listens already may fork its worker a moment later, so ask
    /// late.
    pub fn pids(&self) -> Vec<u32> {
        self.pid().map(procfs::tree).unwrap_or_default()
    }

    /// Empties the logs, so that tmpfs does not fill up between measurements.
    pub fn empty_logs(&self) {
        for log in &self.logs {
            if let Ok(file) = fs::File::options().write(true).open(log) {
                let _ = file.set_len(0);
            }
        }
    }
}

/// The configuration a peer runs with; empty for those that need none.
pub fn config_text(kind: Kind, listen: SocketAddr, control: SocketAddr, log: Option<&Path>, terms: &Terms) -> String {
    match kind {
        Kind::Direct | Kind::Floor => String::new(),
        Kind::Nginx => nginx(listen, log, terms, false),
        Kind::NginxLua => nginx(listen, log, terms, true),
        Kind::Haproxy => haproxy(listen, log, terms),
        Kind::Ringway | Kind::Before => ringway(listen, control, log, terms, "io_uring"),
        Kind::RingwayEpoll | Kind::BeforeEpoll => ringway(listen, control, log, terms, "epoll"),
    }
}

fn nginx(listen: SocketAddr, log: Option<&Path>, terms: &Terms, lua: bool) -> String {
    let dir = terms.directory.display();
    let sockets = 2 * terms.connections;
    let name = if lua { "nginx-lua" } else { "nginx" };
    let log = log.map_or("off".into(), |log| format!("{} combined buffer=64k flush=1s", log.display()));
    let (mut modules, mut upstream, mut phases) = (String::new(), format!("server {};", terms.upstream), "");
    if lua {
        modules =
            format!("load_module {NGINX_MODULES}/ndk_http_module.so;\nload_module {NGINX_MODULES}/ngx_http_lua_module.so;\n",);
        let (ip, port) = (terms.upstream.ip(), terms.upstream.port());
        upstream = format!(
            "server 0.0.0.1;\n    balancer_by_lua_block {{ require(\"ngx.balancer\").set_current_peer(\"{ip}\", {port}) }}",
        );
        phases = "      rewrite_by_lua_block { return }\n      access_by_lua_block { return }\n      \
            header_filter_by_lua_block { return }\n      log_by_lua_block { return }\n";
    }
    let package_path = if lua { "  lua_package_path \"/usr/share/lua/5.1/?.lua;;\";\n" } else { "" };
    let forwarded = if terms.forwarded {
        "      proxy_set_header Host $http_host;\n      proxy_set_header X-Real-IP $remote_addr;\n      \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n      proxy_set_header X-Forwarded-Proto $scheme;\n      \
         proxy_set_header X-Forwarded-Host $http_host;\n      proxy_set_header X-Forwarded-Port $server_port;\n"
    } else {
        ""
    };
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {dir}/{name}-{kind};\n"))
        .concat();
    let proxy = format!(
        "{phases}      proxy_pass http://bench;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n{forwarded}"
    );
    let many: String = (0..terms.routes).map(|n| format!("    location /many/{n:06}/ {{\n{proxy}    }}\n")).collect();
    format!(
        "{modules}daemon off;\nuser root;\nworker_processes 1;\npid {dir}/{name}.pid;\n\
         error_log {dir}/{name}.error.log warn;\nevents {{ worker_connections {sockets}; }}\nhttp {{\n  access_log \
         {log};\n{temp}{package_path}  \
         keepalive_requests 1000000;\n  keepalive_timeout 60s;\n  client_max_body_size 0;\n  upstream bench {{\n    \
         {upstream}\n    keepalive 512;\n    \
         keepalive_requests 1000000;\n  }}\n  server {{\n    listen {listen} backlog=4096;\n{many}    location / \
         {{\n{proxy}    }}\n  }}\n}}\n",
    )
}

fn haproxy(listen: SocketAddr, log: Option<&Path>, terms: &Terms) -> String {
    // HAProxy writes no files: its standard output is one, which is as near as it comes to the others.
    let (global_log, default_log) =
        if log.is_some() { ("  log stdout format raw local0\n", "  log global\n  option httplog\n") } else { ("", "") };
    let forwarded = if terms.forwarded {
        "  option forwardfor\n  http-request set-header X-Real-IP %[src]\n  http-request set-header X-Forwarded-Proto http\n  \
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  http-request set-header X-Forwarded-Port %[dst_port]\n"
    } else {
        ""
    };
    format!(
        "global\n  nbthread 1\n  maxconn {}\n{global_log}defaults\n  mode http\n{default_log}  timeout connect 5s\n  \
        timeout client 60s\n  \
         timeout server 60s\n  http-reuse always\nfrontend front\n  bind {listen} backlog 4096\n{forwarded}  \
         default_backend bench\n\
         backend bench\n  server one {}\n",
        terms.connections, terms.upstream
    )
}

fn ringway(listen: SocketAddr, control: SocketAddr, log: Option<&Path>, terms: &Terms, driver: &str) -> String {
    let log = log.map_or("\"off\"".into(), |log| format!("{{path: \"{}\", format: combined}}", log.display()));
    let many: String =
        (0..terms.routes).map(|n| format!("  - {{id: m{n}, uri: /many/{n:06}/*, upstream_id: bench}}\n")).collect();
    format!(
        "gateway:\n  workers: {{count: 1, cpus: \"{}\", driver: {driver}}}\n  listeners:\n    - {{address: \"{listen}\"}}\n  \
         control: {{address: \"{control}\"}}\n  access_log: {log}\n  keepalive: {{requests: 1000000}}\n\
         upstreams:\n  - id: bench\n    type: roundrobin\n    \
         keepalive_pool: {{size: 512, requests: 1000000}}\n    nodes: {{\"{}\": 1}}\n\
         routes:\n  - id: bench\n    uri: /*\n    upstream_id: bench\n{many}",
        terms.cpu, terms.upstream
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(forwarded: bool) -> Terms {
        let upstream = "127.0.0.1:7001".parse().unwrap();
        Terms {
            upstream,
            directory: "/dev/shm/t".into(),
            access_log: true,
            forwarded,
            cpu: 0,
            load_cpu: 1,
            connections: 4096,
            routes: 3,
        }
    }

    fn text(kind: Kind, log: bool, forwarded: bool) -> String {
        let log = log.then(|| Path::new("/dev/shm/t/a.log"));
        config_text(kind, "127.0.0.1:7000".parse().unwrap(), "127.0.0.1:7002".parse().unwrap(), log, &terms(forwarded))
    }

    #[test]
    fn every_peer_gets_the_same_terms() {
        for kind in [Kind::Nginx, Kind::NginxLua, Kind::Haproxy, Kind::Ringway, Kind::RingwayEpoll] {
            let text = text(kind, true, true);
            assert!(text.contains("127.0.0.1:7000"), "{kind:?} listens\n{text}");
            assert!(text.contains("7001"), "{kind:?} has its upstream");
            assert_eq!(text.matches("/many/").count(), if kind == Kind::Haproxy { 0 } else { 3 }, "{kind:?}");
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{kind:?}\n{text}");
        }
        for kind in [Kind::Nginx, Kind::Haproxy] {
            for header in ["X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"] {
                assert!(text(kind, true, true).contains(header));
                assert!(!text(kind, true, false).contains(header));
            }
        }
    }

    #[test]
    fn the_log_is_on_or_off_for_all() {
        assert!(text(Kind::Nginx, true, true).contains("access_log /dev/shm/t/a.log combined"));
        assert!(text(Kind::Nginx, false, true).contains("access_log off;"));
        assert!(text(Kind::Haproxy, true, true).contains("option httplog"));
        assert!(!text(Kind::Haproxy, false, true).contains("httplog"));
        assert!(text(Kind::Ringway, true, true).contains("path: \"/dev/shm/t/a.log\""));
        assert!(text(Kind::RingwayEpoll, false, true).contains("access_log: \"off\""));
        assert!(text(Kind::RingwayEpoll, false, true).contains("driver: epoll"));
    }
}
