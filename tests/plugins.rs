//! Plugins through the real gateway, one test each.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use support::{Gateway, Upstream, ok, until};

fn with(plugins: &str, upstream: &Upstream) -> String {
    format!("routes:\n  - {{uri: /*, plugins: {{{plugins}}}, upstream: {}}}", upstream.nodes())
}

#[test]
fn cors_answers_preflights_and_names_the_origin() {
    let upstream = Upstream::answering(|_| b"HTTP/1.1 200 OK\r\nVary: Accept\r\nContent-Length: 0\r\n\r\n".to_vec());
    let ask = |gateway: &Gateway, method: &str, origin: &str| {
        gateway.ask(&format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Headers: X-A, X-B\r\n\r\n"
        ))
    };
    let gateway = Gateway::start("epoll", "", &with("cors: {}", &upstream));
    let plain = ask(&gateway, "GET", "http://x.example");
    assert_eq!(plain.header("access-control-allow-origin"), Some("*"));
    assert_eq!((plain.header("access-control-max-age"), plain.header("vary")), (Some("5"), Some("Accept")));
    let preflight = ask(&gateway, "OPTIONS", "http://x.example");
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (200, Some("*")));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1, "the preflight never got there");

    let listed = "cors: {allow_origins: \"http://a.example,http://b.example\", allow_methods: \"**\", allow_headers: \"**\", \
        allow_credential: true, expose_headers: X-Seen, max_age: 60}";
    gateway.reload(&with(listed, &upstream));
    let allowed = ask(&gateway, "GET", "http://b.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("http://b.example"));
    assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(allowed.header("access-control-allow-headers"), Some("X-A, X-B"));
    assert_eq!(allowed.header("access-control-expose-headers"), Some("X-Seen"));
    assert!(allowed.header("access-control-allow-methods").unwrap().starts_with("GET,POST,PUT"));
    assert!(allowed.head.contains("Vary: Accept\r\n") && allowed.head.contains("Vary: Origin\r\n"), "{}", allowed.head);
    let refused = ask(&gateway, "GET", "http://c.example");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (200, None));

    gateway.reload(&with("cors: {allow_origins_by_regex: [\"\\\\.example$\"], timing_allow_origins: \"*\"}", &upstream));
    assert_eq!(ask(&gateway, "GET", "http://q.example").header("access-control-allow-origin"), Some("http://q.example"));
    let other = ask(&gateway, "GET", "http://q.test");
    assert_eq!((other.header("access-control-allow-origin"), other.header("timing-allow-origin")), (None, Some("*")));
}

#[test]
fn request_ids_are_kept_or_made_and_go_both_ways() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::start("epoll", "", &with("request-id: {algorithm: uuidv7}", &upstream));
    let made = gateway.get("/");
    let id = made.header("x-request-id").unwrap().to_owned();
    assert!(made.text().contains(&format!("X-Request-Id: {id}\r\n")), "{}", made.text());
    let kept = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nx-request-id: mine\r\n\r\n");
    assert_eq!(kept.header("x-request-id"), Some("mine"));
    assert_eq!(gateway.log(2)[1]["request_id"], "mine");
    gateway.reload(&with("request-id: {header_name: X-Trace, include_in_response: false, algorithm: ksuid}", &upstream));
    let hidden = gateway.get("/");
    assert_eq!(hidden.header("x-trace"), None);
    assert!(hidden.text().contains("X-Trace: "), "{}", hidden.text());
}

