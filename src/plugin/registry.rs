//! The registry: one line per plugin. docs/adding-a-plugin.md.

use serde_json::Value as Json;

use super::conf::{self, Field, Shape, field};
use super::known::NOT_YET;
use super::{Build, ConfFault};
use super::{
    api_breaker, buffering, client_control, compress, cors, fault_injection, ip_restriction, key_auth, limit_count, prometheus,
};
use super::{proxy_mirror, proxy_rewrite, real_ip, redirect, request_id, response_rewrite, traffic_split};
use crate::config::nearest;

/// A plugin that exists.
pub struct Registered {
    /// Its name in configurations.
    pub name: &'static str,
    /// Its place in the order, APISIX's.
    pub priority: i64,
    /// It identifies clients: on a consumer it is a credential.
    pub auth: bool,
    /// Phases, for the reference.
    pub phases: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Fields of its configuration.
    pub fields: &'static [Field],
    /// Fields of its configuration on a consumer; empty where it has none of its own.
    pub consumer_fields: &'static [Field],
    /// Builds an instance.
    pub build: Build,
}

const fn plugin(
    name: &'static str,
    priority: i64,
    phases: &'static str,
    doc: &'static str,
    fields: &'static [Field],
    build: Build,
) -> Registered {
    Registered { name, priority, auth: false, phases, doc, fields, consumer_fields: &[], build }
}

static ALL: &[Registered] = &[
    plugin("real-ip", 23000, "rewrite", "Says who the client is, where its peer is trusted.", real_ip::FIELDS, real_ip::build),
    plugin(
        "proxy-buffering",
        21991,
        "rewrite",
        "Keeps responses in memory for slow clients, or not.",
        buffering::BUFFERING_FIELDS,
        buffering::build_buffering,
    ),
    plugin(
        "proxy-control",
        21990,
        "rewrite",
        "Gathers request bodies before a node is asked, or not.",
        buffering::CONTROL_FIELDS,
        buffering::build_control,
    ),
    plugin(
        "client-control",
        22000,
        "rewrite",
        "Limits the bodies that clients may send.",
        client_control::FIELDS,
        client_control::build,
    ),
    plugin("request-id", 12015, "rewrite, header_filter", "Gives every request an id.", request_id::FIELDS, request_id::build),
    plugin(
        "fault-injection",
        11000,
        "rewrite",
        "Ends or delays a share of the requests.",
        fault_injection::FIELDS,
        fault_injection::build,
    ),
    plugin("cors", 4000, "rewrite, header_filter", "Says which origins may read answers.", cors::FIELDS, cors::build),
    plugin("ip-restriction", 3000, "access", "Lets or keeps client addresses.", ip_restriction::FIELDS, ip_restriction::build),
    Registered {
        auth: true,
        consumer_fields: &[field("key", Shape::Text(1, 4096), "**required**", "The consumer's key.")],
        ..plugin("key-auth", 2500, "rewrite", "Identifies consumers by a key.", key_auth::FIELDS, key_auth::build)
    },
    plugin("limit-count", 1002, "access", "Limits the requests in a window of time.", limit_count::FIELDS, limit_count::build),
    plugin(
        "api-breaker",
        1005,
        "access, log",
        "Answers in an upstream's place while it fails.",
        api_breaker::FIELDS,
        api_breaker::build,
    ),
    plugin("proxy-mirror", 1010, "rewrite", "Copies requests to another host.", proxy_mirror::FIELDS, proxy_mirror::build),
    plugin("proxy-rewrite", 1008, "rewrite", "Changes what the upstream gets.", proxy_rewrite::FIELDS, proxy_rewrite::build),
    plugin("brotli", 996, "coding", "Codes responses with Brotli.", compress::BROTLI_FIELDS, compress::build_brotli),
    plugin("gzip", 995, "coding", "Codes responses with gzip.", compress::GZIP_FIELDS, compress::build_gzip),
    plugin("traffic-split", 966, "access", "Divides requests between upstreams.", traffic_split::FIELDS, traffic_split::build),
    plugin("redirect", 900, "rewrite", "Answers with a redirect.", redirect::FIELDS, redirect::build),
    plugin(
        "response-rewrite",
        899,
        "header_filter body_filter",
        "Changes the response.",
        response_rewrite::FIELDS,
        response_rewrite::build,
    ),
    plugin("prometheus", 500, "log", "Counts the route's requests for Prometheus.", prometheus::FIELDS, prometheus::build),
];

/// The plugin of this name.
pub fn lookup(name: &str) -> Option<&'static Registered> {
    ALL.iter().find(|registered| registered.name == name)
}

/// What to say of a name that is no plugin.
pub fn unknown(name: &str) -> ConfFault {
    if NOT_YET.contains(&name) {
        return ConfFault::at("", format!("plugin `{name}` is not supported yet"));
    }
    let mut fault = ConfFault::at("", format!("unknown plugin `{name}`"));
    let names = ALL.iter().map(|registered| registered.name).chain(NOT_YET.iter().copied());
    fault.help = nearest(name, names).map(|near| format!("did you mean `{near}`?"));
    fault
}

/// Checks a plugin's configuration on a consumer or credential.
pub fn check_consumer(name: &str, conf: &Json) -> Vec<ConfFault> {
    let Some(registered) = lookup(name) else { return vec![unknown(name)] };
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    conf::check(conf, registered.consumer_fields, "", &mut faults, &mut warnings);
    for required in registered.consumer_fields.iter().filter(|field| field.default == "**required**") {
        if conf.get(required.name).is_none() {
            faults.push(ConfFault::at("", format!("`{}` is required", required.name)));
        }
    }
    faults
}

/// (name, JSON Schema) of every plugin, for `ringway schema`.
pub fn schemas() -> Vec<(String, Json)> {
    ALL.iter().map(|registered| (registered.name.to_owned(), conf::schema(registered.fields))).collect()
}

/// docs/reference/plugins.md.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Plugin reference\n\nMade by `ringway schema --plugins-markdown` out of the plugins' own tables; do not edit.\n\
         Every plugin also takes `_meta` (`disable`, `priority`, `filter`, `error_response`).\n",
    );
    for registered in ALL {
        page.push_str(&format!(
            "\n## {}\n\n{} Priority {}, phases: {}.\n\n| field | type | default | meaning |\n|---|---|---|---|\n",
            registered.name, registered.doc, registered.priority, registered.phases
        ));
        conf::rows(registered.fields, "", &mut page);
        if !registered.consumer_fields.is_empty() {
            page.push_str("\nOn a consumer or credential:\n\n| field | type | default | meaning |\n|---|---|---|---|\n");
            conf::rows(registered.consumer_fields, "", &mut page);
        }
    }
    page.push_str(&format!("\n## Not supported yet\n\nKnown by name and refused by `check`: {}.\n", NOT_YET.join(", ")));
    page
}
