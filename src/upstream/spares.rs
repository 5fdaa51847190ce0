//! Spare connections: idle ones that their worker did not come back to for a while, or seldom does. They lie between the workers,
//! and one whose own pool is empty takes one before it opens another. Only plain connections do; a TLS session stays where it
//! began.
//!
//! Off a request's way: a worker's own connections come first, and its sweeper brings here what it leaves. With one worker
//! nothing lies here at all. Those to an address that a name gave up lie here until their time is over; nobody asks for them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::address::Address;
use crate::base::clock::Tick;
use crate::base::limits;
use crate::net::handover;

/// Parts with a lock each, so that workers seldom meet.
const SHARDS: usize = 16;

/// A connection that no worker holds.
pub struct Spare {
    /// It.
    pub descriptor: OwnedFd,
    /// Requests it has carried.
    pub served: u32,
    /// When it has been idle for too long.
    pub until: Tick,
}

/// The spare connections of all workers.
pub struct Spares {
    shards: [Shard; SHARDS],
    workers: usize,
    season: AtomicU64,
}

/// What a worker takes before it brings a connection: one that was taken before addresses went may lead to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Season(u64);

type Lists = HashMap<Address, Vec<Spare>>;

#[derive(Default)]
#[repr(align(128))]
struct Shard {
    count: AtomicUsize, // changed under the lock, read before it is taken: mostly there is nothing
    lists: Mutex<Lists>,
}

impl Spares {
    /// Room for the spare connections of so many workers; `None` where there is nobody to share them with.
    pub fn between(workers: usize) -> Option<Self> {
        (workers > 1).then(|| Self { shards: Default::default(), workers, season: AtomicU64::new(0) })
    }

    /// How many more may lie here for a node whose pools hold `size`, [`limits::SPARES_PER_NODE`] at most.
    pub fn room(&self, address: Address, size: u32) -> usize {
        let shard = self.shard(address);
        let lying = if shard.is_empty() { 0 } else { shard.lists().get(&address).map_or(0, Vec::len) };
        limits::SPARES_PER_NODE.min(size as usize).saturating_sub(lying)
    }

    /// To be taken before a connection is made ready to be brought.
    pub fn season(&self) -> Season {
        Season(self.season.load(Ordering::Acquire))
    }

    /// Leaves a connection to whoever needs it; one too many, or of an earlier season, is closed.
    pub fn put(&self, address: Address, spare: Spare, season: Season) {
        let shard = self.shard(address);
        let mut lists = shard.lists();
        if season != self.season() {
            return; // the lock goes first, then the connection: it was bound later
        }
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

    /// Lets go what has been idle for too long or was closed by its node. Each worker's sweeper calls it, for a share of its own.
    pub fn sweep(&self, worker: u16, now: Tick) {
        let share = self.shards.iter().skip(usize::from(worker)).step_by(self.workers);
        share.filter(|shard| !shard.is_empty()).for_each(|shard| shard.sweep(now));
    }

    /// Connections that are on their way here are closed when they come.
    pub fn begin_season(&self) {
        self.season.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets go connections to addresses that `keep` does not name.
    pub fn retain(&self, keep: impl Fn(&Address) -> bool) {
        for shard in self.shards.iter().filter(|shard| !shard.is_empty()) {
            let mut lists = shard.lists();
            let gone: Lists = lists.extract_if(|address, _| !keep(address)).collect();
            shard.count.fetch_sub(gone.values().map(Vec::len).sum(), Ordering::Relaxed);
            drop(lists);
            drop(gone); // system calls, without the lock
        }
    }

    /// True while nothing lies here.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(Shard::is_empty)
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

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, address: Address) -> Option<Spare> {
        let mut lists = self.lists();
        let list = lists.get_mut(&address)?;
        let popped = list.pop();
        if list.is_empty() {
            lists.remove(&address);
        }
        self.count.fetch_sub(usize::from(popped.is_some()), Ordering::Relaxed);
        popped
    }

    /// One node's list after the other, looked at without the lock: each look is a system call.
    fn sweep(&self, now: Tick) {
        let addresses: Vec<Address> = self.lists().keys().copied().collect();
        for address in addresses {
            let mut list = {
                let mut lists = self.lists();
                let list = lists.remove(&address).unwrap_or_default();
                self.count.fetch_sub(list.len(), Ordering::Relaxed);
                list
            };
            list.retain(|spare| spare.is_good(now));
            if !list.is_empty() {
                let mut lists = self.lists();
                self.count.fetch_add(list.len(), Ordering::Relaxed);
                let newer = lists.remove(&address).unwrap_or_default();
                list.extend(newer);
                lists.insert(address, list);
            }
        }
    }
}

impl Spare {
    fn is_good(&self, now: Tick) -> bool {
        now < self.until && handover::is_quiet(&self.descriptor)
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

    fn pair(listener: &TcpListener) -> (OwnedFd, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near.into(), listener.accept().unwrap().0)
    }

    #[test]
    fn the_newest_that_is_open_and_in_time_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spares = Spares::between(2).unwrap();
        let mut far = Vec::new();
        for (served, until) in [(1, LONG), (2, LONG), (3, LONG), (4, Tick(5)), (5, LONG)] {
            let (descriptor, peer) = pair(&listener);
            spares.put(at(1), Spare { descriptor, served, until }, spares.season());
            far.push(Some(peer));
        }
        far[4] = None; // its node closes the newest
        let closed = || !handover::is_quiet(&spares.shard(at(1)).lists()[&at(1)][4].descriptor);
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
        let (season, (descriptor, _far)) = (spares.season(), pair(&listener));
        spares.begin_season();
        spares.retain(|address| *address != at(1));
        assert!(spares.is_empty() && spares.counts().is_empty() && spares.take(at(1), Tick(9)).is_none());
        spares.put(at(1), Spare { descriptor, served: 6, until: LONG }, season);
        assert!(spares.is_empty(), "it was on its way when its address went");
    }

    #[test]
    fn a_node_has_so_many_at_most_and_one_worker_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spares = Spares::between(3).unwrap();
        let (descriptor, _far) = pair(&listener);
        for served in 0..=limits::SPARES_PER_NODE as u32 {
            let spare = Spare { descriptor: descriptor.try_clone().unwrap(), served, until: LONG };
            spares.put(at(1), spare, spares.season());
        }
        assert_eq!(spares.counts(), [(at(1), limits::SPARES_PER_NODE)]);
        assert_eq!((spares.room(at(1), 320), spares.room(at(2), 320), spares.room(at(2), 3)), (0, limits::SPARES_PER_NODE, 3));
        assert!(Spares::between(1).is_none());
    }
}
