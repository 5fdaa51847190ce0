//! Resolves the names of upstream nodes: by /etc/hosts and DNS, IPv4 and IPv6, again when an answer's time to live is over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::gateway::Dns;
use crate::upstream::names::{Name, Names};

/// Bounds of an answer's life, whatever its records say.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);
/// How soon a name that does not exist is asked for again.
const ABSENT: Duration = Duration::from_secs(5);
/// Waits after failures: doubled from the first to the last.
const FAILED_MIN: Duration = Duration::from_secs(1);
const FAILED_MAX: Duration = Duration::from_secs(30);
/// Names asked for at the same time.
const QUERIES_MAX: usize = 64;
/// How often new names and changed system files are looked for.
const TURN: Duration = Duration::from_secs(1);

/// The resolver's state: one per process, run on the coordinator.
pub struct Resolving {
    names: Arc<Names>,
    conf: watch::Receiver<Dns>,
    kick: Arc<Notify>,
    resolver: Option<Arc<TokioResolver>>,
    files: [Option<SystemTime>; 2],
    state: HashMap<Arc<str>, State>,
    running: JoinSet<(Arc<Name>, Found, Found)>,
}

struct State {
    due: Instant,
    running: bool,
    failures: u32,
}

/// Answer for one family.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Addresses(Vec<IpAddr>, Duration),
    /// The name has none, or does not exist.
    Absent,
    /// No usable answer.
    Failed(String),
}

impl Resolving {
    /// `conf` carries the `dns` section of the newest epoch; `kick` wakes it when an epoch brought names.
    pub fn new(names: Arc<Names>, conf: watch::Receiver<Dns>, kick: Arc<Notify>) -> Self {
        Self { names, conf, kick, resolver: None, files: [None; 2], state: HashMap::new(), running: JoinSet::new() }
    }

    /// Asks for all names once; gives how many are still without an answer after at most `limit`.
    pub async fn first(&mut self, limit: Duration) -> usize {
        let all = async {
            self.turn();
            while let Some(done) = self.running.join_next().await {
                self.finish(done);
                self.turn();
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
        self.names.in_use().iter().filter(|name| name.version() == 0).count()
    }

    /// Goes on for as long as the process runs.
    pub async fn run(mut self) {
        loop {
            let wake = self.turn();
            tokio::select! {
                Some(done) = self.running.join_next(), if !self.running.is_empty() => self.finish(done),
                () = tokio::time::sleep_until(wake) => {}
                () = self.kick.notified() => {}
                changed = self.conf.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.resolver = None;
                    self.state.values_mut().for_each(|state| state.due = Instant::now());
                }
            }
        }
    }

    /// Starts what is due; says when to look again.
    fn turn(&mut self) -> Instant {
        let in_use = self.names.in_use();
        let now = Instant::now();
        let mut wake = now + TURN;
        if in_use.is_empty() {
            self.state.clear();
            return wake;
        }
        self.follow_files();
        self.state.retain(|host, _| in_use.iter().any(|name| name.host == *host));
        let Some(resolver) = self.resolver() else { return wake };
        for name in in_use {
            let state = self.state.entry(name.host.clone()).or_insert(State { due: now, running: false, failures: 0 });
            if state.running || self.running.len() >= QUERIES_MAX {
                continue;
            }
            if state.due > now {
                wake = wake.min(state.due);
                continue;
            }
            state.running = true;
            let resolver = resolver.clone();
            self.running.spawn(async move {
                let (v4, v6) = tokio::join!(ask(&resolver, &name, RecordType::A), ask(&resolver, &name, RecordType::AAAA));
                (name, v4, v6)
            });
        }
        wake
    }

    fn finish(&mut self, done: Result<(Arc<Name>, Found, Found), tokio::task::JoinError>) {
        let (name, v4, v6) = match done {
            Ok(done) => done,
            Err(error) => {
                // A panic in the resolver's library: its name is asked for again.
                tracing::error!("resolving a name failed: {error}");
                self.state.values_mut().for_each(|state| state.running = false);
                return;
            }
        };
        let valid = self.conf.borrow().valid;
        let before = name.addresses();
        let Some(state) = self.state.get_mut(&name.host) else { return };
        state.running = false;
        let (addresses, wait) = merge(&before, &v4, &v6, valid, state.failures);
        state.due = Instant::now() + jitter(wait, &name.host);
        match addresses {
            None => {
                state.failures += 1;
                if let (Found::Failed(why), _) | (_, Found::Failed(why)) = (&v4, &v6) {
                    let kept = if before.is_empty() { "it has no address yet" } else { "its last addresses stay" };
                    crate::limited!(warn, "cannot resolve {}: {why}; {kept}", name.host);
                }
            }
            Some(addresses) => {
                state.failures = 0;
                let count = addresses.len();
                if name.publish(addresses) {
                    if count == 0 {
                        tracing::warn!("{} does not resolve: no address", name.host);
                    } else {
                        tracing::info!("{} resolves to {:?}", name.host, name.addresses());
                    }
                }
            }
        }
    }

    /// Builds the resolver anew when /etc/hosts or /etc/resolv.conf changed.
    fn follow_files(&mut self) {
        let stamp = |path: &str| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let files = [stamp("/etc/hosts"), stamp("/etc/resolv.conf")];
        if files != self.files {
            let first = self.files == [None; 2];
            self.files = files;
            if !first {
                self.resolver = None;
                self.state.values_mut().for_each(|state| state.due = Instant::now());
            }
        }
    }

    fn resolver(&mut self) -> Option<Arc<TokioResolver>> {
        if self.resolver.is_none() {
            match build(&self.conf.borrow_and_update().clone(), true) {
                Ok(resolver) => self.resolver = Some(Arc::new(resolver)),
                Err(why) => crate::limited!(error, "cannot set up the resolver: {why}"),
            }
        }
        self.resolver.clone()
    }
}

/// A resolver without a cache; `hosts`: /etc/hosts counts.
///
/// # Errors
/// What is wrong with the system's settings.
pub fn build(conf: &Dns, hosts: bool) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if conf.servers.is_empty() {
        TokioResolver::builder(provider).map_err(|error| format!("/etc/resolv.conf: {error}"))?
    } else {
        let servers = conf.servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections.iter_mut().for_each(|connection| connection.port = server.port());
            config
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, provider).with_options(ResolverOpts::default())
    };
    let options = builder.options_mut();
    options.timeout = conf.timeout;
    options.attempts = 2;
    // Answers are kept by `Names` for their time to live; a second cache would only add to it.
    options.cache_size = 0;
    options.use_hosts_file = if hosts { ResolveHosts::Always } else { ResolveHosts::Never };
    builder.build().map_err(|error| error.to_string())
}

