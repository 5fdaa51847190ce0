//! Idle upstream connections of one worker, by node address. A receive stays posted on each: it is the next answer's, and
//! until then it tells that the node closed.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::address::Address;
use crate::base::buf::Chunk;
use crate::base::clock::{self, Tick};
use crate::base::count::Counters;
use crate::base::limits;
use crate::config::model::KeepalivePool;
use crate::net::near::{self, Near, bring_near, keep_near};
use crate::net::tls::Client;
use crate::net::{Stream, Wait, connect, rt};
use crate::upstream::spares::{Spare, Spares};

/// How a connection is opened.
pub struct Way<'w> {
    /// To where.
    pub address: Address,
    /// From where, if it matters.
    pub source: Option<IpAddr>,
    /// What is sent first, before TLS: the client's address.
    pub introduction: Option<Chunk>,
    /// TLS, and the name of the host it is for.
    pub tls: Option<(&'w Client, &'w [u8])>,
}

/// What failed while a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connection itself.
    Connect,
    /// The TLS handshake.
    Tls,
}

/// An upstream connection.
pub struct Connection {
    /// Its stream.
    pub stream: Stream,
    /// The node.
    pub address: Address,
    /// Requests it has carried.
    pub served: u32,
    open: Rc<Open>,
}

/// Counts a connection as long as it lives.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.upstream_connections.add(1);
        Self(counters.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_connections.sub(1);
    }
}

/// A pool of [`Pools`]: its place, and the how-manieth pool in that place. A pool that is gone takes and gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId {
    at: u32,
    turn: u32,
}

impl PoolId {
    /// No pool: connections that nobody else may have.
    pub const NONE: Self = Self { at: u32::MAX, turn: 0 };
}

/// All pools of a worker.
pub struct Pools {
    worker: u16,
    counters: Arc<Counters>,
    spares: Option<Arc<Spares>>,
    short: bool, // of memory
    by_address: HashMap<Address, PoolId>,
    by_kind: HashMap<(Address, Kind), PoolId>,
    pools: Vec<Pool>,
    free: Vec<u32>, // places of pools that are gone
}

/// What makes connections to one address unfit for each other's requests, besides plain ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Digest of how they are made.
    pub dial: u64,
    /// Name the TLS session is for; clients may choose it.
    pub name: Box<[u8]>,
}

struct Pool {
    address: Address,
    kind: Option<Kind>,
    turn: u32,
    gone: bool,
    asked: Tick, // for a connection, last
    rare: bool,  // not for a while before that
    size: u32,   // as the upstream said last
    idle: Vec<Idle>,
}

impl Pool {
    /// Brings near what is taken next but one, and what lies outside of what is taken next: requests come in flocks, so the
    /// latter was just given or is near since the last taking.
    #[inline]
    fn bring_next(&self) {
        let mut idle = self.idle.iter().rev();
        if let Some(next) = idle.next() {
            next.connection.stream.bring_near();
        }
        if let Some(later) = idle.next() {
            bring_near(&*later.connection);
        }
    }
}

struct Idle {
    connection: Box<Connection>, // boxed once: it moves between pool and exchange with every request
    since: Tick,
    until: Tick,
}

impl Pools {
    /// A worker's pools, beside the spare connections of all.
    pub fn new(worker: u16, counters: Arc<Counters>, spares: Option<Arc<Spares>>) -> Self {
        let (by_address, by_kind) = (HashMap::new(), HashMap::new());
        Self { worker, counters, spares, short: false, by_address, by_kind, pools: Vec::new(), free: Vec::new() }
    }

    /// The pool of an address, made on first use.
    pub fn of(&mut self, address: Address) -> PoolId {
        if let Some(id) = self.by_address.get(&address) {
            return *id;
        }
        let id = self.add(address, None);
        self.by_address.insert(address, id);
        id
    }

    /// The pool of an address and kind, made on first use; [`PoolId::NONE`] where there are too many kinds.
    pub fn of_kind(&mut self, address: Address, kind: Kind) -> PoolId {
        let key = (address, kind);
        if let Some(id) = self.by_kind.get(&key) {
            return *id;
        }
        if self.by_kind.len() >= limits::POOL_KINDS {
            return PoolId::NONE;
        }
        let id = self.add(address, Some(key.1.clone()));
        self.by_kind.insert(key, id);
        id
    }