#[test]
fn real_ip_believes_only_whom_it_trusts() {
    let upstream = Upstream::echoing();
    let seen = |plugin: &str, fields: &str| {
        let gateway = Gateway::start("epoll", "", &with(plugin, &upstream));
        let text = gateway.ask(&format!("GET /?ip=192.0.2.8 HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).text();
        text.split("X-Real-IP: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
    };
    assert_eq!(seen("real-ip: {source: http_x_real_ip}", "X-Real-IP: 192.0.2.7\r\n"), "192.0.2.7");
    assert_eq!(seen("real-ip: {source: arg_ip}", ""), "192.0.2.8");
    assert_eq!(seen("real-ip: {source: arg_ip, trusted_addresses: [10.0.0.0/8]}", ""), "127.0.0.1");
    let list = "X-Forwarded-For: 192.0.2.1, 192.0.2.2, 10.1.1.1, 127.0.0.9\r\n";
    let recursive = "real-ip: {source: http_x_forwarded_for, recursive: true, trusted_addresses: [127.0.0.0/8, 10.0.0.0/8]}";
    assert_eq!(seen(recursive, list), "192.0.2.2");
    assert_eq!(seen("real-ip: {source: http_x_forwarded_for}", list), "127.0.0.9");
    assert_eq!(seen("real-ip: {source: http_x_forwarded_for}", "X-Forwarded-For: rubbish\r\n"), "127.0.0.1");
}

/// A route that is an upstream and nothing else still has what global rules and consumers bring.
#[test]
fn a_plain_route_has_the_plugins_of_global_rules_and_consumers() {
    let (upstream, other) = (Upstream::answering(|_| ok(b"own")), Upstream::answering(|_| ok(b"other")));
    let resources = format!(
        "consumers:\n  - {{username: alice, plugins: {{key-auth: {{key: k1}}, response-rewrite: {{headers: {{set: {{X-Who: alice}}}}}}}}}}\n\
         global_rules:\n  - {{id: auth, plugins: {{key-auth: {{}}}}}}\n  \
         - {{id: split, plugins: {{traffic-split: {{rules: [{{match: [{{vars: [[arg_to, ==, other]]}}], weighted_upstreams: [{{upstream: {}}}]}}]}}}}}}\n\
         routes:\n  - {{id: plain, uri: /*, upstream: {}}}",
        other.nodes(),
        upstream.nodes()
    );
    let gateway = Gateway::start("epoll", "", &resources);
    assert_eq!(gateway.get("/").status, 401);
    let known = gateway.get("/?apikey=k1");
    assert_eq!((known.status, known.text().as_str(), known.header("x-who")), (200, "own", Some("alice")));
    let split = gateway.get("/?apikey=k1&to=other");
    assert_eq!((split.text().as_str(), split.header("x-who")), ("other", Some("alice")));
}

#[test]
fn client_control_bounds_bodies_with_and_without_a_length() {
    let upstream = Upstream::echoing();
    for (limit, gateway_limit, expected) in [("10", "0", 413), ("0", "10", 200), ("100", "10", 200)] {
        let settings = format!("  limits: {{body_bytes: {gateway_limit}}}\n");
        let gateway =
            Gateway::start("epoll", &settings, &with(&format!("client-control: {{max_body_size: {limit}}}"), &upstream));
        let long = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n01234567890123456789");
        assert_eq!(long.status, expected, "{limit} {gateway_limit}");
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n01234567890123456789\r\n0\r\n\r\n";
        assert_eq!(gateway.ask(chunked).status, expected, "{limit} {gateway_limit}, chunked");
        assert_eq!(gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").status, 200);
    }
}

#[test]
fn the_breaker_opens_answers_and_closes_again() {
    let status = Arc::new(AtomicU16::new(500));
    let (say, asked) = (status.clone(), Arc::new(AtomicU16::new(0)));
    let count = asked.clone();
    let upstream = Upstream::answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        match say.load(Ordering::SeqCst) {
            200 => ok(b"fine"),
            _ => b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
        }
    });
    let plugin = "api-breaker: {break_response_code: 599, break_response_body: \"broken\", \
        break_response_headers: [{key: X-Broken, value: \"$uri\"}], unhealthy: {http_statuses: [500], failures: 2}, healthy: {successes: 1}}";
    let gateway = Gateway::start("epoll", "", &with(plugin, &upstream));
    assert_eq!((gateway.get("/x").status, gateway.get("/x").status), (500, 500));
    let broken = gateway.get("/x?q=1");
    assert_eq!((broken.status, broken.text().as_str(), broken.header("x-broken")), (599, "broken", Some("/x")));
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the upstream has its peace");
    assert_eq!(gateway.get("/y").status, 500, "another path has a breaker of its own");
    status.store(200, Ordering::SeqCst);
    until("the breaker to let requests through again", || (gateway.get("/x").status == 200).then_some(()));
    assert!((0..5).all(|_| gateway.get("/x").status == 200), "one success closes it");
}
