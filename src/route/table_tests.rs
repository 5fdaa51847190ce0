//! The rules and traps of APISIX request.md §1.3 to §1.5 one by one, and thousands of random tables beside a slow matcher
//! that says in the plainest way what is meant.

use std::borrow::Cow;

use serde_json::json;

use super::*;
use crate::proto::message::Method;
use crate::proto::vars::Vars;

const MODES: [RouterMode; 4] = [RouterMode::Ringway, RouterMode::HostUri, RouterMode::Uri, RouterMode::UriWithParameter];

/// A route as it is written.
#[derive(Clone, Debug, Default)]
struct Written {
    uris: Vec<String>,
    hosts: Vec<String>,
    methods: Vec<Method>,
    remote_addrs: Vec<IpNet>,
    vars: Option<serde_json::Value>,
    priority: i64,
}

/// A request as matching sees it.
#[derive(Clone, Debug)]
struct Sent {
    path: &'static str,
    host: &'static str,
    authority: &'static str,
    method: Method,
    from: Option<IpAddr>,
    arg: Option<&'static str>,
}

impl Default for Sent {
    fn default() -> Self {
        Self { path: "/", host: "h", authority: "h", method: Method::Get, from: "10.0.0.1".parse().ok(), arg: None }
    }
}

impl Vars for Sent {
    fn var(&self, var: &Var) -> Option<Value<'_>> {
        match var {
            Var::Arg(name) if &**name == "n" => self.arg.map(|arg| Value::Text(Cow::Borrowed(arg.as_bytes()))),
            Var::Named(Named::RemoteAddr) => self.from.map(Value::Ip),
            _ => None,
        }
    }
}

fn find(mode: RouterMode, routes: &[Written], sent: &Sent) -> Option<(u32, u16, Option<u16>)> {
    let exprs: Vec<_> = routes.iter().map(|route| route.vars.as_ref().map(|vars| Expr::compile(vars).unwrap())).collect();
    let specs: Vec<_> = routes.iter().zip(&exprs).map(|(route, vars)| spec(route, vars.as_ref())).collect();
    let table = Table::build(mode, &specs).unwrap();
    let ask = ask(sent);
    let found = table.find(&ask).map(|found| (found.route, found.uri, found.host));
    let explained = table.explain(&ask);
    let matched = explained.last().filter(|last| last.outcome == Outcome::Matched).map(|last| (last.route, last.uri));
    assert_eq!(matched, found.map(|(route, uri, _)| (route, uri)), "`explain` says what `find` does");
    found
}

fn spec<'a>(route: &'a Written, vars: Option<&'a Expr>) -> Spec<'a> {
    let mut methods = MethodSet::default();
    route.methods.iter().for_each(|method| methods.insert(*method));
    let Written { uris, hosts, remote_addrs, priority, .. } = route;
    Spec { uris, hosts, methods, remote_addrs, vars, priority: *priority }
}

fn ask(sent: &Sent) -> Ask<'_> {
    Ask {
        path: sent.path.as_bytes(),
        host: sent.host.as_bytes(),
        authority: sent.authority.as_bytes(),
        method: sent.method,
        vars: sent,
    }
}

/// `uri`, or `host uri` where the host has no slash, priority 0.
fn routes(lines: &[&str]) -> Vec<Written> {
    let route = |line: &&str| {
        let (hosts, uri) = line.split_once(' ').map_or((vec![], *line), |(host, uri)| (vec![host.to_owned()], uri));
        Written { uris: vec![uri.to_owned()], hosts, ..Written::default() }
    };
    lines.iter().map(route).collect()
}

fn winner(mode: RouterMode, lines: &[&str], host: &'static str, path: &'static str) -> Option<u32> {
    find(mode, &routes(lines), &Sent { path, host, authority: host, ..Sent::default() }).map(|(route, ..)| route)
}

#[test]
fn exact_beats_prefix_and_longer_beats_shorter() {
    for mode in MODES {
        let lines = ["/*", "/a/*", "/a/b", "*", "/a/b*"];
        for (path, expected) in [("/a/b", 2), ("/a/b/c", 4), ("/a/x", 1), ("/a", 0), ("/a/", 1), ("/A/b", 0)] {
            assert_eq!(winner(mode, &lines, "h", path), Some(expected), "{mode:?} {path}");
        }
        assert_eq!(winner(mode, &["/a"], "h", "/a/"), None);
        assert_eq!(winner(mode, &["/a/*"], "h", "/a"), None);
        assert_eq!(winner(mode, &["*"], "h", ""), Some(0));
        assert_eq!(winner(mode, &["/*"], "h", ""), None);
    }
}

