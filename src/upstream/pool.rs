//! Idle upstream connections of one worker, by node address. A receive stays posted on each: it is the next answer's, and
//! until then it tells that the node closed.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::address::Address;
use crate::base::clock::{self, Tick};
use crate::base::count::Counters;
use crate::config::model::KeepalivePool;
use crate::net::{Stream, Wait, connect, rt};

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
struct Open(std::sync::Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_connections.sub(1);
    }
}

/// Index of an address in [`Pools`].
pub type PoolId = u32;

/// All pools of a worker.
#[derive(Default)]
pub struct Pools {
    by_address: HashMap<Address, PoolId>,
    pools: Vec<Pool>,
}

struct Pool {
    address: Address,
    idle: Vec<Idle>,
}

struct Idle {
    connection: Box<Connection>, // boxed once: it moves between pool and exchange with every request
    until: Tick,
}

impl Pools {
    /// The pool of an address, made on first use.
    pub fn of(&mut self, address: Address) -> PoolId {
        *self.by_address.entry(address).or_insert_with(|| {
            self.pools.push(Pool { address, idle: Vec::new() });
            (self.pools.len() - 1) as PoolId
        })
    }

    /// The idle connection used last. Its node may have closed it: [`Connection::is_quiet`] tells.
    pub fn take(&mut self, pool: PoolId) -> Option<Box<Connection>> {
        let kept = self.pools.get_mut(pool as usize)?.idle.pop()?;
        kept.connection.stream.watch().disarm();
        Some(kept.connection)
    }

    /// Puts a connection back after a whole exchange. Over the pool's size the one idle longest goes.
    pub fn give(&mut self, pool: PoolId, mut connection: Box<Connection>, keep: &KeepalivePool) {
        let Some(pool) = self.pools.get_mut(pool as usize) else { return retire(connection) };
        if connection.served >= keep.requests || keep.idle_timeout.is_zero() || !is_quiet(&mut connection.stream) {
            return retire(connection);
        }
        if pool.idle.len() >= keep.size as usize {
            retire(pool.idle.remove(0).connection);
        }
        connection.stream.watch().arm(Wait::Pooled, keep.idle_timeout);
        pool.idle.push(Idle { connection, until: clock::now().after(keep.idle_timeout) });
    }

    /// Opens a connection to a node.
    ///
    /// # Errors
    /// `TimedOut` when the deadline passed, else as the operating system gives them.
    pub async fn open(counters: &std::sync::Arc<Counters>, address: Address, timeout: Duration) -> io::Result<Box<Connection>> {
        counters.upstream_connects.add(1);
        let stream = connect::connect(address.into(), timeout).await?;
        counters.upstream_connections.add(1);
        Ok(Box::new(Connection { stream, address, served: 0, open: Rc::new(Open(counters.clone())) }))
    }

    /// Lets go what has been idle for too long or was closed by its node. The worker's sweeper calls it about once a second.
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
    }

    /// Lets go every idle connection to addresses that `keep` does not name any more.
    pub fn retain(&mut self, keep: impl Fn(&Address) -> bool) {
        for pool in self.pools.iter_mut().filter(|pool| !keep(&pool.address)) {
            pool.idle.drain(..).for_each(|kept| retire(kept.connection));
        }
    }

    /// Idle connections per address, for reports.
    pub fn idle(&self) -> impl Iterator<Item = (Address, usize)> {
        self.pools.iter().map(|pool| (pool.address, pool.idle.len()))
    }
}

/// Posts a receive, or looks at the one posted: true while nothing came, neither bytes nor an end.
fn is_quiet(stream: &mut Stream) -> bool {
    stream.poll_recv(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Closes a connection that is not wanted any more, letting its operations finish.
#[expect(clippy::boxed_local, reason = "as the pool and the exchanges hold it")]
pub fn retire(connection: Box<Connection>) {
    let Connection { stream, open, .. } = *connection;
    drop(open);
    if stream.receiving() || stream.sending() {
        rt::spawn(stream.close());
    }
}

impl Connection {
    /// True while nothing came, neither bytes nor an end; the task is woken once something does.
    pub async fn is_quiet(&mut self, size: usize) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_recv(cx, size).is_pending())).await
    }

    /// Receives, or goes on with the receive in flight.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<crate::base::buf::Chunk>> {
        self.stream.poll_recv_sized(cx, size)
    }
}
