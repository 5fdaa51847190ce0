//! Names of upstream nodes: the coordinator resolves them, the workers read the answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::services::Services;

/// One name and its last good addresses. Version 0 means that it was never resolved.
#[derive(Debug)]
#[repr(align(128))]
pub struct Name {
    /// The name as configured.
    pub host: Arc<str>,
    version: AtomicU64,
    addresses: Mutex<Arc<[IpAddr]>>,
}

impl Name {
    /// Changes whenever the addresses do. A line that is only read on a request's way.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The last good addresses; empty if it was never resolved or does not exist any more.
    pub fn addresses(&self) -> Arc<[IpAddr]> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes an answer; says whether it changed anything. The coordinator alone calls it.
    pub fn publish(&self, mut addresses: Vec<IpAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        let mut current = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.version() == 0 || **current != *addresses;
        if changed {
            *current = addresses.into();
            self.version.fetch_add(1, Ordering::Release);
        }
        changed
    }
}

/// All names and services in use, shared by epochs so that an answer outlives a reload.
#[derive(Debug, Default)]
pub struct Names {
    hosts: Mutex<HashMap<Arc<str>, Arc<Name>>>,
    /// Services of registries.
    pub services: Services,
}

impl Names {
    /// The entry of a name, made on first use.
    pub fn entry(&self, host: &Arc<str>) -> Arc<Name> {
        let mut names = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .entry(host.clone())
            .or_insert_with(|| {
                Arc::new(Name { host: host.clone(), version: AtomicU64::new(0), addresses: Mutex::new(Arc::new([])) })
            })
            .clone()
    }

    /// The names that something besides this table still holds; the others are forgotten.
    pub fn in_use(&self) -> Vec<Arc<Name>> {
        let mut names = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|_, name| Arc::strong_count(name) > 1);
        names.values().cloned().collect()
    }
}
