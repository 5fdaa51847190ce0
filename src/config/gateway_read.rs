//! From the checked `gateway:` section to its type.

use std::time::Duration;

use super::check::is_off;
use super::discovery;
use super::gateway::{
    AcceptMode, AccessLog, Buffering, Dns, Driver, EncodedMark, Gateway, Limits, ListenAddress, Listener, LogFormat, MemoryLimit,
    RouterMode, Timeouts,
};
use super::raw::Node;
use super::read::{self, Address};
use super::report::Report;
use crate::base::limits;

/// Reads the section; rules between its fields are reported.
pub(super) fn read(section: &Node, report: &mut Report) -> Gateway {
    let mut gateway = Gateway::default();
    let get = |name: &str| section.get(name);
    if let Some(workers) = get("workers") {
        read_workers(workers, &mut gateway, report);
    }
    gateway.user = get("user").and_then(Node::text).filter(|user| *user != "none").map(str::to_owned);
    if let Some(listeners) = get("listeners") {
        let list = listeners.items().iter().enumerate();
        gateway.listeners = list.filter_map(|(at, node)| listener(node, at, report)).collect();
    }
    if let Some(control) = get("control") {
        gateway.control = match control.get("address").map(|node| read::address(node, false)) {
            _ if is_off(control) => None,
            Some(Ok(Address::Tcp(address))) => Some(address),
            _ => gateway.control,
        };
    }
    if let Some(log) = get("access_log") {
        gateway.access_log = if is_off(log) { None } else { Some(access_log(log)) };
    }
    if let Some(log) = get("error_log") {
        if let Some(level) = log.get("level").and_then(Node::text) {
            gateway.error_log.level = level.to_owned();
        }
        gateway.error_log.path = log.get("path").and_then(Node::text).map(Into::into);
    }
    if let Some(timeouts) = get("timeouts") {
        read_timeouts(timeouts, &mut gateway.timeouts);
    }
    if let Some(limits) = get("limits") {
        read_limits(limits, &mut gateway.limits, report);
    }
    if let Some(requests) = get("keepalive").and_then(|node| node.get("requests")).and_then(Node::int) {
        gateway.keepalive.requests = u32::try_from(requests).unwrap_or(u32::MAX);
    }
    if let Some(registries) = get("discovery") {
        gateway.discovery = discovery::read(registries, report);
    }
    if let Some(buffering) = get("buffering") {
        read_buffering(buffering, &mut gateway.buffering);
    }
    read_trust(section, &mut gateway);
    gateway.router = match get("router").and_then(Node::text) {
        Some("radixtree_host_uri") => RouterMode::HostUri,
        Some("radixtree_uri") => RouterMode::Uri,
        Some("radixtree_uri_with_parameter") => RouterMode::UriWithParameter,
        _ => RouterMode::Ringway,
    };
    let flag = |name: &str, default: bool| get(name).and_then(Node::bool).unwrap_or(default);
    gateway.server_tokens = flag("server_tokens", true);
    gateway.show_upstream_status = flag("show_upstream_status", false);
    gateway.delete_uri_tail_slash = flag("delete_uri_tail_slash", false);
    if let Some(paths) = get("paths") {
        gateway.paths.encoded_slash = mark(paths.get("encoded_slash"));
        gateway.paths.encoded_backslash = mark(paths.get("encoded_backslash"));
        gateway.paths.merge_slashes = paths.get("merge_slashes").and_then(Node::bool).unwrap_or(true);
        gateway.paths.parameters = paths.get("parameters").and_then(Node::bool).unwrap_or(true);
    }
    if let Some(dns) = get("dns") {
        read_dns(dns, &mut gateway.dns);
    }
    gateway
}

fn duration(node: &Node, name: &str) -> Option<Duration> {
    node.get(name).and_then(|node| read::duration(node).ok())
}

