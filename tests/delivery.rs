//! Answers that break off, pause or are answered for arrive as what they are, whatever the pace of the client.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Gateway, Peer, Upstream, drivers, noise, until};

fn route(upstream: &Upstream, plugins: &str) -> String {
    format!("routes: [{{uri: /*, plugins: {{{plugins}}}, upstream: {}}}]", upstream.nodes())
}

/// Writes until the other side has taken nothing for a while.
fn fill(peer: &mut Peer) {
    peer.client.stream.set_nonblocking(true).unwrap();
    let (data, mut since) = (noise(65_536), Instant::now());
    until("a full way", || {
        match peer.client.stream.write(&data) {
            Ok(_) => since = Instant::now(),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        (since.elapsed() > Duration::from_millis(300)).then_some(())
    });
}

#[test]
fn an_answer_that_is_reset_is_never_a_whole_one() {
    for driver in drivers() {
        let reset = Arc::new(AtomicBool::new(false));
        let done = reset.clone();
        let upstream = Upstream::start(move |mut peer| {
            if peer.request().is_some() {
                peer.send(b"HTTP/1.1 200 OK\r\n\r\n"); // until the connection's end
                fill(&mut peer);
                socket2::SockRef::from(&peer.client.stream).set_linger(Some(Duration::ZERO)).unwrap();
                drop(peer);
                done.store(true, Ordering::SeqCst);
            }
        });
        for plugins in ["", "proxy-buffering: {}"] {
            reset.store(false, Ordering::SeqCst);
            let gateway = Gateway::start(driver, "", &route(&upstream, plugins));
            let mut client = gateway.connect();
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            until("the reset", || reset.load(Ordering::SeqCst).then_some(()));
            let answer = client.answer();
            assert_eq!((answer.status, answer.whole), (200, false), "{driver} {plugins}");
            assert_eq!(gateway.log(1)[0]["reason"], "upstream_cut");
        }
    }
}

#[test]
fn an_old_client_gets_all_of_a_buffered_answer() {
    let body = noise(6_000_000);
    for driver in drivers() {
        for framing in ["", "Transfer-Encoding: chunked\r\n"] {
            let (sent, chunked) = (body.clone(), !framing.is_empty());
            let upstream = Upstream::start(move |mut peer| {
                if peer.request().is_some() {
                    peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n").as_bytes());
                    if chunked {
                        peer.send(format!("{:x}\r\n", sent.len()).as_bytes());
                    }
                    peer.send(&sent);
                    peer.send(if chunked { b"\r\n" } else { b"" });
                    peer.send(if chunked { b"0\r\n\r\n" } else { b"" });
                }
            });
            let settings = "  buffering: {exchange_bytes: 16MiB}\n";
            let gateway = Gateway::start(driver, settings, &route(&upstream, "proxy-buffering: {}"));
            let mut client = gateway.connect();
            client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
            let answer = client.answer();
            assert!(answer.body == body, "{driver} {framing}: {} bytes of {}", answer.body.len(), body.len());
        }
    }
}

#[test]
fn a_quiet_answer_is_no_slow_client() {
    for driver in drivers() {
        let upstream = Upstream::start(|mut peer| {
            if peer.request().is_some() {
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
                let begun = Instant::now();
                until("longer than a client may take", || (begun.elapsed() > Duration::from_millis(900)).then_some(()));
                peer.send(b"data: 2\n\n");
            }
        });
        let gateway = Gateway::start(driver, "  timeouts: {send: 300ms}\n", &route(&upstream, ""));
        let answer = gateway.get("/");
        assert_eq!((answer.text().as_str(), answer.whole), ("data: 1\n\ndata: 2\n\n", true));
        assert_eq!(gateway.log(1)[0]["reason"], "done");
    }
}

#[test]
fn a_page_in_place_of_a_broken_answer_is_not_coded_like_it() {
    for driver in drivers() {
        let upstream = Upstream::answering(|_| {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".to_vec()
        });
        let limit = "limit-count: {count: 5, time_window: 60, key: remote_addr, policy: local}";
        let gateway = Gateway::start(driver, "", &route(&upstream, &format!("gzip: {{}}, {limit}")));
        let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        assert_eq!((answer.status, answer.header("content-encoding")), (502, None));
        assert!(answer.text().starts_with("<html>"), "{}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit"), Some("5"), "what the request phases said stays");
        let missing = gateway.ask("GET /x HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        assert_eq!(missing.status, 502);
    }
}

#[test]
fn a_head_in_two_pieces_that_just_fill_a_chunk_arrives_whole() {
    let upstream = Upstream::echoing();
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &route(&upstream, ""));
        for first in [17_usize, 100, 272] {
            let received = || {
                let page = support::control(&gateway, "/metrics");
                let line = page.lines().find(|line| line.starts_with("ringway_received_bytes_total{")).unwrap().to_owned();
                line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
            };
            let (mut client, before) = (gateway.connect(), received());
            let start = format!("GET /{} HTTP/1.1\r\nHost: a\r\nX-Long: ", "a".repeat(first));
            client.send(&start.as_bytes()[..first]);
            until("the first piece", || (received() == before + first).then_some(()));
            // As much as one receive takes.
            let rest = format!("{}{}\r\n\r\n", &start[first..], "x".repeat(7920));
            client.send(&rest.as_bytes()[..7920]);
            client.send(&rest.as_bytes()[7920..]);
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{first}");
            assert!(answer.text().contains(&"x".repeat(7920)), "{first}");
        }
    }
}
