//! The listeners: opened before the workers start, added, changed and removed by reloads, and stopped so that no queued
//! connection is lost: stop accepting everywhere, then empty the queue without blocking, then close (runtime.md §3.2). Never
//! shutdown(2).

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use super::bind::{BindError, bind_error};
use super::fleet::Fleet;
use crate::config::gateway::{AcceptMode, Gateway, ListenAddress, Listener};
use crate::net::host;
use crate::net::listen::{self, Inherited, TcpOptions};
use crate::worker::{ListenSocket, Message};

/// All listeners, those on their way out included.
pub struct Listeners {
    open: Vec<Open>,
    inherited: Vec<Inherited>,
    next_id: u32,
    workers: usize,
}

/// How a listener is doing, for the Control API.
#[derive(Clone, Debug)]
pub struct ListenerState {
    /// Its number.
    pub id: u32,
    /// Its address.
    pub address: String,
    /// `reuseport` or `shared`.
    pub accept: &'static str,
    /// `serving`, `stopping` or `closing`.
    pub state: &'static str,
}

/// One listener and the coordinator's own copies of its sockets: one per worker, or one that all share.
struct Open {
    id: u32,
    conf: Arc<Listener>,
    mode: AcceptMode,
    sockets: Vec<Own>,
    /// A Unix socket's file, to be removed at the end if it is still this one.
    file: Option<(PathBuf, (u64, u64))>,
    inherited: bool,
    state: State,
}

enum State {
    /// Opened, not given to the workers yet.
    Fresh,
    Serving,
    /// Workers that still accept.
    Stopping(BTreeSet<u16>),
    /// Workers that still empty the queue.
    Closing(BTreeSet<u16>),
}

enum Own {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Own {
    fn copy(&self) -> io::Result<ListenSocket> {
        Ok(match self {
            Self::Tcp(socket) => ListenSocket::Tcp(socket.try_clone()?),
            Self::Unix(socket) => ListenSocket::Unix(socket.try_clone()?),
        })
    }
}

impl AsFd for Own {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// A change of listeners that can be carried out without failing: every new socket is open.
pub struct Change {
    fresh: Vec<Open>,
    leaving: Vec<u32>,
    backlogs: Vec<(u32, Arc<Listener>)>,
}

impl Listeners {
    /// None yet. `inherited` are sockets that systemd opened.
    pub fn new(workers: usize, inherited: Vec<Inherited>) -> Self {
        Self { open: Vec::new(), inherited, next_id: 1, workers }
    }

    /// Opens what a configuration needs beyond what is open. Nothing changes for the workers until [`Self::apply`].
    ///
    /// # Errors
    /// The first address that cannot be opened; whatever was opened before it is closed again.
    pub fn prepare(&mut self, gateway: &Gateway) -> Result<Change, BindError> {
        let mut change = Change { fresh: Vec::new(), leaving: Vec::new(), backlogs: Vec::new() };
        let mut wanted: Vec<(&Listener, bool)> = Vec::new();
        for conf in &gateway.listeners {
            if wanted.iter().any(|(other, _)| other.address == conf.address) {
                continue;
            }
            let mode = mode_of(conf, gateway);
            match self.serving(&conf.address) {
                Some(open) if same_but_backlog(&open.conf, conf) && (open.mode == mode || open.inherited) => {
                    if open.conf.backlog != conf.backlog {
                        change.backlogs.push((open.id, Arc::new(conf.clone())));
                    }
                }
                Some(open) if open.inherited => {
                    return Err(BindError::new(format!(
                        "{}: systemd opened this socket; changing it needs a restart",
                        conf.address
                    )));
                }
                other => wanted.push((conf, other.is_some() || self.holds_port_of(&conf.address))),
            }
        }
        // A second gateway's port would be shared silently under SO_REUSEPORT: ask for all of them before the first is ours.
        for (conf, ours) in &wanted {
            if let (ListenAddress::Tcp(address), false, None) = (&conf.address, ours, self.inherited_for(&conf.address)) {
                listen::probe_tcp(*address, conf.v6only).map_err(|error| bind_error(&conf.address, &error))?;
            }
        }
        for (conf, replaces) in &wanted {
            let mode = mode_of(conf, gateway);
            let open = self.open(conf, mode, *replaces)?;
            change.fresh.push(open);
        }
        let stays = |open: &Open| {
            let kept = gateway.listeners.iter().any(|conf| conf.address == open.conf.address);
            kept && !change.fresh.iter().any(|fresh| fresh.conf.address == open.conf.address)
        };
        change.leaving =
            self.open.iter().filter(|open| matches!(open.state, State::Serving) && !stays(open)).map(|open| open.id).collect();
        Ok(change)
    }