    fn add(&mut self, address: Address, kind: Option<Kind>) -> PoolId {
        if let Some(at) = self.free.pop()
            && let Some(pool) = self.pools.get_mut(at as usize)
        {
            let turn = pool.turn.wrapping_add(1);
            *pool = Pool { address, kind, turn, gone: false, asked: Tick(0), rare: true, size: 0, idle: Vec::new() };
            return PoolId { at, turn };
        }
        self.pools.push(Pool { address, kind, turn: 0, gone: false, asked: Tick(0), rare: true, size: 0, idle: Vec::new() });
        PoolId { at: (self.pools.len() - 1) as u32, turn: 0 }
    }

    fn get(&mut self, id: PoolId) -> Option<&mut Pool> {
        find(&mut self.pools, id)
    }

    /// The idle connection used last, else one that another worker can spare. Its node may have closed it:
    /// [`Connection::poll_recv`] tells, and it is asked `again`.
    pub fn take(&mut self, pool: PoolId, again: bool) -> Option<Box<Connection>> {
        let now = clock::now();
        let known = self.get(pool)?;
        if !again {
            known.rare = now.since(known.asked) >= limits::SPARE_AFTER;
            known.asked = now;
        }
        let Some(kept) = known.idle.pop() else { return self.borrow(pool) };
        if near::wanted() {
            known.bring_next();
        }
        kept.connection.stream.watch().disarm();
        Some(kept.connection)
    }

    #[cold]
    fn borrow(&mut self, pool: PoolId) -> Option<Box<Connection>> {
        let address = self.get(pool).filter(|pool| pool.kind.is_none())?.address;
        let spare = self.spares.as_ref()?.take(address, clock::now())?;
        let stream = Stream::adopt(spare.descriptor, address).ok()?;
        self.counters.pool_borrowed.add(1);
        let open = Rc::new(Open::new(&self.counters));
        Some(Box::new(Connection { stream, address, served: spare.served, open }))
    }

    /// Puts a connection back after a whole exchange. Over the pool's size the one idle longest goes.
    pub fn give(&mut self, pool: PoolId, mut connection: Box<Connection>, keep: &KeepalivePool) {
        let Some(pool) = find(&mut self.pools, pool) else { return retire(connection) };
        if connection.served >= keep.requests || keep.idle_timeout.is_zero() || !is_quiet(&mut connection.stream) {
            return retire(connection);
        }
        pool.size = keep.size;
        if pool.idle.len() >= keep.size as usize {
            retire(pool.idle.remove(0).connection);
        }
        connection.stream.watch().arm(Wait::Pooled, keep.idle_timeout);
        let since = clock::now();
        pool.idle.push(Idle { connection, since, until: since.after(keep.idle_timeout) });
        if pool.rare
            && !self.short
            && let Some(spares) = &self.spares
        {
            pool.leave(since, spares);
        }
    }

    /// Opens a connection to a node.
    ///
    /// # Errors
    /// `TimedOut` when the deadline passed, else as the operating system gives them; and at what.
    pub async fn open(counters: &Arc<Counters>, way: Way<'_>, timeout: Duration) -> Result<Box<Connection>, (Stage, io::Error)> {
        counters.upstream_connects.add(1);
        let until = clock::now().after(timeout);
        let mut stream = connect::connect(way.address, way.source, timeout).await.map_err(|error| (Stage::Connect, error))?;
        let open = Rc::new(Open::new(counters));
        if let Some(introduction) = way.introduction {
            stream.watch().arm_at(Wait::Connect, until);
            stream.send(introduction).await.map_err(|error| (Stage::Connect, error))?;
        }
        if let Some((client, name)) = way.tls {
            stream.watch().arm_at(Wait::Connect, until);
            let watch = stream.watch().clone();
            stream = stream.secure(client, name, way.address.ip()).await.map_err(|error| match watch.fired() {
                Some(_) => (Stage::Connect, io::ErrorKind::TimedOut.into()),
                None => (Stage::Tls, error),
            })?;
        }
        stream.watch().disarm();
        Ok(Box::new(Connection { stream, address: way.address, served: 0, open }))
    }

    /// Forgets these pools: nobody finds them any more, and connections that come back to them end.
    fn forget(&mut self, which: impl Fn(&Pool) -> bool) {
        for (at, pool) in self.pools.iter_mut().enumerate().filter(|(_, pool)| !pool.gone && which(pool)) {
            match pool.kind.take() {
                Some(kind) => drop(self.by_kind.remove(&(pool.address, kind))),
                None => drop(self.by_address.remove(&pool.address)),
            }
            pool.idle.drain(..).for_each(|kept| retire(kept.connection));
            pool.turn = pool.turn.wrapping_add(1);
            pool.gone = true;
            self.free.push(at as u32);
        }
    }

