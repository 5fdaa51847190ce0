//! What a plugin sees of an exchange. Never a protocol: heads, variables, and the ways to end or bend the exchange.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::consumers::{Consumers, Identity};
use super::extras::Extras;
use crate::base::address::Address;
use crate::base::clock::Tick;
use crate::net::near::{Near, keep_list_near, keep_near};
use crate::proto::message::{Reason, RequestHead, ResponseHead};
use crate::proto::uri;

/// One exchange, from its route match to its log line.
pub struct Ctx<'e> {
    /// The request; plugins edit its fields.
    pub request: &'e mut RequestHead,
    /// The response; valid from `header_filter` on.
    pub response: &'e mut ResponseHead,
    /// The connection it came by.
    pub conn: &'e ConnInfo,
    /// Address and port of the client where real-ip found other ones than the connection's.
    pub real_ip: Option<(IpAddr, u16)>,
    /// The route, once one matched.
    pub route: Option<&'e RouteInfo>,
    /// Index of the matched pattern in the route's paths.
    pub matched_uri: u16,
    /// Index of the matched host in the route's hosts.
    pub matched_host: Option<u16>,
    /// Captures of the matched path pattern: (name, value).
    pub captures: &'e mut Vec<(Box<str>, Vec<u8>)>,
    /// The consumers of this epoch.
    pub consumers: &'e Consumers,
    /// Who the client is, once an auth plugin attached a consumer. Lent by the epoch: a count of its owners would be written by
    /// every worker that serves this consumer.
    pub consumer: Option<&'e Identity>,
    /// Upstream tries so far, in order.
    pub tries: &'e mut Vec<Try>,
    /// What was sent to the client.
    pub sent: Sent,
    /// What becomes of the response's body; see [`Ctx::replace_body`] and [`Ctx::collect_body`].
    pub body_plan: BodyPlan,
    /// When the request's first byte was read.
    pub started: Tick,
    /// Time from the read of the request to its send to the node, in nanoseconds, where it was taken; else 0.
    pub inside_nanos: u32,
    /// Who made the response.
    pub source: Source,
    /// How it ended.
    pub reason: Reason,
    /// Bytes of the request as received, head and body.
    pub request_bytes: u64,
    /// Slot of the upstream that a plugin chose in place of the route's.
    pub upstream: Option<u32>,
    /// Epoch the request began with.
    pub epoch: u64,
    /// Index of the worker.
    pub worker: u16,
    extras: &'e mut Extras,
    /// Something is in them.
    has_extras: Cell<bool>,
}

/// The client's connection.
#[derive(Debug)]
pub struct ConnInfo {
    /// TCP peer, or the source of the PROXY header; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Local address; `None` on a Unix socket.
    pub local: Option<SocketAddr>,
    /// Source given by a PROXY header.
    pub proxy_protocol: Option<SocketAddr>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Requests served on it, this one included.
    pub requests: std::cell::Cell<u64>,
    /// The peer's address as text, made with the connection; empty on a Unix socket.
    pub peer_text: String,
}

/// What matched, as plugins, logs and metrics name it.
#[derive(Debug, Default)]
pub struct RouteInfo {
    /// Route id.
    pub id: Arc<str>,
    /// Route name.
    pub name: Option<Arc<str>>,
    /// Service id.
    pub service_id: Option<Arc<str>>,
    /// Service name.
    pub service_name: Option<Arc<str>>,
    /// The patterns of the route's paths, in its order (`uri_param__path` and `matched_uri` are the one that matched).
    pub uris: Vec<String>,
    /// The route's hosts.
    pub hosts: Vec<String>,
    /// Number of this route among all ever compiled: an index for per-worker state that needs no hash.
    pub slot: u32,
}

/// One upstream try.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// The node; `None` for a Unix socket.
    pub node: Option<Address>,
    /// Its index in the upstream's nodes.
    pub index: u16,
    /// Status the try ended with: the upstream's, or 502/504.
    pub status: u16,
    /// Until the connection was there; zero when it was pooled.
    pub connect: Duration,
    /// Until the response's head; `None` if none came.
    pub header: Option<Duration>,
    /// Until the try was over.
    pub total: Duration,
    /// Bytes sent to the node.
    pub bytes_sent: u64,
    /// Bytes received from the node.
    pub bytes_received: u64,
}

/// What was sent to the client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Status sent (499 when the client left first).
    pub status: u16,
    /// Bytes with the head.
    pub bytes: u64,
    /// Bytes of the body, framing left out.
    pub body_bytes: u64,
    /// Time from first byte read to the end.
    pub total: Duration,
}

