//! Discovery by Kubernetes: Endpoints or EndpointSlices of a cluster, listed and then watched. APISIX request.md §6.7.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use regex::Regex;
use serde_json::Value as Json;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::client::{Server, json};
use super::publish;
use crate::config::gateway::{Kubernetes, NamespaceSelector};
use crate::config::model::{Node, NodeHost};
use crate::net::tls::{ClientPlan, Roots};
use crate::upstream::names::Names;
use crate::upstream::services::Service;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
/// Objects asked for at once.
const PAGE: usize = 500;
/// How long one watch lasts; then all is listed again.
const WATCH: Duration = Duration::from_secs(30 * 60);
/// Waits after failures: doubled from the first to the last.
const FAILED_MIN: Duration = Duration::from_secs(1);
const FAILED_MAX: Duration = Duration::from_secs(40);
/// Longest line of a watch.
const LINE_BYTES: usize = 16 * 1024 * 1024;
/// Where a pod finds the authority of its cluster.
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Nodes of one object by port name.
type Ports = BTreeMap<String, Vec<Node>>;

/// What is known of a cluster: objects by service (`namespace/name`), each with its own name.
#[derive(Default)]
struct Table {
    listed: bool,
    /// Something came since it was published.
    news: bool,
    services: HashMap<String, BTreeMap<String, Ports>>,
}

/// A cluster that is watched until this is dropped.
pub struct Cluster {
    id: Option<String>,
    table: Arc<Mutex<Table>>,
    task: AbortHandle,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    /// Begins to watch.
    pub fn start(conf: Kubernetes) -> Self {
        let table: Arc<Mutex<Table>> = Arc::default();
        let id = conf.id.clone();
        let task = tokio::spawn(follow(conf, table.clone())).abort_handle();
        Self { id, table, task }
    }

