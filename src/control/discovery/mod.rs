//! Service discovery: watches the registries for the services that upstreams name, and asks for a new epoch when their nodes
//! change. What a registry said last stays in force while it is away. APISIX request.md §6.

mod client;
mod consul;
mod dns;
mod kubernetes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::reload::Order;
use crate::config::gateway::{Discovery, Dns};
use crate::config::model::Discovered;
use crate::upstream::names::Names;
use crate::upstream::services::Service;

/// Time between two looks at what is in use and what has changed: so many epochs a second at most.
const TURN: Duration = Duration::from_millis(250);
/// How often it is looked whether the first answers are there.
const LOOK: Duration = Duration::from_millis(20);

/// The state: one per process, run on the coordinator.
pub struct Discovering {
    names: Arc<Names>,
    conf: watch::Receiver<(Discovery, Dns)>,
    lookups: HashMap<Discovered, AbortHandle>,
    clusters: Vec<kubernetes::Cluster>,
    told: u64,
}

impl Discovering {
    /// `conf` carries the registries of the newest epoch.
    pub fn new(names: Arc<Names>, conf: watch::Receiver<(Discovery, Dns)>) -> Self {
        Self { names, conf, lookups: HashMap::new(), clusters: Vec::new(), told: 0 }
    }

    /// Begins, and waits at most `limit` for the first answers. True where there are some: what was compiled lacks them.
    pub async fn first(&mut self, limit: Duration) -> bool {
        let silent = |all: &[Arc<Service>]| all.iter().any(|service| service.version() == 0);
        self.turn();
        let answered = async {
            while silent(&self.names.services.in_use()) {
                sleep(LOOK).await;
                self.clusters.iter().for_each(|cluster| cluster.publish(&self.names));
            }
        };
        let _late = timeout(limit, answered).await;
        self.told = self.names.services.version();
        self.told > 0
    }

    /// Goes on for as long as the process runs.
    pub async fn run(mut self, helper: flume::Sender<Order>) {
        let mut due = Instant::now();
        loop {
            tokio::time::sleep_until(due).await;
            due = Instant::now() + TURN;
            if self.conf.has_changed().unwrap_or(false) {
                self.conf.mark_unchanged();
                self.lookups.drain().for_each(|(_, task)| task.abort());
                self.clusters.clear();
            }
            self.turn();
            let version = self.names.services.version();
            if version != self.told {
                self.told = version;
                let _gone = helper.send(Order::Refresh);
            }
        }
    }

    /// Begins what is needed and not there, ends what is there and not needed.
    fn turn(&mut self) {
        let in_use = self.names.services.in_use();
        self.lookups.retain(|key, task| {
            let used = in_use.iter().any(|service| service.key == *key);
            if !used {
                task.abort();
            }
            used && !task.is_finished() // one that fell begins anew
        });
        let (conf, system) = self.conf.borrow().clone();
        for service in &in_use {
            if self.lookups.contains_key(&service.key) {
                continue;
            }
            // A lookup knows its service by its key: holding it would keep it in use for ever.
            let (names, key) = (self.names.clone(), service.key.clone());
            let task = match (&*key.registry, &conf.dns, &conf.consul) {
                ("dns", Some(dns), _) => tokio::spawn(dns::follow(names, key.clone(), dns.clone(), system.clone())),
                ("consul", _, Some(consul)) => tokio::spawn(consul::follow(names, key.clone(), consul.clone())),
                _ => continue,
            };
            self.lookups.insert(key, task.abort_handle());
        }
        let wanted = in_use.iter().any(|service| &*service.key.registry == "kubernetes");
        match (wanted, self.clusters.is_empty()) {
            (true, true) => self.clusters = conf.kubernetes.iter().cloned().map(kubernetes::Cluster::start).collect(),
            (false, false) => self.clusters.clear(),
            _ => {}
        }
        self.clusters.iter().for_each(|cluster| cluster.publish(&self.names));
    }
}

/// Publishes what a registry says of a service, and says so where it is news.
fn publish(names: &Names, key: &Discovered, nodes: Vec<crate::config::model::Node>) {
    let count = nodes.len();
    if names.services.get(key).is_some_and(|service| names.services.publish(&service, nodes)) {
        tracing::info!("{} knows {count} nodes of {}", key.registry, key.service);
    }
}
