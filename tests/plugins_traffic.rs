//! Plugins that decide where requests and bodies go, through the real gateway.

mod support;

use std::sync::atomic::Ordering;

use support::{Gateway, Upstream, drivers, unzip};

#[test]
fn traffic_split_divides_by_conditions_and_weights() {
    let (own, by_id, inline) = (Upstream::named("own"), Upstream::named("by-id"), Upstream::named("inline"));
    for driver in drivers() {
        let resources = |id: &str, more: &str| {
            format!(
                "upstreams:\n  - {{id: 7, nodes: {{\"127.0.0.1:{}\": 1}}}}\nroutes:\n  - id: r\n    uri: /*\n    upstream: {}\n    plugins:\n      \
                 traffic-split:\n        rules:\n          - match: [{{vars: [[arg_to, ==, inline]]}}, {{vars: [[http_x_to, ==, i]]}}]\n            \
                 weighted_upstreams:\n              - upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, pass_host: rewrite, upstream_host: in.example{more}}}\n          \
                 - match: [{{vars: [[uri, \"~~\", \"^/half\"]]}}]\n            weighted_upstreams: [{{upstream_id: {id}, weight: 1}}, {{weight: 3}}]\n",
                by_id.port,
                own.nodes(),
                inline.port,
            )
        };
        let gateway = Gateway::start(driver, "", &resources("7", ""));
        assert_eq!(gateway.get("/").text(), "own");
        assert_eq!(gateway.get("/?to=inline").text(), "inline");
        assert_eq!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-To: i\r\n\r\n").text(), "inline");
        let mut client = gateway.connect();
        let answers: Vec<String> = (0..40)
            .map(|_| {
                client.send(b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n");
                client.answer().text()
            })
            .collect();
        assert_eq!(answers.iter().filter(|answer| *answer == "by-id").count(), 10, "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| *answer == "own").count(), 30);
        // A reload that moves the upstream by id leads there at once, though the route itself did not change.
        let moved = resources("7", "").replace(&by_id.port.to_string(), &inline.port.to_string());
        gateway.reload(&moved);
        let mut seen = String::new();
        for _ in 0..8 {
            seen += &gateway.get("/half").text();
        }
        assert!(seen.contains("inline") && !seen.contains("by-id"), "{seen}");
        // An upstream that does not exist: APISIX's answer, on every way that comes by its rule.
        gateway.reload(&resources("8", ""));
        let missing = gateway.get("/");
        assert_eq!((missing.status, missing.text()), (500, "failed to fetch upstream info by upstream id: 8".to_owned()));
        assert_eq!(gateway.get("/?to=inline").text(), "inline", "the rule before it is not touched");
    }
}

#[test]
fn an_upstream_inside_a_plugin_is_checked_like_any_other() {
    let upstream = Upstream::named("x");
    let gateway = Gateway::start("epoll", "", &format!("routes: [{{uri: /*, upstream: {}}}]", upstream.nodes()));
    let check = |text: &str| {
        let file = gateway.scratch.file("bad.yaml", text);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringway")).args(["check", "-c"]).arg(file).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let told = check(
        "routes:\n  - uri: /*\n    plugins:\n      traffic-split:\n        rules:\n          - match: [{vars: [[arg_a, \"=~\", 1]]}]\n            \
         weighted_upstreams:\n              - upstream: {nods: {\"127.0.0.1:1\": 1}, type: roundrobbin}\n              - upstream_id: 9\n",
    );
    for part in ["unknown key `nods`", "did you mean", "unknown balancer `roundrobbin`", "`9` does not exist", ":8:"] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    let told = check(
        "routes:\n  - uri: /*\n    upstream: {nodes: {\"127.0.0.1:1\": 1}}\n    plugins:\n      traffic-split:\n        \
         rules: [{match: {vars: []}, weighted_upstreams: [{upstream_id: [1]}]}]\n",
    );
    for part in
        ["rules/0/match: expected a list of objects with `vars`", "upstreams/0/upstream_id: expected the id of an upstream"]
    {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 0);
}

#[test]
fn answers_are_coded_for_clients_that_take_them_so() {
    let page = "<p>all the same</p>".repeat(2000);
    let body = page.clone();
    let upstream = Upstream::start(move |mut peer| {
        while let Some(request) = peer.request() {
            let kind = if request.head.contains("/image") { "image/png" } else { "text/html; charset=utf-8" };
            let more = if request.head.contains("/fixed") { "Cache-Control: max-age=5, no-transform\r\n" } else { "" };
            if request.head.contains("/pieces") {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes());
                for piece in body.as_bytes().chunks(7001) {
                    peer.send(format!("{:x}\r\n", piece.len()).as_bytes());
                    peer.send(piece);
                    peer.send(b"\r\n");
                }
                peer.send(b"0\r\n\r\n");
            } else {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{more}ETag: \"x\"\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                peer.send(&[head.as_bytes(), if request.head.starts_with("HEAD") { b"" } else { body.as_bytes() }].concat());
            }
        }
    });
    let get = |gateway: &Gateway, method: &str, path: &str, accept: &str| {
        let mut client = gateway.connect();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n").as_bytes());
        client.answer_to(method)
    };
    for driver in drivers() {
        let resources = format!(
            "routes: [{{uri: /*, upstream: {}, plugins: {{gzip: {{vary: true}}, brotli: {{}}}}}},\n  {{uri: /twice, upstream: {}, plugins: \
             {{gzip: {{}}, response-rewrite: {{filters: [{{regex: same, replace: other, scope: global}}]}}}}}}]",
            upstream.nodes(),
            upstream.nodes()
        );
        let gateway = Gateway::start(driver, "", &resources);
        for path in ["/", "/pieces"] {
            let coded = get(&gateway, "GET", path, "gzip");
            assert_eq!((coded.header("content-encoding"), coded.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
            assert_eq!((coded.header("content-length"), coded.whole), (None, true));
            assert!(coded.body.len() < page.len() / 10 && unzip(&coded.body) == page.as_bytes());
            let coded = get(&gateway, "GET", path, "gzip, br;q=0.9");
            assert_eq!(coded.header("content-encoding"), Some("br"), "brotli goes first");
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut brotli::Decompressor::new(&*coded.body, 4096), &mut plain).unwrap();
            assert!(plain == page.as_bytes());
        }
        let coded = get(&gateway, "GET", "/", "gzip");
        assert_eq!((coded.header("etag"), coded.header("accept-ranges")), (Some("W/\"x\""), None));
        for (method, path, accept) in [
            ("GET", "/", "identity"),
            ("GET", "/", "gzip;q=0"),
            ("GET", "/image", "gzip, br"),
            ("GET", "/fixed", "gzip"),
            ("HEAD", "/", "gzip"),
        ] {
            let plain = get(&gateway, method, path, accept);
            assert_eq!(plain.header("content-encoding"), None, "{method} {path} {accept}");
            assert_eq!(plain.header("content-length"), Some(page.len().to_string().as_str()), "as it came");
            assert!(method == "HEAD" || plain.body == page.as_bytes());
        }
        let both = get(&gateway, "GET", "/twice", "gzip");
        assert_eq!(unzip(&both.body), page.replace("same", "other").as_bytes(), "coded after it was rewritten");
    }
}

#[test]
fn a_stream_stays_a_stream_under_gzip_and_an_upload_goes_on() {
    // The upstream answers each piece of the upload before the next one is sent: nothing may be held back on either way.
    let upstream = Upstream::start(|mut peer| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(peer.client.exactly(1));
        }
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..5 {
            let piece = peer.client.exactly(4);
            peer.send(b"4\r\n");
            peer.send(&piece);
            peer.send(b"\r\n");
        }
        peer.send(b"0\r\n\r\n");
    });
    for driver in drivers() {
        let gateway = Gateway::start(
            driver,
            "",
            &format!("routes: [{{uri: /*, upstream: {}, plugins: {{gzip: {{}}}}}}]", upstream.nodes()),
        );
        let mut client = gateway.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nContent-Length: 20\r\n\r\n");
        let mut decoder = flate2::write::GzDecoder::new(Vec::new());
        let mut seen = Vec::new();
        for round in 0..5 {
            client.send(b"abcd");
            if round == 0 {
                let head = client.head();
                assert!(head.contains("Content-Encoding: gzip"), "{head}");
            }
            while decoder.get_ref().len() < 4 * (round + 1) {
                let chunk = client.chunk().expect("a piece");
                std::io::Write::write_all(&mut decoder, &chunk).unwrap();
                std::io::Write::flush(&mut decoder).unwrap();
            }
            seen = decoder.get_ref().clone();
        }
        assert_eq!(seen, b"abcd".repeat(5));
    }
}