/// What becomes of the response's body.
#[derive(Debug, Default)]
pub enum BodyPlan {
    /// It streams.
    #[default]
    Stream,
    /// It streams piece by piece through `body_filter` and its coding.
    Filter,
    /// It is collected up to a bound and filtered once.
    Collect(usize),
    /// It is dropped and this goes out instead.
    Replace(Vec<u8>),
}

/// Who made the response. APISIX `response_source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Ringway (a plugin, a redirect, a 404); named `apisix` for its dashboards.
    #[default]
    Gateway,
    /// The proxying failed before a response head; named `nginx` likewise.
    Proxy,
    /// The upstream.
    Upstream,
}

impl Source {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "apisix",
            Self::Proxy => "nginx",
            Self::Upstream => "upstream",
        }
    }
}

/// An answer of the gateway's own.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: AnswerBody,
    /// Further fields.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Body of an [`Answer`].
#[derive(Debug)]
pub enum AnswerBody {
    /// The error page for statuses from 300, nothing below.
    Page,
    /// These bytes, no newline added.
    Text(Vec<u8>),
    /// JSON and a newline.
    Json(serde_json::Value),
}

impl Answer {
    /// A status with its page.
    pub fn page(status: u16) -> Self {
        Self { status, body: AnswerBody::Page, headers: Vec::new() }
    }

    /// `{"message": TEXT}` with a newline.
    pub fn message(status: u16, text: &str) -> Self {
        Self { status, body: AnswerBody::Json(serde_json::json!({ "message": text })), headers: Vec::new() }
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.as_bytes().to_vec(), value.into()));
        self
    }
}

impl<'e> Ctx<'e> {
    /// Begins an exchange with a connection's reusable parts.
    #[inline]
    pub fn begin(parts: &'e mut Parts, conn: &'e ConnInfo, consumers: &'e Consumers, started: Tick) -> Self {
        Self {
            request: &mut parts.request,
            response: &mut parts.response,
            real_ip: None,
            conn,
            route: None,
            matched_uri: 0,
            matched_host: None,
            captures: &mut parts.captures,
            consumers,
            consumer: None,
            tries: &mut parts.tries,
            sent: Sent::default(),
            body_plan: BodyPlan::Stream,
            started,
            inside_nanos: 0,
            source: Source::Gateway,
            reason: Reason::Internal,
            request_bytes: 0,
            upstream: None,
            epoch: 0,
            worker: 0,
            extras: &mut parts.extras,
            has_extras: Cell::new(false),
        }
    }

    /// Ends the exchange: gives the parts back and drops the first `used` bytes of what was received (head and the body
    /// behind it). What is left is the next request's.
    pub fn end(&mut self, used: usize) {
        self.tries.clear();
        self.captures.clear();
        if self.has_extras.take() {
            self.extras.clear();
        }
        self.request.clear();
        let received = self.request.fields.received_mut();
        received.consume(used);
        if received.is_empty() {
            drop(self.request.fields.take_received());
        }
        self.response.clear();
        drop(self.response.fields.take_received());
    }
}

impl<'e> Ctx<'e> {
    /// What plugins added, if anything.
    #[inline]
    pub fn extras(&self) -> Option<&Extras> {
        self.has_extras.get().then_some(&*self.extras)
    }

    /// The same, to add to.
    pub fn extras_mut(&mut self) -> &mut Extras {
        self.has_extras.set(true);
        self.extras
    }

    /// The same, for what is remembered without being an edit.
    pub(super) fn extras_cell(&self) -> &Extras {
        self.has_extras.set(true);
        self.extras
    }

    /// The same, to take away from.
    pub fn extras_if_any(&mut self) -> Option<&mut Extras> {
        self.has_extras.get().then_some(&mut *self.extras)
    }

    /// Puts what plugins of the request phases want in the answer beside what the upstream says, as APISIX does.
    pub fn add_answer_fields(&mut self) {
        if self.has_extras.get() {
            self.extras.answer_fields.iter().for_each(|(name, value, known)| {
                self.response.fields.add_known(known, name, value);
            });
        }
    }

