//! The upstream's part of an exchange: picking nodes, trying them, delivering the answer. APISIX request.md §3.8.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{self, Deadlines};
use super::conn_h1::After;
use super::exchange::{Exchange, cold, phase};
use super::relay::{self, Download};
use super::{outgoing, respond, upgrade};
use crate::base::buf::Chunk;
use crate::base::clock::{self, Tick};
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::config::model::ProxyVersion;
use crate::net::{Wait, tls};
use crate::plugin::ctx::{BodyPlan, Source, Try};
use crate::plugin::{Answer, Ctx, Phases};
use crate::proto::message::{BodyShape, Known, Reason};
use crate::proto::vars::Vars;
use crate::proto::{proxy_protocol, websocket};
use crate::snapshot::{Route, Target};
use crate::upstream::pool::{self, PoolId, Stage, Way};
use crate::upstream::spec::{Balance, HashKey};
use crate::upstream::{Connection, Picked, Pools, Spec, Tried};

/// Why no connection with an answer's head came out of an upstream.
enum Failure {
    /// The upstream's side, after the last try.
    Upstream,
    /// The client's side.
    Client(Error),
    /// A plugin ended the request in `before_proxy`.
    Answer(Answer),
    /// No node could be picked.
    NoNode(u16),
}

impl<'e> Exchange<'e> {
    /// Forwards the request and delivers the answer.
    pub(super) async fn proxy(&mut self, ctx: &mut Ctx<'e>, route: &'e Arc<Route>) -> After {
        let chosen = ctx.upstream.and_then(|slot| self.view.snapshot.upstreams.get(&slot));
        let spec = match (chosen, &route.target) {
            (Some(spec), _) | (None, Target::Upstream(spec)) => spec,
            (None, Target::Broken(status)) => {
                ctx.reason = Reason::RouteBroken;
                return cold(self.answer(ctx, Answer::page(*status))).await;
            }
            (None, Target::None) => {
                ctx.reason = Reason::NoUpstream;
                return cold(self.answer(ctx, Answer::page(503))).await;
            }
        };
        self.judges = spec.checks.as_ref().is_some_and(|checks| checks.passive.is_some()).then_some(spec);
        let timeouts = &self.view.snapshot.gateway.timeouts;
        let upstream = route.timeout.unwrap_or(spec.timeout);
        let deadlines = Deadlines { upstream, body: timeouts.body, send: timeouts.send };
        let websocket = route.websocket && ctx.request.upgrades_websocket;
        match self.reach(ctx, spec, websocket, &deadlines).await {
            Ok((picked, up)) if ctx.response.status == 101 => {
                cold(self.upgraded(ctx, spec, picked, up, websocket, &deadlines)).await
            }
            Ok((picked, up)) => self.deliver(ctx, spec, picked, up, &deadlines).await,
            Err(failure) => cold(self.failed(ctx, failure)).await,
        }
    }

    async fn failed(&mut self, ctx: &mut Ctx<'e>, failure: Failure) -> After {
        match failure {
            Failure::Client(error) => self.body_failed(ctx, error).await,
            Failure::Answer(answer) => self.answer(ctx, answer).await,
            Failure::NoNode(status) => {
                ctx.reason = Reason::NoUpstream;
                self.answer(ctx, Answer::page(status)).await
            }
            Failure::Upstream => {
                ctx.source = Source::Proxy;
                let status = ctx.tries.last().map_or(502, |last| last.status);
                self.answer(ctx, Answer::page(status)).await
            }
        }
    }

