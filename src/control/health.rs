//! Health of upstream nodes: the coordinator probes them, counts what workers report, and shows both. APISIX request.md §3.10.
//! Probing begins with the epoch, where APISIX waits for an upstream's first request.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::status::Shared;
use crate::base::address::Address;
use crate::config::model::{ActiveCheck, HttpProbe, NodeHost, PassHost};
use crate::net::tls::ClientPlan;
use crate::proxy::core::Judged;
use crate::snapshot::Snapshot;
use crate::upstream::health::{Health, Verdict};
use crate::upstream::{Node, Spec};

/// Longest status line that is read.
const STATUS_LINE_BYTES: usize = 8 * 1024;
/// Longest time between two looks at whether a probe is due.
const LOOK: Duration = Duration::from_millis(500);

/// The probes of the newest epoch.
#[derive(Default)]
pub struct Checkers {
    running: HashMap<(Arc<str>, String), Running>,
}

struct Running {
    digest: u64,
    task: AbortHandle,
}

impl Checkers {
    /// Probes what a snapshot asks for: nodes that stay with unchanged checks go on as they are.
    pub fn follow(&mut self, snapshot: &Snapshot, shared: &Shared) {
        let mut specs: Vec<Arc<Spec>> = snapshot.upstreams.values().cloned().collect();
        specs.sort_unstable_by_key(|spec| spec.slot);
        let mut left = std::mem::take(&mut self.running);
        for spec in &specs {
            let Some(checks) = &spec.checks else { continue };
            let gate = Arc::new(Semaphore::new(checks.active.concurrency.max(1)));
            for (at, node) in spec.nodes.iter().enumerate() {
                let key = (spec.identity.clone(), format!("{}:{}", node.host, node.port));
                let running = match left.remove(&key) {
                    Some(running) if running.digest == spec.digest => running,
                    changed => {
                        changed.inspect(|running| running.task.abort());
                        let task = tokio::spawn(probe_for_ever(spec.clone(), at, gate.clone())).abort_handle();
                        Running { digest: spec.digest, task }
                    }
                };
                self.running.insert(key, running);
            }
        }
        left.values().for_each(|running| running.task.abort());
        shared.note_upstreams(specs);
    }
}

async fn probe_for_ever(spec: Arc<Spec>, at: usize, gate: Arc<Semaphore>) {
    let (Some(node), Some(checks)) = (spec.nodes.get(at), &spec.checks) else { return };
    let Some(health) = node.health.clone() else { return };
    let active = &checks.active;
    let (mut turn, mut last) = (0, None::<Instant>);
    loop {
        let interval = if health.state().is_usable() { active.healthy_interval } else { active.unhealthy_interval };
        let left = last.map_or(Duration::ZERO, |last| interval.saturating_sub(last.elapsed()));
        if interval.is_zero() || !left.is_zero() {
            sleep(if interval.is_zero() { LOOK } else { left.min(LOOK) }).await; // requests may change its state meanwhile
            continue;
        }
        last = Some(Instant::now());
        if let Some(address) = address(node, active, turn) {
            let permit = gate.acquire().await;
            let verdict = probe(&spec, node, active, address).await;
            drop(permit);
            if let Some(verdict) = verdict {
                note(&spec.identity, node, &health, verdict, &active.bounds);
            }
        }
        turn += 1;
    }
}

/// Where to probe; the addresses of a name take turns.
fn address(node: &Node, active: &ActiveCheck, turn: usize) -> Option<Address> {
    let port = active.port.unwrap_or(node.port);
    match (&node.host, &node.name) {
        (NodeHost::Unix(path), _) => Some(Address::unix(path)),
        (NodeHost::Ip(ip), _) => Some(SocketAddr::new(*ip, port).into()),
        (NodeHost::Name(_), Some(name)) => {
            let addresses = name.addresses();
            addresses.get(turn % addresses.len().max(1)).map(|ip| SocketAddr::new(*ip, port).into())
        }
        (NodeHost::Name(_), None) => None,
    }
}

/// One probe; `None` where its answer says nothing.
async fn probe(spec: &Spec, node: &Node, active: &ActiveCheck, address: Address) -> Option<Verdict> {
    let host = active.http.as_ref().map(|http| host(spec, node, http)).unwrap_or_default();
    let stream = match timeout(active.timeout, open(address, spec.probe_tls.as_ref(), &host)).await {
        Err(_) => return Some(Verdict::Timeout),
        Ok(Err(error)) => {
            tracing::debug!("{}: probing {address}: {error}", spec.identity);
            return Some(Verdict::TcpFailure);
        }
        Ok(Ok(stream)) => stream,
    };
    let Some(http) = &active.http else { return Some(Verdict::Success) };
    match ask(stream, &request(&host, http), active.timeout).await {
        Ok(Some(status)) if http.healthy.contains(&status) => Some(Verdict::Success),
        Ok(Some(status)) if http.unhealthy.contains(&status) => Some(Verdict::HttpFailure),
        Ok(Some(_)) => None,
        Ok(None) => Some(Verdict::HttpFailure), // not a status line
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Some(Verdict::Timeout),
        Err(_) => Some(Verdict::TcpFailure),
    }
}

