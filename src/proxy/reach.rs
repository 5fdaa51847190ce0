//! Reaching a node: picking one, connecting, sending the request, until an answer begins. APISIX request.md §3.8, §3.9.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::attempt::{self, Deadlines};
use super::exchange::{Exchange, cold, own_chain, phase};
use super::forward::{Failure, failed};
use super::outgoing;
use crate::base::buf::Chunk;
use crate::base::clock;
use crate::base::count::Bound;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::{near, rt};
use crate::plugin::ctx::Try;
use crate::plugin::{Ctx, Phases, cookie};
use crate::proto::vars::Vars;
use crate::upstream::pool::{self, PoolId};
use crate::upstream::spec::{Balance, HashKey};
use crate::upstream::{Choice, Connection, Line, Owed, Picked, Queue, Spec, State, Tried};

impl<'e> Exchange<'e> {
    /// Tries nodes until one's answer begins.
    pub(super) fn reach(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        websocket: bool,
        deadlines: &Deadlines<'_>,
    ) -> impl Future<Output = Result<(Picked, Box<Connection>), Failure>> {
        async move {
            let begun = clock::now();
            let mut tried = Tried::default();
            let allowed = 1 + (spec.retries as usize).min(limits::TRIES_MAX - 1);
            if ctx.request.expects_continue && !ctx.request.body.is_empty() {
                cold(self.say_continue(ctx, deadlines)).await.map_err(Failure::Client)?;
            }
            loop {
                let mut picked = match self.pick(ctx, spec, &tried, false) {
                    Choice::Node(picked) => picked,
                    Choice::Full(queue) => cold(self.wait_for_node(ctx, spec, &tried, &queue)).await?,
                    Choice::Nobody => return Err(nobody(spec, &tried)),
                };
                tried.note(picked.node);
                if tried.count() > 1 {
                    self.core.counters.retries.add(1);
                }
                if self.takes_part(Phases::BEFORE_PROXY) {
                    self.before_proxy(ctx).await?;
                }
                let error = match self.try_node(ctx, spec, &mut picked, websocket, deadlines).await {
                    Ok(up) => return Ok((picked, up)),
                    Err(error) => error,
                };
                if error.side == Side::Downstream {
                    return Err(Failure::Client(error));
                }
                let in_time = spec.retry_timeout.is_zero() || clock::now().since(begun) < spec.retry_timeout;
                if !error.retry || tried.count() >= allowed || !in_time || !self.may_retry(ctx, spec) {
                    return Err(Failure::Upstream);
                }
                self.owed = Owed::default(); // it is under way at that node no longer
            }
        }
    }

    /// `called`: it waited for its turn, others do not go first.
    fn pick(&mut self, ctx: &Ctx<'e>, spec: &Arc<Spec>, tried: &Tried, called: bool) -> Choice {
        let key = match &spec.balancer {
            Balance::Chash(key) => hash_key(ctx, key),
            _ => Cow::Borrowed(&b""[..]),
        };
        let bound = session_node(ctx, spec);
        let mut pools = self.core.pools.borrow_mut();
        let mut upstreams = self.core.upstreams.borrow_mut();
        let Some(state) = upstreams.of(spec, &mut pools, self.core.index) else { return Choice::Nobody };
        if tried.count() == 0 && !called {
            state.earn();
            if let Some(queue) = state.waiting() {
                return Choice::Full(queue);
            }
        }
        let mut choice = state.pick(tried, &key, bound);
        if let Choice::Node(picked) = &mut choice {
            if !spec.dial.is_plain() {
                self.own_pool(ctx, spec, picked, &mut pools);
            }
            if !matches!(spec.balancer, Balance::RoundRobin | Balance::Chash(_)) || spec.policy.bounds.is_some() {
                self.owed = state.owed(*picked);
            }
        }
        choice
    }

    /// Waits until a node is below its limit, behind those who came before.
    async fn wait_for_node(
        &mut self,
        ctx: &Ctx<'e>,
        spec: &Arc<Spec>,
        tried: &Tried,
        queue: &Rc<Queue>,
    ) -> Result<Picked, Failure> {
        let Some(bounds) = &spec.policy.bounds else { return Err(nobody(spec, tried)) };
        if queue.len() >= bounds.pending {
            self.core.met(Bound::Pending);
            return Err(Failure::Overloaded);
        }
        let mut late = pin!(rt::sleep(bounds.pending_timeout));
        let aside = tried.count() > 0 || session_node(ctx, spec).is_some();
        let mut line = if aside { Line::Aside } else { Line::Last };
        loop {
            let place = queue.join(line);
            let gated = self.core.gates_receives();
            let down = &mut *self.down;
            let called = poll_fn(|cx| {
                if place.poll(cx).is_ready() {
                    return Poll::Ready(Ok(true));
                }
                if let Poll::Ready(error) = down.poll_gone(cx, gated) {
                    return Poll::Ready(Err(error));
                }
                late.as_mut().poll(cx).map(|()| Ok(false))
            });
            if !called.await.map_err(Failure::Client)? {
                self.core.met(Bound::PendingTimeout);
                return Err(Failure::Overloaded);
            }
            match self.pick(ctx, spec, tried, true) {
                Choice::Node(picked) => return Ok(picked),
                Choice::Full(_) if aside => {}         // not the node it wants
                Choice::Full(_) => line = Line::First, // somebody was faster
                Choice::Nobody => {
                    queue.call(); // the others need not wait in vain
                    return Err(nobody(spec, tried));
                }
            }
        }
    }