    /// Tries nodes until one's answer begins.
    async fn reach(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        websocket: bool,
        deadlines: &Deadlines,
    ) -> Result<(Picked, Box<Connection>), Failure> {
        let begun = clock::now();
        let mut tried = Tried::default();
        let allowed = 1 + (spec.retries as usize).min(limits::TRIES_MAX - 1);
        if ctx.request.expects_continue && !ctx.request.body.is_empty() {
            cold(self.say_continue(ctx, deadlines)).await.map_err(Failure::Client)?;
        }
        loop {
            let Some(picked) = self.pick(ctx, spec, &tried) else {
                // A ring on which nobody has a point is APISIX's 502, an upstream without nodes its 503.
                let hashes = matches!(spec.balancer, Balance::Chash(_)) && !spec.nodes.is_empty();
                let status = if hashes { 502 } else { 503 };
                return Err(if tried.count() == 0 { Failure::NoNode(status) } else { Failure::Upstream });
            };
            tried.note(picked.node);
            self.core.counters.retries.add(u64::from(tried.count() > 1));
            if self.takes_part(Phases::BEFORE_PROXY) {
                self.before_proxy(ctx).await?;
            }
            let error = match self.try_node(ctx, spec, picked, websocket, deadlines).await {
                Ok(reached) => return Ok(reached),
                Err(error) => error,
            };
            if error.side == Side::Downstream {
                return Err(Failure::Client(error));
            }
            let in_time = spec.retry_timeout.is_zero() || clock::now().since(begun) < spec.retry_timeout;
            if !error.retry || tried.count() >= allowed || !in_time {
                return Err(Failure::Upstream);
            }
        }
    }

    fn pick(&mut self, ctx: &Ctx<'e>, spec: &Arc<Spec>, tried: &Tried) -> Option<Picked> {
        let key = match &spec.balancer {
            Balance::Chash(key) => hash_key(ctx, key),
            _ => Cow::Borrowed(&b""[..]),
        };
        let mut pools = self.core.pools.borrow_mut();
        let mut upstreams = self.core.upstreams.borrow_mut();
        let state = upstreams.of(spec, &mut pools, self.core.index)?;
        let mut picked = state.pick(tried, &key)?;
        if !spec.dial.is_plain() {
            self.own_pool(ctx, spec, &mut picked, &mut pools);
        }
        if !matches!(spec.balancer, Balance::RoundRobin | Balance::Chash(_)) {
            self.owed = state.owed(picked);
        }
        Some(picked)
    }

    /// The pool of connections that may carry this request: those with the same name, certificates and source.
    #[cold]
    fn own_pool(&self, ctx: &Ctx<'e>, spec: &Spec, picked: &mut Picked, pools: &mut Pools) {
        let name = match &spec.dial.tls {
            Some(_) => tls::server_name(outgoing::host_text(ctx, spec, picked.node)).into(),
            None => Box::default(),
        };
        picked.pool = match spec.dial.proxy_protocol {
            Some(_) => PoolId::NONE,
            None => pools.of_kind(picked.address, pool::Kind { dial: spec.dial.digest(), name }),
        };
    }

    fn takes_part(&self, phase: Phases) -> bool {
        let mut some = false;
        self.each_chain(|chain| some |= chain.has(phase));
        some
    }

    async fn before_proxy(&mut self, ctx: &mut Ctx<'e>) -> Result<(), Failure> {
        let merged = self.merged.clone();
        let route = self.route.map(|route| &route.chain);
        let global = &self.view.snapshot.global;
        for chain in [Some(global), merged.as_deref().map(|merged| &merged.chain).or(route)].into_iter().flatten() {
            if let Some(answer) = phase(chain, Phases::BEFORE_PROXY, ctx).await {
                return Err(Failure::Answer(answer));
            }
        }
        Ok(())
    }

    /// RFC 9110 §10.1.1: the body was asked to be waited for, and it is wanted.
    async fn say_continue(&mut self, ctx: &mut Ctx<'e>, deadlines: &Deadlines) -> Result<(), Error> {
        if ctx.request.fields.received().len() > ctx.request.head_bytes {
            return Ok(()); // the client did not wait
        }
        let mut out = Chunk::small();
        crate::proto::h1::emit::put(&mut out, b"HTTP/1.1 100 Continue\r\n\r\n");
        ctx.sent.bytes += self.down.send(out, deadlines.send).await?;
        Ok(())
    }

