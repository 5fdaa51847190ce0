//! The upstream's part of an exchange: picking nodes, trying them, delivering the answer. APISIX request.md §3.8.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::Deadlines;
use super::conn_h1::After;
use super::exchange::{Exchange, cold, own_chain};
use super::reach::session_node;
use super::reframe::Framing;
use super::relay::{self, Delivered, Download, Filter, Outbox, Straight};
use super::respond::Manner;
use super::{respond, upgrade};
use crate::base::buf::Chunk;
use crate::base::clock;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::Wait;
use crate::plugin::ctx::{BodyPlan, Source};
use crate::plugin::{Answer, Ctx};
use crate::proto::message::{BodyShape, Known, Reason};
use crate::proto::websocket;
use crate::snapshot::{RouteEntry, Target};
use crate::upstream::pool;
use crate::upstream::{Connection, Picked, Spec};

/// Why no connection with an answer's head came out of an upstream.
pub(super) enum Failure {
    /// The upstream's side, after the last try.
    Upstream,
    /// The client's side.
    Client(Error),
    /// A plugin ended the request in `before_proxy`.
    Answer(Box<Answer>),
    /// No node could be picked.
    NoNode(u16),
    /// A limit was met.
    Overloaded,
}

/// How an answer was delivered.
struct Done {
    after: After,
    /// The upstream's body was received whole, and nothing behind it.
    whole: bool,
    /// The outbox holds the rest of it.
    rest_waits: bool,
}

impl Done {
    fn broken(after: After) -> Self {
        Self { after, whole: false, rest_waits: false }
    }
}