    /// Nothing had been sent, or the budget has a retry left.
    #[cold]
    fn may_retry(&self, ctx: &Ctx<'e>, spec: &Arc<Spec>) -> bool {
        if ctx.tries.last().is_none_or(|last| last.bytes_sent == 0) {
            return true;
        }
        let mut upstreams = self.core.upstreams.borrow_mut();
        let may = upstreams.known(spec).is_none_or(State::may_retry);
        if !may {
            self.core.met(Bound::RetryBudget);
        }
        may
    }

    pub(super) fn takes_part(&self, phase: Phases) -> bool {
        let mut some = false;
        self.each_chain(|chain| some |= chain.has(phase));
        some
    }

    async fn before_proxy(&self, ctx: &mut Ctx<'e>) -> Result<(), Failure> {
        let own = own_chain(&self.merged, self.route);
        for chain in [Some(&self.view.snapshot.global), own].into_iter().flatten() {
            if let Some(answer) = phase(chain, Phases::BEFORE_PROXY, ctx).await {
                return Err(Failure::Answer(Box::new(answer)));
            }
        }
        Ok(())
    }

    /// RFC 9110 §10.1.1: the body was asked to be waited for, and it is wanted.
    pub(super) async fn say_continue(&mut self, ctx: &mut Ctx<'e>, deadlines: &Deadlines<'_>) -> Result<(), Error> {
        if ctx.request.fields.received().len() > ctx.request.head_bytes {
            return Ok(()); // the client did not wait
        }
        let mut out = Chunk::small();
        crate::proto::h1::emit::put(&mut out, b"HTTP/1.1 100 Continue\r\n\r\n");
        ctx.sent.bytes += self.down.send(out, deadlines.client.send).await?;
        Ok(())
    }

    /// One try at a node: a pooled connection if there is one, else a fresh one. A pooled one that turns out to be closed is
    /// no try of its own, where the request may be repeated. Another address of the node may turn out to be the better one.
    fn try_node(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        picked: &mut Picked,
        websocket: bool,
        deadlines: &Deadlines<'_>,
    ) -> impl Future<Output = Result<Box<Connection>, Error>> {
        async move {
            let started = clock::now();
            let mut look = true; // at the pool
            loop {
                let pooled = if look { poll_fn(|cx| Poll::Ready(self.pooled(cx, picked.pool))).await } else { None };
                let was_pooled = pooled.is_some();
                let mut up = match pooled {
                    Some(up) => up,
                    None => {
                        let (at, up) = cold(self.connect(ctx, spec, *picked, deadlines)).await?;
                        *picked = at;
                        up
                    }
                };
                if near::wanted() {
                    up.keep_near();
                }
                look = false;
                let connect = if was_pooled { Duration::ZERO } else { clock::now().since(started) };
                let sent_before = up.stream.sent();
                let result = match self.compose(ctx, spec, picked.node, websocket) {
                    Ok(out) => {
                        let gated = self.core.gates_receives();
                        attempt::run(ctx, self.down, &mut up, &mut self.upload, out, deadlines, gated, was_pooled).await
                    }
                    Err(error) => Err(error),
                };
                let spent = clock::now().since(started);
                let mut note = Try {
                    node: Some(picked.address),
                    index: picked.node,
                    status: ctx.response.status,
                    connect,
                    header: Some(spent),
                    total: spent,
                    bytes_sent: up.stream.sent().wrapping_sub(sent_before),
                    bytes_received: ctx.response.head_bytes as u64,
                };
                let mut error = match result {
                    Ok(()) => {
                        ctx.tries.push(note);
                        return Ok(up);
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
    }

    /// A connection out of the pool that its node has not closed.
    fn pooled(&self, cx: &mut Context<'_>, pool: PoolId) -> Option<Box<Connection>> {
        let mut again = false;
        loop {
            let taken = self.core.pools.borrow_mut().take(pool, again);
            again = true;
            let Some(mut up) = taken else {
                self.core.counters.pool_misses.add(1);
                return None;
            };
            if up.poll_recv(cx, limits::CHUNK_SMALL_BYTES).is_pending() {
                self.core.counters.pool_hits.add(1);
                return Some(up);
            }
            pool::retire(up);
        }
    }

    /// The request's head and what of its body came along.
    fn compose(&mut self, ctx: &mut Ctx<'e>, spec: &Spec, node: u16, websocket: bool) -> Result<Chunk, Error> {
        let mut out = outgoing::write(ctx, spec, node, websocket, self.forwarded_applied, &self.view.snapshot.gateway.paths);
        let behind_head = ctx.request.fields.received().filled().get(ctx.request.head_bytes..).unwrap_or_default();
        if self.upload.may_begin_in_place(behind_head.len(), ctx.request.method) {
            self.upload.begin_in_place(ctx.request, &mut out)?;
        } else {
            self.upload.begin(behind_head, &mut out)?;
        }
        if self.core.is_sampled() && clock::now() == ctx.started {
            // Whole at once, and nothing was waited for since but within this turn: else the thread's time would have moved on.
            ctx.inside_nanos = u32::try_from(clock::read().since(ctx.started).as_nanos()).unwrap_or(u32::MAX);
        }
        Ok(out)
    }
}

/// The node that the client's session lies on, as its cookie says.
pub(super) fn session_node(ctx: &Ctx<'_>, spec: &Spec) -> Option<usize> {
    let sticky = spec.stickiness.as_ref()?;
    sticky.node(cookie(&ctx.request.fields, &sticky.cookie)?)
}

/// The answer where no node can be picked: a ring on which nobody has a point is APISIX's 502, an upstream without nodes its 503.
#[cold]
fn nobody(spec: &Spec, tried: &Tried) -> Failure {
    let hashes = matches!(spec.balancer, Balance::Chash(_)) && !spec.nodes.is_empty();
    let status = if hashes { 502 } else { 503 };
    if tried.count() == 0 { Failure::NoNode(status) } else { Failure::Upstream }
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