fn read_workers(node: &Node, gateway: &mut Gateway, report: &mut Report) {
    let workers = &mut gateway.workers;
    workers.count = node.get("count").and_then(Node::int).and_then(|count| usize::try_from(count).ok());
    if let Some(cpus) = node.get("cpus").filter(|cpus| cpus.text() != Some("auto")) {
        match read::cpus(cpus.text().unwrap_or_default()) {
            Ok(list) => workers.cpus = Some(list),
            Err(text) => {
                report.error(cpus.place, "/gateway/workers/cpus", text);
            }
        }
    }
    workers.driver = match node.get("driver").and_then(Node::text) {
        Some("io_uring") => Driver::IoUring,
        Some("epoll") => Driver::Epoll,
        _ => Driver::Auto,
    };
    workers.accept = accept(node).unwrap_or_default();
}

fn accept(node: &Node) -> Option<AcceptMode> {
    match node.get("accept").and_then(Node::text)? {
        "shared" => Some(AcceptMode::Shared),
        _ => Some(AcceptMode::Reuseport),
    }
}

fn listener(node: &Node, at: usize, report: &mut Report) -> Option<Listener> {
    let path = format!("/gateway/listeners/{at}");
    for name in ["tls", "http3"] {
        if let Some(flag) = node.get(name).filter(|flag| flag.bool() == Some(true)) {
            report.error(flag.place, &format!("{path}/{name}"), format!("`{name}: true` is not supported yet"));
        }
    }
    if let Some(flag) = node.get("http2").filter(|flag| flag.bool() == Some(true)) {
        report.warning(flag.place, &format!("{path}/http2"), "HTTP/2 is not served yet; clients get HTTP/1.1");
    }
    let text = |name: &str| node.get(name).and_then(Node::text).map(str::to_owned);
    let address = match read::address(node.get("address")?, true).ok()? {
        Address::Tcp(address) => ListenAddress::Tcp(address),
        Address::Unix(socket) => {
            let mode = text("mode").and_then(|mode| u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= 0o777));
            if let Some(written) = node.get("mode").filter(|_| mode.is_none()) {
                let fault = report.error(written.place, &format!("{path}/mode"), "a mode is octal, in quotes");
                fault.help("for example mode: \"0660\"");
            }
            ListenAddress::Unix { path: socket.into(), mode, owner: text("owner") }
        }
    };
    if let (ListenAddress::Tcp(_), Some(extra)) = (&address, node.get("mode").or(node.get("owner"))) {
        report.error(extra.place, &path, "`mode` and `owner` are for Unix sockets");
    }
    let flag = |name: &str, default: bool| node.get(name).and_then(Node::bool).unwrap_or(default);
    Some(Listener {
        address,
        http2: flag("http2", true),
        proxy_protocol: flag("proxy_protocol", false),
        backlog: node.get("backlog").and_then(Node::int).and_then(|backlog| u32::try_from(backlog).ok()).unwrap_or(4096),
        accept: accept(node),
        v6only: flag("v6only", false),
    })
}

fn access_log(node: &Node) -> AccessLog {
    let format = match node.get("format").and_then(Node::text) {
        None | Some("json") => LogFormat::Json,
        Some("combined") => LogFormat::Combined,
        Some("apisix") => LogFormat::Apisix,
        Some(custom) => LogFormat::Custom(custom.to_owned()),
    };
    AccessLog { path: node.get("path").and_then(Node::text).unwrap_or("/dev/stdout").into(), format }
}

fn read_timeouts(node: &Node, timeouts: &mut Timeouts) {
    let set = |name: &str, to: &mut Duration| {
        if let Some(value) = duration(node, name) {
            *to = value;
        }
    };
    set("header", &mut timeouts.header);
    set("body", &mut timeouts.body);
    set("send", &mut timeouts.send);
    set("request", &mut timeouts.request);
    set("lifetime", &mut timeouts.lifetime);
    set("keepalive", &mut timeouts.keepalive);
    set("drain", &mut timeouts.drain);
    set("drain_delay", &mut timeouts.drain_delay);
    timeouts.websocket = duration(node, "websocket");
    timeouts.drain_websocket = duration(node, "drain_websocket");
}

