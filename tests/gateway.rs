//! Routing, plugins, limits, listeners and examples, on both drivers.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use support::{Gateway, Scratch, Upstream, control, drivers, free_port, until};

#[test]
fn routes_are_chosen_as_apisix_chooses_them() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let named = |id: &str, rest: &str| {
            format!(
                "  - {{id: {id}, {rest}, plugins: {{response-rewrite: {{headers: {{set: {{X-Route: {id}}}}}}}}}, upstream: {}}}\n",
                upstream.nodes()
            )
        };
        let resources = [
            "routes:\n",
            &named("exact", "uri: /a/b"),
            &named("prefix", "uri: /a/*"),
            &named("parameter", "uri: \"/user/:id\""),
            &named("host", "uri: /*, host: \"*.h.example\""),
            &named("post", "uri: /m, methods: [POST]"),
            &named("header", "uri: /v, vars: [[http_x_v, \"==\", \"2\"]], priority: 5"),
            &named("plain", "uri: /v"),
            &named("disabled", "uri: /off, status: 0"),
            "  - {id: broken, uri: /broken, service_id: nobody}\n  - {id: nothing, uri: /nothing, plugins: {}}\n",
        ]
        .concat();
        let gateway = Gateway::start(driver, "", &resources);
        let route = |request: &str| {
            let answer = gateway.ask(&format!("{request}\r\n\r\n"));
            answer.header("x-route").map(str::to_owned).unwrap_or_else(|| answer.status.to_string())
        };
        for (request, expected) in [
            ("GET /a/b HTTP/1.1\r\nHost: x", "exact"),
            ("GET /a/./b HTTP/1.1\r\nHost: x", "exact"),
            ("GET //a/c HTTP/1.1\r\nHost: x", "prefix"),
            ("GET /user/7 HTTP/1.1\r\nHost: x", "parameter"),
            ("GET /user/7/ HTTP/1.1\r\nHost: x", "404"),
            ("GET /a/b HTTP/1.1\r\nHost: Sub.H.example:81", "host"),
            ("GET /m HTTP/1.1\r\nHost: x", "404"),
            ("POST /m HTTP/1.1\r\nHost: x\r\nContent-Length: 0", "post"),
            ("GET /v HTTP/1.1\r\nHost: x\r\nX-V: 2", "header"),
            ("GET /v HTTP/1.1\r\nHost: x", "plain"),
            ("GET /off HTTP/1.1\r\nHost: x", "404"),
            ("GET /broken HTTP/1.1\r\nHost: x", "404"),
            ("GET /nothing HTTP/1.1\r\nHost: x", "503"),
        ] {
            assert_eq!(route(request), expected, "{request} on {driver}");
        }
        let answer = gateway.get("/nowhere.json");
        assert_eq!(
            (answer.text().as_str(), answer.header("content-type")),
            ("{\"error_msg\":\"404 Route Not Found\"}\n", Some("application/json"))
        );
    }
}

#[test]
fn parameters_are_read_from_the_path_that_was_matched() {
    for driver in drivers() {
        let resources = "routes:\n  - id: r\n    uri: \"/user/:id/*\"\n    plugins:\n      redirect: {uri: \"/seen/$uri_param_id\"}\n  \
                         - id: s\n    uri: \"/one/:id\"\n    plugins:\n      redirect: {uri: \"/seen/$uri_param_id\"}\n";
        let gateway = Gateway::start(driver, "  delete_uri_tail_slash: true\n", resources);
        for (path, seen) in [("/user/7/x", "7"), ("/one/8", "8"), ("/one/9/", "9"), ("/user/10/y/", "10"), ("/one/11", "11")] {
            let answer = gateway.get(path);
            assert_eq!(answer.header("location"), Some(&*format!("/seen/{seen}")), "{path} on {driver}");
        }
    }
}

