//! `ringway explain`

use std::cell::Cell;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use clap::Args;

use super::code;
use crate::base::buf::Chunk;
use crate::base::clock;
use crate::config::model::NodeHost;
use crate::plugin::Ctx;
use crate::plugin::chain::Layer;
use crate::plugin::ctx::{ConnInfo, Parts};
use crate::proto::h1::{self, HeadLimits, Progress};
use crate::proto::message::Reason;
use crate::proxy::prelude;
use crate::route::Outcome;
use crate::snapshot::{Route, RouteEntry, Snapshot, Target};

/// Say which route a request would take and why, with its plugins and its upstream.
///
/// Exit codes: 0 a route matches, 1 none does or the configuration is broken, 2 the request is none.
#[derive(Debug, Args)]
pub struct Explain {
    /// Method, for example GET
    #[arg(required_unless_present = "reason")]
    method: Option<String>,
    /// URL or path, for example http://example.com/a?b=c
    #[arg(required_unless_present = "reason")]
    url: Option<String>,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Client address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    remote_addr: IpAddr,
    /// Explain a `reason` of the access log instead; `all` lists them
    #[arg(long, value_name = "NAME", conflicts_with_all = ["method", "url"])]
    reason: Option<String>,
}

impl Explain {
    /// Explains.
    pub fn run(&self, config: Option<&Path>) -> u8 {
        if let Some(name) = &self.reason {
            return reason(name);
        }
        let checked = match super::check::check(config, false) {
            Ok(checked) => checked,
            Err(why) => {
                eprintln!("{why}");
                return code::CONFIGURATION;
            }
        };
        let Some(snapshot) = checked.snapshot else {
            eprint!("{}", checked.human);
            return code::CONFIGURATION;
        };
        let names: Vec<&str> = checked.sources.iter().map(|(name, _)| name.as_str()).collect();
        match self.explain(&snapshot, &names) {
            Ok((page, found)) => {
                super::print(&page);
                if found { 0 } else { code::CONFIGURATION }
            }
            Err(why) => {
                eprintln!("error: {why}");
                code::USAGE
            }
        }
    }

    /// The explanation, and whether a route matches.
    fn explain(&self, snapshot: &Snapshot, files: &[&str]) -> Result<(String, bool), String> {
        let mut parts = Parts::default();
        let received = parts.request.fields.received_mut();
        let head = self.head()?;
        *received = Chunk::with_capacity(head.len());
        if !received.append(head.as_bytes()) {
            return Err("the request is too large".into());
        }
        let limits = &snapshot.gateway.limits;
        let limits = HeadLimits { bytes: limits.header_bytes, fields: limits.headers, target_bytes: limits.uri_bytes };
        match h1::request::parse(&mut parts.request, &limits, &snapshot.gateway.paths) {
            Ok(Progress::Complete) => {}
            Ok(Progress::Partial) => return Err("that is not a whole request".into()),
            Err(fault) => return Ok((format!("the request is refused with {}: {}\n", fault.status, fault.what), false)),
        }
        let conn = ConnInfo {
            peer: Some(SocketAddr::new(self.remote_addr, 0)),
            local: None,
            proxy_protocol: None,
            scheme: "http",
            requests: Cell::new(1),
            peer_text: self.remote_addr.to_string(),
        };
        let mut ctx = Ctx::begin(&mut parts, &conn, &snapshot.consumers, clock::refresh());
        prelude::real_ip(&mut ctx, &snapshot.gateway.real_ip);
        prelude::forwarded(&mut ctx, &snapshot.gateway, true);
        Ok(render(snapshot, &ctx, files))
    }

    /// The request as it would come in.
    fn head(&self) -> Result<String, String> {
        let (method, url) = (self.method.as_deref().unwrap_or("GET"), self.url.as_deref().unwrap_or("/"));
        let (authority, target) = match url.split_once("://") {
            Some((_, rest)) => {
                let at = rest.find(['/', '?']).unwrap_or(rest.len());
                rest.split_at(at)
            }
            None => ("", url),
        };
        let target = if target.starts_with('/') { target.to_string() } else { format!("/{target}") };
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        let named = |header: &String| header.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("host"));
        if !self.headers.iter().any(named) {
            let authority = if authority.is_empty() { "localhost" } else { authority };
            let _ = write!(head, "Host: {authority}\r\n");
        }
        for header in &self.headers {
            let (name, value) = header.split_once(':').ok_or(format!("{header:?} is no header: write NAME: VALUE"))?;
            let _ = write!(head, "{}: {}\r\n", name.trim(), value.trim());
        }
        head.push_str("\r\n");
        Ok(head)
    }
}

