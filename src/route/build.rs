//! Building the table: routes go into tries and maps as they come, then everything is laid out for lookups.

use std::cmp::Reverse;
use std::sync::Arc;

use super::index::{TextMap, Trie};
use super::pattern::Pattern;
use super::table::{BuildFault, Candidate, Conditions, HOSTLESS, HostTest, NO_HOST, NO_RUN, Spec, Table, Tree};
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
    exact: TextMap<u32>, // → run
    prefixes: Trie,      // → run
    runs: u32,
    listed: Vec<Listed>,
}

/// A candidate, and what decides its place among others.
struct Listed {
    run: u32, // those with the same exact path or the same prefix
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
                let methods = route.methods;
                let (last, shorter) = (false, NO_RUN);
                let candidate = Candidate { route: number, uri: at as u16, host, methods, asks_more, last, shorter };
                if let Some(tree) = self.trees.get_mut(tree as usize) {
                    let run = tree.run_of(&pattern);
                    tree.listed.push(Listed { run, candidate, pattern, priority: route.priority, length: uri.len() });
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

    /// Sorts the runs, links them, and lays everything out.
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
            host_suffixes: self.host_suffixes.pack(|tree| tree),
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
    fn run_of(&mut self, pattern: &Pattern) -> u32 {
        let next = self.runs;
        let run = match pattern {
            Pattern::Exact(text) => *self.exact.entry(text.clone()).or_insert(next),
            Pattern::Prefix(prefix) | Pattern::Parts(prefix, _) => self.prefixes.entry(prefix, next),
        };
        self.runs += u32::from(run == next);
        run
    }
}

impl Table {
    fn take(&mut self, mut tree: Growing) {
        tree.listed.sort_by_key(|one| (one.run, Reverse((one.priority, one.length)))); // stable: load order decides the rest
        let mut firsts = vec![NO_RUN; tree.runs as usize];
        for (at, one) in (self.candidates.len() as u32..).zip(&tree.listed) {
            if let Some(first) = firsts.get_mut(one.run as usize) {
                *first = at.min(*first);
            }
        }
        let first_of = |run: u32| firsts.get(run as usize).copied().unwrap_or(NO_RUN);
        let mut shorter = vec![NO_RUN; tree.runs as usize];
        tree.prefixes.each_parent(|run, above| {
            if let (Some(shorter), Some(above)) = (shorter.get_mut(run as usize), above) {
                *shorter = first_of(above);
            }
        });
        let mut listed = tree.listed.into_iter().peekable();
        while let Some(mut one) = listed.next() {
            one.candidate.last = listed.peek().is_none_or(|next| next.run != one.run);
            one.candidate.shorter = shorter.get(one.run as usize).copied().unwrap_or(NO_RUN);
            self.candidates.push(one.candidate);
            self.patterns.push(one.pattern);
        }
        tree.exact.values_mut().for_each(|run| *run = first_of(*run));
        self.trees.push(Tree { exact: tree.exact, prefixes: tree.prefixes.pack(first_of) });
    }
}
