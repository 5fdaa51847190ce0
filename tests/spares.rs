//! Idle upstream connections that go from worker to worker, with nginx behind the gateway.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Gateway, Nginx, Upstream, drivers, ok, until};

fn start(driver: &'static str, node: &str) -> Gateway {
    let routes = format!("routes: [{{uri: /*, upstream: {{nodes: {{\"{node}\": 1}}}}}}]");
    Gateway::start(driver, &format!("  workers: {{count: 2, driver: {driver}}}\n"), &routes)
}

fn wait_for_spares(gateway: &Gateway, count: u64) {
    until("spare connections", || (gateway.metric("ringway_pool_spare") == count).then_some(()));
}

fn of_workers(gateway: &Gateway, family: &str) -> [u64; 2] {
    [0, 1].map(|worker| gateway.metric(&format!("{family}{{worker=\"{worker}\"}}")))
}

/// One connection serves both workers, one after the other.
fn goes_round(node: impl Fn(&Nginx) -> String) {
    let nginx = Nginx::start(|port, dir| {
        format!(
            "  server {{ listen 127.0.0.1:{port}; listen unix:{dir}/nginx.sock; location / {{ return 200 \"$connection \
             $connection_requests\"; }} }}"
        )
    });
    for driver in drivers() {
        let gateway = start(driver, &node(&nginx));
        let mut first = None;
        for round in 1..=40 {
            let answer = gateway.get("/");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let text = answer.text();
            let (connection, requests) = text.split_once(' ').unwrap();
            assert_eq!(first.get_or_insert(connection.to_owned()), connection, "{driver}, round {round}");
            assert_eq!(requests, round.to_string());
            wait_for_spares(&gateway, 1);
            if round > 2 && !of_workers(&gateway, "ringway_requests_total").contains(&0) {
                break;
            }
        }
        assert!(!of_workers(&gateway, "ringway_requests_total").contains(&0), "both workers served");
        assert_eq!(of_workers(&gateway, "ringway_upstream_connects_total").iter().sum::<u64>(), 1);
        assert_eq!(of_workers(&gateway, "ringway_upstream_connections"), [0, 0], "it lies between them");
        assert!(of_workers(&gateway, "ringway_pool_borrowed_total").iter().sum::<u64>() >= 2);
    }
}

#[test]
fn a_connection_goes_to_the_worker_that_needs_it() {
    goes_round(|nginx| format!("127.0.0.1:{}", nginx.port));
}

#[test]
fn so_does_one_over_a_unix_socket() {
    goes_round(|nginx| format!("unix:{}/nginx.sock", nginx.scratch.0.display()));
}

#[test]
fn what_the_node_closes_or_a_reload_removes_lies_there_no_longer() {
    for driver in drivers() {
        let close = Arc::new(AtomicBool::new(false));
        let told = close.clone();
        let upstream = Upstream::start(move |mut peer| {
            peer.request();
            peer.send(&ok(b"hello"));
            until("the word to close", || told.load(Ordering::SeqCst).then_some(()));
        });
        let gateway = start(driver, &format!("127.0.0.1:{}", upstream.port));
        assert_eq!(gateway.get("/").status, 200);
        wait_for_spares(&gateway, 1);
        close.store(true, Ordering::SeqCst);
        wait_for_spares(&gateway, 0);
        assert_eq!(gateway.get("/").status, 200, "another is opened");
        assert_eq!(upstream.connections.load(Ordering::SeqCst), 2);

        let staying = Upstream::named("staying");
        gateway.reload(&format!("routes: [{{uri: /*, upstream: {}}}]", staying.nodes()));
        assert_eq!(gateway.get("/").text(), "staying");
        wait_for_spares(&gateway, 1);
        gateway.reload("routes: []");
        wait_for_spares(&gateway, 0);
    }
}