    /// Publishes the nodes of the services in use, once the cluster was listed.
    pub fn publish(&self, names: &Names) {
        let mut table = lock(&self.table);
        if !table.listed {
            return;
        }
        let news = std::mem::take(&mut table.news);
        let all = names.services.in_use();
        let concerned = |service: &&Arc<Service>| &*service.key.registry == "kubernetes" && (news || service.version() == 0);
        for service in all.iter().filter(concerned) {
            let key = match &self.id {
                None => Some(&*service.key.service),
                Some(id) => service.key.service.strip_prefix(id.as_str()).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(key) = key else { continue };
            match key.split_once(':') {
                Some((object, port)) if object.contains('/') => {
                    let objects = table.services.get(object).map(BTreeMap::values).into_iter().flatten();
                    publish(names, &service.key, objects.filter_map(|ports| ports.get(port)).flatten().cloned().collect());
                }
                _ => crate::limited!(warn, "get unexpected upstream service_name: {key}; write namespace/name:port"),
            }
        }
    }
}

fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(conf: Kubernetes, table: Arc<Mutex<Table>>) {
    let mut failures = 0_u32;
    loop {
        match round(&conf, &table).await {
            Ok(()) => failures = 0,
            Err(why) => {
                let wait = FAILED_MIN.saturating_mul(1 << failures.min(6)).min(FAILED_MAX);
                failures += 1;
                crate::limited!(warn, "kubernetes: {why}; the last nodes stay, the next try is in {} s", wait.as_secs());
                sleep(wait).await;
            }
        }
    }
}

/// Lists everything, then watches until the watch ends.
async fn round(conf: &Kubernetes, table: &Mutex<Table>) -> Result<(), String> {
    let server = server(conf)?;
    let patterns = Patterns::new(&conf.namespaces);
    let mut listed = Table { listed: true, news: true, ..Table::default() };
    let (mut page, mut version) = (String::new(), String::new());
    loop {
        let target = target(conf, &format!("limit={PAGE}{page}"));
        let answer = async { json(server.get(&target, &fields(conf)?, CONNECT).await?).await };
        let list = timeout(ANSWER, answer).await.map_err(|_| "no list in time".to_owned())??;
        for object in list.get("items").and_then(Json::as_array).into_iter().flatten() {
            take(&mut listed, object, conf, &patterns, false);
        }
        let text = |name: &str| list.pointer(&format!("/metadata/{name}")).and_then(Json::as_str).unwrap_or_default();
        version = if version.is_empty() || page.is_empty() { text("resourceVersion").to_owned() } else { version };
        match text("continue") {
            "" => break,
            more => page = format!("&continue={more}"),
        }
    }
    *lock(table) = listed;
    let seconds = WATCH.as_secs();
    let target = target(conf, &format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}"));
    let begun = timeout(ANSWER, server.get(&target, &fields(conf)?, CONNECT)).await;
    let answer = begun.map_err(|_| "no watch in time".to_owned())??;
    if answer.status() == 410 {
        return Ok(()); // what was listed is too old already: all is listed again
    }
    if answer.status() != 200 {
        return Err(format!("the watch was answered {}", answer.status()));
    }
    timeout(WATCH + ANSWER, watch(answer, conf, &patterns, table)).await.unwrap_or(Ok(()))
}

async fn watch(
    mut answer: Response<Incoming>,
    conf: &Kubernetes,
    patterns: &Patterns,
    table: &Mutex<Table>,
) -> Result<(), String> {
    let mut lines: Vec<u8> = Vec::new();
    while let Some(frame) = answer.body_mut().frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        lines.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        while let Some(end) = memchr::memchr(b'\n', &lines) {
            let line: Vec<u8> = lines.drain(..=end).collect();
            let event: Json = serde_json::from_slice(&line).map_err(|error| format!("a watch's line is no JSON: {error}"))?;
            let Some(object) = event.get("object") else { continue };
            match event.get("type").and_then(Json::as_str) {
                Some("ADDED" | "MODIFIED") => take(&mut lock(table), object, conf, patterns, false),
                Some("DELETED") => take(&mut lock(table), object, conf, patterns, true),
                Some("ERROR") => return Ok(()), // 410 and the like: all is listed again
                _ => {}
            }
        }
        if lines.len() > LINE_BYTES {
            return Err("a watch's line has no end".to_owned());
        }
    }
    Ok(())
}

fn server(conf: &Kubernetes) -> Result<Server, String> {
    let (host, port) = (expanded(&conf.host)?, expanded(&conf.port)?);
    let port = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let tls = match (conf.https, conf.verify) {
        (false, _) => None,
        (true, false) => Some(ClientPlan::new(None, None, 0)?),
        (true, true) => {
            let roots = match std::fs::read_to_string(AUTHORITY) {
                Ok(pem) => Roots::parse(&pem)?,
                Err(_) => Roots::system()?,
            };
            Some(ClientPlan::new(Some(&roots), None, 1)?)
        }
    };
    Ok(Server { host, port, tls })
}

/// `${NAME}` is a variable of the environment.
fn expanded(text: &str) -> Result<String, String> {
    match text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => std::env::var(name).map_err(|_| format!("the environment has no {name}: is this a pod?")),
        None => Ok(text.to_owned()),
    }
}

fn fields(conf: &Kubernetes) -> Result<Vec<(&'static str, String)>, String> {
    let token = match &conf.token {
        Some(token) => expanded(token)?,
        None => match std::fs::read_to_string(&conf.token_file) {
            Ok(token) => token.trim().to_owned(),
            Err(error) => return Err(format!("{}: {error}", conf.token_file.display())),
        },
    };
    Ok(vec![("Authorization", format!("Bearer {token}"))])
}

