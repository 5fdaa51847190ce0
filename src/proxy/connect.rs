//! Connecting to a picked node. Where its name has several addresses, attempts run beside each other: the next begins when one
//! fails or takes long, the first that succeeds wins (RFC 8305).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::attempt::Deadlines;
use super::core::Core;
use super::exchange::Exchange;
use super::outgoing;
use crate::base::buf::Chunk;
use crate::base::clock::{self, Tick};
use crate::base::error::{Error, Kind, Side};
use crate::config::model::ProxyVersion;
use crate::net::tls::{self, Client};
use crate::net::{rt, watch};
use crate::plugin::Ctx;
use crate::plugin::ctx::Try;
use crate::proto::message::Reason;
use crate::proto::proxy_protocol;
use crate::upstream::pool::{self, PoolId, Stage, Way};
use crate::upstream::{Connection, Picked, Pools, Spec};

/// How long an attempt runs alone. RFC 8305 §5 recommends it.
const ALONE: Duration = Duration::from_millis(250);

type Opened = Result<Box<Connection>, (Stage, io::Error)>;

impl<'e> Exchange<'e> {
    /// Connects to the picked address, or to another one of its node.
    pub(super) async fn connect(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &'e Arc<Spec>,
        picked: Picked,
        deadlines: &Deadlines<'_>,
    ) -> Result<(Picked, Box<Connection>), Error> {
        let (addresses, client) = {
            let (mut pools, mut upstreams) = (self.core.pools.borrow_mut(), self.core.upstreams.borrow_mut());
            match upstreams.of(spec, &mut pools, self.core.index) {
                Some(state) => (state.other_addresses(picked), state.tls()),
                None => (Vec::new(), None),
            }
        };
        let plan = Plan {
            source: spec.dial.source,
            introduction: spec.dial.proxy_protocol.map(|version| introduction(ctx, version)),
            tls: client.map(|client| (client, tls::server_name(outgoing::host_text(ctx, spec, picked.node)).to_vec())),
            timeout: deadlines.upstream.connect,
        };
        if addresses.is_empty() {
            let started = clock::now();
            let opened = plan.open(self.core, picked).await;
            clock::refresh();
            return opened.map(|up| (picked, up)).map_err(|fault| note_failure(ctx, spec, picked, started, fault));
        }
        let (mut winner, up) = self.race(ctx, spec, picked, addresses, plan).await?;
        if !spec.dial.is_plain() {
            self.own_pool(ctx, spec, &mut winner, &mut self.core.pools.borrow_mut());
        }
        Ok((winner, up))
    }

    async fn race(
        &mut self,
        ctx: &mut Ctx<'e>,
        spec: &Spec,
        first: Picked,
        others: Vec<Picked>,
        plan: Plan,
    ) -> Result<(Picked, Box<Connection>), Error> {
        let (race, plan) = (Rc::new(Race::default()), Rc::new(plan));
        let _ends = Ends(race.clone());
        let mut left = std::iter::once(first).chain(others);
        let mut running = 0;
        let mut last = Error::new(Side::Upstream, Kind::TimedOut).retryable();
        loop {
            let patience = match left.next() {
                Some(next) => {
                    race.begin(self.core, &plan, next);
                    running += 1;
                    ALONE
                }
                None if running == 0 => return Err(last),
                None => plan.timeout + watch::SWEEP * 4, // each attempt ends by its own deadline
            };
            let mut late = pin!(rt::sleep(patience));
            let ended = poll_fn(|cx| match race.done.borrow_mut().pop_front() {
                Some(ended) => Poll::Ready(Some(ended)),
                None => {
                    *race.waker.borrow_mut() = Some(cx.waker().clone());
                    late.as_mut().poll(cx).map(|()| None)
                }
            });
            match ended.await {
                Some((picked, _, Ok(up))) => return Ok((picked, up)),
                Some((picked, started, Err(fault))) => {
                    running -= 1;
                    last = note_failure(ctx, spec, picked, started, fault);
                }
                None if patience > ALONE => return Err(last),
                None => {}
            }
        }
    }

    /// The pool of connections that may carry this request: those with the same name, certificates and source.
    #[cold]
    pub(super) fn own_pool(&self, ctx: &Ctx<'e>, spec: &Spec, picked: &mut Picked, pools: &mut Pools) {
        let name = match &spec.dial.tls {
            Some(_) => tls::server_name(outgoing::host_text(ctx, spec, picked.node)).into(),
            None => Box::default(),
        };
        picked.pool = match spec.dial.proxy_protocol {
            Some(_) => PoolId::NONE,
            None => pools.of_kind(picked.address, pool::Kind { dial: spec.dial.digest(), name }),
        };
    }
}

/// How the node's addresses are connected to, whichever it is.
struct Plan {
    source: Option<std::net::IpAddr>,
    introduction: Option<Vec<u8>>,
    tls: Option<(Client, Vec<u8>)>,
    timeout: Duration,
}

impl Plan {
    async fn open(&self, core: &Core, picked: Picked) -> Opened {
        let introduction = self.introduction.as_ref().map(|header| {
            let mut out = Chunk::small();
            crate::proto::h1::emit::put(&mut out, header);
            out
        });
        let tls = self.tls.as_ref().map(|(client, name)| (client, name.as_slice()));
        let way = Way { address: picked.address, source: self.source, introduction, tls };
        Pools::open(&core.counters, way, self.timeout).await
    }
}

/// Attempts beside each other. Each is a task of its own: one that loses finishes by itself, as no operation is dropped on a
/// live connection.
#[derive(Default)]
struct Race {
    done: RefCell<VecDeque<(Picked, Tick, Opened)>>,
    waker: RefCell<Option<Waker>>,
    over: Cell<bool>,
}

/// Ends a race, however whoever waits for it ends.
struct Ends(Rc<Race>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.over.set(true);
        let late = self.0.done.take();
        late.into_iter().filter_map(|(_, _, opened)| opened.ok()).for_each(pool::retire);
    }
}

impl Race {
    fn begin(self: &Rc<Self>, core: &Rc<Core>, plan: &Rc<Plan>, picked: Picked) {
        let (race, core, plan, started) = (self.clone(), core.clone(), plan.clone(), clock::now());
        rt::spawn(async move {
            let opened = plan.open(&core, picked).await;
            clock::refresh();
            match (race.over.get(), opened) {
                (true, Ok(up)) => pool::retire(up),
                (true, Err(_)) => {}
                (false, opened) => {
                    race.done.borrow_mut().push_back((picked, started, opened));
                    let waker = race.waker.borrow_mut().take();
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
            }
        });
    }
}

/// An attempt that failed: a try of its own in the log. Nothing was sent, so that another may follow.
fn note_failure(ctx: &mut Ctx<'_>, spec: &Spec, picked: Picked, started: Tick, fault: (Stage, io::Error)) -> Error {
    let (stage, cause) = fault;
    let error = Error::from_io(Side::Upstream, &cause).retryable();
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
}

/// What a node is told of the client before anything else.
fn introduction(ctx: &Ctx<'_>, version: ProxyVersion) -> Vec<u8> {
    let client = ctx.remote_ip().map(|ip| SocketAddr::new(ip, ctx.remote_port()));
    match version {
        ProxyVersion::V1 => proxy_protocol::write_v1(client, ctx.conn.local),
        ProxyVersion::V2 => proxy_protocol::write_v2(client, ctx.conn.local),
    }
}
