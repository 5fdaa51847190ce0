//! The variables of an exchange. APISIX request.md §2.

use std::borrow::Cow;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

use super::Ctx;
use super::ctx::Try;
use crate::base::{clock, date};
use crate::proto::message::{Fields, Known};
use crate::proto::uri::{self, Arg};
use crate::proto::vars::{Named, Value, Var, Vars};

impl Vars for Ctx<'_> {
    fn var(&self, var: &Var) -> Option<Value<'_>> {
        match var {
            Var::Arg(name) => match uri::query_arg(self.request.query_text(), name.as_bytes())? {
                Arg::Flag => Some(Value::Bool(true)),
                Arg::Value(value) => Some(Value::Text(value)),
            },
            Var::Cookie(name) => cookie(&self.request.fields, name.as_bytes()).map(Value::text),
            Var::Http(name) => field(&self.request.fields, name),
            Var::SentHttp(name) => field(&self.response.fields, name),
            Var::UpstreamHttp(name) if self.source == super::ctx::Source::Upstream => field(&self.response.fields, name),
            Var::UpstreamHttp(_) | Var::Unknown(_) => None,
            Var::UriParam(name) => self.capture(name),
            Var::Named(named) => self.named(*named),
        }
    }
}

impl Ctx<'_> {
    fn capture(&self, name: &str) -> Option<Value<'_>> {
        let route = self.route?;
        match name {
            "_path" => route.uris.get(usize::from(self.matched_uri)).map(|uri| Value::text(uri.as_bytes())),
            "_host" => self.matched_host().map(|host| Value::text(host.as_bytes())),
            "_method" => Some(Value::text(self.request.method_text())),
            _ => self.captures.iter().find(|(have, _)| &**have == name).map(|(_, value)| Value::text(value)),
        }
    }

    /// The route's host that matched.
    pub fn matched_host(&self) -> Option<&str> {
        let route = self.route?;
        route.hosts.get(usize::from(self.matched_host?)).map(String::as_str)
    }

    /// The route's path pattern that matched.
    pub fn matched_uri(&self) -> Option<&str> {
        self.route?.uris.get(usize::from(self.matched_uri)).map(String::as_str)
    }

    fn named(&self, name: Named) -> Option<Value<'_>> {
        self.named_request(name).or_else(|| self.named_outcome(name)).or_else(|| self.named_upstream(name))
    }

    /// What the client sent, and by which connection.
    fn named_request(&self, name: Named) -> Option<Value<'_>> {
        let request = &*self.request;
        let text = |bytes| Some(Value::text(bytes));
        match name {
            Named::Uri => text(&request.path),
            Named::Args => text(request.query_text()),
            Named::IsArgs => text(if request.query_text().is_empty() { b"" } else { b"?" }),
            Named::RequestUri => Some(Value::Text(Cow::Owned(self.request_uri()))),
            Named::RealRequestUri => text(request.fields.bytes(request.origin)),
            Named::Request => Some(Value::Text(self.request_line())),
            Named::RequestMethod => text(request.method_text()),
            Named::Host => text(&request.host),
            Named::HttpHost => request.fields.known(Known::Host).map(Value::text),
            Named::Scheme => text(self.conn.scheme.as_bytes()),
            Named::Https => text(if self.conn.scheme == "https" { b"on" } else { b"" }),
            Named::ServerProtocol => text(match request.version {
                crate::proto::message::Version::Http10 => b"HTTP/1.0",
                crate::proto::message::Version::Http11 => b"HTTP/1.1",
            }),
            Named::ContentType => request.fields.known(Known::ContentType).map(Value::text),
            Named::ContentLength => request.fields.known(Known::ContentLength).map(Value::text),
            Named::RemoteAddr => Some(self.remote_ip().map_or(Value::text(b"unix:"), Value::Ip)),
            Named::RemotePort => Some(Value::Int(i64::from(self.remote_port()))),
            Named::RealipRemoteAddr => Some(self.conn.peer.map_or(Value::text(b"unix:"), |peer| Value::Ip(peer.ip()))),
            Named::RealipRemotePort => self.conn.peer.map(|peer| Value::Int(i64::from(peer.port()))),
            Named::ProxyProtocolAddr => self.conn.proxy_protocol.map(|source| Value::Ip(source.ip())),
            Named::ProxyProtocolPort => self.conn.proxy_protocol.map(|source| Value::Int(i64::from(source.port()))),
            Named::ProxyAddXForwardedFor => Some(Value::Text(Cow::Owned(self.forwarded_for()))),
            Named::ServerAddr => self.conn.local.map(|local| Value::Ip(local.ip())),
            Named::ServerPort => self.conn.local.map(|local| Value::Int(i64::from(local.port()))),
            Named::ServerName => text(b"_"),
            Named::ConnectionRequests => Some(Value::Int(self.conn.requests.get() as i64)),
            Named::RemoteUser => remote_user(&request.fields).map(|user| Value::Text(Cow::Owned(user))),
            Named::ApisixRequestId => text(self.request_id()),
            Named::RequestType => text(b"traditional_http"),
            Named::Hostname => text(hostname().as_bytes()),
            Named::Pid => Some(Value::Int(i64::from(std::process::id()))),
            Named::Msec => Some(Value::Float(clock::wall().as_secs_f64())),
            Named::TimeIso8601 => Some(Value::Text(Cow::Owned(time_iso8601()))),
            Named::TimeLocal => Some(Value::Text(Cow::Owned(time_local()))),
            _ => None,
        }
    }

    /// Route, consumer and how it ended.
    fn named_outcome(&self, name: Named) -> Option<Value<'_>> {
        let text = |bytes| Some(Value::text(bytes));
        match name {
            Named::RouteId => self.route.map(|route| Value::text(route.id.as_bytes())),
            Named::RouteName => self.route?.name.as_ref().map(|name| Value::text(name.as_bytes())),
            Named::ServiceId => self.route?.service_id.as_ref().map(|id| Value::text(id.as_bytes())),
            Named::ServiceName => self.route?.service_name.as_ref().map(|name| Value::text(name.as_bytes())),
            Named::ConsumerName => self.consumer.as_ref().map(|consumer| Value::text(consumer.username.as_bytes())),
            Named::ConsumerGroupId => self.consumer.as_ref()?.group.as_ref().map(|group| Value::text(group.as_bytes())),
            Named::Status => {
                Some(Value::Int(i64::from(if self.sent.status > 0 { self.sent.status } else { self.response.status })))
            }
            Named::BytesSent => Some(Value::Int(self.sent.bytes as i64)),
            Named::BodyBytesSent => Some(Value::Int(self.sent.body_bytes as i64)),
            Named::RequestLength => Some(Value::Int(self.request_bytes as i64)),
            Named::RequestTime => {
                let total = if self.sent.total.is_zero() { clock::now().since(self.started) } else { self.sent.total };
                Some(Value::Float(total.as_secs_f64()))
            }
            Named::ResponseSource => text(self.source.name().as_bytes()),
            Named::Reason => text(self.reason.name().as_bytes()),
            Named::Epoch => Some(Value::Int(self.epoch as i64)),
            Named::Worker => Some(Value::Int(i64::from(self.worker))),
            _ => None,
        }
    }

    /// The upstream's part; lists over several tries are joined by `, `.
    fn named_upstream(&self, name: Named) -> Option<Value<'_>> {
        let list = |write: &dyn Fn(&Try, &mut Vec<u8>)| {
            let mut out = Vec::new();
            for (at, tried) in self.tries.iter().enumerate() {
                if at > 0 {
                    out.extend_from_slice(b", ");
                }
                write(tried, &mut out);
            }
            (!out.is_empty()).then_some(Value::Text(Cow::Owned(out)))
        };
        let sum = |of: &dyn Fn(&Try) -> Duration| {
            let total: Duration = self.tries.iter().map(of).sum();
            (!self.tries.is_empty()).then_some(Value::Float(total.as_secs_f64()))
        };
        match name {
            Named::UpstreamAddr => list(&|tried, out| write_node(tried, out)),
            Named::UpstreamStatus => {
                list(&|tried, out| out.extend_from_slice(itoa::Buffer::new().format(tried.status).as_bytes()))
            }
            Named::UpstreamConnectTime => sum(&|tried| tried.connect),
            Named::UpstreamHeaderTime => sum(&|tried| tried.header.unwrap_or_default()),
            Named::UpstreamResponseTime => sum(&|tried| tried.total),
            Named::UpstreamBytesSent => self.tries.last().map(|last| Value::Int(last.bytes_sent as i64)),
            Named::UpstreamBytesReceived => self.tries.last().map(|last| Value::Int(last.bytes_received as i64)),
            Named::UpstreamResponseLength => self.tries.last().map(|_| Value::Int(self.sent.body_bytes as i64)),
            Named::BalancerIp => self.tries.last()?.node.and_then(|node| node.ip()).map(Value::Ip),
            Named::BalancerPort => self.tries.last()?.node.map(|node| Value::Int(i64::from(node.port()))),
            Named::UpstreamScheme => Some(Value::text(b"http")),
            Named::UpstreamUri => match self.outgoing().and_then(|outgoing| outgoing.uri.as_deref()) {
                Some(uri) => Some(Value::text(uri)),
                None => Some(Value::text(b"")),
            },
            Named::UpstreamHost => match self.outgoing().and_then(|outgoing| outgoing.host.as_deref()) {
                Some(host) => Some(Value::text(host)),
                None => self.request.fields.known(Known::Host).map(Value::text),
            },
            _ => None,
        }
    }

    /// Canonical path, `?` and query: APISIX's `request_uri`.
    fn request_uri(&self) -> Vec<u8> {
        let mut uri = self.request.path.clone();
        if !self.request.query_text().is_empty() {
            uri.push(b'?');
            uri.extend_from_slice(self.request.query_text());
        }
        uri
    }

    /// The request line as it came; without what a plugin took out of its target. What came of a head that was refused
    /// is shown up to its first line's end.
    pub fn request_line(&self) -> Cow<'_, [u8]> {
        let request = &*self.request;
        let received = request.fields.received().filled();
        let target = request.target;
        if target.is_empty() {
            let line = received.trim_ascii_start();
            let end = memchr::memchr2(b'\r', b'\n', line).unwrap_or(line.len());
            return Cow::Borrowed(line.get(..end).unwrap_or_default());
        }
        let start = target.start().saturating_sub(request.method_text().len() + 1);
        let end = target.start() + target.len();
        let version = received.get(end..end + b" HTTP/1.1".len()).unwrap_or_default();
        if request.origin.is_received() {
            return Cow::Borrowed(received.get(start..end + version.len()).unwrap_or_default());
        }
        let origin = request.fields.bytes(request.origin);
        Cow::Owned([request.method_text(), b" ", origin, version].concat())
    }

    fn forwarded_for(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for value in self.request.fields.all_known(Known::XForwardedFor) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
        match self.remote_ip() {
            Some(ip) => drop(write!(out, "{ip}")),
            None => out.extend_from_slice(b"unix:"),
        }
        out
    }

    /// What names this request: the id of `request-id`, else 32 hex digits made once.
    pub fn request_id(&self) -> &[u8] {
        let extras = self.extras_cell();
        match &extras.named_id {
            Some(id) => id,
            None => extras.request_id.get_or_init(random_id),
        }
    }

    /// True where something gave it one already.
    pub fn has_request_id(&self) -> bool {
        self.extras().is_some_and(|extras| extras.named_id.is_some() || extras.request_id.get().is_some())
    }
}