    /// Address of the client after real-ip; `None` on a Unix socket.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        match self.real_ip {
            Some((ip, _)) => Some(ip),
            None => self.conn.peer.map(|peer| peer.ip()),
        }
    }

    /// Port of the client after real-ip; 0 on a Unix socket.
    pub fn remote_port(&self) -> u16 {
        match self.real_ip {
            Some((_, port)) => port,
            None => self.conn.peer.map_or(0, |peer| peer.port()),
        }
    }

    /// The client's address as text: nothing is formatted unless real-ip gave another one than the connection's.
    pub fn remote_text(&self) -> std::borrow::Cow<'_, str> {
        match (self.real_ip, self.conn.peer) {
            (None, Some(_)) => self.conn.peer_text.as_str().into(),
            (Some((ip, _)), _) => ip.to_string().into(),
            (None, None) => "unix:".into(),
        }
    }

    /// The response's body is dropped and `body` sent instead. Call in `header_filter`.
    pub fn replace_body(&mut self, body: Vec<u8>) {
        self.body_plan = BodyPlan::Replace(body);
    }

    /// The response's body is collected up to `limit` bytes and given to `body_filter` once. Call in `header_filter`.
    pub fn collect_body(&mut self, limit: usize) {
        if matches!(self.body_plan, BodyPlan::Stream | BodyPlan::Filter) {
            self.body_plan = BodyPlan::Collect(limit);
        }
    }

    /// The response's body goes through `body_filter` piece by piece. Call in `header_filter`.
    pub fn filter_body(&mut self) {
        if matches!(self.body_plan, BodyPlan::Stream) {
            self.body_plan = BodyPlan::Filter;
        }
    }

    /// Takes a query argument out of everything that goes on: the upstream's target, variables, the log.
    pub fn remove_query_arg(&mut self, name: &[u8]) {
        let Some(query) = self.request.query else { return };
        let text = self.request.fields.bytes(query);
        let kept: Vec<&[u8]> = text
            .split(|&byte| byte == b'&')
            .filter(|pair| *uri::decode(pair.split(|&byte| byte == b'=').next().unwrap_or_default()) != *name)
            .collect();
        let kept = kept.join(&b'&');
        let origin = self.request.fields.bytes(self.request.origin);
        let path_len = memchr::memchr(b'?', origin).unwrap_or(origin.len());
        let mut target = origin.get(..path_len).unwrap_or_default().to_vec();
        if !kept.is_empty() {
            target.push(b'?');
            target.extend_from_slice(&kept);
        }
        self.request.origin = self.request.fields.keep(&target);
        self.request.query = (!kept.is_empty()).then(|| self.request.fields.keep(&kept));
    }

    /// Attaches a consumer: sets `X-Consumer-Username`, `X-Credential-Identifier`, `X-Consumer-Custom-ID` (removing what
    /// the client sent of them) and makes `consumer_name` and `consumer_group_id` readable. APISIX request.md §4.4.
    pub fn attach_consumer(&mut self, identity: &'e Identity) {
        let fields = &mut self.request.fields;
        fields.set(b"X-Consumer-Username", identity.username.as_bytes());
        match &identity.credential {
            Some(id) => fields.set(b"X-Credential-Identifier", id.as_bytes()),
            None => drop(fields.remove(b"X-Credential-Identifier")),
        }
        match &identity.custom_id {
            Some(id) => fields.set(b"X-Consumer-Custom-ID", id.as_bytes()),
            None => drop(fields.remove(b"X-Consumer-Custom-ID")),
        }
        self.consumer = Some(identity);
    }
}

/// Fields of a head that are brought near: as many as most have.
const FIELDS_NEAR: usize = 8;

/// Owner of an exchange's reusable parts, kept by the connection's task between requests.
#[derive(Default)]
pub struct Parts {
    /// Request head.
    pub request: RequestHead,
    /// Response head.
    pub response: ResponseHead,
    /// Kept allocation of [`Ctx::tries`].
    pub tries: Vec<Try>,
    /// Kept allocation of [`Ctx::captures`].
    pub captures: Vec<(Box<str>, Vec<u8>)>,
    /// Empty between exchanges.
    pub(super) extras: Box<Extras>,
}

impl Parts {
    /// Puts itself and what every exchange uses of its allocations in places of the running task's.
    pub fn keep_near(&self) {
        keep_near(Near::Parts, self);
        keep_list_near(Near::Tries, &self.tries, 1);
        keep_list_near(Near::RequestFields, self.request.fields.list(), FIELDS_NEAR);
        keep_list_near(Near::ResponseFields, self.response.fields.list(), FIELDS_NEAR);
    }

    /// Forgets what is in it and keeps the allocations.
    pub fn reset(&mut self) {
        self.request.clear();
        drop(self.request.fields.take_received());
        self.response.clear();
        drop(self.response.fields.take_received());
        self.tries.clear();
        self.captures.clear();
    }
}