    /// One try at a node: a pooled connection if there is one, else a fresh one. A pooled one that turns out to be closed is
    /// no try of its own, where the request may be repeated.
    async fn try_node(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        mut picked: Picked,
        websocket: bool,
        deadlines: &Deadlines,
    ) -> Result<(Picked, Box<Connection>), Error> {
        let started = clock::now();
        let mut look = true; // at the pool
        loop {
            let pooled = if look { self.pooled(picked.pool).await } else { None };
            let was_pooled = pooled.is_some();
            let mut up = match pooled {
                Some(up) => up,
                None => {
                    let (at, up) = cold(self.connect_any(ctx, spec, picked, deadlines)).await?;
                    picked = at;
                    up
                }
            };
            look = false;
            let connect = if was_pooled { Duration::ZERO } else { clock::now().since(started) };
            let sent_before = up.stream.sent();
            let result = self.send_request(ctx, spec, picked, &mut up, was_pooled, websocket, deadlines).await;
            let mut note = Try {
                node: Some(picked.address),
                index: picked.node,
                status: ctx.response.status,
                connect,
                header: Some(clock::now().since(started)),
                total: clock::now().since(started),
                bytes_sent: up.stream.sent().wrapping_sub(sent_before),
                bytes_received: ctx.response.head_bytes as u64,
            };
            let mut error = match result {
                Ok(()) => {
                    ctx.tries.push(note);
                    return Ok((picked, up));
                }
                Err(error) => error,
            };
            let waited = up.stream.watch().fired();
            pool::retire(up);
            let repeatable = ctx.request.method.is_idempotent() && self.upload.replayable();
            if error.side == Side::Upstream && error.retry && was_pooled && error.kind != Kind::TimedOut && repeatable {
                continue;
            }
            error.retry &= repeatable;
            if error.side == Side::Upstream {
                (note.status, ctx.reason) = failed(&error, waited);
                note.header = None;
                ctx.tries.push(note);
            }
            return Err(error);
        }
    }

    /// A connection out of the pool that its node has not closed.
    async fn pooled(&self, pool: PoolId) -> Option<Box<Connection>> {
        loop {
            let taken = self.core.pools.borrow_mut().take(pool);
            let Some(mut up) = taken else {
                self.core.counters.pool_misses.add(1);
                return None;
            };
            if up.is_quiet(limits::CHUNK_SMALL_BYTES).await {
                self.core.counters.pool_hits.add(1);
                return Some(up);
            }
            pool::retire(up);
        }
    }

    /// Connects to the picked address, or where it can't be reached to the node's other ones.
    async fn connect_any(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        mut picked: Picked,
        deadlines: &Deadlines,
    ) -> Result<(Picked, Box<Connection>), Error> {
        let mut left = limits::TRIES_MAX;
        loop {
            let started = clock::now();
            let error = match self.connect(ctx, spec, picked, started, deadlines).await {
                Ok(up) => return Ok((picked, up)),
                Err(error) => error,
            };
            let mut pools = self.core.pools.borrow_mut();
            let mut upstreams = self.core.upstreams.borrow_mut();
            let Some(state) = upstreams.of(spec, &mut pools, self.core.index) else { return Err(error) };
            left = left.min(state.addresses_of(picked.node)).saturating_sub(1);
            match state.next_address(picked).filter(|_| left > 0) {
                Some(next) => picked = next,
                None => return Err(error),
            }
            if !spec.dial.is_plain() {
                self.own_pool(ctx, spec, &mut picked, &mut pools);
            }
        }
    }

