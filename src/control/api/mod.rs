//! The Control API (apisix/admin.md §4, §5): status, readiness, metrics, resources of the newest epoch. Loopback by default; no
//! authentication, as in APISIX.

pub mod resources;

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde_json::{Value as Json, json};

use super::health;
use super::metrics::{self, Exposition, apisix};
use super::schemas;
use super::status::Shared;
use crate::config::model::Model;
use crate::upstream::drains;

/// Serves the Control API until the process ends. The socket is non-blocking.
///
/// # Errors
/// If the socket cannot be registered with the runtime.
pub async fn serve(socket: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let uri = attributes(&shared).uri;
    let mut router = Router::new()
        .route("/status", get(async || answer(StatusCode::OK, &json!({"status": "ok"}))))
        .route("/status/ready", get(ready))
        .route("/metrics", get(render))
        .route("/v1/routes", get(async |shared: State<Arc<Shared>>| list(&shared, resources::routes)))
        .route(
            "/v1/route/{id}",
            get(async |shared: State<Arc<Shared>>, id: Path<String>| one("route", &id, resources::route(&shared.model(), &id))),
        )
        .route("/v1/services", get(async |shared: State<Arc<Shared>>| list(&shared, resources::services)))
        .route(
            "/v1/service/{id}",
            get(async |shared: State<Arc<Shared>>, id: Path<String>| {
                one("service", &id, resources::service(&shared.model(), &id))
            }),
        )
        .route("/v1/upstreams", get(async |shared: State<Arc<Shared>>| list(&shared, resources::upstreams)))
        .route(
            "/v1/upstream/{id}",
            get(async |shared: State<Arc<Shared>>, id: Path<String>| {
                one("upstream", &id, resources::upstream(&shared.model(), &id))
            }),
        )
        .route("/v1/plugin_metadatas", get(async |shared: State<Arc<Shared>>| list(&shared, resources::plugin_metadatas)))
        .route(
            "/v1/plugin_metadata/{name}",
            get(async |shared: State<Arc<Shared>>, name: Path<String>| {
                one("plugin metadata", &name, resources::plugin_metadata(&shared.model(), &name))
            }),
        )
        .route(
            "/v1/healthcheck",
            get(async |shared: State<Arc<Shared>>| answer(StatusCode::OK, &health::page(&shared.checked()))),
        )
        .route("/v1/healthcheck/{kind}/{id}", get(healthcheck))
        .route("/v1/drains", get(async || answer(StatusCode::OK, &drained())))
        .route("/v1/drains/{kind}/{id}/{node}", put(drain).delete(undrain))
        .route("/v1/schema", get(async || answer(StatusCode::OK, &schemas::control())))
        .route("/v1/ringway", get(async |shared: State<Arc<Shared>>| answer(StatusCode::OK, &shared.page())));
    if uri.starts_with('/') && uri != "/metrics" {
        router = router.route(&literal(&uri), get(render));
    }
    run(socket, router, shared).await
}

/// Serves only the metrics, on `plugin_attr.prometheus.export_addr`.
///
/// # Errors
/// If the socket cannot be registered with the runtime.
pub async fn serve_metrics(socket: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let uri = attributes(&shared).uri;
    let router = Router::new().route(&literal(&uri), get(render));
    run(socket, router, shared).await
}

async fn run(socket: TcpListener, router: Router<Arc<Shared>>, shared: Arc<Shared>) -> std::io::Result<()> {
    let not_found = async || answer(StatusCode::NOT_FOUND, &json!({"error_msg": "404 Route Not Found"}));
    let not_allowed = async || answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"error_msg": "method not allowed"}));
    let router = router.method_not_allowed_fallback(not_allowed).fallback(not_found).with_state(shared);
    axum::serve(tokio::net::TcpListener::from_std(socket)?, router).await
}