/// Either end of a probe's connection.
trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

/// Connects, over TLS where a plan is given.
async fn open(address: Address, tls: Option<&ClientPlan>, host: &str) -> io::Result<Box<dyn Both>> {
    let stream: Box<dyn Both> = match (address.socket(), address.path()) {
        (Some(socket), _) => Box::new(TcpStream::connect(socket).await?),
        (None, path) => Box::new(UnixStream::connect(path.unwrap_or_default()).await?),
    };
    match tls {
        Some(plan) => Ok(Box::new(plan.connect(stream, host, address.ip()).await?)),
        None => Ok(stream),
    }
}

fn host(spec: &Spec, node: &Node, http: &HttpProbe) -> String {
    match (&spec.pass_host, &node.host, &http.host) {
        (PassHost::Rewrite(host), ..) | (_, NodeHost::Ip(_), Some(host)) => host.clone(),
        (_, NodeHost::Name(name), _) => name.to_string(),
        (_, ip @ NodeHost::Ip(_), None) => ip.to_string(),
        (_, NodeHost::Unix(_), host) => host.clone().unwrap_or_else(|| "localhost".to_owned()),
    }
}

fn request(host: &str, http: &HttpProbe) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", http.method, http.path);
    http.headers.iter().for_each(|line| text.push_str(&format!("{}\r\n", line.trim())));
    text.push_str(&format!("Host: {host}\r\n"));
    if !http.body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", http.body.len()));
    }
    text + "\r\n" + &http.body
}

/// Sends a request and reads the status; `Ok(None)` is no status line.
async fn ask(mut stream: impl Both, request: &str, patience: Duration) -> io::Result<Option<u16>> {
    timeout(patience, stream.write_all(request.as_bytes())).await??;
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    while !line.contains(&b'\n') && line.len() < STATUS_LINE_BYTES {
        match timeout(patience, stream.read(&mut buffer)).await?? {
            0 => break,
            read => line.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        }
    }
    let status =
        line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|digits| std::str::from_utf8(digits).ok());
    Ok(status.and_then(|digits| digits.parse().ok()))
}

/// Counts what a request met.
pub fn note_passive(judged: &Judged) {
    let spec = &judged.spec;
    if let Some(passive) = spec.checks.as_ref().and_then(|checks| checks.passive.as_ref())
        && let Some(node) = spec.nodes.get(usize::from(judged.node))
        && let Some(health) = &node.health
    {
        note(&spec.identity, node, health, judged.verdict, &passive.bounds);
    }
}

fn note(upstream: &str, node: &Node, health: &Health, verdict: Verdict, bounds: &crate::config::model::Bounds) {
    if let Some(state) = health.note(verdict, bounds) {
        tracing::warn!("{upstream}: node {}:{} is {} ({verdict:?})", node.host, node.port, state.name());
    }
}

/// `/v1/healthcheck`
pub fn page(specs: &[Arc<Spec>]) -> Json {
    Json::Array(specs.iter().map(|spec| checker(spec)).collect())
}

/// `/v1/healthcheck/KIND/ID`
pub fn one(specs: &[Arc<Spec>], identity: &str) -> Option<Json> {
    specs.iter().find(|spec| &*spec.identity == identity).map(|spec| checker(spec))
}

fn checker(spec: &Spec) -> Json {
    let probe = spec.checks.as_ref().and_then(|checks| checks.active.http.as_ref());
    let node = |node: &Node| {
        let health = node.health.as_ref()?;
        let counts = health.counts();
        let address = node.name.as_ref().and_then(|name| name.addresses().first().map(ToString::to_string));
        let host = node.host.to_string();
        Some(json!({
            "ip": address.unwrap_or_else(|| host.clone()), "port": node.port, "status": health.state().name(),
            "hostname": probe.and_then(|probe| probe.host.clone()).unwrap_or(host),
            "counter": {
                "success": counts.successes, "http_failure": counts.http_failures,
                "tcp_failure": counts.tcp_failures, "timeout_failure": counts.timeouts,
            },
        }))
    };
    let nodes: Vec<Json> = spec.nodes.iter().filter_map(node).collect();
    json!({ "name": format!("/{}", spec.identity), "type": if probe.is_some() { "http" } else { "tcp" }, "nodes": nodes })
}