#[test]
fn the_router_mode_decides_between_host_and_path() {
    let (bound, exact) = (Upstream::answering(|_| support::ok(b"bound")), Upstream::answering(|_| support::ok(b"exact")));
    let resources = format!(
        "routes:\n  - {{uri: /*, host: a.example, upstream: {}}}\n  - {{uri: /foo, upstream: {}}}\n  - {{uri: \"/p/:id\", upstream: {}}}",
        bound.nodes(),
        exact.nodes(),
        exact.nodes()
    );
    for (mode, foo, parameter) in [
        ("ringway", "bound", 200),
        ("radixtree_host_uri", "bound", 404),
        ("radixtree_uri", "exact", 404),
        ("radixtree_uri_with_parameter", "exact", 200),
    ] {
        let gateway = Gateway::start("epoll", &format!("  router: {mode}\n"), &resources);
        assert_eq!(gateway.get("/foo").text(), foo, "{mode}");
        assert_eq!(gateway.ask("GET /p/7 HTTP/1.1\r\nHost: b.example\r\n\r\n").status, parameter, "{mode}");
    }
}

#[test]
fn plugins_do_what_they_say() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let nodes = upstream.nodes();
        let resources = format!(
            "consumers:\n  - {{username: alice, labels: {{custom_id: \"42\"}}, plugins: {{key-auth: {{key: s3cret-a}}, response-rewrite: {{headers: {{set: {{X-Who: alice}}}}}}}}}}\n\
             global_rules:\n  - {{id: count, plugins: {{prometheus: {{}}}}}}\n\
             routes:\n\
             \x20 - {{id: auth, uri: /auth/*, plugins: {{key-auth: {{hide_credentials: true}}}}, upstream: {nodes}}}\n\
             \x20 - {{id: rewrite, uri: /v1/*, plugins: {{proxy-rewrite: {{regex_uri: [\"^/v1/(.*)\", \"/api/$1\"], headers: {{set: {{X-From: \"$remote_addr\"}}, remove: [X-Debug]}}}}}}, upstream: {nodes}}}\n\
             \x20 - {{id: respond, uri: /respond, plugins: {{response-rewrite: {{status_code: 201, filters: [{{regex: \"GET /(\\\\w+)\", replace: \"got $1\"}}]}}}}, upstream: {nodes}}}\n\
             \x20 - {{id: body, uri: /body, plugins: {{response-rewrite: {{body: \"new\\n\"}}}}, upstream: {nodes}}}\n\
             \x20 - {{id: move, uri: /move, plugins: {{redirect: {{uri: \"/to?a=$arg_a\", ret_code: 301}}}}}}\n\
             \x20 - {{id: keep, uri: /keep, plugins: {{ip-restriction: {{blacklist: [127.0.0.0/8], message: go away}}}}, upstream: {nodes}}}\n\
             \x20 - {{id: fault, uri: /fault, plugins: {{fault-injection: {{delay: {{duration: 0.05}}, abort: {{http_status: 418, body: \"tea for $arg_who\"}}}}}}}}\n\
             \x20 - {{id: meta, uri: /meta, plugins: {{fault-injection: {{abort: {{http_status: 418}}, _meta: {{filter: [[arg_go, \"==\", \"1\"]], error_response: {{e: 1}}}}}}}}, upstream: {nodes}}}"
        );
        let gateway = Gateway::start(driver, "", &resources);
        let refused = gateway.get("/auth/x");
        assert_eq!((refused.status, refused.text().as_str()), (401, "{\"message\":\"Missing API key in request\"}\n"));
        assert_eq!(refused.header("www-authenticate"), Some("apikey realm=\"key\""));
        assert_eq!(gateway.get("/auth/x?apikey=wrong").status, 401);
        let known = gateway.ask("GET /auth/x?apikey=s3cret-a&b=1 HTTP/1.1\r\nHost: a\r\nX-Consumer-Username: root\r\nX-Credential-Identifier: c\r\n\r\n");
        assert_eq!((known.status, known.header("x-who")), (200, Some("alice")), "{}", known.text());
        let seen = known.text();
        assert!(seen.starts_with("GET /auth/x?b=1 HTTP/1.1\r\n") && seen.contains("X-Consumer-Username: alice\r\n"), "{seen}");
        assert!(
            seen.contains("X-Consumer-Custom-ID: 42\r\n") && !seen.contains("root") && !seen.contains("X-Credential"),
            "{seen}"
        );
        let rewritten = gateway.ask("GET /v1/x%20y?q=1 HTTP/1.1\r\nHost: a\r\nX-Debug: 1\r\n\r\n").text();
        assert!(
            rewritten.starts_with("GET /api/x%20y?q=1 HTTP/1.1\r\n") && rewritten.contains("X-From: 127.0.0.1\r\n"),
            "{rewritten}"
        );
        assert!(!rewritten.contains("X-Debug"), "{rewritten}");
        let responded = gateway.get("/respond");
        assert!(responded.status == 201 && responded.text().starts_with("got respond HTTP/1.1"), "{responded:?}");
        assert_eq!(gateway.get("/body").text(), "new\n");
        let moved = gateway.get("/move?a=b");
        assert_eq!((moved.status, moved.header("location")), (301, Some("/to?a=b")));
        let kept = gateway.get("/keep");
        assert_eq!((kept.status, kept.text().as_str()), (403, "{\"message\":\"go away\"}\n"));
        let tea = gateway.get("/fault?who=you");
        assert_eq!((tea.status, tea.text().as_str()), (418, "tea for you"));
        assert_eq!(gateway.get("/meta?go=1").text(), "{\"e\":1}\n");
        assert_eq!(gateway.get("/meta").status, 200);
        let metrics = control(&gateway, "/apisix/prometheus/metrics");
        assert!(metrics.contains("apisix_http_status{code=\"418\",route=\"fault\",matched_uri=\"/fault\""), "{metrics}");
        let log = std::fs::read_to_string(gateway.scratch.0.join("access.log")).unwrap_or_default();
        assert!(!log.contains("s3cret") && !gateway.stderr().contains("s3cret"), "a credential that was taken out is nowhere");
    }
}