async fn ask(resolver: &TokioResolver, name: &Name, family: RecordType) -> Found {
    match resolver.lookup(&*name.host, family).await {
        Ok(answer) => {
            let addresses = answer.answers().iter().filter_map(|record| match &record.data {
                RData::A(ip) => Some((IpAddr::V4(ip.0), record.ttl)),
                RData::AAAA(ip) => Some((IpAddr::V6(ip.0), record.ttl)),
                _ => None,
            });
            let (addresses, ttls): (Vec<_>, Vec<_>) = addresses.unzip();
            match ttls.iter().min() {
                Some(ttl) => Found::Addresses(addresses, Duration::from_secs(u64::from(*ttl))),
                None => Found::Absent,
            }
        }
        Err(error) if error.is_no_records_found() => Found::Absent,
        Err(error) => Found::Failed(error.to_string()),
    }
}

/// What to publish (`None`: keep what there is) and when to ask again. A family without an answer keeps its last addresses.
fn merge(before: &[IpAddr], v4: &Found, v6: &Found, valid: Option<Duration>, failures: u32) -> (Option<Vec<IpAddr>>, Duration) {
    if let (Found::Failed(_), Found::Failed(_) | Found::Absent) | (Found::Absent, Found::Failed(_)) = (v4, v6) {
        let wait = FAILED_MIN.saturating_mul(1 << failures.min(5)).min(FAILED_MAX);
        return (None, wait);
    }
    let mut addresses = Vec::new();
    let mut ttl: Option<Duration> = None;
    for (found, is_family) in [(v4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (v6, IpAddr::is_ipv6)] {
        match found {
            Found::Addresses(found, life) => {
                addresses.extend_from_slice(found);
                ttl = Some(ttl.map_or(*life, |ttl| ttl.min(*life)));
            }
            Found::Absent => {}
            Found::Failed(_) => addresses.extend(before.iter().filter(|ip| is_family(ip))),
        }
    }
    let wait = match (ttl, valid) {
        (None, _) => ABSENT,
        (Some(_), Some(valid)) => valid.max(TTL_MIN),
        (Some(ttl), None) => ttl.clamp(TTL_MIN, TTL_MAX),
    };
    (Some(addresses), wait)
}

/// Up to a tenth more, different for each name and second, so that names learnt together are not asked for together for ever.
fn jitter(wait: Duration, host: &str) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let share = RandomState::new().hash_one(host) % 1000;
    wait + wait.mul_f64(share as f64 / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(ips: &[&str], ttl: u64) -> Found {
        Found::Addresses(ips.iter().map(|text| ip(text)).collect(), Duration::from_secs(ttl))
    }

    fn failed() -> Found {
        Found::Failed("server failure".into())
    }

    #[test]
    fn both_families_are_taken_for_the_shorter_life_within_bounds() {
        let (addresses, wait) = merge(&[], &found(&["10.0.0.1"], 30), &found(&["::1"], 10), None, 0);
        assert_eq!(addresses, Some(vec![ip("10.0.0.1"), ip("::1")]));
        assert_eq!(wait, Duration::from_secs(10));
        assert_eq!(merge(&[], &found(&["10.0.0.1"], 0), &Found::Absent, None, 0).1, TTL_MIN);
        assert_eq!(merge(&[], &found(&["10.0.0.1"], 86_400), &Found::Absent, None, 0).1, TTL_MAX);
        let valid = Some(Duration::from_secs(7));
        assert_eq!(merge(&[], &found(&["10.0.0.1"], 86_400), &Found::Absent, valid, 0).1, Duration::from_secs(7));
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer_and_waits_longer_each_time() {
        let before = [ip("10.0.0.1"), ip("::1")];
        assert_eq!(merge(&before, &failed(), &failed(), None, 0), (None, FAILED_MIN));
        assert_eq!(merge(&before, &failed(), &Found::Absent, None, 3), (None, Duration::from_secs(8)));
        assert_eq!(merge(&before, &failed(), &failed(), None, 40), (None, FAILED_MAX));
        let (addresses, _) = merge(&before, &found(&["10.0.0.2"], 60), &failed(), None, 0);
        assert_eq!(addresses, Some(vec![ip("10.0.0.2"), ip("::1")]));
    }

    #[test]
    fn a_name_that_does_not_exist_loses_its_addresses() {
        assert_eq!(merge(&[ip("10.0.0.1")], &Found::Absent, &Found::Absent, None, 0), (Some(Vec::new()), ABSENT));
    }

    /// What the scripted server answers for A; AAAA always gets an empty answer.
    #[derive(Clone, Copy)]
    enum Script {
        Address([u8; 4], u32),
        Code(u8),
    }

    /// A DNS server as small as it can be: it answers any name by the script.
    fn server() -> (std::net::SocketAddr, Arc<std::sync::Mutex<Script>>) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let script = Arc::new(std::sync::Mutex::new(Script::Address([10, 0, 0, 1], 1)));
        let shared = script.clone();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                // The question ends with type and class; what follows it (EDNS) is not copied.
                let name_end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 1;
                let is_a = query[name_end..name_end + 2] == [0, 1];
                let (code, record) = match *shared.lock().unwrap() {
                    Script::Address(ip, ttl) if is_a => (0, Some((ip, ttl))),
                    Script::Address(..) => (0, None),
                    Script::Code(code) => (code, None),
                };
                let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0];
                answer.extend_from_slice(&query[12..name_end + 4]);
                if let Some((ip, ttl)) = record {
                    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
                    answer.extend_from_slice(&ttl.to_be_bytes());
                    answer.extend_from_slice(&[0, 4]);
                    answer.extend_from_slice(&ip);
                }
                let _ = socket.send_to(&answer, peer);
            }
        });
        (address, script)
    }

    #[test]
    fn answers_are_renewed_kept_through_failures_and_dropped_with_their_name() {
        let (address, script) = server();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = Arc::new(Names::default());
            let name = names.entry(&"backend.example".into());
            let dns = Dns { servers: vec![address], valid: None, timeout: Duration::from_millis(500) };
            let (_keep, conf) = watch::channel(dns);
            let mut resolving = Resolving::new(names, conf, Arc::new(Notify::new()));
            assert_eq!(resolving.first(Duration::from_secs(5)).await, 0);
            assert_eq!(*name.addresses(), [ip("10.0.0.1")]);
            tokio::spawn(resolving.run());
            let becomes = async |expected: &[IpAddr]| {
                let deadline = Instant::now() + Duration::from_secs(20);
                while *name.addresses() != *expected {
                    assert!(Instant::now() < deadline, "{:?}", name.addresses());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            *script.lock().unwrap() = Script::Address([10, 0, 0, 2], 1);
            becomes(&[ip("10.0.0.2")]).await;
            let version = name.version();
            *script.lock().unwrap() = Script::Code(2);
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!((name.version(), &*name.addresses()), (version, &[ip("10.0.0.2")][..]), "kept on SERVFAIL");
            *script.lock().unwrap() = Script::Code(3);
            becomes(&[]).await;
        });
    }

    #[test]
    fn localhost_is_known_without_a_server() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = Arc::new(Names::default());
            let name = names.entry(&"localhost".into());
            // Nothing listens on port 1: only /etc/hosts can answer.
            let servers = vec!["127.0.0.1:1".parse().unwrap()];
            let dns = Dns { servers, valid: None, timeout: Duration::from_millis(100) };
            let (_keep, conf) = watch::channel(dns);
            let mut resolving = Resolving::new(names, conf, Arc::new(Notify::new()));
            assert_eq!(resolving.first(Duration::from_secs(2)).await, 0);
            assert!(name.addresses().iter().all(IpAddr::is_loopback) && !name.addresses().is_empty());
        });
    }
}