    /// Lets go what has been idle for too long or was closed by its node. The worker's sweeper calls it about twice a second.
    pub fn sweep(&mut self, now: Tick) {
        for pool in &mut self.pools {
            let mut at = 0;
            while let Some(kept) = pool.idle.get_mut(at) {
                if kept.until <= now || !is_quiet(&mut kept.connection.stream) {
                    retire(pool.idle.remove(at).connection);
                } else {
                    at += 1;
                }
            }
        }
        // Names come from clients: those that hold nothing go before the table is full.
        if self.by_kind.len() >= limits::POOL_KINDS / 2 {
            self.forget(|pool| pool.kind.is_some() && pool.idle.is_empty());
        }
    }

    /// Looks after this worker's share of the spare connections. The worker's sweeper calls it every other second.
    pub fn sweep_spares(&self, now: Tick) {
        if let Some(spares) = &self.spares {
            spares.sweep(self.worker, now);
        }
    }

    /// Leaves to the other workers what this one did not come back to. The worker's sweeper calls it ten times a second.
    pub fn leave(&mut self, now: Tick) {
        if let Some(spares) = self.spares.as_ref().filter(|_| !self.short) {
            self.pools.iter_mut().for_each(|pool| pool.leave(now, spares));
        }
    }

    /// Is told whether memory is short. While it is, most idle connections go, and the few that are kept stay where they are.
    pub fn follow_pressure(&mut self, short: bool) {
        self.short = short;
        if short {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        for pool in &mut self.pools {
            let most = pool.idle.len().saturating_sub(limits::IDLE_UNDER_PRESSURE);
            pool.idle.drain(..most).for_each(|kept| retire(kept.connection));
        }
        if let Some(spares) = &self.spares {
            spares.retain(|_| false);
        }
    }

    /// Lets go the pools of addresses that `keep` does not name any more.
    pub fn retain(&mut self, keep: impl Fn(&Address) -> bool) {
        self.forget(|pool| !keep(&pool.address));
    }

    /// Idle connections per address, for reports.
    pub fn idle(&self) -> impl Iterator<Item = (Address, usize)> {
        self.pools.iter().filter(|pool| !pool.gone).map(|pool| (pool.address, pool.idle.len()))
    }
}

fn find(pools: &mut [Pool], id: PoolId) -> Option<&mut Pool> {
    pools.get_mut(id.at as usize).filter(|pool| pool.turn == id.turn)
}

/// Posts a receive, or looks at the one posted: true while nothing came, neither bytes nor an end.
fn is_quiet(stream: &mut Stream) -> bool {
    stream.poll_recv_soon(&mut Context::from_waker(Waker::noop())).is_pending()
}

impl Pool {
    /// Leaves what was not asked for lately, as far as there is room. A pool that is seldom asked keeps nothing.
    #[cold]
    fn leave(&mut self, now: Tick, spares: &Arc<Spares>) {
        let patience = if self.rare { Duration::ZERO } else { limits::SPARE_AFTER };
        let left = self.idle.iter().take_while(|kept| now.since(kept.since) >= patience).count(); // idle longest first
        if left > 0 && self.kind.is_none() {
            let left = left.min(spares.room(self.address, self.size));
            self.idle.drain(..left).for_each(|kept| rt::spawn(leave(kept, spares.clone())));
        }
    }
}

/// Leaves an idle connection to whichever worker needs it.
async fn leave(kept: Idle, spares: Arc<Spares>) {
    let season = spares.season();
    let Connection { stream, address, served, open } = *kept.connection;
    if let Some(descriptor) = stream.release().await {
        spares.put(address, Spare { descriptor, served, until: kept.until }, season);
    }
    drop(open);
}

/// Closes a connection that is not wanted any more, letting its operations finish.
#[expect(clippy::boxed_local, reason = "as the pool and the exchanges hold it")]
pub fn retire(connection: Box<Connection>) {
    let Connection { stream, open, .. } = *connection;
    drop(open);
    if stream.in_flight() {
        rt::spawn(stream.close());
    }
}

impl Connection {
    /// Puts itself and what belongs to it in places of the running task's; it is boxed and stays where it is.
    pub fn keep_near(&self) {
        keep_near(Near::Upstream, self);
        self.stream.keep_near(Near::UpstreamWatch, Near::UpstreamSocket);
        self.stream.keep_received_near(Near::UpstreamChunk);
    }

    /// Receives, or goes on with the receive in flight.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<Chunk>> {
        self.stream.poll_recv_sized(cx, size)
    }
}