#[test]
fn what_breaks_a_rule_is_refused_and_closed() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let gateway = Gateway::start(
            driver,
            "  timeouts: {header: 300ms, body: 300ms}\n  limits: {header_bytes: 2KiB, headers: 20, uri_bytes: 500, body_bytes: 100}\n",
            &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()),
        );
        let long = "x".repeat(3000);
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n".to_owned(), 400),
            ("GET /a/..%2f..%2fb HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(30)), 431),
            (format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n{}", "x".repeat(200)), 413),
            ("GET / HTTP/1.1\r\nHos".to_owned(), 408),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc".to_owned(), 408),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ] {
            let mut client = gateway.connect();
            client.send(request.as_bytes());
            let answer = client.answer();
            let shown: String = request.chars().take(90).collect();
            assert_eq!(answer.status, status, "{shown:?} on {driver}");
            assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
            assert!(client.is_closed());
        }
        assert_eq!(gateway.get("/").status, 200);
    }
}

#[test]
fn slow_clients_keep_nobody_waiting() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let gateway = Gateway::start(driver, "", &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
        let mut slow: Vec<_> = (0..300).map(|_| gateway.connect()).collect();
        for client in &mut slow {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
        }
        for _ in 0..50 {
            assert_eq!(gateway.get("/").status, 200, "{driver}");
        }
        for client in &mut slow {
            client.send(b"1\r\n\r\n");
        }
        assert!(slow.iter_mut().all(|client| client.answer().status == 200), "{driver}");
    }
}

#[test]
fn listeners_of_every_kind_serve() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let scratch = Scratch::new();
        let socket = scratch.0.join("http.sock");
        let (six, proxied, four) = (free_port(), free_port(), free_port());
        let settings = format!(
            "  listeners:\n    - {{address: \"127.0.0.1:{four}\"}}\n    - {{address: \"[::1]:{six}\", v6only: true}}\n    \
             - {{address: \"unix:{}\", mode: \"0600\"}}\n    - {{address: \"127.0.0.1:{proxied}\", proxy_protocol: true}}\n",
            socket.display()
        );
        let _gateway = Gateway::start(driver, &settings, &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let mut text = String::new();
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let ask = |address: &str, request: &str| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text).unwrap_or_default()
        };
        assert!(ask(&format!("[::1]:{six}"), request).contains("X-Real-IP: ::1\r\n"), "{driver}");
        let behind = format!("PROXY TCP4 192.0.2.9 192.0.2.1 5000 80\r\n{request}");
        assert!(ask(&format!("127.0.0.1:{proxied}"), &behind).contains("X-Real-IP: 192.0.2.9\r\n"), "{driver}");
        assert_eq!(ask(&format!("127.0.0.1:{proxied}"), request), "", "no PROXY header, no answer");
        assert!(ask(&format!("127.0.0.1:{four}"), &behind).starts_with("HTTP/1.1 400"), "an unasked PROXY header is malformed");
    }
}

