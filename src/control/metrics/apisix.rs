//! APISIX's families (plugins-observability.md §3.4): what the workers' prometheus plugins gathered, added up over the workers,
//! and what concerns the whole process.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value as Json;

use super::text::{Exposition, Kind};
use crate::base::count::Counters;
use crate::plugin::{Sample, SampleValue};
use crate::upstream::Spec;

/// Bounds of `http_latency` in milliseconds, where `default_buckets` gives none.
pub const LATENCY_BUCKETS_MS: [f64; 15] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 30_000.0, 60_000.0];

/// `plugin_attr.prometheus`, as far as it concerns rendering.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    /// `metric_prefix`
    pub prefix: String,
    /// `default_buckets`
    pub buckets: Vec<f64>,
    /// `export_uri`
    pub uri: String,
}

impl Attributes {
    /// Reads the attributes; what is missing or of another type is APISIX's default.
    pub fn read(attributes: Option<&Json>) -> Self {
        let text = |name: &str, default: &str| {
            attributes.and_then(|attributes| attributes.get(name)?.as_str()).unwrap_or(default).to_string()
        };
        let buckets = attributes
            .and_then(|attributes| attributes.get("default_buckets")?.as_array())
            .map_or_else(|| LATENCY_BUCKETS_MS.to_vec(), |bounds| bounds.iter().filter_map(Json::as_f64).collect());
        Self { prefix: text("metric_prefix", "apisix_"), buckets, uri: text("export_uri", "/apisix/prometheus/metrics") }
    }
}

/// `plugin_attr.prometheus.export_addr`, unless `enable_export_server` is false. Without it the metrics are on the Control API
/// only.
///
/// # Errors
/// If it is no address.
pub fn export_address(attributes: Option<&Json>) -> Result<Option<SocketAddr>, String> {
    let Some(address) = attributes.and_then(|attributes| attributes.get("export_addr")) else { return Ok(None) };
    if attributes.and_then(|attributes| attributes.get("enable_export_server")) == Some(&Json::Bool(false)) {
        return Ok(None);
    }
    let ip = address.get("ip").and_then(Json::as_str).unwrap_or("127.0.0.1");
    let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is not an IP address"))?;
    let port = address.get("port").map_or(Some(9091), Json::as_u64).and_then(|port| u16::try_from(port).ok());
    port.map(|port| Some(SocketAddr::new(ip, port))).ok_or_else(|| "port must be 0 to 65535".to_string())
}

/// Adds the series of all workers up, by family and labels. One that no worker has touched for its metric's `expire` is left
/// out until it is touched again; it goes on where it was.
pub fn series(page: &mut Exposition, attributes: &Attributes, samples: impl IntoIterator<Item = Sample>) {
    let mut sums: BTreeMap<(&'static str, Vec<(String, String)>), (SampleValue, bool)> = BTreeMap::new();
    for sample in samples {
        match sums.entry((sample.family, sample.labels)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert((sample.value, sample.fresh));
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                let (sum, fresh) = place.get_mut();
                add(sum, &sample.value);
                *fresh |= sample.fresh;
            }
        }
    }
    for ((family, labels), (value, _)) in sums.iter().filter(|(_, (_, fresh))| *fresh) {
        let name = format!("{}{family}", attributes.prefix);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match value {
            SampleValue::Counter(count) => page.number(&name, Kind::Counter, help(family), &labels, *count as f64),
            SampleValue::Histogram(counts, sum) => {
                page.histogram(&name, help(family), &labels, &attributes.buckets, counts, *sum);
            }
        }
    }
}

/// `upstream_status`: 1 for each node that is usable, else 0.
pub fn health(page: &mut Exposition, attributes: &Attributes, specs: &[Arc<Spec>]) {
    let name = format!("{}upstream_status", attributes.prefix);
    for (spec, node) in specs.iter().flat_map(|spec| spec.nodes.iter().map(move |node| (spec, node))) {
        let (key, ip, port) = (format!("/{}", spec.identity), node.host.to_string(), node.port.to_string());
        let labels = [("name", key.as_str()), ("ip", ip.as_str()), ("port", port.as_str())];
        page.number(&name, Kind::Gauge, "Upstream status from health check", &labels, f64::from(u8::from(node.is_usable())));
    }
}

fn add(sum: &mut SampleValue, more: &SampleValue) {
    match (sum, more) {
        (SampleValue::Counter(sum), SampleValue::Counter(more)) => *sum = sum.saturating_add(*more),
        (SampleValue::Histogram(counts, sum), SampleValue::Histogram(more_counts, more_sum)) => {
            // Workers under different epochs may have different bounds for a moment.
            counts.resize(counts.len().max(more_counts.len()), 0);
            counts.iter_mut().zip(more_counts).for_each(|(count, more)| *count = count.saturating_add(*more));
            *sum += more_sum;
        }
        _ => {}
    }
}

