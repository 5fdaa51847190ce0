//! What `check` says of the resources that later versions build: their fields are checked, each use is refused once.

use ringway::config::{Input, LoadOptions, load};

/// Every remark on a text as `line:column severity message`.
fn remarks(text: &str) -> Vec<String> {
    let input = Input::Text { name: "t.yaml".into(), text: text.into() };
    let options = LoadOptions { input, strict: false, env: &|_| None };
    let report = match load(&options) {
        Ok(loaded) => loaded.report,
        Err(report) => report,
    };
    let all = report.json();
    let said = |one: &serde_json::Value| {
        format!("{}:{} {} {}", one["line"], one["column"], one["severity"].as_str().unwrap(), one["message"].as_str().unwrap())
    };
    all.as_array().unwrap().iter().map(said).collect()
}

/// A text of which nothing is wrong but that it is too early: exactly these things are said, each once.
fn only_too_early(text: &str, what: &[&str]) {
    let found = remarks(text);
    let early: Vec<&str> =
        found.iter().filter_map(|said| said.split_once(" error ")?.1.strip_suffix(" not supported yet")).collect();
    assert_eq!(early, what, "{found:#?}");
    assert_eq!(found.len(), what.len(), "{found:#?}");
}

/// Each of these is said at its place, beside whatever else is.
fn says(text: &str, expected: &[&str]) {
    let found = remarks(text);
    for one in expected {
        assert!(found.iter().any(|said| said == one), "{one}\nin {found:#?}");
    }
}

const ROUTE: &str = "routes: [{uri: /a, upstream: {nodes: {\"127.0.0.1:1\": 1}}}]\n";

#[test]
fn what_apisix_takes_is_only_too_early() {
    let (cert, key) = ("c".repeat(128), "k".repeat(64));
    let ssl = format!(
        "ssls:\n  - {{id: 1, sni: \"*.example.com\", cert: {cert}, key: {key}, status: 1, ssl_protocols: [TLSv1.2, TLSv1.3],\n     \
         client: {{ca: {cert}, depth: 2, skip_mtls_uri_regex: [\"/open.*\"]}}, labels: {{a: b}}}}\n  \
         - {{id: 2, type: client, cert: {cert}, key: {key}}}\n  \
         - {{id: 3, snis: [a.example, b.example], cert: {cert}, key: {key}, certs: [{cert}], keys: [{key}]}}\n"
    );
    only_too_early(&ssl, &["TLS certificates for clients (ssls of `type: server`) are"; 2]);
    only_too_early(
        "stream_routes:\n  - {id: 1, server_port: 9100, remote_addr: 10.0.0.0/8, sni: a.example, upstream: {nodes: {\"a:1\": 1}}}\n",
        &["stream routes are"],
    );
    only_too_early("protos: [{id: 1, name: p, content: \"syntax = \\\"proto3\\\";\"}]\n", &["protos are"]);
    only_too_early(
        "secrets:\n  - {id: vault/1, uri: \"http://127.0.0.1:8200\", prefix: kv/apisix, token: t, namespace: n}\n  \
         - {id: aws/1, access_key_id: a, secret_access_key: b, region: eu-west-1}\n  \
         - {id: gcp/1, auth_file: /etc/gcp.json}\n  \
         - {id: gcp/2, auth_config: {client_email: e, private_key: k, project_id: p}}\n",
        &["secret managers are"; 4],
    );
    let upstream = |more: &str| format!("upstreams:\n  - {{id: 1, nodes: {{\"a:1\": 1}}, {more}}}\n");
    only_too_early(
        &upstream(
            "checks: {active: {type: http, timeout: 2.5, concurrency: 5, host: a.example, port: 81, http_path: /live, \
             https_verify_certificate: false, req_headers: [\"User-Agent: probe\"], healthy: {interval: 2, successes: 1, \
             http_statuses: [200, 204]}, unhealthy: {interval: 1, http_failures: 2, tcp_failures: 2, timeouts: 3}}, \
             passive: {healthy: {http_statuses: [200], successes: 3}, unhealthy: {http_statuses: [500], http_failures: 3}}}",
        ),
        &[],
    );
    only_too_early(&upstream(&format!("tls: {{verify: true, client_cert: {cert}, client_key: {key}}}")), &[]);
    only_too_early(
        "upstreams: [{id: 1, service_name: s, discovery_type: nacos, discovery_args: {namespace_id: n}}]\n",
        &["discovery by `nacos` is"],
    );
    only_too_early(
        &format!(
            "gateway: {{admin: {{address: \"127.0.0.1:9180\"}}, buffering: {{request: true}}, source: {{store: {{path: x}}}}}}\n{ROUTE}"
        ),
        &["the Admin API is", "source `store` is"],
    );
}

