//! Values with a form of their own: ids, hosts, nets, durations, sizes, addresses, nodes. The checker and the builders both
//! read through these, so that what passes the check is what is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::model::{Id, Node as UpstreamNode, NodeHost};
use super::raw::{Kind, Node, Place};
use crate::base::limits;

/// An id as text.
pub(super) fn id(node: &Node) -> Result<Id, String> {
    match &node.kind {
        Kind::Int(value) if *value >= 1 => Ok(value.to_string().into()),
        Kind::Text(text) => {
            let fits =
                (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            fits.then(|| text.as_str().into()).ok_or_else(|| "an id is 1 to 64 characters of a-zA-Z0-9-_.".to_owned())
        }
        _ => Err("an id is a string or a whole number from 1".into()),
    }
}

/// A host, lower-cased.
pub(super) fn host(node: &Node) -> Result<String, String> {
    let Some(text) = node.text() else {
        return Err(format!("expected a host, got {}; quote it to make it text", node.type_name()));
    };
    let rest = text.strip_prefix('*').unwrap_or(text);
    let fits = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    if text.is_empty() || !fits || (rest.is_empty() && text != "*") {
        return Err(format!("`{text}` is no host: letters, digits, `-._[]:`, and `*` in front"));
    }
    Ok(text.to_ascii_lowercase())
}

/// An address or net.
pub(super) fn net(node: &Node) -> Result<IpNet, String> {
    let text = node.text().unwrap_or_default();
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    parsed.map(|net| net.trunc()).ok_or_else(|| format!("`{text}` is no IP address and no CIDR"))
}

/// `5s`, `500ms`, `1h30m`.
pub(super) fn duration(node: &Node) -> Result<Duration, String> {
    const HELP: &str = "a duration is written as 500ms, 5s, 2m, 1h or 1h30m";
    let text = match &node.kind {
        Kind::Text(text) => text.as_str(),
        Kind::Int(0) => return Ok(Duration::ZERO),
        Kind::Int(value) => return Err(format!("a duration needs its unit: {value}s? ({HELP})")),
        _ => return Err(HELP.into()),
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| format!("`{text}` is no duration: {HELP}"))?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(format!("`{text}` is no duration: {HELP}")),
        };
        let part = number.checked_mul(millis).filter(|millis| *millis < 1 << 42);
        total += Duration::from_millis(part.ok_or_else(|| format!("`{text}` is too long"))?);
        rest = tail;
    }
    if text.is_empty() { Err(HELP.into()) } else { Ok(total) }
}

/// `32KiB`, `1MiB`, `8k`, or plain bytes.
pub(super) fn size(node: &Node) -> Result<u64, String> {
    const HELP: &str = "a size is written as 512, 32KiB, 1MiB or 1GiB";
    let text = match &node.kind {
        Kind::Int(value) => return u64::try_from(*value).map_err(|_| HELP.to_owned()),
        Kind::Text(text) => text.as_str(),
        _ => return Err(HELP.into()),
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("`{text}` is no size: {HELP}")),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(|| format!("`{text}` is no size: {HELP}"))
}

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// `ip:port`, `[ip]:port`, `:port`, or `unix:/path`.
pub(super) fn address(node: &Node, unix: bool) -> Result<Address, String> {
    let text = match &node.kind {
        Kind::Text(text) => text.clone(),
        Kind::Int(port) => return Err(format!("an address is written as \"0.0.0.0:{port}\"")),
        _ => return Err("an address is written as \"0.0.0.0:9080\"".into()),
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return match (unix, path.starts_with('/') && path.len() < 108) {
            (true, true) => Ok(Address::Unix(path.to_owned())),
            (true, false) => Err(format!("`{text}`: a Unix socket's path is absolute and shorter than 108 bytes")),
            (false, _) => Err("a Unix socket is not possible here".into()),
        };
    }
    let parsed = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        None => text.parse::<SocketAddr>().ok(),
    };
    parsed.map(Address::Tcp).ok_or_else(|| {
        let unix = if unix { ", or `unix:/path`" } else { "" };
        format!("`{text}` is no address: write `0.0.0.0:9080`, `[::]:9080`, `:9080`{unix}")
    })
}

