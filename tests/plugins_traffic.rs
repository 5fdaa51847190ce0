//! Plugins that decide where requests and bodies go, through the real gateway.

mod support;

use std::sync::atomic::Ordering;

use support::{Gateway, Upstream, drivers, ok};

fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |_| ok(name.as_bytes()))
}

#[test]
fn traffic_split_divides_by_conditions_and_weights() {
    let (own, by_id, inline) = (named("own"), named("by-id"), named("inline"));
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
    let upstream = named("x");
    let gateway = Gateway::start("epoll", "", &format!("routes: [{{uri: /*, upstream: {}}}]", upstream.nodes()));
    let file = gateway.scratch.file(
        "bad.yaml",
        "routes:\n  - uri: /*\n    plugins:\n      traffic-split:\n        rules:\n          - match: [{vars: [[arg_a, \"=~\", 1]]}]\n            \
         weighted_upstreams:\n              - upstream: {nods: {\"127.0.0.1:1\": 1}, type: roundrobbin}\n              - upstream_id: 9\n",
    );
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringway")).args(["check", "-c"]).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1));
    for part in ["unknown key `nods`", "did you mean", "unknown balancer `roundrobbin`", "`9` does not exist", ":8:"] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 0);
}
