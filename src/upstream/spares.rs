//! Spare connections: idle ones that their worker did not come back to for a while. They lie between the workers, and whichever
//! finds its own pool empty takes one before it opens another. Only plain connections do; a TLS session stays where it began.
//!
//! Off a request's way: a pool that has a connection is not asked twice, and sweeps bring them here. With one worker nothing
//! lies here at all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::address::Address;
use crate::base::clock::Tick;
use crate::base::limits;
use crate::net::handover::Descriptor;

/// Parts with a lock each, so that workers seldom meet.
const SHARDS: usize = 16;

/// A connection that no worker holds.
pub struct Spare {
    /// It.
    pub descriptor: Descriptor,
    /// Requests it has carried.
    pub served: u32,
    /// When it has been idle for too long.
    pub until: Tick,
}

/// The spare connections of all workers.
pub struct Spares {
    shards: [Shard; SHARDS],
    workers: usize,
}

#[derive(Default)]
#[repr(align(128))]
struct Shard {
    count: AtomicUsize, // read before the lock is taken: mostly there is nothing
    lists: Mutex<HashMap<Address, Vec<Spare>>>,
}

impl Spares {
    /// Room for the spare connections of so many workers; `None` where there is nobody to share them with.
    pub fn between(workers: usize) -> Option<Self> {
        (workers > 1).then(|| Self { shards: Default::default(), workers })
    }

    /// Leaves a connection to whoever needs it. Past [`limits::SPARES_PER_NODE`] it is closed.
    pub fn put(&self, address: Address, spare: Spare) {
        let shard = self.shard(address);
        let mut lists = shard.lists();
        let list = lists.entry(address).or_default();
        if list.len() < limits::SPARES_PER_NODE {
            list.push(spare);
            shard.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connection left last that its node has not closed.
    pub fn take(&self, address: Address, now: Tick) -> Option<Spare> {
        let shard = self.shard(address);
        while !shard.is_empty() {
            let spare = shard.pop(address)?;
            if spare.is_good(now) {
                return Some(spare);
            }
        }
        None
    }

    /// Lets go what has been idle for too long or was closed by its node. Each worker's sweep calls it, for a share of its own.
    pub fn sweep(&self, worker: u16, now: Tick) {
        let share = self.shards.iter().skip(usize::from(worker)).step_by(self.workers);
        share.for_each(|shard| shard.keep(|_, spare| spare.is_good(now)));
    }

    /// Lets go connections to addresses that `keep` does not name.
    pub fn retain(&self, keep: impl Fn(&Address) -> bool) {
        self.shards.iter().for_each(|shard| shard.keep(|address, _| keep(address)));
    }

    /// How many lie here, by address.
    pub fn counts(&self) -> Vec<(Address, usize)> {
        let mut counts = Vec::new();
        for shard in self.shards.iter().filter(|shard| !shard.is_empty()) {
            counts.extend(shard.lists().iter().map(|(address, list)| (*address, list.len())));
        }
        counts
    }

    fn shard(&self, address: Address) -> &Shard {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        let [first, rest @ ..] = &self.shards;
        rest.get(hasher.finish() as usize % SHARDS).unwrap_or(first)
    }
}

impl Shard {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<Address, Vec<Spare>>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, address: Address) -> Option<Spare> {
        let popped = self.lists().get_mut(&address)?.pop()?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(popped)
    }

    fn keep(&self, which: impl Fn(&Address, &Spare) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut lists = self.lists();
        lists.retain(|address, list| {
            list.retain(|spare| which(address, spare));
            !list.is_empty()
        });
        self.count.store(lists.values().map(Vec::len).sum(), Ordering::Relaxed);
    }
}

impl Spare {
    fn is_good(&self, now: Tick) -> bool {
        now < self.until && self.descriptor.is_quiet()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    const LONG: Tick = Tick(u64::MAX);

    fn at(last: u8) -> Address {
        SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 80)).into()
    }

    fn pair(listener: &TcpListener) -> (Descriptor, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Descriptor::from(std::os::fd::OwnedFd::from(near)), listener.accept().unwrap().0)
    }

    #[test]
    fn the_newest_that_is_open_and_in_time_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spares = Spares::between(2).unwrap();
        let mut far = Vec::new();
        for (served, until) in [(1, LONG), (2, LONG), (3, LONG), (4, Tick(5)), (5, LONG)] {
            let (descriptor, peer) = pair(&listener);
            spares.put(at(1), Spare { descriptor, served, until });
            far.push(Some(peer));
        }
        far[4] = None; // its node closes the newest
        let closed = || !spares.shard(at(1)).lists()[&at(1)][4].descriptor.is_quiet();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !closed() {
            assert!(std::time::Instant::now() < deadline, "the end arrives");
        }
        assert!(spares.take(at(2), Tick(9)).is_none(), "another node's are not given");
        assert_eq!(spares.take(at(1), Tick(9)).map(|spare| spare.served), Some(3), "5 is closed, 4 too old");
        assert_eq!(spares.counts(), [(at(1), 2)]);
        far[0] = None;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while spares.counts() != [(at(1), 1)] {
            assert!(std::time::Instant::now() < deadline, "a sweep lets closed ones go");
            spares.sweep(0, Tick(9));
            spares.sweep(1, Tick(9));
        }
        spares.retain(|address| *address != at(1));
        assert!(spares.counts().is_empty() && spares.take(at(1), Tick(9)).is_none());
    }

    #[test]
    fn a_node_has_so_many_at_most_and_one_worker_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spares = Spares::between(3).unwrap();
        let (descriptor, _far) = pair(&listener);
        for served in 0..=limits::SPARES_PER_NODE as u32 {
            spares.put(at(1), Spare { descriptor: descriptor.duplicate().unwrap(), served, until: LONG });
        }
        assert_eq!(spares.counts(), [(at(1), limits::SPARES_PER_NODE)]);
        assert!(Spares::between(1).is_none());
    }
}
