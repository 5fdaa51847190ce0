//! One exchange, all its phases in order. APISIX request.md §4.1.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::conn_h1::After;
use super::core::{Core, Judged, View};
use super::downstream::Downstream;
use super::upload::Upload;
use super::{answer, prelude, respond};
use crate::base::clock::{self, Tick};
use crate::base::count::Bound;
use crate::base::error::{Error, Kind, Side};
use crate::plugin::chain::{Chain, Merged};
use crate::plugin::ctx::{BodyPlan, ConnInfo, Parts};
use crate::plugin::{Answer, AnswerBody, Ctx, Phases};
use crate::proto::h1::HeadFault;
use crate::proto::message::{BodyShape, Known, Reason};
use crate::snapshot::published::Pressure;
use crate::snapshot::{Route, RouteEntry, Snapshot};
use crate::upstream::health::Verdict;
use crate::upstream::{Node, Owed, Spec};

/// What an exchange runs with.
pub(super) struct Exchange<'e> {
    pub(super) core: &'e Rc<Core>,
    pub(super) view: &'e View,
    pub(super) down: &'e mut Downstream,
    pub(super) upload: Upload,
    pub(super) route: Option<&'e RouteEntry>,
    pub(super) merged: Option<Rc<Merged>>,
    pub(super) forwarded_applied: bool,
    /// The upstream, where what its nodes do to requests counts for whether they get more.
    pub(super) judges: Option<&'e Arc<Spec>>,
    /// What the balancer that picked the node wants to know at the end.
    pub(super) owed: Owed,
}

/// Runs an exchange for the head in `parts`, to its log line, under the epoch in which the head was read.
pub fn run(
    core: &Rc<Core>,
    view: Rc<View>,
    down: &mut Downstream,
    parts: &mut Parts,
    info: &ConnInfo,
    started: Tick,
) -> impl Future<Output = After> {
    async move {
        core.counters.requests.add(1);
        let upload = Upload::new(parts.request.body, view.snapshot.gateway.limits.body_bytes);
        let mut exchange = Exchange::new(core, &view, down, upload);
        let mut ctx = Ctx::begin(parts, info, &view.snapshot.consumers, started);
        (ctx.epoch, ctx.worker) = (view.snapshot.epoch, core.index);
        let said_close = !ctx.request.keep_alive;
        let mut after = exchange.serve(&mut ctx).await;
        if after == After::Close && said_close && exchange.upload.read_whole() {
            after = After::Done;
        }
        let used = ctx.request.head_bytes + exchange.upload.with_head;
        ctx.request_bytes = used as u64 + exchange.upload.received;
        exchange.finish(&mut ctx);
        ctx.end(used);
        after
    }
}

/// Answers a request whose head was refused, logs it, and closes.
pub async fn refuse(
    core: &Rc<Core>,
    down: &mut Downstream,
    parts: &mut Parts,
    info: &ConnInfo,
    fault: &HeadFault,
    started: Tick,
) -> After {
    core.counters.requests.add(1);
    let view = core.view();
    let upload = Upload::new(BodyShape::None, 0);
    let mut exchange = Exchange::new(core, &view, down, upload);
    let mut ctx = Ctx::begin(parts, info, &view.snapshot.consumers, started);
    (ctx.epoch, ctx.worker) = (view.snapshot.epoch, core.index);
    ctx.reason = fault.reason;
    ctx.request_bytes = ctx.request.fields.received().len() as u64;
    let page = answer::bare(fault.status, &view.snapshot.server, super::core::date().as_bytes());
    ctx.sent.status = fault.status;
    ctx.sent.bytes = exchange.down.send(page, view.snapshot.gateway.timeouts.send).await.unwrap_or(0);
    tracing::debug!(reason = fault.reason.name(), what = fault.what, "request refused");
    exchange.finish(&mut ctx);
    ctx.end(0);
    After::Close
}

impl<'e> Exchange<'e> {
    fn new(core: &'e Rc<Core>, view: &'e View, down: &'e mut Downstream, upload: Upload) -> Self {
        let (route, merged, forwarded_applied, judges, owed) = (None, None, false, None, Owed::default());
        Self { core, view, down, upload, route, merged, forwarded_applied, judges, owed }
    }

