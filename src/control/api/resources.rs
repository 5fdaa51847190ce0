//! Resources of the newest epoch in the shapes of APISIX's Control API (apisix/admin.md §4): `{"key": ..., "value": ...}`.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::config::model::{Model, Node, PassHost, Plugins, Route, Service, Timeout, Upstream};
use crate::proto::message::{Method, MethodSet};

/// All routes, in load order.
pub fn routes(model: &Model) -> Vec<Json> {
    model.routes.iter().map(|route| route_node(route)).collect()
}

/// One route.
pub fn route(model: &Model, id: &str) -> Option<Json> {
    model.routes.iter().find(|route| &*route.id == id).map(|route| route_node(route))
}

/// All services.
pub fn services(model: &Model) -> Vec<Json> {
    model.services.values().map(|service| service_node(service)).collect()
}

/// One service.
pub fn service(model: &Model, id: &str) -> Option<Json> {
    model.services.get(id).map(|service| service_node(service))
}

/// All upstreams that have an id of their own.
pub fn upstreams(model: &Model) -> Vec<Json> {
    model.upstreams.iter().map(|(id, upstream)| node("upstreams", id, upstream_value(upstream))).collect()
}

/// One upstream.
pub fn upstream(model: &Model, id: &str) -> Option<Json> {
    model.upstreams.get(id).map(|upstream| node("upstreams", id, upstream_value(upstream)))
}

/// All plugin metadata.
pub fn plugin_metadatas(model: &Model) -> Vec<Json> {
    model.plugin_metadata.keys().filter_map(|name| plugin_metadata(model, name)).collect()
}

/// Metadata of one plugin.
pub fn plugin_metadata(model: &Model, name: &str) -> Option<Json> {
    let mut value = model.plugin_metadata.get(name)?.clone();
    if let Some(object) = value.as_object_mut() {
        object.insert("id".into(), name.into());
    }
    Some(value)
}

fn node(directory: &str, id: &str, value: Json) -> Json {
    json!({"key": format!("/{directory}/{id}"), "value": value, "has_domain": has_domain(&value)})
}

fn has_domain(value: &Json) -> bool {
    let upstream = value.get("upstream").unwrap_or(value);
    let nodes = upstream.get("nodes").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_name =
        |node: &Json| node.get("host").and_then(Json::as_str).is_some_and(|host| host.parse::<std::net::IpAddr>().is_err());
    nodes.iter().any(is_name)
}

fn route_node(route: &Route) -> Json {
    let mut value = Map::new();
    value.insert("id".into(), json!(&*route.id));
    put_some(&mut value, "name", route.name.as_deref());
    put_one_or_many(&mut value, "uri", "uris", &route.uris);
    put_one_or_many(&mut value, "host", "hosts", &route.hosts);
    let methods = method_names(route.methods);
    if !methods.is_empty() {
        value.insert("methods".into(), json!(methods));
    }
    if !route.remote_addrs.is_empty() {
        let nets: Vec<String> = route.remote_addrs.iter().map(ToString::to_string).collect();
        value.insert("remote_addrs".into(), json!(nets));
    }
    value.insert("priority".into(), json!(route.priority));
    value.insert("status".into(), json!(u8::from(route.enabled)));
    put_plugins(&mut value, &route.plugins);
    put_some(&mut value, "plugin_config_id", route.plugin_config_id.as_deref());
    put_some(&mut value, "service_id", route.service_id.as_deref());
    put_some(&mut value, "upstream_id", route.upstream_id.as_deref());
    if let Some(upstream) = &route.upstream {
        value.insert("upstream".into(), upstream_value(upstream));
    }
    if let Some(timeout) = &route.timeout {
        value.insert("timeout".into(), timeout_value(timeout));
    }
    if let Some(on) = route.enable_websocket {
        value.insert("enable_websocket".into(), json!(on));
    }
    if !route.labels.is_empty() {
        value.insert("labels".into(), json!(route.labels));
    }
    node("routes", &route.id, Json::Object(value))
}