fn read_dns(node: &Node, to: &mut Dns) {
    let servers = node.get("servers").map(Node::items).unwrap_or_default();
    let address = |node: &Node| match read::address(node, false) {
        Ok(Address::Tcp(address)) => Some(address),
        _ => None,
    };
    to.servers = servers.iter().filter_map(address).collect();
    to.valid = duration(node, "valid");
    to.timeout = duration(node, "timeout").unwrap_or(to.timeout);
}

fn read_buffering(node: &Node, to: &mut Buffering) {
    let flag = |name: &str| node.get(name).and_then(Node::bool).unwrap_or(false);
    let size = |name: &str, default: usize| {
        let size = node.get(name).and_then(|node| read::size(node).ok());
        size.and_then(|size| usize::try_from(size).ok()).unwrap_or(default)
    };
    (to.request, to.response) = (flag("request"), flag("response"));
    (to.exchange_bytes, to.worker_bytes) = (size("exchange_bytes", to.exchange_bytes), size("worker_bytes", to.worker_bytes));
}

fn read_limits(node: &Node, to: &mut Limits, report: &mut Report) {
    let mut size = |name: &str, least: u64, most: u64, default: usize| {
        let Some(value) = node.get(name) else { return default };
        let bytes = read::size(value).unwrap_or(default as u64);
        if bytes < least || bytes > most {
            let fault = report.error(value.place, &format!("/gateway/limits/{name}"), format!("{bytes} bytes are out of bounds"));
            fault.help(format!("{least} to {most} bytes"));
        }
        usize::try_from(bytes).unwrap_or(default)
    };
    to.memory = match node.get("memory") {
        None => MemoryLimit::Auto,
        Some(memory) if memory.text() == Some("auto") => MemoryLimit::Auto,
        Some(memory) if is_off(memory) => MemoryLimit::Off,
        Some(memory) => read::size(memory).map_or(MemoryLimit::Auto, MemoryLimit::Bytes),
    };
    to.header_bytes = size("header_bytes", 1024, limits::HEADER_BYTES_MAX as u64, to.header_bytes);
    to.uri_bytes = size("uri_bytes", 64, limits::HEADER_BYTES_MAX as u64, to.uri_bytes);
    to.headers = node.get("headers").and_then(Node::int).and_then(|count| usize::try_from(count).ok()).unwrap_or(to.headers);
    to.body_bytes = node.get("body_bytes").and_then(|node| read::size(node).ok()).unwrap_or(to.body_bytes);
    to.connections = node.get("connections").and_then(Node::int).and_then(|count| usize::try_from(count).ok());
}

fn read_trust(section: &Node, gateway: &mut Gateway) {
    if let Some(real_ip) = section.get("real_ip") {
        let trusted = real_ip.get("trusted").map(Node::items).unwrap_or_default();
        gateway.real_ip.trusts_unix = trusted.iter().any(|node| node.text() == Some("unix:"));
        gateway.real_ip.trusted = trusted.iter().filter_map(|node| read::net(node).ok()).collect();
        if let Some(header) = real_ip.get("header").and_then(Node::text) {
            gateway.real_ip.header = header.to_owned();
        }
        gateway.real_ip.recursive = real_ip.get("recursive").and_then(Node::bool).unwrap_or(false);
    }
    let trusted =
        section.get("trusted_addresses").map(|node| node.items().iter().filter_map(|node| read::net(node).ok()).collect());
    gateway.trusted_addresses = trusted;
}

fn mark(node: Option<&Node>) -> EncodedMark {
    match node.and_then(Node::text) {
        Some("decode") => EncodedMark::Decode,
        Some("refuse") => EncodedMark::Refuse,
        _ => EncodedMark::Pass,
    }
}