    pub(super) fn snapshot(&self) -> &'e Snapshot {
        &self.view.snapshot
    }

    /// Everything from the match to the answer.
    fn serve(&mut self, ctx: &mut Ctx<'e>) -> impl Future<Output = After> {
        async move {
            if self.core.pressure.get() == Pressure::Full {
                return cold(self.overloaded(ctx)).await;
            }
            let snapshot = self.snapshot();
            self.down.until = snapshot.request_limit.map(|limit| ctx.started.after(limit));
            prelude::real_ip(ctx, &snapshot.gateway.real_ip);
            self.forwarded_applied = prelude::forwarded(ctx, &snapshot.gateway, snapshot.reads_forwarded);
            self.find_route(ctx);
            let ended = match self.route {
                Some(entry) if entry.plain.is_some() && snapshot.global.is_empty() => None,
                Some(entry) => {
                    let answer = self.request_phases(ctx, &entry.route).await;
                    if let Some(limit) = ctx.extras().and_then(|extras| extras.body_limit) {
                        self.upload.set_limit(limit);
                    }
                    answer.map(Box::new)
                }
                None => match cold(self.global_phases(ctx)).await {
                    None => {
                        ctx.reason = Reason::NoRoute;
                        Some(Box::new(no_route()))
                    }
                    answer => answer.map(Box::new),
                },
            };
            match (ended, self.route) {
                (Some(answer), _) => cold(self.answer(ctx, *answer)).await, // boxed: none is there while a node is asked
                (None, Some(entry)) => self.proxy(ctx, entry).await,
                (None, None) => cold(self.answer(ctx, Answer::page(500))).await,
            }
        }
    }

    /// The memory limit is met: a refusal, and the connection's end.
    async fn overloaded(&mut self, ctx: &mut Ctx<'e>) -> After {
        self.core.met(Bound::Memory);
        ctx.reason = Reason::Overloaded;
        ctx.request.keep_alive = false;
        self.answer(ctx, Answer::page(503)).await
    }

    fn find_route(&mut self, ctx: &mut Ctx<'e>) {
        let snapshot = self.snapshot();
        let mut captures = if snapshot.reads_captures { std::mem::take(ctx.captures) } else { Vec::new() };
        let ask = snapshot.ask(ctx);
        let Some(found) = snapshot.table.find(&ask) else { return };
        if snapshot.reads_captures {
            snapshot.table.captures(&found, ask.path, &mut captures);
            *ctx.captures = captures;
        }
        let Some(entry) = snapshot.routes.get(found.route as usize) else { return };
        ctx.route = Some(&entry.route.info);
        ctx.matched_uri = found.uri;
        ctx.matched_host = found.host;
        self.route = Some(entry);
    }

    /// Global rules alone, for requests without a route.
    async fn global_phases(&mut self, ctx: &mut Ctx<'e>) -> Option<Answer> {
        let global = &self.snapshot().global;
        match phase(global, Phases::REWRITE, ctx).await {
            None => phase(global, Phases::ACCESS, ctx).await,
            answer => answer,
        }
    }

    /// rewrite and access, the consumer's plugins merged in between.
    async fn request_phases(&mut self, ctx: &mut Ctx<'e>, route: &'e Arc<Route>) -> Option<Answer> {
        let global = &self.snapshot().global;
        self.apply_forwarded(ctx, global.reads_forwarded() || route.chain.reads_forwarded());
        for chain in [global, &route.chain] {
            if let Some(answer) = phase(chain, Phases::REWRITE, ctx).await {
                return Some(answer);
            }
        }
        if let Some(identity) = ctx.consumer {
            match self.snapshot().merged(self.view, route, identity) {
                Ok(merged) => {
                    self.apply_forwarded(ctx, merged.as_ref().is_some_and(|merged| merged.chain.reads_forwarded()));
                    self.merged = merged;
                }
                Err(status) => {
                    ctx.reason = Reason::RouteBroken;
                    return Some(Answer::page(status));
                }
            }
        }
        if let Some(merged) = self.merged.clone()
            && let Some(answer) = phase(&merged.newcomers, Phases::REWRITE, ctx).await
        {
            return Some(answer);
        }
        if let Some(answer) = phase(global, Phases::ACCESS, ctx).await {
            return Some(answer);
        }
        phase(own_chain(&self.merged, self.route)?, Phases::ACCESS, ctx).await
    }

    /// Writes the forwarded fields into the request for plugins that look at them, once.
    fn apply_forwarded(&mut self, ctx: &mut Ctx<'e>, needed: bool) {
        if needed && !self.forwarded_applied {
            self.forwarded_applied = prelude::forwarded(ctx, &self.snapshot().gateway, true);
        }
    }

    /// Runs `with` on the global chain, then on the route's (merged with the consumer's).
    pub(super) fn each_chain(&self, mut with: impl FnMut(&Chain)) {
        with(&self.view.snapshot.global);
        if let Some(own) = own_chain(&self.merged, self.route) {
            with(own);
        }
    }

    /// What the core sets, then the plugins' `header_filter`.
    pub(super) fn filter_head(&self, ctx: &mut Ctx<'e>) {
        ctx.response.fields.set_known(Known::Server, b"Server", &self.view.snapshot.server);
        if let Some(last) = ctx.tries.last()
            && (self.view.snapshot.gateway.show_upstream_status || last.status >= 500)
        {
            let mut statuses = Vec::new();
            for tried in &*ctx.tries {
                if !statuses.is_empty() {
                    statuses.extend_from_slice(b", ");
                }
                statuses.extend_from_slice(itoa::Buffer::new().format(tried.status).as_bytes());
            }
            ctx.response.fields.set(b"X-APISIX-Upstream-Status", &statuses);
        }
        ctx.add_answer_fields();
        ctx.sent.status = ctx.response.status;
        self.each_chain(|chain| chain.run_header_filter(ctx));
        self.each_chain(|chain| chain.run_header_coding(ctx));
        ctx.sent.status = ctx.response.status;
    }

    /// Sends an answer of our own through the response phases.
    pub(super) async fn answer(&mut self, ctx: &mut Ctx<'e>, answer: Answer) -> After {
        if ctx.reason == Reason::Internal && answer.status != 500 {
            ctx.reason = Reason::Answered;
        }
        let mut body = answer::prepare(ctx, answer);
        self.filter_head(ctx);
        if let BodyPlan::Replace(other) = std::mem::take(&mut ctx.body_plan) {
            body = other;
        }
        self.filter_body(ctx, &mut body);
        self.send_whole(ctx, &body).await
    }

    /// A whole body through the plugins.
    pub(super) fn filter_body(&self, ctx: &mut Ctx<'e>, data: &mut Vec<u8>) {
        self.each_chain(|chain| chain.run_body_filter(ctx, data, true));
        ctx.code_body(data, true);
    }

    /// Sends `ctx.response` with a body that is whole.
    pub(super) async fn send_whole(&mut self, ctx: &mut Ctx<'e>, body: &[u8]) -> After {
        let keep = self.keeps(ctx);
        let manner = respond::manner(ctx, keep, Some(body.len() as u64), true);
        let mut out = respond::write(ctx, &manner, super::core::date().as_bytes());
        if !manner.bodyless {
            crate::proto::h1::emit::put(&mut out, body);
            ctx.sent.body_bytes = body.len() as u64;
        }
        match self.down.send(out, self.snapshot().gateway.timeouts.send).await {
            Ok(bytes) => {
                ctx.sent.bytes += bytes;
                if manner.keep_alive { After::Keep } else { After::Close }
            }
            Err(error) => self.client_failed(ctx, error),
        }
    }

    /// The client keeps its connection, as far as everything but the response says. A body that nobody read is skipped
    /// where it came whole with the head; else the connection closes.
    pub(super) fn keeps(&mut self, ctx: &Ctx<'e>) -> bool {
        let behind_head = ctx.request.fields.received().filled().get(ctx.request.head_bytes..).unwrap_or_default();
        if !self.upload.read_whole() && self.upload.replayable() {
            let _skipped = self.upload.begin(behind_head, &mut crate::base::buf::Chunk::small());
        }
        ctx.request.keep_alive
            && self.upload.read_whole()
            && !self.core.draining.get()
            && self.core.pressure.get() == Pressure::Calm
            && !self.down.ended()
            && self.snapshot().lifetime.is_none_or(|lifetime| !self.down.is_old(lifetime))
            && ctx.conn.requests.get() < u64::from(self.snapshot().gateway.keepalive.requests)
    }

    /// The client left or let a deadline pass: what goes into the log, and whether anything can be said to it.
    pub(super) fn client_failed(&self, ctx: &mut Ctx<'e>, error: Error) -> After {
        ctx.reason = match error.kind {
            Kind::TimedOut => Reason::ClientSendTimeout,
            _ => Reason::ClientClosed,
        };
        if ctx.sent.bytes == 0 {
            ctx.sent.status = 499;
        }
        After::Gone
    }

    /// The client's body failed before an answer began.
    pub(super) async fn body_failed(&mut self, ctx: &mut Ctx<'e>, error: Error) -> After {
        debug_assert_eq!(error.side, Side::Downstream);
        let (status, reason) = match error.kind {
            Kind::TimedOut => (408, Reason::ClientBodyTimeout),
            Kind::Malformed => (400, Reason::RequestBodyMalformed),
            Kind::TooLarge => (413, Reason::RequestTooLarge),
            _ => return self.client_failed(ctx, error),
        };
        ctx.reason = reason;
        ctx.request.keep_alive = false;
        self.answer(ctx, Answer::page(status)).await
    }

    /// The log phase.
    fn finish(&mut self, ctx: &mut Ctx<'e>) {
        ctx.sent.total = clock::refresh().since(ctx.started); // what was done in this turn counts
        self.core.counters.bytes_out.add(ctx.sent.bytes);
        if let Some(spec) = self.judges {
            self.judge(ctx, spec);
        }
        if let Some(latency) = &self.owed.latency
            && let Some(last) = ctx.tries.last().filter(|last| last.header.is_some())
        {
            latency.note((last.connect + last.total).as_secs_f64(), clock::now());
        }
        self.core.count(ctx.reason);
        let own = own_chain(&self.merged, self.route);
        self.view.snapshot.global.run_log(ctx, own);
        if let Some(own) = own {
            own.run_log(ctx, None);
        }
        if let Some(format) = &self.view.snapshot.log {
            self.core.log_line(|out| format.write(ctx, out));
        }
    }
}

