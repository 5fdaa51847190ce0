//! Accepting: one task per listener, each connection its own task.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Event, ListenSocket};
use crate::base::address::ip_text;
use crate::base::count::Bound;
use crate::config::gateway::Listener;
use crate::net::Stream;
use crate::net::accept::Acceptor;
use crate::net::rt;
use crate::plugin::ctx::ConnInfo;
use crate::proto::message::Reason;
use crate::proxy::downstream::Downstream;
use crate::proxy::{Core, conn_h1};

/// The worker's listeners by the coordinator's numbers.
pub struct Listeners {
    core: Rc<Core>,
    events: flume::Sender<Event>,
    open: RefCell<HashMap<u32, Rc<Open>>>,
}

struct Open {
    id: u32,
    acceptor: Acceptor,
    conf: Arc<Listener>,
    local: Option<SocketAddr>,
    accepting: Cell<bool>,
}

/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

impl Listeners {
    /// No listeners yet.
    pub fn new(core: Rc<Core>, events: flume::Sender<Event>) -> Self {
        Self { core, events, open: RefCell::default() }
    }

    /// Begins to accept from a socket.
    pub fn listen(self: &Rc<Self>, id: u32, socket: ListenSocket, conf: Arc<Listener>) {
        let acceptor = match socket {
            ListenSocket::Tcp(listener) => Acceptor::tcp(listener),
            ListenSocket::Unix(listener) => Acceptor::unix(listener),
        };
        let acceptor = match acceptor {
            Ok(acceptor) => acceptor,
            Err(error) => return tracing::error!(%error, address = %conf.address, "can't take a listener"),
        };
        let local = acceptor.local_addr();
        let open = Rc::new(Open { id, acceptor, conf, local, accepting: Cell::new(true) });
        self.open.borrow_mut().insert(id, open.clone());
        rt::spawn(self.clone().accept(open));
    }

    async fn accept(self: Rc<Self>, open: Rc<Open>) {
        loop {
            match open.acceptor.accept().await {
                Ok(Some((stream, peer))) => self.take(&open, stream, peer),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, address = %open.conf.address, "accept failed");
                    rt::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        open.accepting.set(false);
        let _gone = self.events.send(Event::Stopped { worker: self.core.index, id: open.id });
    }

    /// Stops accepting; the socket stays open and keeps its queue. Answered by [`Event::Stopped`].
    pub fn stop(&self, id: u32) {
        let open = self.open.borrow().get(&id).cloned();
        match open {
            Some(open) if open.accepting.get() => open.acceptor.stop(),
            _ => drop(self.events.send(Event::Stopped { worker: self.core.index, id })),
        }
    }

    /// Takes what is queued, then closes the socket. Answered by [`Event::Closed`].
    pub fn close(&self, id: u32) {
        if let Some(open) = self.open.borrow_mut().remove(&id)
            && open.acceptor.set_nonblocking().is_ok()
        {
            while let Ok((stream, peer)) = open.acceptor.accept_queued() {
                self.take(&open, stream, peer);
            }
        }
        let _gone = self.events.send(Event::Closed { worker: self.core.index, id });
    }

    /// Stops all of them at once, for the end of the worker.
    pub fn stop_all(&self) {
        for open in self.open.borrow().values() {
            open.acceptor.stop();
        }
    }

    fn take(&self, open: &Rc<Open>, stream: Stream, peer: Option<SocketAddr>) {
        let core = &self.core;
        core.counters.accepted.add(1);
        if core.open.get() >= core.connection_limit() {
            core.counters.refused.add(1);
            core.met(Bound::Connections);
            core.count(Reason::Overloaded);
            stream.reset_on_close(); // a fast refusal; nothing was read
            return;
        }
        core.open.set(core.open.get() + 1);
        core.counters.connections.add(1);
        let local = match open.local {
            Some(local) if local.ip().is_unspecified() => stream.local_addr(),
            local => local,
        };
        let unmapped = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let info = ConnInfo {
            peer: peer.map(unmapped),
            local: local.map(unmapped),
            proxy_protocol: None,
            scheme: "http",
            requests: Cell::new(0),
            peer_text: peer.map(|peer| ip_text(peer.ip().to_canonical())).unwrap_or_default(),
        };
        let (guard, down) = (Counted(core.clone()), Downstream::new(stream));
        let proxy_protocol = open.conf.proxy_protocol;
        rt::spawn(conn_h1::serve(core.clone(), guard, down, info, proxy_protocol));
    }
}

/// Counts a connection down however its task ends.
struct Counted(Rc<Core>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.counters.connections.sub(1);
    }
}