    /// Carries a change out: new listeners go to the workers, then those that leave stop accepting.
    pub fn apply(&mut self, change: Change, fleet: &Fleet) {
        for (id, conf) in change.backlogs {
            let Some(open) = self.open.iter_mut().find(|open| open.id == id) else { continue };
            for socket in &open.sockets {
                if let Err(error) = listen::set_backlog(socket.as_fd(), conf.backlog) {
                    tracing::warn!("{}: cannot change the backlog: {error}", conf.address);
                }
            }
            tracing::info!("listening on {} with a backlog of {}", conf.address, conf.backlog);
            open.conf = conf;
        }
        for mut open in change.fresh {
            tracing::info!("listening on {}{}", open.conf.address, if open.inherited { " (opened by systemd)" } else { "" });
            open.state = State::Serving;
            open.give(fleet);
            self.open.push(open);
        }
        for id in change.leaving {
            self.stop(id, fleet);
        }
    }

    /// All listeners stop accepting.
    pub fn stop_all(&mut self, fleet: &Fleet) {
        let serving = |open: &&Open| matches!(open.state, State::Serving);
        let ids: Vec<u32> = self.open.iter().filter(serving).map(|open| open.id).collect();
        ids.into_iter().for_each(|id| self.stop(id, fleet));
    }

    fn stop(&mut self, id: u32, fleet: &Fleet) {
        let Some(open) = self.open.iter_mut().find(|open| open.id == id) else { return };
        tracing::info!("no longer accepting on {}", open.conf.address);
        let running: BTreeSet<u16> = fleet.running().map(|seat| seat.index).collect();
        open.state = State::Stopping(running);
        fleet.broadcast(|| Message::StopAccepting { id });
        self.advance(id, fleet);
    }

    /// A worker has stopped accepting from a listener.
    pub fn stopped(&mut self, worker: u16, id: u32, fleet: &Fleet) {
        if let Some(Open { state: State::Stopping(waiting), .. }) = self.open.iter_mut().find(|open| open.id == id) {
            waiting.remove(&worker);
        }
        self.advance(id, fleet);
    }

    /// A worker has closed a listener.
    pub fn closed(&mut self, worker: u16, id: u32, fleet: &Fleet) {
        if let Some(Open { state: State::Closing(waiting), .. }) = self.open.iter_mut().find(|open| open.id == id) {
            waiting.remove(&worker);
        }
        self.advance(id, fleet);
    }

    /// A worker has ended: nobody waits for it.
    pub fn ended(&mut self, worker: u16, fleet: &Fleet) {
        let ids: Vec<u32> = self.open.iter().map(|open| open.id).collect();
        for id in ids {
            self.stopped(worker, id, fleet);
            self.closed(worker, id, fleet);
        }
    }

    fn advance(&mut self, id: u32, fleet: &Fleet) {
        let Some(place) = self.open.iter().position(|open| open.id == id) else { return };
        let Some(open) = self.open.get_mut(place) else { return };
        if matches!(&open.state, State::Stopping(waiting) if waiting.is_empty()) {
            // Nobody has an accept posted any more: now the queue can be emptied without blocking.
            for socket in &open.sockets {
                if let Err(error) = listen::set_nonblocking(socket.as_fd()) {
                    tracing::warn!("{}: {error}", open.conf.address);
                }
            }
            open.state = State::Closing(fleet.running().map(|seat| seat.index).collect());
            fleet.broadcast(|| Message::CloseListener { id });
        }
        if matches!(&open.state, State::Closing(waiting) if waiting.is_empty()) {
            let open = self.open.remove(place);
            open.unlink();
            tracing::info!("closed {}", open.conf.address);
        }
    }

    /// True once nothing is open.
    pub fn all_closed(&self) -> bool {
        self.open.is_empty()
    }

    /// Drops what is left, at a stop that does not wait.
    pub fn abandon(&mut self) {
        self.open.drain(..).for_each(|open| open.unlink());
    }

    /// For the Control API.
    pub fn states(&self) -> Vec<ListenerState> {
        let state = |open: &Open| ListenerState {
            id: open.id,
            address: open.conf.address.to_string(),
            accept: mode_name(open.mode),
            state: match open.state {
                State::Fresh => "opened",
                State::Serving => "serving",
                State::Stopping(_) => "stopping",
                State::Closing(_) => "closing",
            },
        };
        self.open.iter().map(state).collect()
    }

    fn serving(&self, address: &ListenAddress) -> Option<&Open> {
        self.open.iter().find(|open| same_place(&open.conf.address, address) && matches!(open.state, State::Serving))
    }