/// Nodes of an upstream: a map of `host:port` to weight, or a list of objects. APISIX request.md §3.2.
pub(super) fn nodes(node: &Node, default_port: u16) -> Result<Vec<UpstreamNode>, Vec<(Place, String)>> {
    let mut faults = Vec::new();
    let mut nodes = Vec::new();
    match &node.kind {
        Kind::Null => {}
        Kind::Map(entries) => {
            for (key, weight) in entries {
                match (place(&key.text, default_port), weight_of(weight)) {
                    (Ok((host, port)), Ok(weight)) => nodes.push(UpstreamNode { host, port, weight, priority: 0 }),
                    (Err(text), _) => faults.push((key.place, text)),
                    (_, Err(text)) => faults.push((weight.place, text)),
                }
            }
        }
        Kind::List(items) => {
            for item in items {
                match one_node(item, default_port) {
                    Ok(node) => nodes.push(node),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        _ => faults.push((node.place, "nodes are a map of `host:port` to weight, or a list of objects".into())),
    }
    if nodes.len() > limits::NODES_MAX {
        faults.push((node.place, format!("more than {} nodes", limits::NODES_MAX)));
    }
    if faults.is_empty() { Ok(nodes) } else { Err(faults) }
}

fn one_node(item: &Node, default_port: u16) -> Result<UpstreamNode, (Place, String)> {
    let missing = |name: &str| (item.place, format!("a node needs `{name}`"));
    let host = item.get("host").ok_or_else(|| missing("host"))?;
    let weight = item.get("weight").ok_or_else(|| missing("weight"))?;
    let unix = host.text().is_some_and(|text| text.starts_with("unix:"));
    let name = match unix {
        true => place(host.text().unwrap_or_default(), 0).map(|(path, _)| path),
        false => self::host(host).map(|name| node_host(&name)),
    };
    let name = name.map_err(|text| (host.place, text))?;
    let weight = weight_of(weight).map_err(|text| (weight.place, text))?;
    let port = match item.get("port") {
        None if unix => 0,
        None => default_port,
        Some(port) => port
            .int()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| (port.place, "a port is 1 to 65535".to_owned()))?,
    };
    let priority = match item.get("priority") {
        None => 0,
        Some(priority) => priority.int().ok_or_else(|| (priority.place, "a priority is a whole number".to_owned()))?,
    };
    Ok(UpstreamNode { host: name, port, weight, priority })
}

fn weight_of(node: &Node) -> Result<u32, String> {
    node.int().and_then(|weight| u32::try_from(weight).ok()).ok_or_else(|| "a weight is a whole number from 0".to_owned())
}

/// Host and port of a node written as one text: `host:port` and its short forms, or `unix:/path`.
pub(super) fn place(text: &str, default_port: u16) -> Result<(NodeHost, u16), String> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') && path.len() < SOCKET_PATH_BYTES => Ok((NodeHost::Unix(path.into()), 0)),
        Some(_) => Err(format!("`{text}`: a socket is `unix:` and an absolute path of fewer than {SOCKET_PATH_BYTES} bytes")),
        None => split_port(text).map(|(host, port)| (node_host(&host), port.unwrap_or(default_port))),
    }
}

/// Room for the path of a Unix socket in Linux's `sockaddr_un`, its end included.
const SOCKET_PATH_BYTES: usize = 108;

/// `host`, `host:port`, `[v6]`, `[v6]:port`; two colons before any dot are an IPv6 address without port.
fn split_port(text: &str) -> Result<(String, Option<u16>), String> {
    let port_of = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port {port}"));
    if text.starts_with('[') {
        let Some((inner, rest)) = text.split_once(']') else { return Err(format!("`{text}`: the bracket is not closed")) };
        let host = format!("{inner}]");
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port_of(port)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("`{text}` is no `host:port`")),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((format!("[{text}]"), None));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && !host.is_empty() => Ok((host.to_owned(), Some(port_of(port)?))),
        Some(_) => Err(format!("`{text}`: IPv6 address must be enclosed with '[' and ']'")),
        None if text.is_empty() => Err("a node needs a host".into()),
        None => Ok((text.to_owned(), None)),
    }
}

fn node_host(text: &str) -> NodeHost {
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(ip) => NodeHost::Ip(ip),
        Err(_) => NodeHost::Name(text.to_ascii_lowercase().into()),
    }
}

/// `0-3,8`.
pub(super) fn cpus(text: &str) -> Result<Vec<usize>, String> {
    let fault = || format!("`{text}` is no list of CPUs: write 0-3,8");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.trim().parse().map_err(|_| fault())?;
        let to: usize = to.trim().parse().map_err(|_| fault())?;
        if from > to || to >= 4096 {
            return Err(fault());
        }
        cpus.extend(from..=to);
    }
    Ok(cpus)
}

/// Seconds as a number.
pub(super) fn seconds(node: &Node) -> Option<Duration> {
    node.number().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node { kind: Kind::Text(text.into()), place: Place::default() }
    }

    #[test]
    fn durations_and_sizes() {
        for (written, millis) in [("500ms", 500), ("5s", 5000), ("1h30m", 5_400_000), ("0s", 0), ("1d", 86_400_000)] {
            assert_eq!(duration(&text(written)), Ok(Duration::from_millis(millis)), "{written}");
        }
        for bad in ["", "5", "s", "5x", "-1s", "99999999999999d"] {
            assert!(duration(&text(bad)).is_err(), "{bad}");
        }
        for (written, bytes) in [("32KiB", 32768), ("8k", 8192), ("512", 512), ("1MiB", 1 << 20), ("2 MB", 2_000_000)] {
            assert_eq!(size(&text(written)), Ok(bytes), "{written}");
        }
        assert!(size(&text("5x")).is_err());
    }

    #[test]
    fn addresses_and_node_keys() {
        assert_eq!(address(&text(":80"), true), Ok(Address::Tcp("0.0.0.0:80".parse().unwrap())));
        assert_eq!(address(&text("[::]:80"), true), Ok(Address::Tcp("[::]:80".parse().unwrap())));
        assert_eq!(address(&text("unix:/run/x"), true), Ok(Address::Unix("/run/x".into())));
        assert!(address(&text("unix:/run/x"), false).is_err() && address(&text("localhost:80"), true).is_err());
        assert_eq!(split_port("a:80"), Ok(("a".into(), Some(80))));
        assert_eq!(split_port("[::1]:80"), Ok(("[::1]".into(), Some(80))));
        assert_eq!(split_port("::1"), Ok(("[::1]".into(), None)));
        assert_eq!(split_port("a:0"), Err("invalid port 0".into()));
        assert_eq!(split_port("a:70000"), Err("invalid port 70000".into()));
        assert_eq!(cpus("0-2,5"), Ok(vec![0, 1, 2, 5]));
    }
}
