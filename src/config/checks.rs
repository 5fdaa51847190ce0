//! `checks` of an upstream: the table of its fields, and reading them. APISIX request.md §3.10.

use std::time::Duration;

use super::fields::{METHODS, Schema, Ty, f, object, open};
use super::model::{ActiveCheck, Bounds, Checks, HttpProbe, PassiveCheck};
use super::raw::Node;
use super::read;

const STATUSES: Ty = Ty::List(&Ty::Int(200, 599), 1);
const PROBES: &[&str] = &["http", "https", "tcp"];

pub(super) static CHECKS: Schema = Schema {
    required: &["active"],
    closed: false,
    ..object(
        "checks",
        &[
            f("active", Ty::Object(&ACTIVE), "", "Probes."),
            f("passive", Ty::Object(&PASSIVE), "", "Judged by what requests meet."),
        ],
    )
};

static ACTIVE: Schema = open(
    "checks.active",
    &[
        f("type", Ty::Enum(PROBES), "http", "Kind of probe."),
        f("timeout", Ty::Number(false), "1", "Seconds for one probe."),
        f("concurrency", Ty::Int(1, i64::MAX), "10", "Probes at once."),
        f("host", Ty::Host, "", "Host field."),
        f("port", Ty::Int(1, 65_535), "", "Port, where it is not the node's."),
        f("http_method", Ty::Enum(METHODS), "GET", "Method."),
        f("http_path", Ty::Text(0, 4096), "/", "Path."),
        f("http_req_body", Ty::Text(0, 65_536), "", "Body."),
        f("req_headers", Ty::List(&Ty::Text(0, 4096), 1), "", "Field lines."),
        f("https_verify_certificate", Ty::Bool, "true", "Verify the certificate."),
        f("healthy", Ty::Object(&ACTIVE_HEALTHY), "", "What makes a node healthy."),
        f("unhealthy", Ty::Object(&ACTIVE_UNHEALTHY), "", "What makes it unhealthy."),
    ],
);

static ACTIVE_HEALTHY: Schema = open(
    "checks.active.healthy",
    &[
        f("interval", Ty::Int(1, i64::MAX), "1", "Seconds between probes of healthy nodes."),
        f("http_statuses", STATUSES, "200, 302", "Statuses that count."),
        f("successes", Ty::Int(1, 254), "2", "So many in a row."),
    ],
);

static ACTIVE_UNHEALTHY: Schema = open(
    "checks.active.unhealthy",
    &[
        f("interval", Ty::Int(1, i64::MAX), "1", "Seconds between probes of unhealthy nodes."),
        f("http_statuses", STATUSES, "404, 429, 500 to 505", "Statuses that count."),
        f("http_failures", Ty::Int(1, 254), "5", "So many of them."),
        f("tcp_failures", Ty::Int(1, 254), "2", "So many failed connections."),
        f("timeouts", Ty::Int(1, 254), "3", "So many timeouts."),
    ],
);

static PASSIVE: Schema = open(
    "checks.passive",
    &[
        f("type", Ty::Enum(PROBES), "http", "What is judged."),
        f("healthy", Ty::Object(&PASSIVE_HEALTHY), "", "What makes a node healthy."),
        f("unhealthy", Ty::Object(&PASSIVE_UNHEALTHY), "", "What makes it unhealthy."),
    ],
);

static PASSIVE_HEALTHY: Schema = open(
    "checks.passive.healthy",
    &[
        f("http_statuses", STATUSES, "200 to 208, 226, 300 to 308", "Statuses that count."),
        f("successes", Ty::Int(0, 254), "5", "So many in a row."),
    ],
);

static PASSIVE_UNHEALTHY: Schema = open(
    "checks.passive.unhealthy",
    &[
        f("http_statuses", STATUSES, "429, 500, 503", "Statuses that count."),
        f("http_failures", Ty::Int(0, 254), "5", "So many of them."),
        f("tcp_failures", Ty::Int(0, 254), "2", "So many failed connections."),
        f("timeouts", Ty::Int(0, 254), "7", "So many timeouts."),
    ],
);

/// Reads `checks` that fit the table.
pub(super) fn read(node: &Node) -> Option<Checks> {
    let active = node.get("active")?; // its absence was told already
    let kind = active.get("type").and_then(Node::text).unwrap_or("http");
    let (healthy, unhealthy) = (active.get("healthy"), active.get("unhealthy"));
    let http = (kind != "tcp").then(|| http_probe(active, kind == "https"));
    let interval = |side: Option<&Node>| {
        side.map_or(Duration::ZERO, |side| Duration::from_secs(u64::from(count(Some(side), "interval", 1))))
    };
    let active = ActiveCheck {
        http,
        timeout: active.get("timeout").and_then(read::seconds).filter(|t| !t.is_zero()).unwrap_or(Duration::from_secs(1)),
        concurrency: count(Some(active), "concurrency", 10) as usize,
        port: active.get("port").and_then(Node::int).and_then(|port| u16::try_from(port).ok()),
        healthy_interval: interval(healthy),
        unhealthy_interval: interval(unhealthy),
        bounds: bounds(healthy, unhealthy, [2, 5, 2, 3]),
    };
    Some(Checks { active, passive: node.get("passive").map(passive) })
}

fn http_probe(active: &Node, over_tls: bool) -> HttpProbe {
    let text = |name: &str, default: &str| active.get(name).and_then(Node::text).unwrap_or(default).to_owned();
    let headers = active.get("req_headers").map(Node::items).unwrap_or_default();
    let verify = active.get("https_verify_certificate").and_then(Node::bool).unwrap_or(true);
    HttpProbe {
        tls: over_tls.then_some(verify),
        host: active.get("host").and_then(|host| read::host(host).ok()),
        method: text("http_method", "GET"),
        path: text("http_path", "/"),
        body: text("http_req_body", ""),
        headers: headers.iter().filter_map(|line| line.text().map(str::to_owned)).collect(),
        healthy: statuses(active.get("healthy"), &[200, 302]),
        unhealthy: statuses(active.get("unhealthy"), &[429, 404, 500, 501, 502, 503, 504, 505]),
    }
}

fn passive(node: &Node) -> PassiveCheck {
    const HEALTHY: [u16; 19] = [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
    PassiveCheck {
        healthy: statuses(node.get("healthy"), &HEALTHY),
        unhealthy: statuses(node.get("unhealthy"), &[429, 500, 503]),
        bounds: bounds(node.get("healthy"), node.get("unhealthy"), [5, 5, 2, 7]),
    }
}

fn bounds(healthy: Option<&Node>, unhealthy: Option<&Node>, defaults: [u32; 4]) -> Bounds {
    let [successes, http_failures, tcp_failures, timeouts] = defaults;
    Bounds {
        successes: count(healthy, "successes", successes),
        http_failures: count(unhealthy, "http_failures", http_failures),
        tcp_failures: count(unhealthy, "tcp_failures", tcp_failures),
        timeouts: count(unhealthy, "timeouts", timeouts),
    }
}

fn count(node: Option<&Node>, name: &str, default: u32) -> u32 {
    node.and_then(|node| node.get(name)?.int()).and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
}

fn statuses(side: Option<&Node>, default: &[u16]) -> Vec<u16> {
    match side.and_then(|side| side.get("http_statuses")) {
        Some(list) => list.items().iter().filter_map(|status| u16::try_from(status.int()?).ok()).collect(),
        None => default.to_vec(),
    }
}