/// A configured path as a route without parameters: the router takes braces for parameters unless doubled.
fn literal(path: &str) -> String {
    let path = path.replace('{', "{{").replace('}', "}}");
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// One checker; APISIX's texts for what is not there.
async fn healthcheck(State(shared): State<Arc<Shared>>, Path((kind, id)): Path<(String, String)>) -> Response {
    if !["routes", "services", "upstreams", "stream_routes"].contains(&kind.as_str()) {
        return answer(StatusCode::BAD_REQUEST, &json!({"error_msg": format!("invalid src type {kind}")}));
    }
    match health::one(&shared.checked(), &format!("{kind}/{id}")) {
        Some(checker) => answer(StatusCode::OK, &checker),
        None => answer(StatusCode::NOT_FOUND, &json!({"error_msg": format!("no checker for {kind}[{id}]")})),
    }
}

/// Nodes that are drained.
fn drained() -> Json {
    let all = drains::all().into_iter().map(|(upstream, node)| json!({"upstream": format!("/{upstream}"), "node": node}));
    Json::Array(all.collect())
}

/// A node gets no new sessions any more; those bound to it stay.
async fn drain(State(shared): State<Arc<Shared>>, path: Path<(String, String, String)>) -> Response {
    set_drained(&shared, path, true)
}

/// It gets them again.
async fn undrain(State(shared): State<Arc<Shared>>, path: Path<(String, String, String)>) -> Response {
    set_drained(&shared, path, false)
}

fn set_drained(shared: &Shared, Path((kind, id, place)): Path<(String, String, String)>, drained: bool) -> Response {
    let identity = format!("{kind}/{id}");
    let upstreams = shared.upstreams();
    let node =
        upstreams.iter().find(|spec| *spec.identity == *identity).map(|spec| spec.nodes.iter().any(|node| node.place() == place));
    match node {
        None => answer(StatusCode::NOT_FOUND, &json!({"error_msg": format!("no upstream in use at {identity}")})),
        Some(false) if drained => answer(StatusCode::NOT_FOUND, &json!({"error_msg": format!("{identity} has no node {place}")})),
        Some(_) => {
            if drains::set(&identity, &place, drained) {
                tracing::warn!("{identity}: node {place} {}", if drained { "is drained" } else { "serves again" });
            }
            answer(StatusCode::OK, &json!({"upstream": format!("/{identity}"), "node": place, "drained": drained}))
        }
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.ready() {
        Ok(()) => answer(StatusCode::OK, &json!({"status": "ok"})),
        Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "error", "error": why})),
    }
}

async fn render(State(shared): State<Arc<Shared>>) -> Response {
    let mut page = Exposition::default();
    // Counters first: a worker resets its longest lag when it answers a scrape.
    shared.fleet.seats.iter().for_each(|seat| metrics::own::worker(&mut page, seat));
    let reports = shared.fleet.scrape().await;
    let attributes = attributes(&shared);
    metrics::own::reloads(&mut page, shared.epoch(), &shared.reloads());
    metrics::own::process(&mut page, shared.log_failures(), shared.memory());
    let spares = shared.fleet.spares.as_ref().map(|spares| spares.counts()).unwrap_or_default();
    metrics::own::pools(&mut page, reports.iter(), &spares);
    apisix::health(&mut page, &attributes, &shared.checked());
    apisix::process(&mut page, &attributes, shared.fleet.seats.iter().map(|seat| &*seat.counters), &shared.hostname);
    apisix::series(&mut page, &attributes, reports.into_iter().flat_map(|report| report.series));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.render()).into_response()
}

fn attributes(shared: &Shared) -> apisix::Attributes {
    apisix::Attributes::read(shared.model().plugin_attr.get("prometheus"))
}

fn list(shared: &Shared, items: fn(&Model) -> Vec<Json>) -> Response {
    answer(StatusCode::OK, &Json::Array(items(&shared.model())))
}

fn one(kind: &str, id: &str, item: Option<Json>) -> Response {
    match item {
        Some(item) => answer(StatusCode::OK, &item),
        None => answer(StatusCode::NOT_FOUND, &json!({"error_msg": format!("{kind}[{id}] not found")})),
    }
}

fn answer(status: StatusCode, body: &Json) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