    async fn connect(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        picked: Picked,
        started: Tick,
        deadlines: &Deadlines,
    ) -> Result<Box<Connection>, Error> {
        let tls = match spec.dial.tls {
            Some(_) => {
                let (mut pools, mut upstreams) = (self.core.pools.borrow_mut(), self.core.upstreams.borrow_mut());
                upstreams.of(spec, &mut pools, self.core.index).and_then(|state| state.tls())
            }
            None => None,
        };
        let name = tls::server_name(outgoing::host_text(ctx, spec, picked.node));
        let introduction = spec.dial.proxy_protocol.map(|version| introduction(ctx, version));
        let way =
            Way { address: picked.address, source: spec.dial.source, introduction, tls: tls.as_ref().map(|tls| (tls, name)) };
        let opened = Pools::open(&self.core.counters, way, deadlines.upstream.connect).await;
        clock::refresh();
        opened.map_err(|(stage, cause)| {
            let error = Error::from_io(Side::Upstream, &cause).retryable(); // nothing was sent
            let (status, reason) = match (error.kind, stage) {
                (Kind::TimedOut, _) => (504, Reason::UpstreamConnectTimeout),
                (_, Stage::Connect) => (502, Reason::UpstreamRefused),
                (_, Stage::Tls) => {
                    crate::limited!(warn, "{}: TLS with {} failed: {cause}", spec.identity, picked.address);
                    (502, Reason::UpstreamTls)
                }
            };
            ctx.reason = reason;
            let spent = clock::now().since(started);
            ctx.tries.push(Try {
                node: Some(picked.address),
                index: picked.node,
                status,
                connect: spent,
                header: None,
                total: spent,
                bytes_sent: 0,
                bytes_received: 0,
            });
            error
        })
    }

    async fn send_request(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &Spec,
        picked: Picked,
        up: &mut Connection,
        awaited: bool,
        websocket: bool,
        deadlines: &Deadlines,
    ) -> Result<(), Error> {
        let mut out =
            outgoing::write(ctx, spec, picked.node, websocket, self.forwarded_applied, &self.view.snapshot.gateway.paths);
        let behind_head = ctx.request.fields.received().filled().get(ctx.request.head_bytes..).unwrap_or_default();
        self.upload.begin(behind_head, &mut out)?;
        let gated = self.core.gates_receives();
        attempt::run(ctx, self.down, up, &mut self.upload, out, deadlines, gated, awaited).await
    }

    /// Filters the head and relays the body.
    async fn deliver(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &Spec,
        picked: Picked,
        mut up: Box<Connection>,
        deadlines: &Deadlines,
    ) -> After {
        ctx.source = Source::Upstream;
        let head_at = clock::now();
        self.filter_head(ctx);
        let filters = self.takes_part(Phases::BODY_FILTER);
        let (after, whole) = if relay::streams(ctx, filters) {
            self.deliver_streaming(ctx, &mut up, deadlines).await
        } else {
            cold(self.deliver_changed(ctx, &mut up, filters, deadlines)).await
        };
        if let Some(last) = ctx.tries.last_mut() {
            last.total += clock::now().since(head_at);
        }
        let reusable = whole && ctx.response.keep_alive && self.upload.sent_whole() && !self.core.draining.get();
        if reusable {
            self.core.pools.borrow_mut().give(picked.pool, up, &spec.keepalive);
        } else {
            pool::retire(up);
        }
        after
    }

    async fn deliver_streaming(&mut self, ctx: &mut Ctx<'e>, up: &mut Connection, deadlines: &Deadlines) -> (After, bool) {
        let keep = self.keeps(ctx);
        let manner = respond::manner(ctx, keep, None, false);
        let mut out = respond::write(ctx, &manner, super::core::date().as_bytes());
        let mut body = match Download::begin(ctx, manner.framing, &mut out) {
            Ok(body) => body,
            Err(error) => return (cold(self.bad_gateway(ctx, error)).await, false),
        };
        let streamed = relay::stream(ctx, self.down, up, &mut self.upload, &mut body, manner.framing, out, deadlines).await;
        ctx.sent.body_bytes = body.data;
        if let Some(last) = ctx.tries.last_mut() {
            last.bytes_received += body.received;
        }
        let whole = body.whole && !body.excess;
        match streamed {
            Ok(()) => {
                ctx.reason = Reason::Done;
                let keep = manner.keep_alive && self.upload.sent_whole();
                (if keep { After::Keep } else { After::Close }, whole)
            }
            Err(error) => (self.cut(ctx, error, up), false),
        }
    }

