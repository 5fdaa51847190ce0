//! Building the table: routes go into tries and maps as they come, then everything is laid out for lookups.

use std::cmp::Reverse;
use std::sync::Arc;

use super::index::{TextMap, Trie};
use super::pattern::Pattern;
use super::table::{BuildFault, Candidate, Chain, Conditions, HOSTLESS, HostTest, NO_HOST, Spec, Table, Tree};
use crate::config::gateway::RouterMode;

impl Table {
    /// Builds the table.
    ///
    /// # Errors
    /// Routes with more paths or hosts than can be numbered.
    pub fn build(mode: RouterMode, routes: &[Spec<'_>]) -> Result<Self, Vec<BuildFault>> {
        let mut builder = Builder {
            mode,
            trees: vec![Growing::default()],
            exact_hosts: TextMap::default(),
            host_suffixes: Trie::default(),
            conditions: Vec::with_capacity(routes.len()),
        };
        let mut faults = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            if route.uris.len() >= usize::from(NO_HOST) || route.hosts.len() >= usize::from(NO_HOST) {
                let message = "more than 65534 paths or hosts in one route".to_owned();
                faults.push(BuildFault { route: number, uri: 0, message });
                continue;
            }
            builder.insert(number as u32, route);
        }
        if faults.is_empty() { Ok(builder.finish()) } else { Err(faults) }
    }
}

/// A table that is being built.
struct Builder {
    mode: RouterMode,
    trees: Vec<Growing>,
    exact_hosts: TextMap<u32>,
    host_suffixes: Trie,
    conditions: Vec<Conditions>, // by route
}

/// Paths of one host.
#[derive(Default)]
struct Growing {
    exact: TextMap<u32>, // → chain
    prefixes: Trie,      // → chain
    chains: u32,
    listed: Vec<Listed>,
}

/// A candidate, and what decides its place among others.
struct Listed {
    chain: u32, // those with the same exact path or the same prefix
    candidate: Candidate,
    pattern: Pattern,
    priority: i64,
    length: usize,
}

impl Builder {
    fn insert(&mut self, number: u32, route: &Spec<'_>) {
        let conditions = self.conditions_of(route);
        let conditional = conditions.decide();
        self.conditions.push(conditions);
        let trees: Vec<(u32, u16)> = if self.mode.hosts_first() && !route.hosts.is_empty() {
            route.hosts.iter().enumerate().map(|(at, host)| (self.tree_of(host), at as u16)).collect()
        } else {
            vec![(HOSTLESS, NO_HOST)]
        };
        for (tree, host) in trees {
            for (at, uri) in route.uris.iter().enumerate() {
                let pattern = Pattern::compile(uri, self.mode);
                let asks_more = conditional || matches!(pattern, Pattern::Parts(..));
                let candidate = Candidate { route: number, uri: at as u16, host, methods: route.methods, asks_more };
                if let Some(tree) = self.trees.get_mut(tree as usize) {
                    let chain = tree.chain_of(&pattern);
                    tree.listed.push(Listed { chain, candidate, pattern, priority: route.priority, length: uri.len() });
                }
            }
        }
    }

    fn conditions_of(&self, route: &Spec<'_>) -> Conditions {
        let hosts = if self.mode.hosts_first() { &[][..] } else { route.hosts };
        Conditions {
            remote_addrs: route.remote_addrs.into(),
            hosts: hosts.iter().map(|host| HostTest::of(host)).collect(),
            vars: route.vars.cloned().map(Arc::new),
        }
    }

    fn tree_of(&mut self, host: &str) -> u32 {
        let next = self.trees.len() as u32;
        let tree = match host.strip_prefix('*') {
            Some(suffix) => {
                let reversed: Vec<u8> = suffix.bytes().rev().collect();
                self.host_suffixes.entry(&reversed, next)
            }
            None => *self.exact_hosts.entry(host.as_bytes().into()).or_insert(next),
        };
        if tree == next {
            self.trees.push(Growing::default());
        }
        tree
    }

    /// Sorts the chains, links them, and lays everything out.
    fn finish(self) -> Table {
        let mut host_parents = vec![None; self.trees.len()];
        self.host_suffixes.each_parent(|tree, shorter| {
            if let Some(parent) = host_parents.get_mut(tree as usize) {
                *parent = shorter;
            }
        });
        let mut table = Table {
            mode: self.mode,
            trees: Vec::with_capacity(self.trees.len()),
            exact_hosts: self.exact_hosts,
            host_suffixes: self.host_suffixes.pack(),
            host_parents,
            candidates: Vec::new(),
            patterns: Vec::new(),
            conditions: self.conditions,
        };
        for tree in self.trees {
            table.take(tree);
        }
        table
    }
}

impl Growing {
    fn chain_of(&mut self, pattern: &Pattern) -> u32 {
        let next = self.chains;
        let chain = match pattern {
            Pattern::Exact(text) => *self.exact.entry(text.clone()).or_insert(next),
            Pattern::Prefix(prefix) | Pattern::Parts(prefix, _) => self.prefixes.entry(prefix, next),
        };
        self.chains += u32::from(chain == next);
        chain
    }
}

impl Table {
    fn take(&mut self, mut tree: Growing) {
        let mut chains = Vec::with_capacity(tree.chains as usize);
        tree.listed.sort_by_key(|one| (one.chain, Reverse((one.priority, one.length)))); // stable: load order decides the rest
        for one in tree.listed {
            let at = self.candidates.len() as u32;
            if one.chain as usize == chains.len() {
                chains.push(Chain { from: at, to: at, shorter: None });
            }
            if let Some(chain) = chains.last_mut() {
                chain.to = at + 1;
            }
            self.candidates.push(one.candidate);
            self.patterns.push(one.pattern);
        }
        tree.prefixes.each_parent(|chain, shorter| {
            if let Some(chain) = chains.get_mut(chain as usize) {
                chain.shorter = shorter;
            }
        });
        self.trees.push(Tree { exact: tree.exact, prefixes: tree.prefixes.pack(), chains });
    }
}
