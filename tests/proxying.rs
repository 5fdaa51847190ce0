//! Proxying, on both drivers: framing in both directions, persistence, failures of the upstream, WebSocket, reloads.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::Ordering;

use support::{Client, Gateway, SWITCHED, UPGRADE, Upstream, checksum, control, drivers, free_port, noise, ok, until};

fn all(upstream: &Upstream) -> String {
    format!("routes:\n  - {{id: all, uri: /*, enable_websocket: true, upstream: {}}}", upstream.nodes())
}

#[test]
fn the_upstream_gets_the_request_and_the_client_the_answer() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let answer = gateway.ask(
            "POST /a%2Fb//c?x=1 HTTP/1.1\r\nHost: A.example:81\r\nContent-Length: 5\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n\
             X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nX-Kept: yes\r\n\r\nhello",
        );
        assert_eq!(answer.status, 200);
        let seen = answer.text();
        assert!(seen.starts_with("POST /a%2Fb//c?x=1 HTTP/1.1\r\nHost: A.example:81\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\nhello"), "{seen}");
        for line in [
            "X-Forwarded-For: 192.0.2.1, 127.0.0.1",
            "X-Real-IP: 127.0.0.1",
            "X-Forwarded-Proto: http",
            "X-Kept: yes",
            "X-Forwarded-Host: A.example:81",
            "X-Forwarded-Port: 81",
            "Content-Length: 5",
        ] {
            assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line} in {seen}");
        }
        for gone in ["X-Hop", "TE:", "Keep-Alive", "Proxy-Connection", "https"] {
            assert!(!seen.contains(gone), "{gone} in {seen}");
        }
        assert_eq!(answer.header("server"), Some(concat!("Ringway/", env!("CARGO_PKG_VERSION"))));
        let line = &gateway.log(1)[0];
        assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("done"), Some(200)));
        assert_eq!(line["tries"][0]["status"], 200);
    }
}

