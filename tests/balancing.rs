//! Picking nodes: consistent hashing, least connections, peak latency, priorities, on both drivers.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Gateway, Upstream, drivers, free_port, ok, until};

/// Upstreams that answer with their number.
fn numbered(count: usize) -> Vec<Upstream> {
    (0..count).map(|number| Upstream::answering(move |_| ok(number.to_string().as_bytes()))).collect()
}

fn nodes(upstreams: &[&Upstream]) -> String {
    upstreams.iter().map(|upstream| format!("\"127.0.0.1:{}\": 1", upstream.port)).collect::<Vec<_>>().join(", ")
}

fn route(settings: &str, upstreams: &[&Upstream]) -> String {
    format!("routes:\n  - {{uri: /*, upstream: {{{settings}, nodes: {{{}}}}}}}", nodes(upstreams))
}

#[test]
fn a_key_stays_with_its_node_and_moves_only_when_that_leaves() {
    let upstreams = numbered(4);
    let all: Vec<&Upstream> = upstreams.iter().collect();
    for driver in drivers() {
        for (settings, request) in [
            ("type: chash, key: arg_user", "GET /?user={} HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("type: chash, hash_on: header, key: X-User", "GET / HTTP/1.1\r\nHost: a\r\nx-user: {}\r\n\r\n"),
            ("type: chash, hash_on: cookie, key: user", "GET / HTTP/1.1\r\nHost: a\r\nCookie: b=1; user={}\r\n\r\n"),
            ("type: chash, hash_on: vars_combinations, key: \"$arg_a-$arg_b\"", "GET /?a=x&b={} HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let gateway = Gateway::start(driver, "", &route(settings, &all));
            let mut client = gateway.connect();
            let mut owners = |keys: u32| -> Vec<String> {
                let ask = |key: u32| {
                    client.send(request.replace("{}", &key.to_string()).as_bytes());
                    client.answer().text()
                };
                (0..keys).map(ask).collect()
            };
            let before = owners(60);
            assert_eq!(owners(60), before, "{driver} {settings}");
            assert_eq!(before.iter().collect::<std::collections::HashSet<_>>().len(), 4, "every node has keys");
            gateway.reload(&route(settings, &all[..3]));
            for (key, (old, new)) in before.iter().zip(owners(60)).enumerate() {
                assert!(*old == new || old == "3", "{driver} {settings}: key {key} moved from {old} to {new}");
            }
        }
    }
}

#[test]
fn a_consumer_is_a_key_and_an_absent_key_is_the_clients_address() {
    let upstreams = numbered(3);
    let all: Vec<&Upstream> = upstreams.iter().collect();
    let resources = format!(
        "consumers:\n  - {{username: u1, plugins: {{key-auth: {{key: k1}}}}}}\n  - {{username: u2, plugins: {{key-auth: {{key: k2}}}}}}\n\
         routes:\n  - {{uri: /*, plugins: {{key-auth: {{}}}}, upstream: {{type: chash, hash_on: consumer, nodes: {{{}}}}}}}\n  \
         - {{uri: /open, upstream: {{type: chash, key: arg_x, nodes: {{{}}}}}}}",
        nodes(&all),
        nodes(&all)
    );
    let gateway = Gateway::start("epoll", "", &resources);
    let ask = |path: &str, key: &str| gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\napikey: {key}\r\n\r\n")).text();
    for key in ["k1", "k2"] {
        let owner = ask("/", key);
        assert!((0..10).all(|_| ask("/", key) == owner));
    }
    let owner = ask("/open", "");
    assert!((0..10).all(|_| ask("/open", "") == owner));
}

#[test]
fn a_key_of_a_dead_node_goes_to_the_next_point_of_the_ring() {
    let upstreams = numbered(2);
    let dead = free_port();
    for driver in drivers() {
        let resources = format!(
            "routes:\n  - {{uri: /*, upstream: {{type: chash, key: arg_k, nodes: {{{}, \"127.0.0.1:{dead}\": 1}}}}}}",
            nodes(&upstreams.iter().collect::<Vec<_>>())
        );
        let gateway = Gateway::start(driver, "", &resources);
        let mut tries = 0;
        for key in 0..40 {
            assert_eq!(gateway.get(&format!("/?k={key}")).status, 200, "{driver}");
        }
        for line in gateway.log(40) {
            tries += line["tries"].as_array().unwrap().len();
        }
        assert!(tries > 40, "some keys are the dead node's: {tries}");
    }
}

#[test]
fn the_node_with_the_fewest_requests_under_way_is_next() {
    for driver in drivers() {
        let held = Arc::new(AtomicBool::new(true));
        let gate = held.clone();
        let slow = Upstream::answering(move |_| {
            until("the gate", || (!gate.load(Ordering::SeqCst)).then_some(()));
            ok(b"slow")
        });
        let fast = Upstream::answering(|_| ok(b"fast"));
        let gateway = Gateway::start(driver, "", &route("type: least_conn", &[&slow, &fast]));
        let mut waiting: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
        waiting.iter_mut().for_each(|client| client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        until("a request at the slow node", || (slow.connections.load(Ordering::SeqCst) == 1).then_some(()));
        for _ in 0..20 {
            assert_eq!(gateway.get("/").text(), "fast", "{driver}: the slow node has one under way");
        }
        held.store(false, Ordering::SeqCst);
        let mut said: Vec<String> = waiting.iter_mut().map(|client| client.answer().text()).collect();
        said.sort();
        assert_eq!(said, ["fast", "slow"], "{driver}");
        let mut seen = HashMap::new();
        for _ in 0..20 {
            *seen.entry(gateway.get("/").text()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 2, "{driver}: equals take turns once both are free: {seen:?}");
    }
}

#[test]
fn the_node_that_answers_faster_gets_more() {
    for driver in drivers() {
        let slow = Upstream::answering(|_| {
            let begun = std::time::Instant::now();
            until("a slow answer", || (begun.elapsed().as_millis() > 30).then_some(()));
            ok(b"slow")
        });
        let fast = Upstream::answering(|_| ok(b"fast"));
        let gateway = Gateway::start(driver, "", &route("type: ewma", &[&slow, &fast]));
        let said: Vec<String> = (0..40).map(|_| gateway.get("/").text()).collect();
        let slow_ones = said.iter().filter(|said| *said == "slow").count();
        assert!(slow_ones <= 3, "{driver}: {slow_ones} of 40 went to the slow node");
    }
}

#[test]
fn a_key_and_the_log_see_the_forwarded_fields_that_go_out() {
    let upstreams = numbered(3);
    let all: Vec<&Upstream> = upstreams.iter().collect();
    let by = |key: &str| route(&format!("type: chash, {key}"), &all);
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &by("key: remote_addr"));
        let ask = |host: usize| gateway.ask(&format!("GET / HTTP/1.1\r\nHost: host{host}.example\r\n\r\n")).text();
        for key in ["hash_on: header, key: X-Forwarded-Host", "hash_on: vars_combinations, key: \"$http_x_forwarded_host\""] {
            gateway.reload(&by(key));
            let met: BTreeSet<String> = (0..60).map(ask).collect();
            assert_eq!(met.len(), 3, "{driver}, {key}: there is a key, though the client sent no such field: {met:?}");
        }
        gateway.reload(&by("key: remote_addr"));
        let file = gateway.scratch.0.join("ringway.yaml");
        let format = "access.log, format: \"to $http_x_forwarded_host by $http_x_forwarded_proto\"}";
        let text = std::fs::read_to_string(&file).unwrap().replace("access.log}", format);
        std::fs::write(&file, text).unwrap();
        let before = gateway.epoch();
        gateway.signal("HUP");
        until("the new epoch", || (gateway.epoch() > before).then_some(()));
        ask(1);
        let log = gateway.scratch.0.join("access.log");
        let line = || std::fs::read_to_string(&log).unwrap().lines().last().map(str::to_owned);
        until("the log line", || line().filter(|line| line == "to host1.example by http"));
    }
}