    /// Bodies that plugins replace, collect or filter.
    async fn deliver_changed(
        &mut self,
        ctx: &mut Ctx<'e>,
        up: &mut Connection,
        filters: bool,
        deadlines: &Deadlines,
    ) -> (After, bool) {
        use super::reframe::Framing;
        let mut first = Chunk::small();
        let mut body = match Download::begin(ctx, Framing::Plain, &mut first) {
            Ok(body) => body,
            Err(error) => return (cold(self.bad_gateway(ctx, error)).await, false),
        };
        let plan = std::mem::take(&mut ctx.body_plan);
        ctx.reason = Reason::Done;
        let collected = match plan {
            BodyPlan::Replace(other) => Some(Ok(other)),
            BodyPlan::Collect(limit) => {
                up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
                Some(relay::collect(up, &mut body, std::mem::take(&mut first), limit).await)
            }
            BodyPlan::Stream => None,
        };
        match collected {
            Some(Ok(mut data)) => {
                if filters {
                    self.each_chain(|chain| chain.run_body_filter(ctx, &mut data, true));
                }
                (self.send_whole(ctx, &data).await, body.whole && !body.excess)
            }
            Some(Err(error)) => (self.bad_gateway(ctx, error).await, false),
            None => self.deliver_filtered(ctx, up, body, first, deadlines).await,
        }
    }

    async fn deliver_filtered(
        &mut self,
        ctx: &mut Ctx<'e>,
        up: &mut Connection,
        mut body: Download,
        first: Chunk,
        deadlines: &Deadlines,
    ) -> (After, bool) {
        let keep = self.keeps(ctx);
        let manner = respond::manner(ctx, keep, None, true);
        let head = respond::write(ctx, &manner, super::core::date().as_bytes());
        let merged = self.merged.clone();
        let route = self.route.map(|route| &route.chain);
        let own = merged.as_deref().map(|merged| &merged.chain).or(route);
        let chains: Vec<_> = [Some(&self.view.snapshot.global), own].into_iter().flatten().collect();
        match self.down.send(head, deadlines.send).await {
            Ok(bytes) => ctx.sent.bytes += bytes,
            Err(error) => return (self.client_failed(ctx, error), false),
        }
        if manner.bodyless {
            return (if manner.keep_alive { After::Keep } else { After::Close }, body.whole && !body.excess);
        }
        let sent = relay::filtered(ctx, &chains, self.down, up, &mut body, manner.framing, first, deadlines).await;
        match sent {
            Ok(()) => (if manner.keep_alive { After::Keep } else { After::Close }, body.whole && !body.excess),
            Err(error) => (self.cut(ctx, error, up), false),
        }
    }

    /// The upstream's answer turned out to be none before anything of it was sent.
    async fn bad_gateway(&mut self, ctx: &mut Ctx<'e>, error: Error) -> After {
        let (status, reason) = failed(&error, None);
        (ctx.reason, ctx.source, ctx.body_plan) = (reason, Source::Proxy, BodyPlan::Stream);
        if let Some(last) = ctx.tries.last_mut() {
            last.status = status;
        }
        self.answer(ctx, Answer::page(status)).await
    }

    /// An answer broke off after its head was sent.
    fn cut(&self, ctx: &mut Ctx<'e>, error: Error, up: &Connection) -> After {
        if error.side == Side::Downstream {
            return self.client_failed(ctx, error);
        }
        ctx.reason = match (error.kind, up.stream.watch().fired()) {
            (Kind::TimedOut, _) | (_, Some(_)) => Reason::UpstreamReadTimeout,
            (Kind::Malformed, _) => Reason::UpstreamMalformed,
            _ => Reason::UpstreamCut,
        };
        After::Cut
    }

