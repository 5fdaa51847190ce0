//! The end of a gateway, of tunnels and of connections to nodes that left.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Client, Gateway, SWITCHED, UPGRADE, Upstream, control, drivers, ok, until};

/// Echoes tunnels, and answers other requests never.
fn upstream() -> Upstream {
    Upstream::start(|mut peer| {
        let Some(request) = peer.request() else { return };
        if !request.head.contains("Upgrade: websocket") {
            while !peer.client.exactly(1).is_empty() {}
            return;
        }
        peer.send(SWITCHED);
        loop {
            let byte = peer.client.exactly(1);
            if byte.is_empty() {
                return;
            }
            peer.send(&byte);
        }
    })
}

fn tunnel(gateway: &Gateway) -> Client {
    let mut client = gateway.connect();
    client.send(UPGRADE);
    assert_eq!(client.answer().status, 101);
    client
}

#[test]
fn tunnels_and_requests_have_deadlines_of_their_own() {
    for driver in drivers() {
        let upstream = upstream();
        let resources = format!("routes: [{{uri: /*, enable_websocket: true, upstream: {}}}]", upstream.nodes());
        // Tunnels first: the request goes on until its own deadline.
        let settings = "  timeouts: {drain: 2s, drain_websocket: 200ms}\n";
        let mut gateway = Gateway::start(driver, settings, &resources);
        let (mut tunnelled, mut slow) = (tunnel(&gateway), gateway.connect());
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        until("it is there", || (upstream.connections.load(Ordering::SeqCst) == 2).then_some(()));
        gateway.signal("TERM");
        assert!(tunnelled.is_closed() && !slow.is_over(), "{driver}: tunnels end first");
        assert_eq!(gateway.wait_for_end().code(), Some(0));
        // The other way round: a tunnel that still talks is let go on.
        let settings = "  timeouts: {drain: 200ms, drain_websocket: 15s}\n";
        let mut gateway = Gateway::start(driver, settings, &resources);
        let (mut tunnelled, mut slow) = (tunnel(&gateway), gateway.connect());
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        until("it is there", || (upstream.connections.load(Ordering::SeqCst) == 4).then_some(()));
        gateway.signal("TERM");
        assert!(slow.is_closed(), "{driver}: the request is cut");
        tunnelled.send(b"x");
        assert_eq!(tunnelled.exactly(1), b"x", "{driver}: the tunnel still works");
        drop(tunnelled);
        assert_eq!(gateway.wait_for_end().code(), Some(0));
    }
}

#[test]
fn idle_connections_to_a_node_that_left_are_closed_at_once() {
    for driver in drivers() {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let leaves = Upstream::start(move |mut peer| {
            while peer.request().is_some() {
                peer.send(&ok(b"here"));
            }
            count.fetch_add(1, Ordering::SeqCst);
        });
        let stays = Upstream::answering(|_| ok(b"there"));
        let both = format!("{{\"127.0.0.1:{}\": 1, \"127.0.0.1:{}\": 1}}", leaves.port, stays.port);
        let route = |nodes: &str| format!("routes: [{{id: r, uri: /*, upstream: {{nodes: {nodes}}}}}]");
        let gateway = Gateway::start(driver, "", &route(&both));
        until("both were asked", || {
            gateway.get("/");
            (leaves.connections.load(Ordering::SeqCst) > 0 && stays.connections.load(Ordering::SeqCst) > 0).then_some(())
        });
        assert_eq!(ended.load(Ordering::SeqCst), 0);
        gateway.reload(&route(&format!("{{\"127.0.0.1:{}\": 1}}", stays.port)));
        until("its connections end", || {
            (ended.load(Ordering::SeqCst) == leaves.connections.load(Ordering::SeqCst)).then_some(())
        });
    }
}

#[test]
fn over_the_connection_limit_new_ones_are_refused_at_once() {
    let upstream = Upstream::answering(|_| ok(b"x"));
    for driver in drivers() {
        let resources = format!("routes: [{{uri: /*, upstream: {}}}]", upstream.nodes());
        let gateway = Gateway::start(driver, "  limits: {connections: 4}\n", &resources);
        let mut held: Vec<Client> = (0..4).map(|_| gateway.connect()).collect();
        for client in &mut held {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer().status, 200);
        }
        let mut refused = gateway.connect();
        refused.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused.answer().status, 0, "{driver}: reset without an answer");
        let page = control(&gateway, "/metrics");
        assert!(page.contains("ringway_limits_hit_total{worker=\"0\",limit=\"connections\"} 1"), "{page}");
        for client in &mut held {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer().status, 200, "{driver}: those that are there are served");
        }
        drop(held.pop());
        until("room again", || (gateway.get("/").status == 200).then_some(()));
    }
}