fn service_node(service: &Service) -> Json {
    let mut value = Map::new();
    value.insert("id".into(), json!(&*service.id));
    put_some(&mut value, "name", service.name.as_deref());
    if !service.hosts.is_empty() {
        value.insert("hosts".into(), json!(service.hosts));
    }
    put_plugins(&mut value, &service.plugins);
    put_some(&mut value, "upstream_id", service.upstream_id.as_deref());
    if let Some(upstream) = &service.upstream {
        value.insert("upstream".into(), upstream_value(upstream));
    }
    if let Some(on) = service.enable_websocket {
        value.insert("enable_websocket".into(), json!(on));
    }
    node("services", &service.id, Json::Object(value))
}

/// An upstream with its defaults, nodes as an array.
pub fn upstream_value(upstream: &Upstream) -> Json {
    let mut value = Map::new();
    put_some(&mut value, "id", upstream.id.as_deref());
    put_some(&mut value, "name", upstream.name.as_deref());
    value.insert("type".into(), json!("roundrobin"));
    value.insert("scheme".into(), json!(upstream.scheme.name()));
    let nodes: Vec<Json> = upstream.nodes.iter().map(node_value).collect();
    value.insert("nodes".into(), Json::Array(nodes));
    let (pass, host) = match &upstream.pass_host {
        PassHost::Pass => ("pass", None),
        PassHost::Node => ("node", None),
        PassHost::Rewrite(host) => ("rewrite", Some(host.as_str())),
    };
    value.insert("pass_host".into(), json!(pass));
    put_some(&mut value, "upstream_host", host);
    if let Some(retries) = upstream.retries {
        value.insert("retries".into(), json!(retries));
    }
    if !upstream.retry_timeout.is_zero() {
        value.insert("retry_timeout".into(), seconds(upstream.retry_timeout));
    }
    value.insert("timeout".into(), timeout_value(&upstream.timeout));
    let pool = &upstream.keepalive;
    let idle = seconds(pool.idle_timeout);
    value.insert("keepalive_pool".into(), json!({"size": pool.size, "idle_timeout": idle, "requests": pool.requests}));
    value.insert("resource_key".into(), json!(format!("/{}", upstream.identity)));
    Json::Object(value)
}

fn node_value(node: &Node) -> Json {
    let host = node.host.to_string();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    json!({"host": host, "port": node.port, "weight": node.weight, "priority": node.priority})
}

fn timeout_value(timeout: &Timeout) -> Json {
    json!({"connect": seconds(timeout.connect), "send": seconds(timeout.send), "read": seconds(timeout.read)})
}

/// Whole seconds as an integer, as they are written.
fn seconds(duration: Duration) -> Json {
    if duration.subsec_nanos() == 0 { json!(duration.as_secs()) } else { json!(duration.as_secs_f64()) }
}

fn put_plugins(value: &mut Map<String, Json>, plugins: &Plugins) {
    if !plugins.0.is_empty() {
        let plugins: Map<String, Json> = plugins.0.iter().cloned().collect();
        value.insert("plugins".into(), Json::Object(plugins));
    }
}

fn put_some(value: &mut Map<String, Json>, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        value.insert(name.into(), json!(text));
    }
}

fn put_one_or_many(value: &mut Map<String, Json>, one: &str, many: &str, texts: &[String]) {
    match texts {
        [] => {}
        [text] => {
            value.insert(one.into(), json!(text));
        }
        texts => {
            value.insert(many.into(), json!(texts));
        }
    }
}

/// The methods of a set by name; none where any is allowed.
pub fn method_names(methods: MethodSet) -> Vec<&'static str> {
    const NAMES: &[(Method, &str)] = &[
        (Method::Get, "GET"),
        (Method::Post, "POST"),
        (Method::Put, "PUT"),
        (Method::Delete, "DELETE"),
        (Method::Patch, "PATCH"),
        (Method::Head, "HEAD"),
        (Method::Options, "OPTIONS"),
        (Method::Connect, "CONNECT"),
        (Method::Trace, "TRACE"),
        (Method::Purge, "PURGE"),
    ];
    NAMES.iter().filter(|(method, _)| methods.0 & method.bit() != 0).map(|(_, name)| *name).collect()
}
