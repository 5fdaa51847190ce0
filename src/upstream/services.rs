//! Services whose nodes a registry knows: the coordinator discovers them, an epoch takes what is known when it is compiled.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::limits;
use crate::config::model::{Discovered, Node};

/// One service and its last good nodes. Version 0 means that nothing was ever heard of it.
#[derive(Debug)]
pub struct Service {
    /// Which.
    pub key: Discovered,
    version: AtomicU64,
    nodes: Mutex<Arc<[Node]>>,
}

impl Service {
    /// Changes whenever the nodes do.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The last good nodes; empty while there are none.
    pub fn nodes(&self) -> Arc<[Node]> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All services in use, shared by epochs.
#[derive(Debug, Default)]
pub struct Services {
    known: Mutex<HashMap<Discovered, Arc<Service>>>,
    version: AtomicU64,
}

impl Services {
    /// The entry of a service, made on first use.
    pub fn entry(&self, key: &Discovered) -> Arc<Service> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Service { key: key.clone(), version: AtomicU64::new(0), nodes: Mutex::new(Arc::new([])) });
        known.entry(key.clone()).or_insert_with(new).clone()
    }

    /// The entry of a service, while it is in use.
    pub fn get(&self, key: &Discovered) -> Option<Arc<Service>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The services that something besides this table still holds; the others are forgotten.
    pub fn in_use(&self) -> Vec<Arc<Service>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, service| Arc::strong_count(service) > 1);
        known.values().cloned().collect()
    }

    /// Changes whenever the nodes of some service do.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Publishes what a registry says, in a lasting order; says whether it changed anything.
    pub fn publish(&self, service: &Service, mut nodes: Vec<Node>) -> bool {
        nodes.sort_by_cached_key(|node| (node.host.to_string(), node.port));
        nodes.dedup_by(|one, other| one.host == other.host && one.port == other.port);
        if nodes.len() > limits::NODES_MAX {
            crate::limited!(warn, "{}: {} nodes are too many, the rest is left out", service.key.service, nodes.len());
            nodes.truncate(limits::NODES_MAX);
        }
        let mut current = service.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = service.version() == 0 || **current != *nodes;
        if changed {
            *current = nodes.into();
            service.version.fetch_add(1, Ordering::Release);
            self.version.fetch_add(1, Ordering::Release);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::NodeHost;

    #[test]
    fn only_changes_count() {
        let services = Services::default();
        let key = Discovered { registry: "dns".into(), service: "a".into() };
        let service = services.entry(&key);
        let node = |last: u8| Node { host: NodeHost::Ip([10, 0, 0, last].into()), port: 80, weight: 1, priority: 0 };
        assert!(services.publish(&service, Vec::new()), "that there are none is news at first");
        assert!(services.publish(&service, vec![node(2), node(1), node(2)]));
        assert!(!services.publish(&service, vec![node(1), node(2)]), "the order is nothing");
        assert_eq!((service.nodes().len(), services.version()), (2, 2));
        assert!(Arc::ptr_eq(&service, &services.entry(&key)));
        drop(service);
        assert!(services.in_use().is_empty());
    }
}