#[test]
fn a_drain_ends_what_is_begun_and_nothing_else() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let resources = format!(
            "routes:\n  - {{uri: /*, plugins: {{fault-injection: {{delay: {{duration: 0.3, vars: [[[arg_slow, \"==\", \"1\"]]]}}}}}}, upstream: {}}}",
            upstream.nodes()
        );
        let mut gateway = Gateway::start(driver, "", &resources);
        let mut idle = gateway.connect();
        idle.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(idle.answer().status, 200);
        let mut busy = gateway.connect();
        busy.send(b"GET /?slow=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        until("the slow request", || {
            control(&gateway, "/metrics").contains("ringway_requests_total{worker=\"0\"} 2").then_some(())
        });
        gateway.signal("TERM");
        let answer = busy.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{driver}");
        assert!(idle.is_closed());
        assert_eq!(gateway.wait_for_end().code(), Some(0));
    }
}

#[test]
fn the_time_inside_the_worker_is_taken_of_some_requests() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let resources = format!(
            "routes:\n  - {{uri: /slow, plugins: {{fault-injection: {{delay: {{duration: 0.02}}}}}}, upstream: {0}}}\n  - {{uri: /*, upstream: {0}}}",
            upstream.nodes()
        );
        let gateway = Gateway::start(driver, "", &resources);
        let mut client = gateway.connect();
        let mut ask = |path: &str, times| {
            for _ in 0..times {
                client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                assert_eq!(client.answer().status, 200);
            }
        };
        let taken = || gateway.metric("ringway_request_inside_seconds_count{worker=\"0\"}");
        ask("/", 200);
        assert_eq!(taken(), 3, "{driver}: one of 64");
        ask("/slow", 64);
        assert_eq!(taken(), 3, "{driver}: what a plugin holds up is not the worker's");
        let page = control(&gateway, "/metrics");
        let within = |bound: &str| {
            let series = format!("ringway_request_inside_seconds_bucket{{worker=\"0\",le=\"{bound}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap()
        };
        assert_eq!(within("+Inf"), 3, "{page}");
        assert!(within("0.000005") <= within("0.01"), "{page}");
    }
}

#[test]
fn a_wrong_file_is_shown_whole_with_places_and_suggestions() {
    let scratch = Scratch::new();
    let file = scratch.file(
        "bad.yaml",
        "gateway:\n  timeouts: {heder: 5s, body: 5}\nroutes:\n  - uri: /a\n    upsteam: {nodes: {}}\n  - uri: /b\n    plugins:\n      \
         key-atuh: {}\n      proxy-rewrite: {uri: x}\n    upstream: {type: roundrobbin, nodes: {\"a:0\": 1}}\n  - {uri: /c, upstream: {scheme: grpc, nodes: {}}}\n",
    );
    let check =
        Command::new(env!("CARGO_BIN_EXE_ringway")).args(["check", "--format", "json", "-c"]).arg(&file).output().unwrap();
    assert_eq!(check.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let found: Vec<(u64, String)> = report
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["line"].as_u64().unwrap(), format!("{} {}", one["message"].as_str().unwrap(), one["suggestion"])))
        .collect();
    for (line, part) in [
        (2, "unknown key `heder` in timeouts \"header\""),
        (2, "a duration needs its unit: 5s?"),
        (5, "unknown key `upsteam` in route \"upstream\""),
        (10, "unknown balancer `roundrobbin` \"roundrobin\""),
        (10, "invalid port 0"),
        (11, "scheme `grpc` is not supported yet"),
    ] {
        assert!(found.iter().any(|(at, text)| *at == line && text.contains(part)), "{line}: {part} in {found:#?}");
    }
}