fn target(conf: &Kubernetes, query: &str) -> String {
    let (api, kind) = if conf.slices { ("apis/discovery.k8s.io/v1", "endpointslices") } else { ("api/v1", "endpoints") };
    let mut target = format!("/{api}/{kind}?{query}");
    let selector = match &conf.namespaces {
        NamespaceSelector::Equal(name) => Some(format!("metadata.namespace%3D{name}")),
        NamespaceSelector::NotEqual(name) => Some(format!("metadata.namespace%21%3D{name}")),
        _ => None,
    };
    if let Some(selector) = selector {
        target.push_str(&format!("&fieldSelector={selector}"));
    }
    if let Some(labels) = &conf.labels {
        target.push_str(&format!(
            "&labelSelector={}",
            labels.replace('=', "%3D").replace(',', "%2C").replace(' ', "%20").replace('!', "%21")
        ));
    }
    target
}

/// Expressions over whole namespace names, and whether fitting ones count.
struct Patterns(Option<(Vec<Regex>, bool)>);

impl Patterns {
    fn new(selector: &NamespaceSelector) -> Self {
        let compiled =
            |patterns: &[String]| patterns.iter().filter_map(|text| Regex::new(&format!("^(?:{text})$")).ok()).collect();
        Self(match selector {
            NamespaceSelector::Match(patterns) => Some((compiled(patterns), true)),
            NamespaceSelector::NotMatch(patterns) => Some((compiled(patterns), false)),
            _ => None,
        })
    }

    fn takes(&self, namespace: &str) -> bool {
        self.0.as_ref().is_none_or(|(patterns, wanted)| patterns.iter().any(|pattern| pattern.is_match(namespace)) == *wanted)
    }
}

/// Puts an object into the table, or takes it out.
fn take(table: &mut Table, object: &Json, conf: &Kubernetes, patterns: &Patterns, gone: bool) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Json::as_str);
    let (Some(namespace), Some(name)) = (text("/metadata/namespace"), text("/metadata/name")) else { return };
    if !patterns.takes(namespace) {
        return;
    }
    let service = if conf.slices {
        object.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Json::as_str)
    } else {
        Some(name)
    };
    let Some(service) = service else { return };
    table.news = true;
    let objects = table.services.entry(format!("{namespace}/{service}")).or_default();
    if gone {
        objects.remove(name);
    } else {
        objects.insert(name.to_owned(), if conf.slices { slice(object, conf.weight) } else { endpoints(object, conf.weight) });
    }
}

fn endpoints(object: &Json, weight: u32) -> Ports {
    let mut all = Ports::new();
    for subset in object.get("subsets").and_then(Json::as_array).into_iter().flatten() {
        let addresses = subset.get("addresses").and_then(Json::as_array).into_iter().flatten();
        let ips: Vec<IpAddr> = addresses.filter_map(|address| address.get("ip")?.as_str()?.parse().ok()).collect();
        add(&mut all, subset, &ips, weight);
    }
    all
}

fn slice(object: &Json, weight: u32) -> Ports {
    let mut all = Ports::new();
    let ready = |endpoint: &&Json| endpoint.pointer("/conditions/ready").and_then(Json::as_bool).unwrap_or(true);
    let endpoints = object.get("endpoints").and_then(Json::as_array).into_iter().flatten().filter(ready);
    let addresses = endpoints.flat_map(|endpoint| endpoint.get("addresses").and_then(Json::as_array).into_iter().flatten());
    let ips: Vec<IpAddr> = addresses.filter_map(|address| address.as_str()?.parse().ok()).collect();
    add(&mut all, object, &ips, weight);
    all
}

/// Every port with every address; a port is known by its name, or where it has none by its number.
fn add(all: &mut Ports, with_ports: &Json, ips: &[IpAddr], weight: u32) {
    for port in with_ports.get("ports").and_then(Json::as_array).into_iter().flatten() {
        let Some(number) = port.get("port").and_then(Json::as_u64).and_then(|port| u16::try_from(port).ok()) else { continue };
        let name = port.get("name").and_then(Json::as_str).filter(|name| !name.is_empty());
        let key = name.map_or_else(|| number.to_string(), str::to_owned);
        let node = |ip: &IpAddr| Node { host: NodeHost::Ip(*ip), port: number, weight, priority: 0 };
        all.entry(key).or_default().extend(ips.iter().map(node));
    }
}
