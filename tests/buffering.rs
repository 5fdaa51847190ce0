//! Bodies kept in memory for slow clients, copies of requests, and the memory limit.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use support::{Gateway, Upstream, checksum, control, drivers, noise, ok, until};

fn route(upstream: &Upstream, plugins: &str) -> String {
    format!("routes: [{{uri: /*, plugins: {{{plugins}}}, upstream: {}}}]", upstream.nodes())
}

#[test]
fn a_gathered_body_reaches_its_node_whole_or_not_at_all() {
    for driver in drivers() {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        let upstream = Upstream::answering(move |request| {
            seen.lock().unwrap().push(request.head.clone());
            ok(checksum(&request.body).to_string().as_bytes())
        });
        let settings = "  buffering: {request: true, exchange_bytes: 100KiB}\n";
        let gateway = Gateway::start(driver, settings, &route(&upstream, ""));
        // A slow client does not even open a connection until all is there.
        let body = noise(60_000);
        let mut client = gateway.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(20_000) {
            client.send(format!("{:x}\r\n", piece.len()).as_bytes());
            client.send(piece);
            client.send(b"\r\n");
            assert_eq!(upstream.connections.load(Ordering::SeqCst), 0);
        }
        client.send(b"0\r\n\r\n");
        assert_eq!(client.answer().text(), checksum(&body).to_string());
        let head = heads.lock().unwrap()[0].clone();
        assert!(head.contains("Content-Length: 60000") && !head.contains("chunked"), "its length is known now: {head}");
        // One that is asked to wait is told to go on.
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.answer().status, 100);
        client.send(b"hello");
        assert_eq!(client.answer().text(), checksum(b"hello").to_string());
        // More than is kept streams on; trailers keep the chunks.
        for size in [99_999, 102_400, 102_401, 500_000] {
            let body = noise(size);
            let mut client = gateway.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").as_bytes());
            client.send(&body);
            assert_eq!(client.answer().text(), checksum(&body).to_string(), "{size}");
        }
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n");
        assert_eq!(client.answer().text(), checksum(b"abc").to_string());
        assert!(heads.lock().unwrap().last().unwrap().contains("chunked"));
        // A client that leaves costs its node nothing; one that breaks the framing neither.
        let connections = heads.lock().unwrap().len();
        let mut leaves = gateway.connect();
        leaves.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nabc");
        drop(leaves);
        let bad = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
        assert_eq!(bad.status, 400);
        gateway.log(9);
        assert_eq!(heads.lock().unwrap().len(), connections);
        // And the plugin may say otherwise.
        gateway.reload(&route(&upstream, "proxy-control: {request_buffering: false}"));
        let before = upstream.connections.load(Ordering::SeqCst);
        let mut client = gateway.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\nabc");
        drop(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        until("the node gets it as it comes", || (upstream.connections.load(Ordering::SeqCst) > before).then_some(()));
    }
}