impl<'e> Exchange<'e> {
    /// Forwards the request and delivers the answer.
    pub(super) fn proxy(&mut self, ctx: &mut Ctx<'e>, entry: &'e RouteEntry) -> impl Future<Output = After> {
        async move {
            let chosen = ctx.upstream.and_then(|slot| self.view.snapshot.upstreams.get(&slot));
            let RouteEntry { route, plain } = entry;
            let spec = match (chosen.or(plain.as_ref()), &route.target) {
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
            let passive = spec.checks.as_ref().is_some_and(|checks| checks.passive.is_some());
            self.judges = (passive || spec.policy.outlier.is_some()).then_some(spec);
            let timeouts = &self.view.snapshot.gateway.timeouts;
            let own = if plain.is_some() { None } else { route.timeout.as_deref() };
            let deadlines = Deadlines { upstream: own.unwrap_or(&spec.timeout), client: timeouts };
            let websocket = ctx.request.upgrades_websocket && route.websocket;
            if self.upload.says_too_much() {
                return cold(self.body_failed(ctx, Error::new(Side::Downstream, Kind::TooLarge))).await;
            }
            if self.has_work_before(ctx)
                && let Err(error) = cold(self.before_node(ctx, spec, &deadlines)).await
            {
                return cold(self.body_failed(ctx, error)).await;
            }
            let (picked, up) = match self.reach(ctx, spec, websocket, &deadlines).await {
                Ok(reached) => reached,
                Err(failure) => return cold(self.failed(ctx, failure)).await,
            };
            if ctx.response.status == 101 {
                return cold(self.upgraded(ctx, spec, picked, up, websocket, &deadlines)).await;
            }
            self.deliver(ctx, spec, &picked, up, &deadlines).await
        }
    }

    /// The body is to be gathered, or a copy sent elsewhere, before a node is asked.
    fn has_work_before(&self, ctx: &Ctx<'e>) -> bool {
        let extras = ctx.extras();
        extras.is_some_and(|extras| extras.mirror.is_some())
            || (!ctx.request.body.is_empty()
                && extras.and_then(|extras| extras.buffer_request).unwrap_or(self.view.snapshot.gateway.buffering.request))
    }

    async fn before_node(&mut self, ctx: &mut Ctx<'e>, spec: &'e Arc<Spec>, deadlines: &Deadlines<'_>) -> Result<(), Error> {
        let mirror = ctx.extras_if_any().and_then(|extras| extras.mirror.take());
        if !ctx.request.body.is_empty() && (mirror.is_some() || !is_grpc(ctx)) {
            self.gather(ctx, deadlines).await?;
        }
        if let Some(mirror) = mirror {
            self.mirror(ctx, spec, &mirror);
        }
        Ok(())
    }

    async fn gather(&mut self, ctx: &mut Ctx<'e>, deadlines: &Deadlines<'_>) -> Result<(), Error> {
        if std::mem::take(&mut ctx.request.expects_continue) {
            self.say_continue(ctx, deadlines).await?;
        }
        let buffering = &self.view.snapshot.gateway.buffering;
        let behind_head = ctx.request.fields.received().filled().get(ctx.request.head_bytes..).unwrap_or_default();
        let keep = |bytes| self.core.keep(bytes, buffering.worker_bytes);
        self.upload.gather(behind_head, self.down, deadlines.client.body, buffering.exchange_bytes, keep).await?;
        if let Some(length) = self.upload.say_length() {
            ctx.request.body = BodyShape::Length(length);
        }
        Ok(())
    }

    async fn failed(&mut self, ctx: &mut Ctx<'e>, failure: Failure) -> After {
        match failure {
            Failure::Client(error) => self.body_failed(ctx, error).await,
            Failure::Answer(answer) => self.answer(ctx, *answer).await,
            Failure::NoNode(status) => {
                ctx.reason = Reason::NoUpstream;
                self.answer(ctx, Answer::page(status)).await
            }
            Failure::Overloaded => {
                ctx.reason = Reason::Overloaded;
                self.answer(ctx, Answer::page(503)).await
            }
            Failure::Upstream => {
                ctx.source = Source::Proxy;
                let status = ctx.tries.last().map_or(502, |last| last.status);
                self.answer(ctx, Answer::page(status)).await
            }
        }
    }

    /// Filters the head and relays the body.
    fn deliver(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &Spec,
        picked: &Picked,
        mut up: Box<Connection>,
        deadlines: &Deadlines<'_>,
    ) -> impl Future<Output = After> {
        async move {
            ctx.source = Source::Upstream;
            let head_at = clock::now();
            if spec.stickiness.is_some() {
                bind(ctx, spec, *picked);
            }
            self.filter_head(ctx);
            let buffering = self.view.snapshot.gateway.buffering;
            let core = self.core;
            let keep = |bytes| core.keep(bytes, buffering.worker_bytes);
            let mut outbox = match self.buffers_response(ctx) {
                true => Outbox::buffering(buffering.exchange_bytes, &keep),
                false => Outbox::default(),
            };
            let mut done = match ctx.body_plan {
                BodyPlan::Stream => self.deliver_streaming(ctx, &mut up, &mut outbox, deadlines).await,
                _ => cold(self.deliver_changed(ctx, &mut up, &mut outbox, deadlines)).await,
            };
            if let Some(last) = ctx.tries.last_mut() {
                last.total += clock::now().since(head_at);
            }
            let reusable = done.whole && ctx.response.keep_alive && self.upload.sent_whole() && !self.core.draining.get();
            if reusable {
                self.core.pools.borrow_mut().give(picked.pool, up, &spec.keepalive);
            } else {
                pool::retire(up);
            }
            if done.rest_waits
                && let Err(error) = cold(relay::flush(ctx, self.down, &mut outbox, deadlines)).await
            {
                done.after = self.client_failed(ctx, error);
            }
            done.after
        }
    }

    /// True where the node's answer is taken as fast as it comes, whatever the client's pace.
    fn buffers_response(&self, ctx: &Ctx<'e>) -> bool {
        let asked = ctx.extras().and_then(|extras| extras.buffer_response);
        let asked = asked.unwrap_or(self.view.snapshot.gateway.buffering.response);
        // nginx's word for it, which applications send.
        asked && ctx.response.fields.first(b"x-accel-buffering").is_none_or(|value| !value.eq_ignore_ascii_case(b"no"))
    }

    fn deliver_streaming(
        &mut self,
        ctx: &mut Ctx<'e>,
        up: &mut Connection,
        outbox: &mut Outbox<'_>,
        deadlines: &Deadlines<'_>,
    ) -> impl Future<Output = Done> {
        async move {
            let keep = self.keeps(ctx);
            let manner = respond::manner(ctx, keep, None, false);
            let mut out = respond::write(ctx, &manner, super::core::date().as_bytes());
            let behind_head = ctx.response.fields.received().len().saturating_sub(ctx.response.head_bytes);
            let begun = match behind_head > limits::COPIED_BYTES {
                true => Download::begin_in_place(ctx, manner.framing, &mut out),
                false => Download::begin(ctx, manner.framing, &mut out),
            };
            let mut body = match begun {
                Ok(body) => body,
                Err(error) => return Done::broken(cold(self.bad_gateway(ctx, error)).await),
            };
            if ctx.inside_nanos > 0 {
                let before = Duration::from_nanos(u64::from(ctx.inside_nanos));
                self.core.counters.inside.note(before + clock::read().since(clock::now()));
            }
            let upload = &mut self.upload;
            let streamed =
                relay::stream(ctx, self.down, up, upload, &mut body, Straight(manner.framing), outbox, out, deadlines).await;
            ctx.sent.body_bytes = body.data;
            self.delivered(ctx, up, &manner, &body, streamed)
        }
    }

    /// How it went, after the head was sent.
    fn delivered(
        &self,
        ctx: &mut Ctx<'e>,
        up: &Connection,
        manner: &Manner,
        body: &Download,
        streamed: Result<Delivered, Error>,
    ) -> Done {
        if let Some(last) = ctx.tries.last_mut() {
            last.bytes_received += body.received;
        }
        match streamed {
            Ok(delivered) => {
                ctx.reason = Reason::Done;
                let keep = manner.keep_alive && self.upload.sent_whole();
                Done {
                    after: if keep { After::Keep } else { After::Close },
                    whole: body.whole && !body.excess,
                    rest_waits: matches!(delivered, Delivered::Received),
                }
            }
            Err(error) => Done::broken(self.cut(ctx, error, up)),
        }
    }

    /// Bodies that plugins replace, collect or filter.
    async fn deliver_changed(
        &mut self,
        ctx: &mut Ctx<'e>,
        up: &mut Connection,
        outbox: &mut Outbox<'_>,
        deadlines: &Deadlines<'_>,
    ) -> Done {
        let mut first = Chunk::small();
        let mut body = match Download::begin(ctx, Framing::Plain, &mut first) {
            Ok(body) => body,
            Err(error) => return Done::broken(cold(self.bad_gateway(ctx, error)).await),
        };
        let plan = std::mem::take(&mut ctx.body_plan);
        ctx.reason = Reason::Done;
        let mut data = match plan {
            BodyPlan::Replace(other) => other,
            BodyPlan::Collect(limit) => {
                let first = std::mem::take(&mut first);
                let upload = &mut self.upload;
                match relay::collect(self.down, up, upload, &mut body, first, limit, deadlines).await {
                    Ok(data) => data,
                    Err(error) if error.side == Side::Downstream => return Done::broken(self.body_failed(ctx, error).await),
                    Err(error) => return Done::broken(self.bad_gateway(ctx, error).await),
                }
            }
            BodyPlan::Filter | BodyPlan::Stream => {
                return self.deliver_filtered(ctx, up, body, outbox, first, deadlines).await;
            }
        };
        self.filter_body(ctx, &mut data);
        Done { after: self.send_whole(ctx, &data).await, whole: body.whole && !body.excess, rest_waits: false }
    }

    async fn deliver_filtered(
        &mut self,
        ctx: &mut Ctx<'e>,
        up: &mut Connection,
        mut body: Download,
        outbox: &mut Outbox<'_>,
        first: Chunk,
        deadlines: &Deadlines<'_>,
    ) -> Done {
        let keep = self.keeps(ctx);
        let manner = respond::manner(ctx, keep, None, true);
        let head = respond::write(ctx, &manner, super::core::date().as_bytes());
        let own = own_chain(&self.merged, self.route);
        let chains = [Some(&self.view.snapshot.global), own].into_iter().flatten().collect();
        let upload = &mut self.upload;
        let streamed = match manner.bodyless {
            true => self.down.send(head, deadlines.client.send).await.map(|bytes| {
                ctx.sent.bytes += bytes;
                Delivered::Sent
            }),
            false => {
                let filter = Filter::new(chains, manner.framing, first);
                relay::stream(ctx, self.down, up, upload, &mut body, filter, outbox, head, deadlines).await
            }
        };
        self.delivered(ctx, up, &manner, &body, streamed)
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
        picked: Picked,
        mut up: Box<Connection>,
        websocket: bool,
        deadlines: &Deadlines<'_>,
    ) -> After {
        let key = ctx.request.fields.known(Known::SecWebSocketKey).unwrap_or_default();
        if !websocket || !websocket::answers(ctx.response, key) {
            pool::retire(up);
            return self.bad_gateway(ctx, Error::new(Side::Upstream, Kind::Malformed)).await;
        }
        ctx.source = Source::Upstream;
        ctx.response.body = BodyShape::None;
        if spec.stickiness.is_some() {
            bind(ctx, spec, picked);
        }
        self.filter_head(ctx);
        let head = respond::write_upgrade(ctx);
        let behind = ctx.response.fields.received().filled().get(ctx.response.head_bytes..).unwrap_or_default();
        let mut behind_101 = Chunk::with_capacity(behind.len());
        crate::proto::h1::emit::put(&mut behind_101, behind);
        match self.down.send(head, deadlines.client.send).await {
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

/// gRPC's messages go back and forth: its bodies are never gathered.
fn is_grpc(ctx: &Ctx<'_>) -> bool {
    ctx.request.fields.first(b"content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Tells the client which node its session lies on now, where it does not know.
fn bind(ctx: &mut Ctx<'_>, spec: &Spec, picked: Picked) {
    let node = usize::from(picked.node);
    if session_node(ctx, spec) != Some(node)
        && let Some(stickiness) = &spec.stickiness
        && let Some(value) = stickiness.set_cookie(node)
    {
        ctx.response.fields.add(b"Set-Cookie", &value);
    }
}

/// Status and reason of a failed try.
pub(super) fn failed(error: &Error, waited: Option<Wait>) -> (u16, Reason) {
    match (error.kind, waited) {
        (Kind::TimedOut, Some(Wait::Send)) => (504, Reason::UpstreamSendTimeout),
        (Kind::TimedOut, _) => (504, Reason::UpstreamReadTimeout),
        (Kind::Malformed, _) => (502, Reason::UpstreamMalformed),
        (Kind::TooLarge, _) => (502, Reason::UpstreamTooLarge),
        (Kind::Refused, _) => (502, Reason::UpstreamRefused),
        _ => (502, Reason::UpstreamClosed),
    }
}