fn write_node(tried: &Try, out: &mut Vec<u8>) {
    match tried.node {
        Some(node) => drop(write!(out, "{node}")),
        None => out.extend_from_slice(b"unix:"),
    }
}

/// `http_NAME`: names compared with `-` and `_` alike; several lines joined as nginx joins them.
fn field<'f>(fields: &'f Fields, name: &str) -> Option<Value<'f>> {
    let same = |have: &[u8]| {
        have.len() == name.len()
            && have.iter().zip(name.bytes()).all(|(a, b)| a.to_ascii_lowercase() == b || (*a == b'-' && b == b'_'))
    };
    let mut values = fields.iter().filter(|(have, ..)| same(have)).map(|(_, value, _)| value);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(Value::text(first)) };
    let glue: &[u8] = if name == "cookie" { b"; " } else { b", " };
    let mut joined = [first, second].join(glue);
    for value in values {
        joined.extend_from_slice(glue);
        joined.extend_from_slice(value);
    }
    Some(Value::Text(Cow::Owned(joined)))
}

/// The last cookie of this name; its value ends at `;`, space or tab.
pub fn cookie<'f>(fields: &'f Fields, name: &[u8]) -> Option<&'f [u8]> {
    let pairs = fields.all_known(Known::Cookie).flat_map(|line| line.split(|&byte| byte == b';'));
    let values = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    let last = values.last()?;
    Some(last.split(|&byte| byte == b' ' || byte == b'\t').next().unwrap_or_default())
}