fn render(snapshot: &Snapshot, ctx: &Ctx<'_>, files: &[&str]) -> (String, bool) {
    let ask = snapshot.ask(ctx);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let client = ctx.remote_ip().map_or_else(|| "-".to_string(), |ip| ip.to_string());
    let mut page = format!("host {}, path {}, client {client}\n", text(&ctx.request.host), text(ask.path));
    let considered = snapshot.table.explain(&ask);
    let (mut matched, mut passed) = (None, String::new());
    for candidate in &considered {
        let Some(RouteEntry { route, .. }) = snapshot.routes.get(candidate.route as usize) else { continue };
        let pattern = route.model.uris.get(usize::from(candidate.uri)).map_or("", String::as_str);
        let name = format!("{} (uri {pattern}, priority {}, {})", route.info.id, route.model.priority, place(route, files));
        match &candidate.outcome {
            Outcome::Matched => matched = Some((route, name)),
            Outcome::Failed { condition, detail } => {
                let _ = writeln!(passed, "  {name}: {condition}: {detail}");
            }
        }
    }
    let found = matched.is_some();
    match matched {
        None => page.push_str("no route matches: 404 {\"error_msg\":\"404 Route Not Found\"}\n"),
        Some((route, name)) => {
            let _ = writeln!(page, "route {name}");
            conditions(&mut page, route);
            if passed.is_empty() {
                page.push_str("it is the first candidate in order\n");
            }
            chain(&mut page, snapshot, route);
            target(&mut page, route);
        }
    }
    if !passed.is_empty() {
        let _ = write!(page, "passed over, in order:\n{passed}");
    }
    (page, found)
}

fn place(route: &Route, files: &[&str]) -> String {
    let origin = &route.model.origin;
    format!("{}:{}", files.get(usize::from(origin.file)).unwrap_or(&"?"), origin.line)
}

/// What the route asks for, all of which holds.
fn conditions(page: &mut String, route: &Route) {
    let model = &route.model;
    let methods = crate::control::api::resources::method_names(model.methods);
    if !route.info.hosts.is_empty() {
        let _ = writeln!(page, "  host is one of {}", route.info.hosts.join(", "));
    }
    if !methods.is_empty() {
        let _ = writeln!(page, "  method is one of {}", methods.join(", "));
    }
    if !model.remote_addrs.is_empty() {
        let nets: Vec<String> = model.remote_addrs.iter().map(ToString::to_string).collect();
        let _ = writeln!(page, "  client is in {}", nets.join(", "));
    }
    if model.vars.is_some() {
        page.push_str("  its vars hold\n");
    }
}

/// The plugins in the order they run, each with where it comes from.
fn chain(page: &mut String, snapshot: &Snapshot, route: &Route) {
    let (global, own) = (snapshot.global.entries(), route.chain.entries());
    if global.is_empty() && own.is_empty() {
        page.push_str("no plugins\n");
        return;
    }
    page.push_str("plugins, in order:\n");
    for entry in global {
        let rules = snapshot.model.global_rules.values().filter(|rule| rule.plugins.get(entry.name).is_some());
        let rules: Vec<&str> = rules.map(|rule| &*rule.id).collect();
        let _ = writeln!(page, "  {} (priority {}) from global rule {}", entry.name, entry.priority, rules.join(", "));
    }
    for entry in own {
        let id = match entry.layer {
            Layer::Service => route.model.service_id.as_deref(),
            Layer::PluginConfig => route.model.plugin_config_id.as_deref(),
            _ => Some(&*route.info.id),
        };
        let origin = format!("{} {}", entry.layer.name(), id.unwrap_or_default());
        let _ = writeln!(page, "  {} (priority {}) from {origin}", entry.name, entry.priority);
    }
    if !snapshot.model.consumers.is_empty() {
        page.push_str("  a consumer that is found brings its own and its group's plugins over these\n");
    }
}

fn target(page: &mut String, route: &Route) {
    let spec = match &route.target {
        Target::Upstream(spec) => spec,
        Target::Broken(status) => {
            let _ = writeln!(page, "upstream: it names something that does not exist; {status}");
            return;
        }
        Target::None => {
            page.push_str("no upstream: its plugins are to answer\n");
            return;
        }
    };
    let _ = writeln!(page, "upstream {} (roundrobin, {})", spec.identity, spec.scheme.name());
    for node in &spec.nodes {
        let kind = if matches!(node.host, NodeHost::Name(_)) { ", resolved while running" } else { "" };
        let _ = writeln!(page, "  {}:{} (weight {}, priority {}{kind})", node.host, node.port, node.weight, node.priority);
    }
}

fn reason(name: &str) -> u8 {
    let line = |reason: &Reason| format!("{}: {}\n", reason.name(), reason.meaning());
    if name == "all" {
        super::print(&Reason::ALL.iter().map(line).collect::<String>());
        return 0;
    }
    match Reason::ALL.iter().find(|reason| reason.name() == name) {
        Some(reason) => {
            super::print(&line(reason));
            0
        }
        None => {
            let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            eprintln!("error: there is no reason {name:?}; there are {}", names.join(", "));
            code::USAGE
        }
    }
}