#[test]
fn priority_decides_between_equal_paths_alone_then_length_then_order() {
    for mode in MODES {
        let mut two = routes(&["/a/*", "/*", "/a/*", "/a/*/b"]);
        assert_eq!(find(mode, &two, &Sent { path: "/a/x/b", ..Sent::default() }).unwrap().0, 3, "longer text first");
        assert_eq!(find(mode, &two, &Sent { path: "/a/x", ..Sent::default() }).unwrap().0, 0, "earlier first");
        (two[1].priority, two[2].priority) = (100, 1);
        assert_eq!(find(mode, &two, &Sent { path: "/a/x/b", ..Sent::default() }).unwrap().0, 2, "{mode:?}");
        two[0].priority = -1;
        two[2].priority = -2;
        assert_eq!(find(mode, &two, &Sent { path: "/a/x", ..Sent::default() }).unwrap().0, 0, "{mode:?}");
    }
}

#[test]
fn a_failed_candidate_falls_through_to_the_next() {
    for mode in MODES {
        let mut all = routes(&["/a", "/a", "/*", "/*"]);
        all[0].methods = vec![Method::Post];
        all[1].remote_addrs = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        all[2].vars = Some(json!([["arg_n", "==", "1"]]));
        let won = |sent: Sent| find(mode, &all, &Sent { path: "/a", ..sent }).unwrap().0;
        assert_eq!(won(Sent { method: Method::Post, ..Sent::default() }), 0);
        assert_eq!(won(Sent { method: Method::Head, ..Sent::default() }), 1);
        assert_eq!(won(Sent { from: "::1".parse().ok(), ..Sent::default() }), 1);
        assert_eq!(won(Sent { from: "::ffff:10.0.0.1".parse().ok(), ..Sent::default() }), 3, "no unmapping");
        assert_eq!(won(Sent { from: None, arg: Some("1"), ..Sent::default() }), 2);
        assert_eq!(won(Sent { from: None, arg: Some("2"), ..Sent::default() }), 3);
    }
}

#[test]
fn parameters_are_segments_in_two_modes_and_text_in_the_others() {
    for mode in MODES {
        let understood = matches!(mode, RouterMode::Ringway | RouterMode::UriWithParameter);
        let lines = ["/user/:id", "/user/:id/", "/user/:id/*rest"];
        let expected = |n| understood.then_some(n);
        assert_eq!(winner(mode, &lines, "h", "/user/7"), expected(0), "{mode:?}");
        assert_eq!(winner(mode, &lines, "h", "/user/7/"), expected(2), "a longer text first, and `*rest` may be empty");
        assert_eq!(winner(mode, &lines[..2], "h", "/user/7/"), expected(1));
        assert_eq!(winner(mode, &lines, "h", "/user/7/a/b"), expected(2));
        assert_eq!(winner(mode, &lines, "h", "/user/"), None);
        assert_eq!(winner(mode, &lines, "h", "/user/:id"), Some(0), "text or segment, both");
    }
}

#[test]
fn hosts_come_first_in_host_modes_and_are_conditions_in_the_others() {
    let lines = ["/foo", "a.com /*", "*.com /*", "* /*", "*a.com /bar"];
    for mode in [RouterMode::Ringway, RouterMode::HostUri] {
        for (host, path, expected) in [
            ("a.com", "/foo", 1), // a bound `/*` beats an exact path without host
            ("b.com", "/foo", 2),
            ("a.com", "/bar", 1),
            ("xa.com", "/bar", 4),
            ("x.a.com", "/bar", 4),
            (".com", "/", 2),
            ("com", "/", 3),
            ("_", "/foo", 3),
        ] {
            assert_eq!(winner(mode, &lines, host, path), Some(expected), "{mode:?} {host}{path}");
        }
        assert_eq!(winner(mode, &["a.com:80 /*"], "a.com", "/"), None, "hosts are compared without port");
    }
    for mode in [RouterMode::Uri, RouterMode::UriWithParameter] {
        for (host, path, expected) in [("a.com", "/foo", 0), ("b.com", "/x", 2), ("a.com", "/x", 1), ("com", "/x", 3)] {
            assert_eq!(winner(mode, &lines, host, path), Some(expected), "{mode:?} {host}{path}");
        }
        let with_port = Sent { host: "a.com", authority: "a.com:80", ..Sent::default() };
        assert_eq!(find(mode, &routes(&["a.com:80 /*"]), &with_port).map(|found| found.0), Some(0), "the Host as sent");
    }
}