/// The user of Basic credentials.
fn remote_user(fields: &Fields) -> Option<Vec<u8>> {
    use base64::Engine;
    let value = fields.known(Known::Authorization)?;
    let (scheme, coded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let plain = base64::engine::general_purpose::STANDARD.decode(coded.trim_ascii()).ok()?;
    let colon = memchr::memchr(b':', &plain)?;
    Some(plain.get(..colon)?.to_vec())
}

fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned())
}

/// `2026-11-25T09:31:02+00:00`
pub fn time_iso8601() -> Vec<u8> {
    let seconds = clock::wall().as_secs();
    let (year, month, day) = date::civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00").into_bytes()
}

/// `25/Nov/2026:09:31:02 +0000`
pub fn time_local() -> Vec<u8> {
    let seconds = clock::wall().as_secs();
    let (year, month, day) = date::civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let month = date::MONTHS.get(month - 1).copied().unwrap_or_default();
    format!("{day:02}/{month}/{year}:{:02}:{:02}:{:02} +0000", of_day / 3600, of_day / 60 % 60, of_day % 60).into_bytes()
}

/// 128 random bits in hex.
fn random_id() -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (high, low) = (super::random::next(), super::random::next());
    let mut id = [0; 32];
    for (at, digit) in id.iter_mut().enumerate() {
        let word = if at < 16 { high } else { low };
        *digit = DIGITS[(word >> ((at % 16) * 4) & 15) as usize];
    }
    id
}