    /// True if a listener of ours, one on its way out included, would answer a probe of the address.
    fn holds_port_of(&self, wanted: &ListenAddress) -> bool {
        let ListenAddress::Tcp(wanted) = wanted else { return false };
        self.open.iter().any(|open| matches!(&open.conf.address, ListenAddress::Tcp(ours) if ours.port() == wanted.port()))
    }

    fn open(&mut self, conf: &Listener, mode: AcceptMode, replaces: bool) -> Result<Open, BindError> {
        let fail = |error: io::Error| bind_error(&conf.address, &error);
        let mut mode = mode;
        let inherited = self.inherited_for(&conf.address).map(copy_inherited).transpose().map_err(fail)?;
        let is_inherited = inherited.is_some();
        let mut file = None;
        let sockets = if let Some(socket) = inherited {
            mode = AcceptMode::Shared;
            vec![socket]
        } else {
            match &conf.address {
                ListenAddress::Tcp(address) => {
                    let count = if mode == AcceptMode::Reuseport { self.workers } else { 1 };
                    let options = TcpOptions { backlog: conf.backlog, v6only: conf.v6only };
                    let tcp = |_| listen::tcp(*address, options).map(Own::Tcp);
                    (0..count).map(tcp).collect::<io::Result<Vec<_>>>().map_err(fail)?
                }
                ListenAddress::Unix { path, mode: permissions, owner } => {
                    // A listener of ours that is still closing has its file there too.
                    let ours = replaces || self.open.iter().any(|open| same_place(&open.conf.address, &conf.address));
                    let socket = listen::unix(path, *permissions, conf.backlog, ours).map_err(fail)?;
                    file = listen::file_identity(path).map(|identity| (path.clone(), identity));
                    if let Some(owner) = owner {
                        let user = host::user(owner).map_err(|why| BindError::new(format!("{}: {why}", conf.address)))?;
                        host::change_owner(path, &user).map_err(fail)?;
                    }
                    vec![Own::Unix(socket)]
                }
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        Ok(Open { id, conf: Arc::new(conf.clone()), mode, sockets, file, inherited: is_inherited, state: State::Fresh })
    }

    fn inherited_for(&self, wanted: &ListenAddress) -> Option<&Inherited> {
        self.inherited.iter().find(|inherited| match (inherited, wanted) {
            (Inherited::Tcp(address, _), ListenAddress::Tcp(wanted)) => address == wanted,
            (Inherited::Unix(path, _), ListenAddress::Unix { path: wanted, .. }) => path == wanted,
            _ => false,
        })
    }
}

impl Open {
    /// Gives each worker its socket, in worker order.
    fn give(&self, fleet: &Fleet) {
        for seat in fleet.running() {
            let socket = self.sockets.get(usize::from(seat.index)).or(self.sockets.first());
            match socket.map(Own::copy) {
                Some(Ok(socket)) => seat.send(Message::Listen { id: self.id, socket, conf: self.conf.clone() }),
                Some(Err(error)) => tracing::error!("{}: no socket for worker {}: {error}", self.conf.address, seat.index),
                None => {}
            }
        }
    }

    fn unlink(&self) {
        if let Some((path, identity)) = &self.file
            && listen::file_identity(path) == Some(*identity)
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// How workers share a listener. There is no SO_REUSEPORT for Unix sockets.
fn mode_of(conf: &Listener, gateway: &Gateway) -> AcceptMode {
    match conf.address {
        ListenAddress::Unix { .. } => AcceptMode::Shared,
        ListenAddress::Tcp(_) => conf.accept.unwrap_or(gateway.workers.accept),
    }
}

/// What `accept` is called in the configuration.
pub fn mode_name(mode: AcceptMode) -> &'static str {
    match mode {
        AcceptMode::Reuseport => "reuseport",
        AcceptMode::Shared => "shared",
    }
}

fn copy_inherited(inherited: &Inherited) -> io::Result<Own> {
    Ok(match inherited {
        Inherited::Tcp(_, socket) => {
            socket.set_nonblocking(false)?;
            Own::Tcp(socket.try_clone()?)
        }
        Inherited::Unix(_, socket) => {
            socket.set_nonblocking(false)?;
            Own::Unix(socket.try_clone()?)
        }
    })
}

fn same_place(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => one == other,
        (ListenAddress::Unix { path: one, .. }, ListenAddress::Unix { path: other, .. }) => one == other,
        _ => false,
    }
}

fn same_but_backlog(one: &Listener, other: &Listener) -> bool {
    Listener { backlog: other.backlog, ..one.clone() } == *other
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::control::fleet::Seat;

    fn fleet(workers: u16) -> (Fleet, Vec<flume::Receiver<Message>>) {
        let (seats, inboxes) = (0..workers)
            .map(|index| {
                let (inbox, messages) = flume::bounded(16);
                (Seat::new(index, None, inbox, Arc::default()), messages)
            })
            .unzip();
        (Fleet { seats, spares: None }, inboxes)
    }

    fn gateway(addresses: &[SocketAddr]) -> Gateway {
        let listener = |address: &SocketAddr| Listener { address: ListenAddress::Tcp(*address), ..Listener::default() };
        Gateway { listeners: addresses.iter().map(listener).collect(), ..Gateway::default() }
    }

    fn free_address() -> SocketAddr {
        bench_harness::children::free_address().unwrap()
    }

    #[test]
    fn a_busy_port_is_reported_with_its_holder_and_a_cure() {
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = busy.local_addr().unwrap();
        let text = Listeners::new(1, Vec::new()).prepare(&gateway(&[address])).err().unwrap().to_string();
        assert!(text.contains(&address.to_string()) && text.contains(&format!("(pid {})", std::process::id())), "{text}");
        assert!(text.contains("choose another address"), "{text}");
    }

    #[test]
    fn each_worker_gets_a_socket_and_a_removed_listener_goes_step_by_step() {
        let (fleet, inboxes) = fleet(2);
        let mut listeners = Listeners::new(2, Vec::new());
        let address = free_address();
        let change = listeners.prepare(&gateway(&[address])).unwrap();
        listeners.apply(change, &fleet);
        for inbox in &inboxes {
            assert!(matches!(inbox.try_recv(), Ok(Message::Listen { id: 1, .. })));
        }
        let change = listeners.prepare(&gateway(&[])).unwrap();
        listeners.apply(change, &fleet);
        for inbox in &inboxes {
            assert!(matches!(inbox.try_recv(), Ok(Message::StopAccepting { id: 1 })));
        }
        listeners.stopped(0, 1, &fleet);
        assert!(inboxes[0].try_recv().is_err(), "worker 1 may still have an accept posted");
        listeners.stopped(1, 1, &fleet);
        for inbox in &inboxes {
            assert!(matches!(inbox.try_recv(), Ok(Message::CloseListener { id: 1 })));
        }
        listeners.closed(0, 1, &fleet);
        assert_eq!(listeners.states()[0].state, "closing");
        listeners.closed(1, 1, &fleet);
        assert!(listeners.all_closed());
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_changed_backlog_keeps_the_socket_and_a_changed_flag_replaces_it() {
        let (fleet, inboxes) = fleet(1);
        let mut listeners = Listeners::new(1, Vec::new());
        let mut conf = gateway(&[free_address()]);
        let change = listeners.prepare(&conf).unwrap();
        listeners.apply(change, &fleet);
        let _ = inboxes[0].drain();
        conf.listeners[0].backlog = 17;
        let change = listeners.prepare(&conf).unwrap();
        listeners.apply(change, &fleet);
        assert!(inboxes[0].is_empty());
        conf.listeners[0].proxy_protocol = true;
        let change = listeners.prepare(&conf).unwrap();
        listeners.apply(change, &fleet);
        assert!(matches!(inboxes[0].try_recv(), Ok(Message::Listen { id: 2, .. })));
        assert!(matches!(inboxes[0].try_recv(), Ok(Message::StopAccepting { id: 1 })));
    }

    #[test]
    fn a_unix_socket_is_removed_at_the_end() {
        let (fleet, inboxes) = fleet(2);
        let path = std::env::temp_dir().join(format!("ringway-listeners-{}.sock", std::process::id()));
        let address = ListenAddress::Unix { path: path.clone(), mode: Some(0o660), owner: None };
        let conf = Gateway { listeners: vec![Listener { address, ..Listener::default() }], ..Gateway::default() };
        let mut listeners = Listeners::new(2, Vec::new());
        let change = listeners.prepare(&conf).unwrap();
        listeners.apply(change, &fleet);
        assert!(path.exists());
        let _ = inboxes[0].drain();
        let change = listeners.prepare(&conf).unwrap();
        listeners.apply(change, &fleet);
        assert!(inboxes[0].is_empty(), "nothing has changed");
        listeners.stop_all(&fleet);
        for worker in 0..2 {
            listeners.stopped(worker, 1, &fleet);
        }
        for worker in 0..2 {
            listeners.closed(worker, 1, &fleet);
        }
        assert!(!path.exists());
    }
}
