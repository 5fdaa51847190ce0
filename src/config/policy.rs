//! What an upstream does beyond APISIX: stickiness, slow start, outliers, budgets, bounds. Fields of Ringway's own.

use std::time::Duration;

use super::fields::{Schema, Ty, f, object};
use super::model::{NodeBounds, Outlier, Policy, RetryBudget, SameSite, Sticky};
use super::raw::Node;
use super::{check, read};

pub(super) static STICKY: Schema = Schema {
    required: &["cookie"],
    ..object(
        "sticky",
        &[
            f("cookie", Ty::Text(1, 64), "", "Name of the cookie."),
            f("ttl", Ty::Duration, "", "How long a browser keeps it; until it is closed where absent."),
            f(
                "key",
                Ty::Text(16, 256),
                "made of the upstream's identity",
                "Key of its values: the same on gateways that share clients.",
            ),
            f("path", Ty::Text(1, 1024), "/", "Its path."),
            f("secure", Ty::Bool, "false", "It is sent over TLS alone."),
            f("http_only", Ty::Bool, "true", "Scripts don't see it."),
            f("samesite", Ty::Enum(&["strict", "lax", "none"]), "", "Whether other sites' requests carry it."),
        ],
    )
};

pub(super) static OUTLIER: Schema = object(
    "outlier",
    &[
        f("failures", Ty::Int(1, 1_000_000), "5", "Failures in a row (no answer, or one from 500) that put a node out."),
        f("ejection", Ty::Duration, "30s", "How long the first time; the second time twice as long, and so on up to ten times."),
        f("max_ejected", Ty::Int(0, 100), "50", "Percent of the nodes that may be out at once."),
    ],
);

pub(super) static RETRY_BUDGET: Schema = object(
    "retry_budget",
    &[
        f("percent", Ty::Int(0, 1000), "20", "Retries that may follow requests which had been sent, as a share of all requests."),
        f("per_second", Ty::Int(0, 1_000_000), "10", "And so many each second besides."),
        f("burst", Ty::Int(1, 1_000_000), "100", "So many of what was left over are kept."),
    ],
);

pub(super) static BOUNDS: Schema = Schema {
    required: &["requests"],
    ..object(
        "limits",
        &[
            f("requests", Ty::Int(1, u32::MAX as i64), "", "Requests under way at one node, and so connections in use."),
            f("pending", Ty::Int(0, 1_000_000), "1024", "Requests that wait for a node below its limit; further ones get 503."),
            f("pending_timeout", Ty::Duration, "1s", "How long one waits before it gets 503."),
        ],
    )
};

/// Reads the fields of an upstream that fit their tables.
pub(super) fn read(node: &Node) -> Policy {
    Policy {
        sticky: node.get("sticky").and_then(sticky),
        slow_start: duration(Some(node), "slow_start", Duration::ZERO),
        outlier: node.get("outlier").map(outlier),
        panic_threshold: count(node, "panic_threshold", 0),
        retry_budget: match node.get("retry_budget") {
            Some(off) if check::is_off(off) => None,
            given => Some(retry_budget(given)),
        },
        bounds: node.get("limits").and_then(bounds),
    }
}

fn sticky(node: &Node) -> Option<Sticky> {
    let text = |name: &str| node.get(name).and_then(Node::text);
    Some(Sticky {
        cookie: text("cookie")?.to_owned(),
        ttl: node.get("ttl").and_then(|ttl| read::duration(ttl).ok()),
        key: text("key").map(str::to_owned),
        path: text("path").unwrap_or("/").to_owned(),
        secure: node.get("secure").and_then(Node::bool).unwrap_or(false),
        http_only: node.get("http_only").and_then(Node::bool).unwrap_or(true),
        same_site: match text("samesite") {
            Some("strict") => Some(SameSite::Strict),
            Some("lax") => Some(SameSite::Lax),
            Some("none") => Some(SameSite::None),
            _ => None,
        },
    })
}

fn outlier(node: &Node) -> Outlier {
    Outlier {
        failures: count(node, "failures", 5),
        ejection: duration(Some(node), "ejection", Duration::from_secs(30)),
        max_ejected: count(node, "max_ejected", 50),
    }
}

fn retry_budget(node: Option<&Node>) -> RetryBudget {
    let count = |name: &str, default| node.map_or(default, |node| count(node, name, default));
    RetryBudget { percent: count("percent", 20), per_second: count("per_second", 10), burst: count("burst", 100) }
}

fn bounds(node: &Node) -> Option<NodeBounds> {
    node.get("requests")?;
    Some(NodeBounds {
        requests: count(node, "requests", u32::MAX),
        pending: count(node, "pending", 1024) as usize,
        pending_timeout: duration(Some(node), "pending_timeout", Duration::from_secs(1)),
    })
}

fn count(node: &Node, name: &str, default: u32) -> u32 {
    node.get(name).and_then(Node::int).and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
}

fn duration(node: Option<&Node>, name: &str, default: Duration) -> Duration {
    node.and_then(|node| node.get(name)).and_then(|given| read::duration(given).ok()).unwrap_or(default)
}