impl Exchange<'_> {
    /// What the tries say about their nodes' health. Only what is news is told. (APISIX judges the tries before the last one
    /// even where `passive` is not configured; here it must be.)
    #[cold]
    fn judge(&self, ctx: &Ctx<'_>, spec: &Arc<Spec>) {
        if spec.policy.outlier.is_some() {
            let mut upstreams = self.core.upstreams.borrow_mut();
            // Of an older form, node numbers mean something else.
            let mut state = upstreams.known(spec).filter(|state| state.has_form(spec));
            for tried in &*ctx.tries {
                let failed = tried.header.is_none() || tried.status >= 500;
                if state.as_mut().is_some_and(|state| state.note(tried.index, failed)) {
                    self.core.counters.ejections.add(1);
                    let node = spec.nodes.get(usize::from(tried.index)).map(Node::place).unwrap_or_default();
                    crate::limited!(warn, "{}: node {node} is put out for its failures", spec.identity);
                }
            }
        }
        let Some(passive) = spec.checks.as_ref().and_then(|checks| checks.passive.as_ref()) else { return };
        for tried in &*ctx.tries {
            let verdict = match (tried.header, tried.status) {
                (None, 504) => Verdict::Timeout,
                (None, _) => Verdict::TcpFailure,
                (Some(_), status) if passive.healthy.contains(&status) => Verdict::Success,
                (Some(_), status) if passive.unhealthy.contains(&status) => Verdict::HttpFailure,
                _ => continue,
            };
            let health = spec.nodes.get(usize::from(tried.index)).and_then(|node| node.health.as_ref());
            if health.is_some_and(|health| health.wants(verdict)) {
                self.core.judge(Judged { spec: spec.clone(), node: tried.index, verdict });
            }
        }
    }
}

/// The chain of the route, merged with the consumer's where there is one.
pub(super) fn own_chain<'c>(merged: &'c Option<Rc<Merged>>, route: Option<&'c RouteEntry>) -> Option<&'c Chain> {
    merged.as_deref().map(|merged| &merged.chain).or_else(|| route?.chain())
}

/// Keeps a way that few requests take out of the exchange's own future, which every connection carries and every request
/// walks through: it gets a future of its own when it is taken.
pub(super) fn cold<T>(way: impl Future<Output = T>) -> Pin<Box<impl Future<Output = T>>> {
    Box::pin(way)
}

/// Runs a phase of a chain that takes part in it.
pub(super) async fn phase(chain: &Chain, phase: Phases, ctx: &mut Ctx<'_>) -> Option<Answer> {
    if chain.has(phase) { chain.run(phase, ctx).await } else { None }
}

/// APISIX's answer where no route matched.
fn no_route() -> Answer {
    Answer { status: 404, body: AnswerBody::Text(b"{\"error_msg\":\"404 Route Not Found\"}\n".to_vec()), headers: Vec::new() }
}
