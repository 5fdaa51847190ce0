//! An HTTP/1 connection of a client: heads are read, exchanges are run, one after the other.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use super::core::{Core, View};
use super::downstream::Downstream;
use super::exchange;
use crate::base::address::ip_text;
use crate::base::clock::{self, Tick};
use crate::base::limits;
use crate::config::gateway::Gateway;
use crate::net::Wait;
use crate::net::near::{self, Near};
use crate::net::rt;
use crate::plugin::ctx::{ConnInfo, Parts};
use crate::proto::h1::{self, HeadFault, HeadLimits, Progress};
use crate::proto::message::Reason;
use crate::proto::proxy_protocol::{self, Parsed};

/// What an exchange leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The connection serves the next request.
    Keep,
    /// The answer is sent whole; the connection closes so that the client gets all of it, whatever it may still send.
    Close,
    /// The same for a client that said itself that it sends nothing more.
    Done,
    /// The answer is cut: the connection is reset, so that nothing looks complete that is not.
    Cut,
    /// Nobody is there any more.
    Gone,
}

/// Serves a connection to its end, and lets go `guard` then. What exchanges need lives in a future of its own, which a
/// connection that is idle among many gives up: it keeps its stream and little more.
pub fn serve(
    core: Rc<Core>,
    guard: impl Sized + 'static,
    mut down: Downstream,
    mut info: ConnInfo,
    proxy_protocol: bool,
) -> impl Future<Output = ()> {
    async move {
        let mut first = Some(clock::refresh());
        if proxy_protocol && !exchange::cold(read_proxy_header(&core, &mut down, &mut info, first)).await {
            exchange::cold(down.stream.close()).await;
            return drop(guard);
        }
        loop {
            down.stream.keep_near(Near::ClientWatch, Near::ClientSocket);
            let work = rt::aside(work(&core, &mut down, &info, first.take()));
            near::keep_near(Near::Work, &*work);
            match work.await {
                Work::Paused if wait(&core, &mut down).await => {}
                Work::Paused | Work::Ended => break,
                Work::Lingers => {
                    exchange::cold(down.linger()).await;
                    return drop(guard);
                }
            }
        }
        if down.stream.in_flight() {
            exchange::cold(down.stream.close()).await;
        } else {
            drop(down);
        }
        drop(guard);
    }
}

/// Why a connection's exchanges stopped.
enum Work {
    /// It is idle among many.
    Paused,
    /// It is to be closed once the client has all that was sent.
    Lingers,
    /// It is to be closed.
    Ended,
}

/// Reads heads and runs exchanges, one after the other.
fn work(core: &Rc<Core>, down: &mut Downstream, info: &ConnInfo, mut first: Option<Tick>) -> impl Future<Output = Work> {
    async move {
        let mut parts = core.parts();
        let why = loop {
            let after = match read_head(core, down, &mut parts, first.take()).await {
                Head::Whole(view, started) => {
                    info.requests.set(info.requests.get() + 1);
                    near::keep_head_near(parts.request.fields.received());
                    exchange::run(core, view, down, &mut parts, info, started).await
                }
                Head::Faulty(fault, started) => {
                    exchange::cold(exchange::refuse(core, down, &mut parts, info, &fault, started)).await
                }
                Head::Idle => break Work::Paused,
                Head::Gone => break Work::Ended,
            };
            match after {
                After::Keep if near::wanted() => {
                    near::forget_exchange();
                    parts.keep_near();
                }
                After::Keep => {}
                After::Close => break Work::Lingers,
                After::Cut => {
                    down.stream.reset_on_close();
                    break Work::Ended;
                }
                After::Done if down.has_bytes() => break Work::Lingers,
                After::Done | After::Gone => break Work::Ended,
            }
        };
        core.keep_parts(parts);
        why
    }
}

/// Waits for an idle client's next bytes, which the next head begins with; false where there are none to come.
async fn wait(core: &Core, down: &mut Downstream) -> bool {
    arm(down, &core.view().snapshot.gateway, core, None);
    core.counters.idle.add(1);
    let read = poll_fn(|cx| down.poll_bytes(cx, true, limits::CHUNK_HEAD_BYTES)).await;
    core.counters.idle.sub(1);
    match read {
        Ok(chunk) if !chunk.is_empty() => {
            down.put_back(chunk);
            true
        }
        _ => false,
    }
}

enum Head {
    Whole(Rc<View>, Tick),
    Idle,
    Gone,
    Faulty(HeadFault, Tick),
}