#[test]
fn limit_count_counts_by_key_and_says_what_is_left() {
    let upstream = Upstream::named("fine");
    let route = |plugin: &str| {
        format!("routes: [{{id: r, uri: /*, plugins: {{limit-count: {{{plugin}}}}}, upstream: {}}}]", upstream.nodes())
    };
    for driver in drivers() {
        let plugin = "count: 3, time_window: 3600, key: http_x_who, rejected_code: 429, rejected_msg: slow down";
        let gateway = Gateway::start(driver, "", &route(plugin));
        let ask = |who: &str| gateway.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n"));
        let first = ask("a");
        assert_eq!(
            (first.status, first.header("x-ratelimit-limit"), first.header("x-ratelimit-remaining")),
            (200, Some("3"), Some("2"))
        );
        assert_eq!(first.header("x-ratelimit-reset"), Some("3600"));
        let left: Vec<String> = (0..2).map(|_| ask("a").header("x-ratelimit-remaining").unwrap().to_owned()).collect();
        assert_eq!(left, ["1", "0"]);
        let refused = ask("a");
        assert_eq!((refused.status, refused.text()), (429, "{\"error_msg\":\"slow down\"}\n".to_owned()));
        assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
        assert_eq!(ask("b").status, 200, "another key");
        // Kept over a reload that leaves the plugin as it is; anew with another configuration.
        gateway.reload(&route(plugin).replace("uri: /*", "name: renamed, uri: /*"));
        assert_eq!(ask("a").status, 429);
        gateway.reload(&route(
            "count: \"${http_x_quota ?? 2}\", time_window: 3600, key: http_x_who, show_limit_quota_header: false",
        ));
        assert_eq!([ask("a").status, ask("a").status, ask("a").status], [200, 200, 503]);
        let templated = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Who: a\r\nX-Quota: 9\r\n\r\n");
        assert_eq!((templated.status, templated.header("x-ratelimit-limit")), (200, None));
        assert_eq!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Who: a\r\nX-Quota: none\r\n\r\n").status, 500);
        gateway.reload(&route(
            "rules: [{count: 9, time_window: 60, key: \"$http_x_who\", header_prefix: Who}, {count: 1, time_window: 60, key: \"$http_x_more\"}]",
        ));
        let many = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Who: a\r\nX-More: b\r\n\r\n");
        assert_eq!((many.header("x-who-ratelimit-limit"), many.header("x-2-ratelimit-remaining")), (Some("9"), Some("0")));
        assert_eq!(ask("a").status, 200, "a rule without a value is left out");
        assert_eq!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Who: a\r\nX-More: b\r\n\r\n").status, 503);
    }
}

