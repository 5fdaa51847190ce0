//! Ringway on either driver, and an earlier Ringway beside it.

use super::install::Source;
use super::{Kind, Role, Site, Terms};

/// On io_uring.
pub(super) static RING: Kind = Kind { name: "ringway", ..BASE };
/// On epoll.
pub(super) static EPOLL: Kind = Kind { name: "ringway-epoll", configure: epoll, ..BASE };
/// An earlier one, on io_uring.
pub(super) static BEFORE: Kind = Kind { name: "before", ..GIVEN };
/// The same on epoll.
pub(super) static BEFORE_EPOLL: Kind = Kind { name: "before-epoll", configure: epoll, ..GIVEN };

/// With limit-count (local policy) and prometheus on, APISIX's published pair.
pub(super) static LIMIT: Kind = Kind { name: "ringway-limit", configure: limit, on_demand: true, ..BASE };

/// With plugins that many routes have.
pub(super) static PLUGINS: Kind = Kind { name: "ringway-plugins", configure: plugins, on_demand: true, ..BASE };

/// Without the routes of `--routes`: what many of them cost.
pub(super) static ONE: Kind = Kind { name: "ringway-one", configure: one, routes: false, on_demand: true, ..BASE };

const BASE: Kind = Kind {
    role: Role::Ringway,
    source: Source::Ringway,
    given: |programs| programs.ringway.as_deref(),
    configure: |site, terms| text(site, terms, "io_uring", ""),
    command: |command, site, _| {
        command.arg("run").arg("-c").arg(&site.config);
    },
    routes: true,
    always_forwards: true,
    ..Kind::BASE
};

const GIVEN: Kind = Kind { source: Source::Given, given: |programs| programs.before.as_deref(), ..BASE };

fn epoll(site: &Site, terms: &Terms) -> String {
    text(site, terms, "epoll", "")
}

fn one(site: &Site, terms: &Terms) -> String {
    text(site, &Terms { routes: 0, ..terms.clone() }, "io_uring", "")
}

fn limit(site: &Site, terms: &Terms) -> String {
    let plugins = "    plugins:\n      limit-count: {count: 2000000000, time_window: 3600, rejected_code: 503, \
        key: remote_addr, policy: local}\n      prometheus: {}\n";
    text(site, terms, "io_uring", plugins)
}

fn plugins(site: &Site, terms: &Terms) -> String {
    let plugins = "    plugins:\n      request-id: {}\n      ip-restriction: {whitelist: [127.0.0.0/8]}\n      cors: {}\n      \
        proxy-rewrite: {headers: {set: {X-Api: v1}}}\n      response-rewrite: {headers: {set: {X-Done: \"yes\"}}}\n";
    text(site, terms, "io_uring", plugins)
}

fn text(site: &Site, terms: &Terms, driver: &str, plugins: &str) -> String {
    let (listen, control) = (site.listen, site.control);
    let log = site.log.as_ref().map_or("\"off\"".into(), |log| format!("{{path: \"{}\", format: combined}}", log.display()));
    let many: String =
        (0..terms.routes).map(|n| format!("  - {{id: m{n}, uri: /many/{n:06}/*, upstream_id: bench}}\n")).collect();
    format!(
        "gateway:\n  workers: {{count: 1, cpus: \"{}\", driver: {driver}}}\n  listeners:\n    - {{address: \"{listen}\"}}\n  \
         control: {{address: \"{control}\"}}\n  access_log: {log}\n  keepalive: {{requests: 1000000}}\n\
         upstreams:\n  - id: bench\n    type: roundrobin\n    \
         keepalive_pool: {{size: 512, requests: 1000000}}\n    nodes: {{\"{}\": 1}}\n\
         routes:\n  - id: bench\n    uri: /*\n    upstream_id: bench\n{plugins}{many}",
        terms.cpu, terms.upstream
    )
}
