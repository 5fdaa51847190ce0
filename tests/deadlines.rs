//! Deadlines towards clients: each one's own answer, and nobody escapes them by trickling.

mod support;

use std::time::{Duration, Instant};

use support::{Client, Gateway, Upstream, drivers, until};

fn route(upstream: &Upstream) -> String {
    format!("routes: [{{uri: /*, upstream: {}}}]", upstream.nodes())
}

/// Sends `bytes` one by one until the other side answers or ends; what it said.
fn trickle(client: &mut Client, bytes: &[u8]) -> u16 {
    client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let begun = Instant::now();
    for byte in bytes.iter().cycle() {
        client.send(&[*byte]);
        let answer = client.answer();
        if answer.status != 0 || client.is_over() {
            return answer.status;
        }
        assert!(begun.elapsed() < support::DEADLINE, "it goes on for ever");
    }
    0
}

#[test]
fn a_head_a_body_and_a_request_have_their_time() {
    let upstream = Upstream::echoing();
    for driver in drivers() {
        let mut gateway = Gateway::start(driver, "  timeouts: {header: 300ms}\n", &route(&upstream));
        let mut client = gateway.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
        assert_eq!(trickle(&mut client, b"x"), 408, "trickling does not extend it");
        gateway.set("  timeouts: {body: 300ms}\n");
        gateway.reload(&route(&upstream));
        let mut client = gateway.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
        assert_eq!(client.answer().status, 408, "a body that stands still");
        gateway.set("  timeouts: {body: 300ms, request: 1s}\n");
        gateway.reload(&route(&upstream));
        let mut client = gateway.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
        assert_eq!(trickle(&mut client, b"x"), 408, "a body that trickles");
        let reasons: Vec<_> = gateway.log(3).iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
        assert_eq!(reasons, ["client_header_timeout", "client_body_timeout", "client_body_timeout"]);
        assert_eq!(gateway.get("/").status, 200);
    }
}

#[test]
fn a_connection_ends_when_it_is_idle_or_old() {
    let upstream = Upstream::echoing();
    for driver in drivers() {
        let mut gateway = Gateway::start(driver, "  timeouts: {keepalive: 200ms}\n", &route(&upstream));
        let mut client = gateway.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().header("connection"), None);
        assert!(client.is_closed(), "idle for too long");
        gateway.set("  timeouts: {lifetime: 700ms}\n");
        gateway.reload(&route(&upstream));
        let mut client = gateway.connect();
        let mut answers = 0;
        until("its last answer", || {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = client.answer();
            assert_eq!(answer.status, 200, "no request is lost to it");
            answers += 1;
            (answer.header("connection") == Some("close")).then_some(())
        });
        assert!(answers > 3 && client.is_closed());
        let mut idle = gateway.connect();
        idle.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(idle.answer().status, 200);
        assert!(idle.is_closed(), "an old one that is idle ends too");
    }
}