fn help(family: &str) -> &'static str {
    match family {
        "http_status" => "HTTP status codes per service in APISIX",
        "http_latency" => "HTTP request latency in milliseconds per service in APISIX",
        "bandwidth" => "Total bandwidth in bytes consumed per service in APISIX",
        _ => "Gathered by a plugin",
    }
}

/// The families of the whole process.
pub fn process<'a>(
    page: &mut Exposition,
    attributes: &Attributes,
    workers: impl Iterator<Item = &'a Counters> + Clone,
    hostname: &str,
) {
    let prefix = &attributes.prefix;
    let sum = |read: fn(&Counters) -> u64| workers.clone().map(read).sum::<u64>() as f64;
    let (active, waiting) = (sum(|counters| counters.connections.get()), sum(|counters| counters.idle.get()));
    let accepted = sum(|counters| counters.accepted.get());
    let handled = accepted - sum(|counters| counters.refused.get());
    // nginx tells reading from writing; a connection that is not idle counts as writing here, tunnels included.
    let states = [
        ("accepted", accepted),
        ("active", active),
        ("handled", handled.max(0.0)),
        ("reading", 0.0),
        ("waiting", waiting),
        ("writing", (active - waiting).max(0.0)),
    ];
    let name = format!("{prefix}nginx_http_current_connections");
    for (state, value) in states {
        page.number(&name, Kind::Gauge, "Number of HTTP connections", &[("state", state)], value);
    }
    let name = format!("{prefix}http_requests_total");
    let help = "The total number of client requests since APISIX started";
    page.number(&name, Kind::Gauge, help, &[], sum(|counters| counters.requests.get()));
    let name = format!("{prefix}nginx_metric_errors_total");
    page.number(&name, Kind::Counter, "Number of nginx-lua-prometheus errors", &[], 0.0);
    let labels = [("hostname", hostname), ("version", env!("CARGO_PKG_VERSION"))];
    page.number(&format!("{prefix}node_info"), Kind::Gauge, "Info of APISIX node", &labels, 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_two_workers_are_added_up_by_their_labels() {
        let counter = |code: &str, value| Sample {
            family: "http_status",
            labels: vec![("code".into(), code.to_string()), ("route".into(), "1".to_string())],
            value: SampleValue::Counter(value),
            fresh: code != "418",
        };
        let histogram = |counts: Vec<u64>, sum| Sample {
            family: "http_latency",
            labels: vec![("type".into(), "request".to_string())],
            value: SampleValue::Histogram(counts, sum),
            fresh: true,
        };
        let attributes = Attributes { buckets: vec![1.0, 5.0], ..Attributes::read(None) };
        let mut page = Exposition::default();
        let samples = vec![
            counter("200", 2),
            histogram(vec![1, 0, 1], 9.0),
            counter("404", 1),
            counter("200", 3),
            counter("418", 7),
            histogram(vec![0, 2, 0], 6.5),
        ];
        series(&mut page, &attributes, samples);
        let text = page.render();
        assert!(text.contains("apisix_http_status{code=\"200\",route=\"1\"} 5\n"), "{text}");
        assert!(text.contains("apisix_http_status{code=\"404\",route=\"1\"} 1\n"), "{text}");
        assert!(text.contains("apisix_http_latency_bucket{type=\"request\",le=\"5\"} 3\n"), "{text}");
        assert!(!text.contains("418"), "nobody touched it for its time: {text}");
        assert!(text.contains("apisix_http_latency_sum{type=\"request\"} 15.5\n"), "{text}");
    }

    #[test]
    fn the_prefix_and_the_buckets_come_from_plugin_attr() {
        let attributes = Attributes::read(Some(&serde_json::json!({"metric_prefix": "gw_", "default_buckets": [10, 50]})));
        assert_eq!(
            attributes,
            Attributes { prefix: "gw_".into(), buckets: vec![10.0, 50.0], uri: "/apisix/prometheus/metrics".into() }
        );
        let counters = Counters::default();
        counters.accepted.add(3);
        counters.connections.add(2);
        counters.idle.add(1);
        let mut page = Exposition::default();
        process(&mut page, &attributes, [&counters].into_iter(), "host");
        let text = page.render();
        assert!(text.contains("gw_nginx_http_current_connections{state=\"writing\"} 1\n"), "{text}");
        assert!(text.contains("gw_node_info{hostname=\"host\",version="), "{text}");
    }
}
