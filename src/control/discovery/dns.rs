//! Discovery by name servers: SRV records, or A and AAAA. APISIX request.md §6.2.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::sleep;

use super::publish;
use crate::config::gateway::{Dns, DnsRegistry, RecordKind};
use crate::config::model::{Discovered, Node, NodeHost};
use crate::control::names;
use crate::upstream::names::Names;

/// How long an answer holds at least and at most, and one that says that there is nothing.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);
const NOTHING: Duration = Duration::from_secs(30);
/// Wait after a failure.
const FAILED: Duration = Duration::from_secs(1);

/// Looks a service up for ever.
pub async fn follow(names: Arc<Names>, key: Discovered, conf: DnsRegistry, system: Dns) {
    let (name, port) = match key.service.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), port.parse().unwrap_or(0)),
        None => (key.service.to_string(), 0),
    };
    loop {
        let wait = match resolver(&conf, &system) {
            Err(why) => {
                crate::limited!(error, "discovery by dns: {why}");
                FAILED
            }
            Ok(resolver) => match nodes(&resolver, &name, port, &conf.order).await {
                Ok((nodes, life)) => {
                    publish(&names, &key, nodes);
                    life
                }
                Err(why) => {
                    crate::limited!(warn, "failed to query the DNS server: {why}; the last nodes of {name} stay");
                    FAILED
                }
            },
        };
        sleep(wait).await;
    }
}

fn resolver(conf: &DnsRegistry, system: &Dns) -> Result<TokioResolver, String> {
    let mut dns = system.clone();
    if !conf.servers.is_empty() {
        dns.servers.clone_from(&conf.servers);
    } else if let Some(path) = &conf.resolv_conf {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
        dns.servers = servers.map(|ip| (ip, 53).into()).collect();
    }
    names::build(&dns, false)
}

/// Nodes, and how long they hold.
async fn nodes(resolver: &TokioResolver, name: &str, port: u16, order: &[RecordKind]) -> Result<(Vec<Node>, Duration), String> {
    for kind in order {
        let (nodes, life) = match kind {
            RecordKind::Srv => services(resolver, name, port).await?,
            RecordKind::A => addresses(resolver, name, RecordType::A).await?.map_nodes(port),
            RecordKind::Aaaa => addresses(resolver, name, RecordType::AAAA).await?.map_nodes(port),
        };
        if !nodes.is_empty() {
            return Ok((nodes, life.clamp(TTL_MIN, TTL_MAX)));
        }
    }
    Ok((Vec::new(), NOTHING))
}

#[derive(Default)]
struct Found {
    addresses: Vec<IpAddr>,
    life: Duration,
}

impl Found {
    fn map_nodes(self, port: u16) -> (Vec<Node>, Duration) {
        let node = |ip| Node { host: NodeHost::Ip(ip), port, weight: 1, priority: 0 };
        (self.addresses.into_iter().map(node).collect(), self.life)
    }
}

async fn addresses(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Found, String> {
    let answer = match resolver.lookup(name, kind).await {
        Ok(answer) => answer,
        Err(error) if error.is_no_records_found() => return Ok(Found::default()),
        Err(error) => return Err(error.to_string()),
    };
    let mut found = Found { addresses: Vec::new(), life: TTL_MAX };
    for record in answer.answers() {
        let ip = match &record.data {
            RData::A(ip) => IpAddr::V4(ip.0),
            RData::AAAA(ip) => IpAddr::V6(ip.0),
            _ => continue,
        };
        found.addresses.push(ip);
        found.life = found.life.min(Duration::from_secs(u64::from(record.ttl)));
    }
    Ok(found)
}

/// SRV: each target's addresses are nodes. A target's weight is divided between its addresses; all weights are multiplied so
/// that they stay whole.
async fn services(resolver: &TokioResolver, name: &str, port: u16) -> Result<(Vec<Node>, Duration), String> {
    let answer = match resolver.lookup(name, RecordType::SRV).await {
        Ok(answer) => answer,
        Err(error) if error.is_no_records_found() => return Ok((Vec::new(), NOTHING)),
        Err(error) => return Err(error.to_string()),
    };
    let mut life = TTL_MAX;
    let mut targets: Vec<(Vec<IpAddr>, u16, u32, i64)> = Vec::new();
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for record in answer.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        life = life.min(Duration::from_secs(u64::from(record.ttl)));
        let target = srv.target.to_utf8();
        if !known.contains_key(&target) {
            let mut all = Vec::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                let found = addresses(resolver, &target, kind)
                    .await
                    .map_err(|why| format!("failed to resolve SRV record {target}: {why}"))?;
                if !found.addresses.is_empty() {
                    life = life.min(found.life);
                }
                all.extend(found.addresses);
            }
            known.insert(target.clone(), all);
        }
        let port = if port > 0 { port } else { srv.port };
        let all = known.get(&target).cloned().unwrap_or_default();
        targets.push((all, port, u32::from(srv.weight).max(1), -i64::from(srv.priority)));
    }
    Ok((divided(&targets), life))
}

fn divided(targets: &[(Vec<IpAddr>, u16, u32, i64)]) -> Vec<Node> {
    let counts = targets.iter().map(|(all, ..)| all.len() as u64).filter(|count| *count > 0);
    let common = counts.fold(1, least_common_multiple);
    let mut nodes = Vec::new();
    for (all, port, weight, priority) in targets {
        let share = u64::from(*weight) * common / (all.len() as u64).max(1);
        for ip in all {
            let weight = u32::try_from(share).unwrap_or(u32::MAX);
            nodes.push(Node { host: NodeHost::Ip(*ip), port: *port, weight, priority: *priority });
        }
    }
    nodes
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut high, mut low) = (a, b);
    while low > 0 {
        (high, low) = (low, high % low);
    }
    (a / high.max(1)).saturating_mul(b).min(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_weight_is_divided_between_its_addresses() {
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let targets = [
            (vec![ip(1), ip(2)], 80, 1, 0),
            (vec![ip(3)], 81, 3, -10),
            (vec![ip(4), ip(5), ip(6)], 82, 1, 0),
            (vec![], 83, 1, 0),
        ];
        let weights: Vec<_> = divided(&targets).iter().map(|node| (node.port, node.weight, node.priority)).collect();
        assert_eq!(weights, [(80, 3, 0), (80, 3, 0), (81, 18, -10), (82, 2, 0), (82, 2, 0), (82, 2, 0)]);
    }
}
