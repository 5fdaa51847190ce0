//! What upstreams do beyond APISIX: sessions bound to nodes, draining, bounds and queues, outliers, budgets, slow start.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::{Gateway, Upstream, control, control_with, drivers, ok, until};

fn two(one: &Upstream, other: &Upstream, policy: &str) -> String {
    let nodes = format!("{{\"127.0.0.1:{}\": 1, \"127.0.0.1:{}\": 1}}", one.port, other.port);
    format!("routes: [{{id: r, uri: /*, upstream: {{nodes: {nodes}, {policy}}}}}]")
}

/// Asks with a cookie; (who answered, the cookie it set).
fn ask(gateway: &Gateway, cookie: Option<&str>) -> (String, Option<String>) {
    let cookie = cookie.map(|cookie| format!("Cookie: a=b; {cookie}\r\n")).unwrap_or_default();
    let answer = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{cookie}\r\n"));
    let set = answer.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned());
    (answer.text(), set)
}

#[test]
fn a_cookie_keeps_a_client_at_its_node_until_that_is_down() {
    let sticky = "sticky: {cookie: at, ttl: 1h, samesite: lax}";
    for driver in drivers() {
        let (one, other) = (Upstream::named("one"), Upstream::named("other"));
        let gateway = Gateway::start(driver, "", &two(&one, &other, sticky));
        let full = gateway.get("/").header("set-cookie").unwrap().to_owned();
        assert!(full.starts_with("at=") && full.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{full}");
        let (mine, cookie) = ask(&gateway, None);
        let cookie = cookie.unwrap();
        for _ in 0..6 {
            assert_eq!(ask(&gateway, Some(&cookie)), (mine.clone(), None), "and it is not set again");
        }
        let (_, forged) = ask(&gateway, Some("at=00000000000000000000000000000000"));
        assert!(forged.is_some(), "an unknown value binds nobody");
        // Drained: those bound to it stay, others go elsewhere.
        let (port, place) = if mine == "one" { (one.port, "one") } else { (other.port, "other") };
        let path = format!("/v1/drains/routes/r/127.0.0.1:{port}");
        assert_eq!(control_with(&gateway, "PUT", &path).status, 200);
        assert_eq!(control_with(&gateway, "PUT", "/v1/drains/routes/r/127.0.0.1:1").status, 404);
        assert!(control(&gateway, "/v1/drains").contains(&format!("127.0.0.1:{port}")));
        for _ in 0..6 {
            assert_eq!(ask(&gateway, Some(&cookie)).0, place);
            assert_ne!(ask(&gateway, None).0, place, "no new sessions");
        }
        assert_eq!(control_with(&gateway, "DELETE", &path).status, 200);
        until("new sessions again", || (ask(&gateway, None).0 == place).then_some(()));
        // Down: another node, and a cookie for it.
        let gone = format!("127.0.0.1:{}", support::free_port());
        gateway.reload(&two(&one, &other, sticky).replace(&format!("127.0.0.1:{port}"), &gone));
        let (elsewhere, moved) = ask(&gateway, Some(&cookie));
        assert_ne!(elsewhere, place);
        assert_ne!(moved.unwrap(), cookie);
    }
}

#[test]
fn requests_over_a_nodes_limit_wait_their_turn_or_are_refused() {
    for driver in drivers() {
        let hold = Arc::new(AtomicBool::new(true));
        let (held, busy, most) = (hold.clone(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (at_once, peak) = (busy.clone(), most.clone());
        let upstream = Upstream::answering(move |_| {
            peak.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            until("the release", || (!held.load(Ordering::SeqCst)).then_some(()));
            at_once.fetch_sub(1, Ordering::SeqCst);
            ok(b"done")
        });
        let limits = "limits: {requests: 2, pending: 3, pending_timeout: 15s}";
        let resources = |limits: &str| {
            format!("routes: [{{uri: /*, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, {limits}}}}}]", upstream.port)
        };
        let gateway = Gateway::start(driver, "", &resources(limits));
        let mut clients: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            until("it is there", || (gateway.metric("ringway_requests_total{worker=\"0\"}") > at as u64).then_some(()));
        }
        until("two of them arrive", || (busy.load(Ordering::SeqCst) == 2).then_some(()));
        let refused = gateway.get("/");
        assert_eq!(refused.status, 503, "the queue is full");
        assert_eq!(gateway.metric("ringway_limits_hit_total{worker=\"0\",limit=\"upstream_pending\"}"), 1);
        // One that leaves gives up its place; the others are served in the end.
        drop(clients.pop());
        hold.store(false, Ordering::SeqCst);
        for client in &mut clients {
            assert_eq!(client.answer().text(), "done");
        }
        assert_eq!(most.load(Ordering::SeqCst), 2, "never more at once");
        gateway.log(6); // a FIN cancels nothing: the request of the one that left may still be under way
        hold.store(true, Ordering::SeqCst);
        gateway.reload(&resources("limits: {requests: 1, pending: 3, pending_timeout: 100ms}"));
        let mut first = gateway.connect();
        first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        until("it arrives", || (busy.load(Ordering::SeqCst) == 1).then_some(()));
        assert_eq!(gateway.get("/").status, 503, "it waited too long");
        assert_eq!(gateway.metric("ringway_limits_hit_total{worker=\"0\",limit=\"upstream_pending_timeout\"}"), 1);
        hold.store(false, Ordering::SeqCst);
        assert_eq!(first.answer().text(), "done");
        let reasons: Vec<_> = gateway.log(8).iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
        assert_eq!(reasons.iter().filter(|reason| *reason == "overloaded").count(), 2, "{reasons:?}");
    }
}

#[test]
fn a_try_that_failed_frees_its_place_for_the_next() {
    for driver in drivers() {
        let asked = AtomicUsize::new(0);
        let upstream = Upstream::start(move |mut peer| {
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            if peer.request().is_some() && !first {
                peer.send(&ok(b"second"));
            }
        });
        let upstream = format!(
            "{{nodes: {{\"127.0.0.1:{}\": 1}}, retries: 1, limits: {{requests: 1, pending: 3, pending_timeout: 60s}}}}",
            upstream.port
        );
        let gateway = Gateway::start(driver, "", &format!("routes: [{{uri: /*, upstream: {upstream}}}]"));
        assert_eq!(gateway.get("/").text(), "second");
    }
}

#[test]
fn who_waits_for_a_certain_node_holds_nobody_up() {
    for driver in drivers() {
        let hold = Arc::new(AtomicBool::new(false));
        let (held, busy) = (hold.clone(), Arc::new(AtomicUsize::new(0)));
        let underway = busy.clone();
        let slow = Upstream::answering(move |_| {
            underway.fetch_add(1, Ordering::SeqCst);
            until("the release", || (!held.load(Ordering::SeqCst)).then_some(()));
            ok(b"slow")
        });
        let quick = Upstream::named("quick");
        let policy = "sticky: {cookie: at}, limits: {requests: 1, pending: 9, pending_timeout: 60s}";
        let gateway = Gateway::start(driver, "", &two(&slow, &quick, policy));
        let cookie = until("a session there", || match ask(&gateway, None) {
            (who, Some(cookie)) if who == "slow" => Some(cookie),
            _ => None,
        });
        let before = busy.load(Ordering::SeqCst);
        hold.store(true, Ordering::SeqCst);
        let mut bound: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
        for client in &mut bound {
            let seen = gateway.metric("ringway_requests_total{worker=\"0\"}");
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n").as_bytes());
            until("it is there", || (gateway.metric("ringway_requests_total{worker=\"0\"}") > seen).then_some(()));
        }
        until("one of them is under way", || (busy.load(Ordering::SeqCst) > before).then_some(()));
        for _ in 0..10 {
            assert_eq!(ask(&gateway, None).0, "quick", "others go where there is room");
        }
        hold.store(false, Ordering::SeqCst);
        for client in &mut bound {
            assert_eq!(client.answer().text(), "slow");
        }
        assert_eq!(busy.load(Ordering::SeqCst), before + 3);
    }
}

#[test]
fn a_node_that_fails_is_left_out_for_a_while() {
    for driver in drivers() {
        let sick = Arc::new(AtomicBool::new(true));
        let is_sick = sick.clone();
        let bad = Upstream::answering(move |_| match is_sick.load(Ordering::SeqCst) {
            true => b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
            false => ok(b"bad"),
        });
        let good = Upstream::named("good");
        let outlier = "outlier: {failures: 2, ejection: 3s}";
        let gateway = Gateway::start(driver, "", &two(&bad, &good, outlier));
        let statuses: Vec<u16> = (0..20).map(|_| gateway.get("/").status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 2, "{statuses:?}");
        assert_eq!(gateway.metric("ringway_ejections_total"), 1);
        sick.store(false, Ordering::SeqCst);
        until("it serves again", || (gateway.get("/").text() == "bad").then_some(()));
        // Where too few would be left, nobody is put out.
        sick.store(true, Ordering::SeqCst);
        gateway.reload(&two(&bad, &good, "outlier: {failures: 2, ejection: 60s, max_ejected: 49}"));
        let failures = (0..20).filter(|_| gateway.get("/").status == 500).count();
        assert_eq!(failures, 10);
        // And under the panic threshold health does not count.
        gateway.reload(&two(&bad, &good, "outlier: {failures: 2, ejection: 60s}, panic_threshold: 60"));
        let failures = (0..20).filter(|_| gateway.get("/").status == 500).count();
        assert_eq!(failures, 10, "one of two well is less than 60 percent");
    }
}

#[test]
fn a_failing_upstream_is_not_stormed_by_retries() {
    for driver in drivers() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = |asked: &Arc<AtomicUsize>| {
            let asked = asked.clone();
            Upstream::start(move |mut peer| {
                if peer.request().is_some() {
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let (one, other) = (count(&asked), count(&asked));
        let budget = "retry_budget: {percent: 10, per_second: 0, burst: 5}";
        let gateway = Gateway::start(driver, "", &two(&one, &other, budget));
        for _ in 0..50 {
            assert_eq!(gateway.get("/").status, 502);
        }
        let tries = asked.load(Ordering::SeqCst);
        assert!((58..=60).contains(&tries), "50 requests, 5 retries at first and one for ten requests: {tries}");
        assert!(gateway.metric("ringway_limits_hit_total{worker=\"0\",limit=\"retry_budget\"}") >= 40);
        // A node that can't be reached costs none of it: nothing is sent to it.
        let gone = format!("127.0.0.1:{}", support::free_port());
        let good = Upstream::named("good");
        gateway.reload(&two(&good, &other, budget).replace(&format!("127.0.0.1:{}", other.port), &gone));
        for _ in 0..40 {
            assert_eq!(gateway.get("/").text(), "good");
        }
        gateway.reload(&two(&one, &other, "retry_budget: off"));
        asked.store(0, Ordering::SeqCst);
        for _ in 0..20 {
            assert_eq!(gateway.get("/").status, 502);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 40);
    }
}

#[test]
fn a_node_that_joins_starts_slowly() {
    for driver in drivers() {
        let (old, new) = (Upstream::named("old"), Upstream::named("new"));
        let single =
            format!("routes: [{{id: r, uri: /*, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, slow_start: 1h}}}}]", old.port);
        let gateway = Gateway::start(driver, "", &single);
        assert_eq!(gateway.get("/").text(), "old");
        gateway.reload(&two(&old, &new, "slow_start: 1h"));
        let seen = (0..110).filter(|_| gateway.get("/").text() == "new").count();
        assert_eq!(seen, 10, "a tenth of its weight at first");
        gateway.reload(&two(&old, &new, "slow_start: 1ms"));
        let seen = (0..20).filter(|_| gateway.get("/").text() == "new").count();
        assert!((9..=11).contains(&seen), "its whole weight after that: {seen}");
    }
}
