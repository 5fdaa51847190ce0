//! The table: for each host an index over paths, candidates in APISIX's order, conditions checked one after the other.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Ask;
use super::expr::Expr;
use super::index::{TextMap, Trie};
use super::pattern::Pattern;
use crate::config::gateway::RouterMode;
use crate::proto::message::MethodSet;
use crate::proto::vars::{Named, Value, Var};

/// A route as matching sees it. Its place in the slice is its load order and its number.
#[derive(Clone, Copy)]
pub struct Spec<'a> {
    /// Path patterns.
    pub uris: &'a [String],
    /// Effective hosts (the route's, else its service's).
    pub hosts: &'a [String],
    /// Methods.
    pub methods: MethodSet,
    /// Client addresses; empty means any.
    pub remote_addrs: &'a [IpNet],
    /// Further conditions.
    pub vars: Option<&'a Expr>,
    /// Higher first among equal paths.
    pub priority: i64,
}

/// A route that could not be put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFault {
    /// Which route.
    pub route: usize,
    /// Which of its paths.
    pub uri: usize,
    /// Why.
    pub message: String,
}

/// A match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the route.
    pub route: u32,
    /// Which of its paths matched.
    pub uri: u16,
    /// Which of its hosts led here; `None` for a route without hosts.
    pub host: Option<u16>,
    candidate: u32,
}

/// A candidate that was looked at, for `ringway explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Number of the route.
    pub route: u32,
    /// Which of its paths.
    pub uri: u16,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the match.
    Matched,
    /// A condition failed.
    Failed {
        /// `method`, `remote_addr`, `host`, `vars` or `uri`.
        condition: &'static str,
        /// What was wanted, what came.
        detail: String,
    },
}

/// The compiled table.
pub struct Table {
    mode: RouterMode,
    trees: Vec<Tree>,
    exact_hosts: TextMap<u32>,
    host_suffixes: Trie,            // reversed `*` hosts → tree
    host_parents: Vec<Option<u32>>, // by tree
    hostless: u32,
    candidates: Vec<Candidate>,
    conditions: Vec<Conditions>, // by route
}

/// Paths of one host.
#[derive(Default)]
struct Tree {
    exact: TextMap<u32>, // → chain
    prefixes: Trie,      // → chain
    chains: Vec<Chain>,
}

/// Candidates with the same exact path or the same prefix, in order.
#[derive(Default)]
struct Chain {
    candidates: Vec<u32>,
    shorter: Option<u32>,
}

struct Candidate {
    route: u32,
    uri: u16,
    host: Option<u16>,
    priority: i64,
    length: usize,
    pattern: Pattern,
}

struct Conditions {
    methods: MethodSet,
    remote_addrs: Box<[IpNet]>,
    hosts: Box<[HostTest]>, // in the uri modes
    vars: Option<Arc<Expr>>,
}

/// A host condition of the uri modes.
#[derive(Clone, Debug)]
enum HostTest {
    Exact(Box<[u8]>),
    Suffix(Box<[u8]>),
    Authority(Box<[u8]>), // with a port
}