/// Reads until a head is whole. `accepted` is the moment of the accept for a connection's first head. No view is held while
/// waiting: an idle connection must not keep an old epoch alive.
fn read_head(core: &Core, down: &mut Downstream, parts: &mut Parts, accepted: Option<Tick>) -> impl Future<Output = Head> {
    async move {
        let mut started = accepted;
        if !parts.request.fields.received().is_empty() {
            started = Some(core.head_begun());
        }
        loop {
            let since = started.unwrap_or_else(clock::now);
            let view = core.view();
            match parse(core, &view, down, parts, started) {
                Ok(Progress::Complete) => return Head::Whole(view, since),
                Ok(Progress::Partial) => drop(view),
                Err(fault) => return Head::Faulty(fault, since),
            }
            let idle = started.is_none();
            if idle && core.gates_receives() && !down.has_bytes() {
                return Head::Idle;
            }
            core.counters.idle.add(u64::from(idle));
            let read = poll_fn(|cx| down.poll_bytes(cx, false, limits::CHUNK_HEAD_BYTES)).await;
            core.counters.idle.sub(u64::from(idle));
            let late = down.stream.watch().fired() == Some(Wait::Header);
            let received = parts.request.fields.received_mut();
            match read {
                Ok(chunk) if !chunk.is_empty() => {
                    started.get_or_insert_with(|| core.head_begun());
                    core.counters.bytes_in.add(chunk.len() as u64);
                    received.join(chunk);
                }
                _ if late && !received.is_empty() => {
                    let fault = HeadFault { status: 408, reason: Reason::ClientHeaderTimeout, what: "the head took too long" };
                    return Head::Faulty(fault, since);
                }
                _ => return Head::Gone,
            }
        }
    }
}

/// Parses what is there; where that is not a whole head, sets the deadline for the rest of it.
fn parse(core: &Core, view: &View, down: &Downstream, parts: &mut Parts, started: Option<Tick>) -> Result<Progress, HeadFault> {
    let gateway = &*view.snapshot.gateway;
    let limits = &gateway.limits;
    let limits = HeadLimits { bytes: limits.header_bytes, fields: limits.headers, target_bytes: limits.uri_bytes };
    let progress = match parts.request.fields.received().is_empty() {
        true => Progress::Partial,
        false => h1::request::parse(&mut parts.request, &limits, &gateway.paths)?,
    };
    match progress {
        Progress::Complete => down.stream.watch().disarm(),
        Progress::Partial => arm(down, gateway, core, started),
    }
    Ok(progress)
}

/// `timeouts.header` runs from accept or from the first byte and is not extended by trickling.
#[inline(always)] // on every request's way
fn arm(down: &Downstream, gateway: &Gateway, core: &Core, started: Option<Tick>) {
    let watch = down.stream.watch();
    match started {
        Some(started) => {
            let timeouts = &gateway.timeouts;
            let whole = if timeouts.request.is_zero() { timeouts.header } else { timeouts.header.min(timeouts.request) };
            watch.arm_at(Wait::Header, started.after(whole));
        }
        None if core.draining.get() => watch.arm(Wait::Keepalive, Duration::ZERO),
        None if gateway.timeouts.lifetime.is_zero() => watch.arm(Wait::Keepalive, gateway.timeouts.keepalive),
        None => {
            let old = down.opened.after(gateway.timeouts.lifetime);
            watch.arm_at(Wait::Keepalive, clock::now().after(gateway.timeouts.keepalive).min(old));
        }
    }
}

/// Reads the PROXY header that the listener demands. False: there was none, and the connection is closed.
async fn read_proxy_header(core: &Core, down: &mut Downstream, info: &mut ConnInfo, accepted: Option<Tick>) -> bool {
    let header = core.view().snapshot.gateway.timeouts.header;
    down.stream.watch().arm_at(Wait::Header, accepted.unwrap_or_else(clock::now).after(header));
    let mut received = crate::base::buf::Chunk::empty();
    loop {
        let read = poll_fn(|cx| down.poll_bytes(cx, false, limits::CHUNK_SMALL_BYTES)).await;
        match read {
            Ok(chunk) if !chunk.is_empty() => received.join(chunk),
            _ => return false,
        }
        match proxy_protocol::parse(received.filled()) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Done { consumed, source, destination }) => {
                info.proxy_protocol = source;
                info.peer = source.or(info.peer);
                info.peer_text = info.peer.map(|peer| ip_text(peer.ip())).unwrap_or_default();
                info.local = destination.or(info.local);
                received.consume(consumed);
                down.put_back(received);
                return true;
            }
            Err(_) => {
                core.count(Reason::RequestMalformed);
                return false;
            }
        }
    }
}