#[test]
fn limit_count_is_one_count_for_all_workers() {
    let upstream = Upstream::named("fine");
    let resources = format!(
        "routes: [{{uri: /*, plugins: {{limit-count: {{count: 50, time_window: 3600, key: x, key_type: constant}}}}, upstream: {}}}]",
        upstream.nodes()
    );
    for driver in drivers() {
        let gateway = Gateway::start(driver, &format!("  workers: {{count: 3, driver: {driver}}}\n"), &resources);
        let passed = (0..120).filter(|_| gateway.get("/").status == 200).count();
        assert_eq!(passed, 50, "{driver}: whichever worker takes the connection");
    }
}

#[test]
fn the_forwarded_fields_are_ours_whoever_looks_at_them() {
    let upstream = Upstream::echoing();
    let limit = "limit-count: {count: 100, time_window: 60, key: remote_addr}, prometheus: {}";
    let by_host = "limit-count: {count: 1, time_window: 60, key: http_x_forwarded_host, rejected_code: 429}";
    let copied = format!("{limit}, proxy-rewrite: {{headers: {{set: {{X-Copy: $http_x_forwarded_host}}}}}}");
    let route = |plugins: &str| format!("routes: [{{uri: /*, plugins: {{{plugins}}}, upstream: {}}}]", upstream.nodes());
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &route(limit));
        let ask = |host: &str, sent: &str| gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n{sent}\r\n"));
        let port = gateway.address.port();
        for sent in ["", "X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n"] {
            let head = ask("a.example", sent).text().to_lowercase();
            for line in ["host: a.example", "proto: http", &format!("port: {port}"), "for: 127.0.0.1"] {
                assert_eq!(head.matches(&format!("x-forwarded-{line}\r\n")).count(), 1, "{driver}: {line}\n{head}");
            }
            assert!(!head.contains("evil"), "{head}");
        }
        gateway.reload(&route(&copied));
        assert!(ask("b.example", "").text().contains("X-Copy: b.example\r\n"), "{driver}: the plugin sees what goes out");
        gateway.reload(&route(by_host));
        let statuses = ["c.example", "d.example", "c.example"].map(|host| ask(host, "X-Forwarded-Host: other\r\n").status);
        assert_eq!(statuses, [200, 200, 429], "{driver}: counted by the field as it goes out");
    }
}
