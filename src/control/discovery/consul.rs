//! Discovery by Consul: the healthy instances of a service, by blocking queries. APISIX request.md §6.3. Only services in use are
//! asked for; what several servers know is put together, where APISIX lets the last one win.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{sleep, timeout};

use super::client::{Server, json};
use super::publish;
use crate::config::gateway::Consul;
use crate::config::model::{Discovered, Node, NodeHost};
use crate::upstream::names::Names;

/// Waits after failures, in seconds; then from the first again.
const FAILED: [u64; 5] = [1, 4, 16, 64, 256];
/// Port of an instance that names none.
const PORT: u16 = 80;

/// What one server knows, and the index of that.
#[derive(Default)]
struct Known {
    index: u64,
    nodes: Vec<Node>,
    failures: usize,
    heard: bool,
}

/// Follows a service for ever.
pub async fn follow(names: Arc<Names>, key: Discovered, conf: Consul) {
    if conf.skip.iter().any(|skipped| *skipped == *key.service) || &*key.service == "consul" {
        publish(&names, &key, fallback(&conf));
        return std::future::pending().await;
    }
    let (told, mut news) = tokio::sync::mpsc::channel(16);
    for (at, server) in conf.servers.iter().enumerate() {
        let (conf, told, name) = (conf.clone(), told.clone(), key.service.clone());
        let server = Server { host: server.0.clone(), port: server.1, tls: None };
        // These end when nobody listens any more.
        tokio::spawn(async move { ask_for_ever(&server, &name, &conf, at, &told).await });
    }
    drop(told);
    let mut all: Vec<Vec<Node>> = vec![Vec::new(); conf.servers.len()];
    while let Some((at, nodes)) = news.recv().await {
        if let Some(known) = all.get_mut(at) {
            *known = nodes;
        }
        let together = all.concat();
        publish(&names, &key, if together.is_empty() { fallback(&conf) } else { together });
    }
}

fn fallback(conf: &Consul) -> Vec<Node> {
    let node = |(ip, port)| Node { host: NodeHost::Ip(ip), port, weight: conf.weight, priority: 0 };
    conf.default.map(node).into_iter().collect()
}

type Told = tokio::sync::mpsc::Sender<(usize, Vec<Node>)>;

async fn ask_for_ever(server: &Server, name: &str, conf: &Consul, at: usize, told: &Told) {
    let mut known = Known::default();
    while !told.is_closed() {
        match ask(server, name, conf, known.index).await {
            Ok((index, nodes)) => {
                known.failures = 0;
                let same = known.heard && known.nodes == nodes;
                // RFC of Consul's blocking queries: an index that goes back starts over.
                (known.index, known.nodes, known.heard) = (if index < known.index { 0 } else { index }, nodes, true);
                if !same && told.send((at, known.nodes.clone())).await.is_err() {
                    return;
                }
                // Without an index the next query would not block either.
                if !conf.waits || known.index == 0 {
                    sleep(conf.fetch_interval).await;
                }
            }
            Err(why) => {
                let wait = FAILED[known.failures % FAILED.len()];
                known.failures += 1;
                crate::limited!(warn, "consul: {name}: {why}; its last nodes stay, the next try is in {wait} s");
                sleep(Duration::from_secs(wait)).await;
            }
        }
    }
}

async fn ask(server: &Server, name: &str, conf: &Consul, index: u64) -> Result<(u64, Vec<Node>), String> {
    let waits = conf.waits && index > 0;
    let blocking = if waits { format!("&index={index}&wait={}s", conf.wait.as_secs()) } else { String::new() };
    let target = format!("/v1/health/service/{}?passing=true{blocking}", escaped(name));
    let fields: Vec<_> = conf.token.iter().map(|token| ("X-Consul-Token", token.clone())).collect();
    let patience = conf.read + if waits { conf.wait + conf.wait / 16 } else { Duration::ZERO }; // Consul adds a sixteenth
    let whole = async {
        let answer = server.get(&target, &fields, conf.connect).await?;
        let index = answer.headers().get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        Ok::<(u64, Json), String>((index, json(answer).await?))
    };
    let (index, body) = timeout(patience, whole).await.map_err(|_| "no answer in time".to_owned())??;
    let instances = body.as_array().ok_or("its answer is no list")?;
    Ok((index, instances.iter().filter_map(|instance| node(instance, conf.weight)).collect()))
}

fn node(instance: &Json, weight: u32) -> Option<Node> {
    let service = instance.get("Service")?;
    let address: IpAddr = service.get("Address")?.as_str()?.parse().ok()?;
    let port = service.get("Port").and_then(Json::as_u64).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    Some(Node { host: NodeHost::Ip(address), port: port.unwrap_or(PORT), weight, priority: 0 })
}

fn escaped(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