#[test]
fn mistakes_in_them_have_their_places() {
    says(
        "ssls:\n  - {cert: x, snl: a}\n  - {type: client}\n  - {sni: a b, snis: [], ssl_protocols: [SSLv3]}\n",
        &[
            "2:12 error 1 characters are out of bounds",
            "2:15 error unknown key `snl` in ssl",
            "2:5 error `key` is required",
            "2:5 error one of `sni`, `snis` is required",
            "3:5 error `cert` is required",
            "4:11 error `a b` is no host: letters, digits, `-._[]:`, and `*` in front",
            "4:22 error at least 1 item is needed",
            "4:42 error `SSLv3` is not one of its values",
            "4:11 error only one of `sni` and `snis` is allowed",
        ],
    );
    says(
        "stream_routes:\n  - {server_port: 70000, remote_addr: here, protocol: {logger: [{name: x}]}}\n",
        &[
            "2:19 error 70000 is out of bounds",
            "2:55 error `name` is required",
            "2:72 error `name` needs `conf` beside it",
            "2:5 error stream routes are not supported yet",
        ],
    );
    says(
        "secrets:\n  - {id: vualt/1}\n  - {id: vault/1, uri: u}\n  - {id: gcp/1, auth_file: f, auth_config: {}}\n  - {id: alone}\n",
        &[
            "2:5 error unknown secret manager `vualt`",
            "3:5 error `prefix` is required",
            "3:5 error `token` is required",
            "4:44 error `client_email` is required",
            "4:44 error only one of `auth_config` and `auth_file` is allowed",
            "5:5 error `alone` names no secret manager: vault/ID, aws/ID or gcp/ID",
        ],
    );
    says(
        "upstreams:\n  - id: 1\n    nodes: {\"a:1\": 1}\n    service_name: s\n    checks:\n      passive: {unhealthy: {http_statuses: [99]}}\n    \
         tls: {verify: yess, client_key: short}\n",
        &[
            "4:19 error `service_name` needs `discovery_type` beside it",
            "3:12 error only one of `nodes` and `service_name` is allowed",
            "6:7 error `active` is required",
            "6:45 error 99 is out of bounds",
            "7:19 error expected true or false, got string",
            "7:37 error 5 characters are out of bounds",
            "7:37 error `client_key` needs `client_cert` beside it",
        ],
    );
    says(
        "routes:\n  - {uri: /a, plugins: {}, script: \"return nil end\"}\n",
        &["2:36 error only one of `script` and `plugins` is allowed"],
    );
}

#[test]
fn the_list_of_enabled_plugins_is_kept_to() {
    let with = |list: &str| {
        remarks(&format!(
            "plugins: {list}\nroutes:\n  - {{uri: /a, plugins: {{redirect: {{uri: /b}}}}}}\nconsumers:\n  \
             - {{username: u, plugins: {{key-auth: {{key: k}}}}}}\n"
        ))
    };
    assert_eq!(with("[{name: redirect}, {name: key-auth}]"), Vec::<String>::new());
    assert_eq!(with("[{name: redirect}]"), ["5:29 error unknown plugin [key-auth]: the list `plugins` leaves it out"]);
    assert_eq!(with("[]").len(), 2, "an empty list enables nothing");
    assert_eq!(with("[{stream: true}]")[0], "1:11 error `name` is required");
}

#[test]
fn a_route_that_leads_nowhere_is_told_once() {
    assert_eq!(remarks("routes:\n  - uri: /a\n"), ["2:5 error the route leads nowhere"]);
}

#[test]
fn keys_of_consistent_hashing_have_their_forms() {
    let with = |settings: &str| remarks(&format!("upstreams:\n  - {{id: 1, nodes: {{\"a:1\": 1}}, {settings}}}\n"));
    for good in [
        "type: chash, key: remote_addr",
        "type: chash, key: arg_user-id",
        "type: chash, hash_on: header, key: X-User",
        "type: chash, hash_on: cookie, key: session_id",
        "type: chash, hash_on: consumer",
        "type: chash, hash_on: vars_combinations, key: \"$host$arg_a\"",
        "type: least_conn",
        "type: ewma",
    ] {
        assert_eq!(with(good), Vec::<String>::new(), "{good}");
    }
    for (bad, said) in [
        ("type: chash", "missing key: `chash` needs one, unless `hash_on` is `consumer`"),
        ("type: chash, hash_on: header, key: \"x y\"", "`x y` is no name: letters, digits, `-` and `_`"),
        ("type: chash, hash_on: heder, key: x", "`heder` is not one of its values"),
        ("type: leastconn", "unknown balancer `leastconn`"),
    ] {
        assert!(with(bad).iter().any(|one| one.ends_with(said)), "{bad}: {:?}", with(bad));
    }
    assert!(with("type: chash, key: cookie_x")[0].contains("`cookie_x` is no key for `vars`: one of uri, "));
}