#[test]
fn bodies_of_every_framing_arrive_whole() {
    for driver in drivers() {
        let big = noise(10 << 20);
        let sum = checksum(&big);
        let sent = big.clone();
        let upstream = Upstream::answering(move |request| {
            let path = request.head.split(' ').nth(1).unwrap();
            match path {
                "/length" => ok(&sent),
                "/chunked" => {
                    let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                    for piece in sent.chunks(70_001) {
                        out.extend_from_slice(format!("{:x};ext=1\r\n", piece.len()).as_bytes());
                        out.extend_from_slice(piece);
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"0\r\n\r\n");
                    out
                }
                "/small-chunks" => {
                    let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                    (0..5000).for_each(|_| out.extend_from_slice(b"3\r\nabc\r\n"));
                    out.extend_from_slice(b"0\r\nX-Trailer: t\r\n\r\n");
                    out
                }
                _ => ok(checksum(&request.body).to_string().as_bytes()),
            }
        });
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let mut client = gateway.connect();
        for path in ["/length", "/chunked"] {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            let answer = client.answer();
            assert!(answer.whole && checksum(&answer.body) == sum, "{path} on {driver}");
        }
        client.send(b"GET /small-chunks HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        assert!(answer.whole && answer.body == b"abc".repeat(5000), "small chunks on {driver}: {}", answer.body.len());
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", big.len()).as_bytes());
        client.send(&big);
        assert_eq!(client.answer().text(), sum.to_string(), "upload on {driver}");
        client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in big.chunks(33_333) {
            client.send(format!("{:X}\r\n", piece.len()).as_bytes());
            client.send(piece);
            client.send(b"\r\n");
        }
        client.send(b"0\r\n\r\n");
        assert_eq!(client.answer().text(), sum.to_string(), "chunked upload on {driver}");
        assert_eq!(upstream.connections.load(Ordering::SeqCst), 1, "one upstream connection served all");
    }
}

#[test]
fn answers_without_length_interim_answers_and_head() {
    for driver in drivers() {
        let upstream = Upstream::start(|mut peer| {
            while let Some(request) = peer.request() {
                match request.head.split(' ').nth(1).unwrap() {
                    "/close" => {
                        peer.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
                        return;
                    }
                    "/interim" => {
                        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
                        peer.send(&ok(b"final"));
                    }
                    "/split" => {
                        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" {
                            peer.send(&[*byte]);
                        }
                    }
                    "/head" => peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
                    _ => peer.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
                }
            }
        });
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let mut client = gateway.connect();
        let mut ask = |method: &str, path: &str| {
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            client.answer_to(method)
        };
        assert_eq!(ask("GET", "/split").text(), "hello");
        let head = ask("HEAD", "/head");
        assert_eq!((head.status, head.header("content-length")), (200, Some("99")));
        assert_eq!(ask("GET", "/nothing").status, 204);
        let answer = ask("GET", "/close");
        assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("until the end", Some("chunked")));
        let mut interim = gateway.connect();
        interim.send(b"GET /interim HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(interim.answer().status, 103);
        assert_eq!(interim.answer().text(), "final");
        let old = gateway.ask("GET /close HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!((old.text().as_str(), old.header("transfer-encoding")), ("until the end", None));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for driver in drivers() {
        let upstream = Upstream::answering(|request| ok(request.head.split(' ').nth(1).unwrap().as_bytes()));
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let mut client = gateway.connect();
        let many: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        client.send(many.as_bytes());
        for n in 0..50 {
            assert_eq!(client.answer().text(), format!("/{n}"), "{driver}");
        }
        client.send(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /q HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((client.answer().text(), client.answer().text()), ("/p".into(), "/q".into()));
    }
}

/// Bodies that came along with their head in large part, with the next request behind them in the same packet.
#[test]
fn bodies_that_come_with_their_head_arrive_whole_and_nothing_behind_them_does() {
    let text: String = noise(40_000).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let chunks = |body: &str| {
        let (one, two) = body.split_at(body.len() / 3);
        format!("{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len())
    };
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let rewritten = format!(
            "{}\n  - {{id: long, uri: /long, plugins: {{proxy-rewrite: {{headers: {{set: {{X-Room: {}}}}}}}}}, upstream: {}}}",
            all(&upstream),
            &text[..700],
            upstream.nodes()
        );
        let gateway = Gateway::start(driver, "  limits: {body_bytes: 40000}\n", &rewritten);
        let mut client = gateway.connect();
        let mut lines = 0;
        for (method, len) in [("POST", 2_049), ("POST", 5_000), ("PUT", 5_000), ("POST", 7_900), ("POST", 40_000)] {
            let body = &text[..len];
            let framed =
                [(format!("Content-Length: {len}"), body.to_owned()), ("Transfer-Encoding: chunked".into(), chunks(body))];
            for (framing, sent) in framed {
                let one = format!("{method} /{len} HTTP/1.1\r\nHost: a\r\n{framing}\r\nX-Long: {}\r\n\r\n{sent}", &text[..300]);
                client.send(format!("{one}GET /behind HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                let seen = client.answer().text();
                assert!(seen.starts_with(&format!("{method} /{len} HTTP/1.1\r\nHost: a\r\n")), "{driver} {seen}");
                assert!(seen.ends_with(&format!("\r\n\r\n{body}")), "{driver} {method} {len} {framing}: {}", seen.len());
                assert!(client.answer().text().starts_with("GET /behind HTTP/1.1\r\n"), "{driver} {method} {len} {framing}");
                client.send(one.as_bytes());
                let alone = client.answer().text();
                assert_eq!(alone, seen, "{driver} {method} {len} {framing}: with nothing behind it");
                lines += 3;
                let log = gateway.log(lines);
                let line = &log[lines - 3];
                assert_eq!((line["reason"].as_str(), line["request_length"].as_u64()), (Some("done"), Some(one.len() as u64)));
                assert_eq!(log[lines - 1]["request_length"].as_u64(), Some(one.len() as u64));
            }
        }
        let post = |path: &str, len: usize, body: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{body}")
        };
        client.send(post("/long", 3_000, &text[..3_000]).as_bytes());
        let seen = client.answer().text();
        assert!(
            seen.contains(&text[..700]) && seen.ends_with(&format!("\r\n\r\n{}", &text[..3_000])),
            "no room in front: {seen}"
        );
        client.send(post("/", 40_001, &text[..5_000]).as_bytes());
        assert_eq!(client.answer().status, 413, "{driver}: the rest is not waited for");
        let asks = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40001\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(gateway.ask(asks).status, 413, "{driver}: nor is it asked for");
    }
}

#[test]
fn upstreams_that_fail_have_their_answers() {
    for driver in drivers() {
        let upstream = Upstream::start(|mut peer| {
            let Some(request) = peer.request() else { return };
            match request.head.split(' ').nth(1).unwrap() {
                "/silent" => drop(peer.client.is_closed()),
                "/garbage" => peer.send(b"SSH-2.0-OpenSSH\r\n\r\n"),
                "/both" => peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
                "/cut" => peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
                "/cut-chunk" => peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
                _ => {}
            }
        });
        let resources = format!(
            "{}\n  - {{id: dead, uri: /dead, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}\n  - {{id: none, uri: /none, upstream: {{nodes: {{}}}}}}",
            all(&upstream).replace("id: all,", "id: all, timeout: {connect: 1, send: 1, read: 0.3},"),
            free_port()
        );
        let gateway = Gateway::start(driver, "", &resources);
        for (path, status, reason) in [
            ("/silent", 504, "upstream_read_timeout"),
            ("/garbage", 502, "upstream_malformed"),
            ("/both", 502, "upstream_malformed"),
            ("/close-at-once", 502, "upstream_closed"),
            ("/dead", 502, "upstream_refused"),
            ("/none", 503, "no_upstream"),
        ] {
            let lines = std::fs::read_to_string(gateway.scratch.0.join("access.log")).unwrap_or_default().lines().count();
            assert_eq!(gateway.get(path).status, status, "{path} on {driver}");
            assert_eq!(gateway.log(lines + 1).last().unwrap()["reason"], reason, "{path} on {driver}");
        }
        for path in ["/cut", "/cut-chunk"] {
            let answer = gateway.get(path);
            assert!(answer.status == 200 && !answer.whole, "{path} on {driver} must show that it is cut: {answer:?}");
        }
    }
}

#[test]
fn tries_go_to_the_next_node_and_a_post_goes_once() {
    for driver in drivers() {
        let good = Upstream::answering(|_| ok(b"good"));
        let closing = Upstream::start(|mut peer| drop(peer.request()));
        let resources = format!(
            "routes:\n  - id: all\n    uri: /*\n    upstream:\n      nodes:\n        - {{host: 127.0.0.1, port: {}, weight: 1}}\n        \
             - {{host: 127.0.0.1, port: {}, weight: 1}}\n        - {{host: 127.0.0.1, port: {}, weight: 1}}",
            closing.port,
            good.port,
            free_port()
        );
        let gateway = Gateway::start(driver, "", &resources);
        for _ in 0..9 {
            assert_eq!(gateway.get("/").text(), "good", "{driver}");
        }
        let mut statuses: Vec<u16> =
            (0..9).map(|_| gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").status).collect();
        statuses.sort_unstable();
        statuses.dedup();
        assert_eq!(statuses, [200, 502], "a POST that reached the closing node is not repeated on {driver}");
    }
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_no_error() {
    for driver in drivers() {
        let upstream = Upstream::start(|mut peer| {
            if peer.request().is_some() {
                peer.send(&ok(b"once")); // then it closes, as if idle for too long
            }
        });
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let mut client = gateway.connect();
        for _ in 0..50 {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer().text(), "once", "{driver}");
        }
    }
}

#[test]
fn names_and_ipv6_nodes_are_reached() {
    for driver in drivers() {
        let upstream = Upstream::answering(|request| ok(request.head.lines().nth(1).unwrap().as_bytes()));
        let six = TcpListener::bind("[::1]:0").unwrap();
        let port6 = six.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in six.incoming().flatten() {
                let _sent = stream.write_all(&ok(b"six"));
            }
        });
        let resources = format!(
            "routes:\n  - {{id: name, uri: /name, upstream: {{pass_host: node, nodes: {{\"localhost:{0}\": 1}}}}}}\n  \
             - {{id: six, uri: /six, upstream: {{nodes: {{\"[::1]:{port6}\": 1}}}}}}\n  \
             - {{id: rewrite, uri: /rewrite, upstream: {{pass_host: rewrite, upstream_host: other.example, nodes: {{\"127.0.0.1:{0}\": 1}}}}}}",
            upstream.port
        );
        let gateway = Gateway::start(driver, "", &resources);
        for _ in 0..4 {
            assert_eq!(gateway.get("/name").text(), format!("Host: localhost:{}", upstream.port), "{driver}");
        }
        assert_eq!(gateway.get("/rewrite").text(), "Host: other.example");
        assert_eq!(gateway.get("/six").text(), "six");
    }
}

#[test]
fn websockets_pass_both_ways_and_survive_reloads() {
    for driver in drivers() {
        let upstream = Upstream::start(|mut peer| {
            let Some(request) = peer.request() else { return };
            if !request.head.to_ascii_lowercase().contains("upgrade: websocket") {
                return peer.send(&ok(b"plain"));
            }
            peer.send(&[SWITCHED, b"first"].concat());
            loop {
                let bytes = peer.client.exactly(4);
                if bytes.is_empty() {
                    return;
                }
                peer.send(&bytes);
            }
        });
        let resources = format!("{}\n  - {{id: plain, uri: /plain, upstream: {}}}", all(&upstream), upstream.nodes());
        let gateway = Gateway::start(driver, "", &resources);
        let on_plain = String::from_utf8(UPGRADE.to_vec()).unwrap().replace("/ws", "/plain");
        assert_eq!(gateway.ask(&on_plain).text(), "plain", "the route does not pass upgrades");
        let mut client = gateway.connect();
        client.send(UPGRADE);
        assert_eq!(client.answer().status, 101);
        assert_eq!(client.exactly(5), b"first");
        for turn in 0..3 {
            client.send(b"ping");
            assert_eq!(client.exactly(4), b"ping", "turn {turn} on {driver}");
            gateway.reload(&resources.replace("id: plain", &format!("id: plain{turn}")));
        }
        drop(client);
        assert_eq!(gateway.log(2).last().unwrap()["status"], 101);
    }
}

#[test]
fn early_answers_slow_readers_and_expectations() {
    for driver in drivers() {
        let upstream = Upstream::start(|mut peer| {
            while let Some(request) = peer.request() {
                peer.send(&ok(format!("{}", request.body.len()).as_bytes()));
            }
        });
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let mut client = gateway.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.answer().status, 100);
        client.send(b"hello");
        assert_eq!(client.answer().text(), "5");
        // A client that sends FIN still gets its answer.
        let mut half = gateway.connect();
        half.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        half.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(half.answer().text(), "0", "{driver}");
        until("both in the metrics", || control(&gateway, "/metrics").contains("reason=\"done\"} 2").then_some(()));
    }
}

#[test]
fn reloads_under_load_lose_nothing() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let gateway = Gateway::start(driver, "", &all(&upstream));
        let address = gateway.address;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let load: Vec<_> = (0..4)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut client = Client::connect(address);
                    let mut served = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                        assert_eq!(client.answer().status, 200, "no request is lost and no connection closed");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for turn in 0..20 {
            gateway.reload(&format!("{}\n  - {{id: t{turn}, uri: /t{turn}, upstream: {}}}", all(&upstream), upstream.nodes()));
        }
        stop.store(true, Ordering::Relaxed);
        let served: u64 = load.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(served > 100 && gateway.epoch() == 21, "{served} requests, epoch {}", gateway.epoch());
    }
}
