//! The table: for each host an index over paths, candidates in APISIX's order, conditions checked one after the other.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Ask;
use super::expr::Expr;
use super::index::{Packed, TextMap};
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

/// The compiled table. What every lookup reads is small and lies in the order of the paths; what few routes have lies apart.
pub struct Table {
    pub(super) mode: RouterMode,
    pub(super) trees: Vec<Tree>,
    pub(super) exact_hosts: TextMap<u32>,
    pub(super) host_suffixes: Packed,          // reversed `*` hosts → tree
    pub(super) host_parents: Vec<Option<u32>>, // by tree
    pub(super) candidates: Vec<Candidate>,
    pub(super) patterns: Vec<Pattern>,      // by candidate
    pub(super) conditions: Vec<Conditions>, // by route
}

/// The tree of routes without hosts.
pub(super) const HOSTLESS: u32 = 0;

/// Paths of one host. Both lead to the first of the candidates with that exact path or that prefix: a run of the table's, in
/// order.
pub(super) struct Tree {
    pub(super) exact: TextMap<u32>,
    pub(super) prefixes: Packed,
}

pub(super) struct Candidate {
    pub(super) route: u32,
    pub(super) uri: u16,
    pub(super) host: u16, // NO_HOST
    pub(super) methods: MethodSet,
    /// More than the index and the methods decides: a pattern with parts, or conditions.
    pub(super) asks_more: bool,
    /// It ends its run.
    pub(super) last: bool,
    /// The run of the next shorter prefix, or [`NO_RUN`].
    pub(super) shorter: u32,
}

pub(super) const NO_HOST: u16 = u16::MAX;
pub(super) const NO_RUN: u32 = u32::MAX;

pub(super) struct Conditions {
    pub(super) remote_addrs: Box<[IpNet]>,
    pub(super) hosts: Box<[HostTest]>, // in the uri modes
    pub(super) vars: Option<Arc<Expr>>,
}

/// A host condition of the uri modes.
#[derive(Clone, Debug)]
pub(super) enum HostTest {
    Exact(Box<[u8]>),
    Suffix(Box<[u8]>),
    Authority(Box<[u8]>), // with a port
}

impl Table {
    /// The first candidate in order whose conditions hold.
    pub fn find(&self, ask: &Ask<'_>) -> Option<Found> {
        self.walk(ask, |index, candidate| {
            if self.first_failure(index, candidate, ask).is_some() {
                return None;
            }
            let host = (candidate.host != NO_HOST).then_some(candidate.host);
            Some(Found { route: candidate.route, uri: candidate.uri, host, candidate: index })
        })
    }

    /// The first condition that does not hold, in APISIX's order.
    #[inline]
    fn first_failure(&self, index: u32, candidate: &Candidate, ask: &Ask<'_>) -> Option<&'static str> {
        if !candidate.methods.allows(ask.method) {
            return Some("method");
        }
        if candidate.asks_more { self.first_other_failure(index, candidate, ask) } else { None }
    }

    fn first_other_failure(&self, index: u32, candidate: &Candidate, ask: &Ask<'_>) -> Option<&'static str> {
        let failure = self.conditions.get(candidate.route as usize).and_then(|conditions| conditions.first_failure(ask));
        failure.or_else(|| match self.patterns.get(index as usize) {
            Some(pattern) if pattern.matches(ask.path) => None,
            _ => Some("uri"),
        })
    }

    /// Every candidate that was looked at, in order, up to the match.
    pub fn explain(&self, ask: &Ask<'_>) -> Vec<Considered> {
        let mut considered = Vec::new();
        self.walk(ask, |index, candidate| {
            let conditions = self.conditions.get(candidate.route as usize)?;
            let outcome = match self.first_failure(index, candidate, ask) {
                Some(condition) => Outcome::Failed { condition, detail: conditions.detail(condition, ask) },
                None => Outcome::Matched,
            };
            let matched = outcome == Outcome::Matched;
            considered.push(Considered { route: candidate.route, uri: candidate.uri, outcome });
            matched.then_some(())
        });
        considered
    }

    /// Captures of a match: `NAME` of `uri_param_NAME`.
    pub fn captures(&self, found: &Found, path: &[u8], out: &mut Vec<(Box<str>, Vec<u8>)>) {
        if let Some(pattern) = self.patterns.get(found.candidate as usize) {
            pattern.captures(path, out);
        }
    }

    /// Walks the candidates in order until `with` gives something.
    fn walk<T>(&self, ask: &Ask<'_>, mut with: impl FnMut(u32, &Candidate) -> Option<T>) -> Option<T> {
        if self.mode.hosts_first() {
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
        self.walk_tree(HOSTLESS, ask.path, &mut with)
    }

    fn walk_tree<T>(&self, tree: u32, path: &[u8], with: &mut impl FnMut(u32, &Candidate) -> Option<T>) -> Option<T> {
        let tree = self.trees.get(tree as usize)?;
        if let Some(&first) = tree.exact.get(path)
            && let Some(found) = self.walk_runs(first, with)
        {
            return Some(found);
        }
        self.walk_runs(tree.prefixes.longest(path.iter().copied())?, with)
    }

    /// Walks a run of candidates, then those of the shorter prefixes behind it (none are behind an exact path's).
    fn walk_runs<T>(&self, first: u32, with: &mut impl FnMut(u32, &Candidate) -> Option<T>) -> Option<T> {
        let mut at = first;
        loop {
            let candidate = self.candidates.get(at as usize)?; // past the end: NO_RUN
            if let Some(found) = with(at, candidate) {
                return Some(found);
            }
            at = if candidate.last { candidate.shorter } else { at + 1 };
        }
    }
}

impl Conditions {
    /// There is something to look at.
    pub(super) fn decide(&self) -> bool {
        !self.remote_addrs.is_empty() || !self.hosts.is_empty() || self.vars.is_some()
    }

    fn first_failure(&self, ask: &Ask<'_>) -> Option<&'static str> {
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
            "uri" => format!("the pattern's segments do not fit {}", String::from_utf8_lossy(ask.path)),
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
    pub(super) fn of(host: &str) -> Self {
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