#[test]
fn the_pattern_and_host_that_matched_are_told() {
    let route = Written {
        uris: ["/x", "/a/*", "/a/b"].map(str::to_owned).into(),
        hosts: ["*.com", "h"].map(str::to_owned).into(),
        ..Written::default()
    };
    let sent = Sent { path: "/a/b", ..Sent::default() };
    assert_eq!(find(RouterMode::Ringway, std::slice::from_ref(&route), &sent), Some((0, 2, Some(1))));
    assert_eq!(find(RouterMode::Uri, &[route], &sent), Some((0, 2, None)));
}

/// Every way through every route is tried; the best by APISIX's order wins.
fn reference(mode: RouterMode, routes: &[Written], sent: &Sent) -> Option<(u32, u16, Option<u16>)> {
    let hosts_first = matches!(mode, RouterMode::Ringway | RouterMode::HostUri);
    let mut best = None;
    for (number, route) in routes.iter().enumerate() {
        if !conditions_hold(route, sent) {
            continue;
        }
        let ways: Vec<(Option<u16>, usize)> = match (hosts_first, route.hosts.is_empty()) {
            (_, true) => vec![(None, 0)],
            (true, false) => host_ways(route, sent),
            (false, false) if host_ways(route, sent).is_empty() => continue,
            (false, false) => vec![(None, 0)],
        };
        for (host, host_rank) in ways {
            for (at, uri) in route.uris.iter().enumerate().filter(|(_, uri)| fits(mode, uri, sent.path)) {
                let path_rank = stored_prefix(mode, uri).map_or(usize::MAX, |prefix| prefix.len());
                let rank = (host_rank, path_rank, route.priority, uri.len());
                let way = (number as u32, at as u16, host);
                if best.as_ref().is_none_or(|(have, _)| rank > *have) {
                    best = Some((rank, way)); // the earlier of equals stays
                }
            }
        }
    }
    best.map(|(_, way)| way)
}

fn conditions_hold(route: &Written, sent: &Sent) -> bool {
    let method = route.methods.is_empty() || route.methods.contains(&sent.method);
    let address =
        route.remote_addrs.is_empty() || route.remote_addrs.iter().any(|net| sent.from.is_some_and(|ip| net.contains(&ip)));
    let vars = match &route.vars {
        None => true,
        Some(vars) => sent.arg.is_some() && vars[0][2].as_str() == sent.arg, // `==` is all that the random tables hold
    };
    method && address && vars
}

/// The route's hosts that fit, each with its rank: an exact one above any wildcard, a longer wildcard above a shorter.
fn host_ways(route: &Written, sent: &Sent) -> Vec<(Option<u16>, usize)> {
    let way = |(at, host): (usize, &String)| {
        let rank = match host.strip_prefix('*') {
            Some(suffix) => sent.host.ends_with(suffix).then_some(1 + suffix.len()),
            None => (sent.host == host).then_some(usize::MAX),
        };
        rank.map(|rank| (Some(at as u16), rank))
    };
    route.hosts.iter().enumerate().filter_map(way).collect()
}

fn is_parameter(mode: RouterMode, segment: &str) -> bool {
    let parameters = matches!(mode, RouterMode::Ringway | RouterMode::UriWithParameter);
    parameters && segment.starts_with(':') && segment.len() > 1
}

/// The text in front of the first mark; `None` where there is no mark.
fn stored_prefix(mode: RouterMode, uri: &str) -> Option<String> {
    let mut prefix = Vec::new();
    for segment in uri.split('/') {
        if is_parameter(mode, segment) {
            return Some(prefix.join("/") + if prefix.is_empty() { "" } else { "/" });
        }
        if let Some((before, _)) = segment.split_once('*') {
            prefix.push(before);
            return Some(prefix.join("/"));
        }
        prefix.push(segment);
    }
    None
}

/// Says what may stand at each place of the pattern, then tries every way of laying the path along it.
fn fits(mode: RouterMode, uri: &str, path: &str) -> bool {
    let segments: Vec<&str> = uri.split('/').collect();
    let mut places = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        if at > 0 {
            places.push(Place::Byte(b'/'));
        }
        if is_parameter(mode, segment) {
            places.extend([Place::NotSlash, Place::NotSlashes]);
        } else if segment.starts_with('*') && segment.matches('*').count() == 1 {
            places.push(Place::Anything);
        } else {
            let of = |(at, byte)| match byte {
                b'*' if last && at + 1 == segment.len() => Place::Anything,
                b'*' => Place::NotSlashes,
                byte => Place::Byte(byte),
            };
            places.extend(segment.bytes().enumerate().map(of));
        }
    }
    lies_along(&places, path.as_bytes())
}