impl Table {
    /// Builds the table.
    ///
    /// # Errors
    /// Routes with more paths or hosts than can be numbered.
    pub fn build(mode: RouterMode, routes: &[Spec<'_>]) -> Result<Self, Vec<BuildFault>> {
        let mut table = Self {
            mode,
            trees: vec![Tree::default()],
            exact_hosts: TextMap::default(),
            host_suffixes: Trie::default(),
            host_parents: Vec::new(),
            hostless: 0,
            candidates: Vec::new(),
            conditions: Vec::with_capacity(routes.len()),
        };
        let mut faults = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            if route.uris.len() > usize::from(u16::MAX) || route.hosts.len() > usize::from(u16::MAX) {
                let message = "more than 65535 paths or hosts in one route".to_owned();
                faults.push(BuildFault { route: number, uri: 0, message });
                continue;
            }
            table.conditions.push(table.conditions_of(route));
            table.insert(number as u32, route);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        table.finish();
        Ok(table)
    }

    fn hosts_first(&self) -> bool {
        matches!(self.mode, RouterMode::Ringway | RouterMode::HostUri)
    }

    fn conditions_of(&self, route: &Spec<'_>) -> Conditions {
        let hosts = if self.hosts_first() { &[][..] } else { route.hosts };
        Conditions {
            methods: route.methods,
            remote_addrs: route.remote_addrs.into(),
            hosts: hosts.iter().map(|host| HostTest::of(host)).collect(),
            vars: route.vars.cloned().map(Arc::new),
        }
    }

    fn insert(&mut self, number: u32, route: &Spec<'_>) {
        let trees: Vec<(u32, Option<u16>)> = if self.hosts_first() && !route.hosts.is_empty() {
            route.hosts.iter().enumerate().map(|(at, host)| (self.tree_of(host), Some(at as u16))).collect()
        } else {
            vec![(self.hostless, None)]
        };
        for (tree, host) in trees {
            for (at, uri) in route.uris.iter().enumerate() {
                let pattern = Pattern::compile(uri, self.mode);
                let index = self.candidates.len() as u32;
                if let Some(tree) = self.trees.get_mut(tree as usize) {
                    tree.insert(&pattern, index);
                }
                let (priority, length) = (route.priority, uri.len());
                self.candidates.push(Candidate { route: number, uri: at as u16, host, priority, length, pattern });
            }
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
            self.trees.push(Tree::default());
        }
        tree
    }

    /// Sorts the chains and links them.
    fn finish(&mut self) {
        let candidates = &self.candidates;
        for tree in &mut self.trees {
            for chain in &mut tree.chains {
                chain.candidates.sort_by_key(|&at| {
                    let candidate = candidates.get(at as usize);
                    let key = candidate.map(|candidate| (candidate.priority, candidate.length)).unwrap_or_default();
                    std::cmp::Reverse(key) // stable: load order decides the rest
                });
            }
            let chains = &mut tree.chains;
            tree.prefixes.each_parent(|chain, shorter| {
                if let Some(chain) = chains.get_mut(chain as usize) {
                    chain.shorter = shorter;
                }
            });
        }
        self.host_parents = vec![None; self.trees.len()];
        let parents = &mut self.host_parents;
        self.host_suffixes.each_parent(|tree, shorter| {
            if let Some(parent) = parents.get_mut(tree as usize) {
                *parent = shorter;
            }
        });
    }

    /// The first candidate in order whose conditions hold.
    pub fn find(&self, ask: &Ask<'_>) -> Option<Found> {
        self.walk(ask, |index, candidate| {
            let conditions = self.conditions.get(candidate.route as usize)?;
            let holds = conditions.first_failure(ask).is_none() && candidate.pattern.matches(ask.path);
            holds.then_some(Found { route: candidate.route, uri: candidate.uri, host: candidate.host, candidate: index })
        })
    }

    /// Every candidate that was looked at, in order, up to the match.
    pub fn explain(&self, ask: &Ask<'_>) -> Vec<Considered> {
        let mut considered = Vec::new();
        self.walk(ask, |_, candidate| {
            let conditions = self.conditions.get(candidate.route as usize)?;
            let outcome = match conditions.first_failure(ask) {
                Some(condition) => Outcome::Failed { condition, detail: conditions.detail(condition, ask) },
                None if candidate.pattern.matches(ask.path) => Outcome::Matched,
                None => Outcome::Failed {
                    condition: "uri",
                    detail: format!("the pattern's segments do not fit {}", String::from_utf8_lossy(ask.path)),
                },
            };
            let matched = outcome == Outcome::Matched;
            considered.push(Considered { route: candidate.route, uri: candidate.uri, outcome });
            matched.then_some(())
        });
        considered
    }

    /// Captures of a match: `NAME` of `uri_param_NAME`.
    pub fn captures(&self, found: &Found, path: &[u8], out: &mut Vec<(Box<str>, Vec<u8>)>) {
        if let Some(candidate) = self.candidates.get(found.candidate as usize) {
            candidate.pattern.captures(path, out);
        }
    }

    /// Walks the candidates in order until `with` gives something.
    fn walk<T>(&self, ask: &Ask<'_>, mut with: impl FnMut(u32, &Candidate) -> Option<T>) -> Option<T> {
        if self.hosts_first() {
            if let Some(&tree) = self.exact_hosts.get(ask.host)
                && let Some(found) = self.walk_tree(tree, ask.path, &mut with)
            {
                return Some(found);
            }
            let mut next = match self.host_parents.len() {
                1 => None, // no host at all is configured
                _ => self.host_suffixes.longest(ask.host.iter().rev().copied()),
            };
            while let Some(tree) = next {
                if let Some(found) = self.walk_tree(tree, ask.path, &mut with) {
                    return Some(found);
                }
                next = self.host_parents.get(tree as usize).copied().flatten();
            }
        }
        self.walk_tree(self.hostless, ask.path, &mut with)
    }

    fn walk_tree<T>(&self, tree: u32, path: &[u8], with: &mut impl FnMut(u32, &Candidate) -> Option<T>) -> Option<T> {
        let tree = self.trees.get(tree as usize)?;
        if let Some(&chain) = tree.exact.get(path)
            && let Some(found) = self.walk_chain(tree.chains.get(chain as usize)?, with)
        {
            return Some(found);
        }
        let mut next = tree.prefixes.longest(path.iter().copied());
        while let Some(chain) = next.and_then(|chain| tree.chains.get(chain as usize)) {
            if let Some(found) = self.walk_chain(chain, with) {
                return Some(found);
            }
            next = chain.shorter;
        }
        None
    }

    fn walk_chain<T>(&self, chain: &Chain, with: &mut impl FnMut(u32, &Candidate) -> Option<T>) -> Option<T> {
        chain.candidates.iter().find_map(|&index| with(index, self.candidates.get(index as usize)?))
    }
}

impl Tree {
    fn insert(&mut self, pattern: &Pattern, candidate: u32) {
        let next = self.chains.len() as u32;
        let chain = match pattern {
            Pattern::Exact(text) => *self.exact.entry(text.clone()).or_insert(next),
            Pattern::Prefix(prefix) | Pattern::Parts(prefix, _) => self.prefixes.entry(prefix, next),
        };
        if chain == next {
            self.chains.push(Chain::default());
        }
        if let Some(chain) = self.chains.get_mut(chain as usize) {
            chain.candidates.push(candidate);
        }
    }
}

impl Conditions {
    /// The first condition that does not hold, in APISIX's order.
    fn first_failure(&self, ask: &Ask<'_>) -> Option<&'static str> {
        if !self.methods.allows(ask.method) {
            return Some("method");
        }
        if !self.remote_addrs.is_empty() && !self.remote_addrs.iter().any(|net| contains(net, client(ask))) {
            return Some("remote_addr");
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.holds(ask)) {
            return Some("host");
        }
        match &self.vars {
            Some(vars) if !vars.holds(ask.vars) => Some("vars"),
            _ => None,
        }
    }

    fn detail(&self, condition: &str, ask: &Ask<'_>) -> String {
        match condition {
            "method" => format!("the request's is {}", String::from_utf8_lossy(ask.method.known_text())),
            "remote_addr" => match client(ask) {
                Some(ip) => format!("{ip} is in none of {:?}", self.remote_addrs),
                None => "the client came by a Unix socket".to_owned(),
            },
            "host" => format!("{} is none of {:?}", String::from_utf8_lossy(ask.host), self.hosts),
            _ => self.vars.as_ref().and_then(|vars| vars.first_failure(ask.vars)).unwrap_or_default(),
        }
    }
}

/// The client's address after real-ip; `None` on a Unix socket. Read by few routes, so that it is not copied for all.
fn client(ask: &Ask<'_>) -> Option<IpAddr> {
    match ask.vars.var(&Var::Named(Named::RemoteAddr)) {
        Some(Value::Ip(ip)) => Some(ip),
        _ => None,
    }
}

/// IPv4 nets hold IPv4 addresses only, IPv6 nets IPv6 ones.
fn contains(net: &IpNet, ip: Option<IpAddr>) -> bool {
    ip.is_some_and(|ip| net.contains(&ip))
}

impl HostTest {
    fn of(host: &str) -> Self {
        match host.strip_prefix('*') {
            Some(suffix) => Self::Suffix(suffix.as_bytes().into()),
            None if host.contains(':') && !host.ends_with(']') => Self::Authority(host.as_bytes().into()),
            None => Self::Exact(host.as_bytes().into()),
        }
    }

    fn holds(&self, ask: &Ask<'_>) -> bool {
        match self {
            Self::Exact(host) => ask.host == &**host,
            Self::Suffix(suffix) => ask.host.ends_with(suffix),
            Self::Authority(authority) => ask.authority == &**authority,
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
