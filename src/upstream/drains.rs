//! Nodes that the Control API drains: as if their weight were 0. By upstream and `host:port`; kept over reloads, not over the
//! process's end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

static DRAINED: RwLock<BTreeSet<(String, String)>> = RwLock::new(BTreeSet::new());
static VERSION: Version = Version(AtomicU64::new(0));

/// On a line of its own, which requests only read.
#[repr(align(128))]
struct Version(AtomicU64);

/// Changes whenever the set does.
pub fn version() -> u64 {
    VERSION.0.load(Ordering::Acquire)
}

/// True if the node gets no new sessions.
pub fn has(upstream: &str, node: &str) -> bool {
    version() > 0 && read().contains(&(upstream.to_owned(), node.to_owned()))
}

/// Drains a node, or lets it serve again. False where that was so already.
pub fn set(upstream: &str, node: &str, drained: bool) -> bool {
    let mut all = DRAINED.write().unwrap_or_else(PoisonError::into_inner);
    let key = (upstream.to_owned(), node.to_owned());
    let changed = if drained { all.insert(key) } else { all.remove(&key) };
    if changed {
        VERSION.0.fetch_add(1, Ordering::Release);
    }
    changed
}

/// All of them: (upstream, node).
pub fn all() -> Vec<(String, String)> {
    read().iter().cloned().collect()
}

fn read() -> std::sync::RwLockReadGuard<'static, BTreeSet<(String, String)>> {
    DRAINED.read().unwrap_or_else(PoisonError::into_inner)
}