#[test]
fn a_slow_client_does_not_hold_a_node_whose_answers_are_buffered() {
    for driver in drivers() {
        let written = Arc::new(AtomicUsize::new(0));
        let done = written.clone();
        let body = noise(12_000_000);
        let sent = body.clone();
        let upstream = Upstream::start(move |mut peer| {
            while peer.request().is_some() {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()).as_bytes());
                peer.send(&sent);
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        let settings = "  buffering: {exchange_bytes: 16MiB, worker_bytes: 14MiB}\n";
        let gateway = Gateway::start(driver, settings, &route(&upstream, "proxy-buffering: {}"));
        let mut slow = gateway.connect();
        slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        until("its node is free though nothing was read", || (written.load(Ordering::SeqCst) == 1).then_some(()));
        let idle = format!("ringway_pool_idle{{node=\"127.0.0.1:{}\"}} 1", upstream.port);
        until("its connection waits for others", || control(&gateway, "/metrics").contains(&idle).then_some(()));
        // It serves others meanwhile.
        let mut second = gateway.connect();
        second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(second.answer().body == body);
        assert_eq!(upstream.connections.load(Ordering::SeqCst), 1, "the same connection");
        // The worker has no room for two such bodies: the next slow client holds its node back after all.
        let mut third = gateway.connect();
        third.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let limit = "ringway_limits_hit_total{worker=\"0\",limit=\"buffering\"}";
        until("the bound", || (gateway.metric(limit) >= 1).then_some(()));
        assert!(slow.answer().body == body && third.answer().body == body, "and all of them got all of it");
        gateway.reload(&route(&upstream, "proxy-buffering: {disable_proxy_buffering: true}"));
        let mut slow = gateway.connect();
        slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(slow.head().contains("200"));
        assert_eq!(written.load(Ordering::SeqCst), 3, "held back by its client");
    }
}

#[test]
fn copies_go_elsewhere_and_delay_nobody() {
    for driver in drivers() {
        let copies: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = copies.clone();
        let silent = Arc::new(AtomicBool::new(false));
        let held = silent.clone();
        let mirror = Upstream::start(move |mut peer| {
            if let Some(request) = peer.request() {
                seen.lock().unwrap().push(format!("{}{}", request.head, String::from_utf8_lossy(&request.body)));
                if held.load(Ordering::SeqCst) {
                    until("the end of the test", || (!held.load(Ordering::SeqCst)).then_some(()));
                }
                peer.send(&ok(b"nobody reads this"));
            }
        });
        let upstream = Upstream::answering(|request| ok(&request.body));
        let plugin = |more: &str| format!("proxy-mirror: {{host: \"http://127.0.0.1:{}\"{more}}}", mirror.port);
        let gateway = Gateway::start(driver, "", &route(&upstream, &plugin("")));
        let answer =
            gateway.ask("POST /a?x=1 HTTP/1.1\r\nHost: a\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(answer.text(), "hello");
        let last = |count: usize| until("the copy", || copies.lock().unwrap().get(count).cloned());
        let copy = last(0);
        assert!(copy.starts_with("POST /a?x=1 HTTP/1.1\r\n") && copy.ends_with("\r\n\r\nhello"), "{copy}");
        assert!(copy.contains("Host: a\r\n") && copy.contains("X-Y: z\r\n") && copy.contains("Connection: close\r\n"));
        let trailers = "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
        assert_eq!(gateway.ask(trailers).text(), "hello");
        let copy = last(1);
        assert!(copy.contains("Transfer-Encoding: chunked") && copy.ends_with("\r\n\r\nhello"), "framed as it says: {copy}");
        gateway.reload(&route(&upstream, &plugin(", path: /in, path_concat_mode: prefix")));
        gateway.get("/a?x=1");
        assert!(last(2).starts_with("GET /in/a?x=1 HTTP/1.1"));
        gateway.reload(&route(&upstream, &plugin(", path: /in, sample_ratio: 0.5")));
        silent.store(true, Ordering::SeqCst);
        for _ in 0..60 {
            assert_eq!(gateway.get("/a?x=1").status, 200, "a mirror that hangs delays nobody");
        }
        silent.store(false, Ordering::SeqCst);
        assert!(last(3).starts_with("GET /in?x=1 HTTP/1.1"));
        until("its share", || (copies.lock().unwrap().len() > 10).then_some(()));
        assert!(copies.lock().unwrap().len() < 55);
        // One that is not there is nobody's trouble either.
        gateway.reload(&route(&upstream, &format!("proxy-mirror: {{host: \"http://127.0.0.1:{}\"}}", support::free_port())));
        assert_eq!(gateway.get("/").status, 200);
    }
}

#[test]
fn at_the_memory_limit_new_requests_are_refused_and_near_it_connections_end() {
    let upstream = Upstream::answering(|_| ok(b"fine"));
    for driver in drivers() {
        let resources = route(&upstream, "");
        let settings = |memory: &str| format!("  limits: {{memory: {memory}}}\n");
        let mut gateway = Gateway::start(driver, &settings("auto"), &resources);
        assert_eq!(gateway.get("/").text(), "fine");
        until("the limit is known", || control(&gateway, "/metrics").contains("\nringway_memory_limit_bytes ").then_some(()));
        gateway.set(&settings("1MiB"));
        gateway.reload(&resources);
        until("the refusal", || (gateway.get("/").status == 503).then_some(()));
        let refused = gateway.get("/");
        assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
        assert!(gateway.metric("ringway_limits_hit_total{worker=\"0\",limit=\"memory\"}") >= 2);
        assert!(gateway.stderr().contains("new requests get 503"));
        gateway.set(&settings("off"));
        gateway.reload(&resources);
        until("calm", || (gateway.get("/").status == 200).then_some(()));
        let lines = gateway.log(3);
        assert!(lines.iter().any(|line| line["reason"] == "overloaded"));
        // Near it: answers, but no connection stays.
        until("connections end early", || {
            // What it uses moves on, so the limit is set anew where it was not met.
            gateway.set(&settings(&(gateway.memory() * 100 / 90).to_string()));
            gateway.reload(&resources);
            let begun = std::time::Instant::now();
            until("a look at the memory", || {
                let answer = gateway.get("/");
                let ends = answer.status == 200 && answer.header("connection") == Some("close");
                (ends || begun.elapsed() > std::time::Duration::from_secs(2)).then_some(ends)
            })
            .then_some(())
        });
    }
}