#[derive(Clone, Copy)]
enum Place {
    Byte(u8),
    NotSlash,
    NotSlashes,
    Anything,
}

fn lies_along(places: &[Place], path: &[u8]) -> bool {
    let Some((place, others)) = places.split_first() else { return path.is_empty() };
    let one_more = |allowed: fn(u8) -> bool| path.first().is_some_and(|&byte| allowed(byte));
    match place {
        Place::Byte(byte) => path.first() == Some(byte) && lies_along(others, &path[1..]),
        Place::NotSlash => one_more(|byte| byte != b'/') && lies_along(others, &path[1..]),
        Place::NotSlashes => lies_along(others, path) || one_more(|byte| byte != b'/') && lies_along(places, &path[1..]),
        Place::Anything => lies_along(others, path) || one_more(|_| true) && lies_along(places, &path[1..]),
    }
}

struct Dice(u64);

impl Dice {
    fn next(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next(from.len())]
    }

    fn some<T: Copy>(&mut self, most: usize, from: &[T]) -> Vec<T> {
        (0..self.next(most + 1)).map(|_| self.pick(from)).collect()
    }
}

const SEGMENTS: [&str; 12] = ["a", "b", "ab", "", "*", "a*", "*b", ":x", ":y", "*rest", "a*b", "b*a*"];
const PATHS: [&str; 14] =
    ["/", "/a", "/b", "/ab", "/a/", "/a/b", "/a/b/", "/ab/a", "/a/ab/b", "/b/a/b", "/aab", "/a/:x", "/b/*", "/bxa/a"];
const HOSTS: [&str; 7] = ["a.com", "b.a.com", "*.com", "*.a.com", "*", "*a.com", "com"];
const ASKED: [&str; 6] = ["a.com", "b.a.com", "c.b.a.com", "ba.com", "com", "_"];

fn random_route(dice: &mut Dice) -> Written {
    let methods = [Method::Get, Method::Post];
    let nets: Vec<IpNet> = ["10.0.0.0/8", "10.0.0.1/32", "::/0"].iter().map(|net| net.parse().unwrap()).collect();
    let uri = |dice: &mut Dice| (0..=dice.next(3)).map(|_| format!("/{}", dice.pick(&SEGMENTS))).collect::<String>();
    Written {
        uris: (0..=dice.next(2)).map(|_| if dice.next(30) == 0 { "*".to_owned() } else { uri(dice) }).collect(),
        hosts: if dice.next(2) == 0 { vec![] } else { dice.some(2, &HOSTS).iter().map(|&host| host.to_owned()).collect() },
        methods: if dice.next(3) == 0 { dice.some(1, &methods) } else { vec![] },
        remote_addrs: if dice.next(4) == 0 { dice.some(2, &nets) } else { vec![] },
        vars: (dice.next(4) == 0).then(|| json!([["arg_n", "==", dice.pick(&["1", "2"])]])),
        priority: dice.pick(&[0, 0, 0, 1, -1]),
    }
}

fn random_request(dice: &mut Dice) -> Sent {
    let host = dice.pick(&ASKED);
    let from = dice.pick(&["10.0.0.1", "10.1.0.1", "::1", "192.0.2.1", ""]).parse().ok();
    let method = dice.pick(&[Method::Get, Method::Post, Method::Put]);
    Sent { path: dice.pick(&PATHS), host, authority: host, method, from, arg: dice.pick(&[None, Some("1"), Some("2")]) }
}

#[test]
fn random_tables_are_searched_as_the_reference_does() {
    let mut matched = 0;
    for seed in 1..=6000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let table: Vec<Written> = (0..=dice.next(9)).map(|_| random_route(&mut dice)).collect();
        for _ in 0..4 {
            let sent = random_request(&mut dice);
            for mode in MODES {
                let (found, expected) = (find(mode, &table, &sent), reference(mode, &table, &sent));
                assert_eq!(found, expected, "seed {seed}, {mode:?}\n{sent:?}\n{table:#?}");
                matched += u32::from(found.is_some());
            }
        }
    }
    assert!(matched > 20_000, "the tables and requests meet often enough to prove something: {matched}");
}