    /// A 101: a tunnel if it was asked for and the key matches, else the answer of a node that does not know the protocol.
    async fn upgraded(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &Spec,
        _picked: Picked,
        mut up: Box<Connection>,
        websocket: bool,
        deadlines: &Deadlines,
    ) -> After {
        let key = ctx.request.fields.known(Known::SecWebSocketKey).unwrap_or_default();
        if !websocket || !websocket::answers(ctx.response, key) {
            pool::retire(up);
            return self.bad_gateway(ctx, Error::new(Side::Upstream, Kind::Malformed)).await;
        }
        ctx.source = Source::Upstream;
        ctx.response.body = BodyShape::None;
        self.filter_head(ctx);
        let head = respond::write_upgrade(ctx);
        let behind = ctx.response.fields.received().filled().get(ctx.response.head_bytes..).unwrap_or_default();
        let mut behind_101 = Chunk::with_capacity(behind.len());
        crate::proto::h1::emit::put(&mut behind_101, behind);
        match self.down.send(head, deadlines.send).await {
            Ok(bytes) => ctx.sent.bytes += bytes,
            Err(error) => {
                pool::retire(up);
                return self.client_failed(ctx, error);
            }
        }
        let idle = self.view.snapshot.gateway.timeouts.websocket.unwrap_or(spec.timeout.read.max(deadlines.upstream.read));
        self.core.counters.tunnels.add(1);
        let (carried, error) = upgrade::tunnel(self.down, &mut up.stream, behind_101, idle).await;
        self.core.counters.tunnels.sub(1);
        ctx.sent.bytes += carried.down;
        ctx.sent.body_bytes += carried.down;
        ctx.request_bytes += carried.up;
        ctx.reason = match error {
            None => Reason::Upgraded,
            Some(Error { kind: Kind::TimedOut, .. }) if self.core.draining.get() => Reason::Draining,
            Some(Error { kind: Kind::TimedOut, .. }) => Reason::UpgradeIdle,
            Some(Error { side: Side::Downstream, .. }) => Reason::ClientClosed,
            Some(_) => Reason::UpstreamCut,
        };
        pool::retire(up);
        After::Gone
    }
}

/// What a node is told of the client before anything else.
fn introduction(ctx: &Ctx<'_>, version: ProxyVersion) -> Chunk {
    let client = ctx.remote_ip().map(|ip| SocketAddr::new(ip, ctx.remote_port()));
    let header = match version {
        ProxyVersion::V1 => proxy_protocol::write_v1(client, ctx.conn.local),
        ProxyVersion::V2 => proxy_protocol::write_v2(client, ctx.conn.local),
    };
    let mut out = Chunk::small();
    crate::proto::h1::emit::put(&mut out, &header);
    out
}

/// What consistent hashing hashes; the client's address where the key is absent. APISIX request.md §3.9.
fn hash_key<'a>(ctx: &'a Ctx<'_>, key: &HashKey) -> Cow<'a, [u8]> {
    let found = match key {
        HashKey::Var(var) => ctx.var(var).map(|value| Cow::Owned(value.to_text().into_owned())),
        HashKey::Consumer => ctx.consumer.as_ref().map(|consumer| Cow::Owned(consumer.username.as_bytes().to_vec())),
        HashKey::Template(template) => template.resolves(ctx).then(|| Cow::Owned(template.render(ctx))),
    };
    found.unwrap_or_else(|| {
        crate::limited!(warn, "chash_key fetch is nil, use default chash_key remote_addr: {}", ctx.remote_text());
        Cow::Owned(ctx.remote_text().into_owned().into_bytes())
    })
}

/// Status and reason of a failed try.
fn failed(error: &Error, waited: Option<Wait>) -> (u16, Reason) {
    match (error.kind, waited) {
        (Kind::TimedOut, Some(Wait::Send)) => (504, Reason::UpstreamSendTimeout),
        (Kind::TimedOut, _) => (504, Reason::UpstreamReadTimeout),
        (Kind::Malformed, _) => (502, Reason::UpstreamMalformed),
        (Kind::TooLarge, _) => (502, Reason::UpstreamTooLarge),
        (Kind::Refused, _) => (502, Reason::UpstreamRefused),
        _ => (502, Reason::UpstreamClosed),
    }
}
