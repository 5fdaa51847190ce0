//! TLS to upstreams: nginx and scripted servers behind the gateway, on both drivers.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::{Gateway, Nginx, SWITCHED, UPGRADE, Upstream, checksum, drivers, noise, ok};

/// An authority and what it signed, as PEM.
struct Certificates {
    authority: String,
    server: (String, String),
    client: (String, String),
}

impl Certificates {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        Self { authority, server: signed("node.example"), client: signed("gateway.example") }
    }

    /// nginx that says what it was told: name, client certificate, whether the session was resumed, number of the connection.
    fn nginx(&self, more: &str) -> Nginx {
        Nginx::start(|port, dir| {
            std::fs::write(format!("{dir}/cert.pem"), &self.server.0).unwrap();
            std::fs::write(format!("{dir}/key.pem"), &self.server.1).unwrap();
            std::fs::write(format!("{dir}/ca.pem"), &self.authority).unwrap();
            std::fs::write(format!("{dir}/large"), noise(5_000_000)).unwrap();
            format!(
                "  ssl_session_cache shared:t:1m;\n  server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_certificate {dir}/cert.pem;\n    \
                 ssl_certificate_key {dir}/key.pem;\n    {more}\n    client_max_body_size 0;\n    location /large {{ root {dir}; }}\n    \
                 location / {{ return 200 \"$ssl_server_name|$http_host|$ssl_client_s_dn|$ssl_session_reused|$connection|$ssl_protocol\"; }}\n  }}"
            )
        })
    }
}

/// A YAML block of a PEM text.
fn block(indent: usize, text: &str) -> String {
    let pad = " ".repeat(indent);
    format!("|\n{}", text.lines().map(|line| format!("{pad}{line}\n")).collect::<String>())
}

fn resources(port: u16, tls: &str, more: &str) -> String {
    format!(
        "routes:\n  - uri: /*\n    upstream:\n      scheme: https\n      nodes: {{\"127.0.0.1:{port}\": 1}}\n{more}      tls:\n        verify: {tls}\n"
    )
}

fn told(gateway: &Gateway, host: &str) -> Vec<String> {
    let answer = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().split('|').map(str::to_owned).collect()
}

#[test]
fn names_and_sessions_and_connections_are_kept_apart() {
    let certificates = Certificates::new();
    let nginx = certificates.nginx("");
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &resources(nginx.port, "false", ""));
        let first = told(&gateway, "a.example");
        assert_eq!((first[0].as_str(), first[1].as_str(), first[5].as_str()), ("a.example", "a.example", "TLSv1.3"));
        let again = told(&gateway, "a.example");
        assert_eq!(first[4], again[4], "the connection is used again");
        let other = told(&gateway, "b.example:8443");
        assert_eq!((other[0].as_str(), other[1].as_str()), ("b.example", "b.example:8443"));
        assert_ne!(other[4], first[4], "never for another name");
        assert_eq!(told(&gateway, "127.0.0.9")[0], "", "an address is no server name");
        assert_eq!(told(&gateway, "a.example")[4], first[4]);
        gateway.reload(&resources(nginx.port, "false", "      keepalive_pool: {requests: 1}\n"));
        let reused: Vec<String> = (0..4).map(|_| told(&gateway, "c.example")[3].clone()).collect();
        assert!(reused[1..].iter().all(|reused| reused == "r"), "sessions are resumed: {reused:?}");
    }
}

#[test]
fn certificates_are_verified_where_asked_for() {
    let certificates = Certificates::new();
    let nginx = certificates.nginx("ssl_client_certificate ca.pem;\n    ssl_verify_client optional;");
    let ca = format!("true\n        ca_cert: {}", block(10, &certificates.authority));
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &resources(nginx.port, &ca, ""));
        assert_eq!(told(&gateway, "node.example")[0], "node.example");
        let refused = gateway.ask("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n");
        assert_eq!(refused.status, 502, "the certificate is for another name");
        assert_eq!(gateway.log(2)[1]["reason"], "upstream_tls");
        // The system's authorities do not know ours.
        gateway.reload(&resources(nginx.port, "true", ""));
        assert_eq!(gateway.ask("GET / HTTP/1.1\r\nHost: node.example\r\n\r\n").status, 502);
        // Without `verify` a `ca_cert` asks for it.
        let silent = resources(nginx.port, &ca, "").replace("verify: true", "client_cert_id: none\n        verify: true");
        let named = format!(
            "ssls:\n  - id: none\n    type: client\n    cert: {}    key: {}{silent}",
            block(6, &certificates.client.0),
            block(6, &certificates.client.1)
        );
        gateway.reload(&named.replace("        verify: true\n", ""));
        assert_eq!(told(&gateway, "node.example")[2], "CN=gateway.example", "a certificate of an ssl");
        assert_eq!(gateway.ask("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").status, 502);
        let inline = format!(
            "false\n        client_cert: {}        client_key: {}",
            block(10, &certificates.client.0),
            block(10, &certificates.client.1)
        );
        gateway.reload(&resources(nginx.port, &inline, ""));
        assert_eq!(told(&gateway, "node.example")[2], "CN=gateway.example", "a certificate written in place");
        let listing = support::control(&gateway, "/v1/routes");
        assert!(!listing.contains("PRIVATE KEY") && !gateway.stderr().contains("PRIVATE KEY"), "keys stay here");
    }
}

#[test]
fn bodies_of_any_size_pass_both_ways() {
    let certificates = Certificates::new();
    let nginx = certificates.nginx("");
    let config = server_config(&certificates);
    let port = serve(config, |mut tls| {
        let Some(head) = read_head(&mut tls) else { return };
        let length: usize = head.split("Content-Length: ").nth(1).unwrap().split('\r').next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        tls.read_exact(&mut body).unwrap();
        let _sent = tls.write_all(&ok(checksum(&body).to_string().as_bytes()));
        let _sent = tls.flush();
    });
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &resources(nginx.port, "false", ""));
        let large = gateway.get("/large");
        assert!(large.whole && large.body == noise(5_000_000), "{} bytes", large.body.len());
        gateway.reload(&resources(port, "false", ""));
        for size in [1, 16_383, 16_384, 100_000, 3_000_000] {
            let body = noise(size);
            let mut client = gateway.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").as_bytes());
            client.send(&body);
            assert_eq!(client.answer().text(), checksum(&body).to_string(), "{size} on {driver}");
        }
    }
}

#[test]
fn what_goes_wrong_has_its_status_and_reason() {
    let certificates = Certificates::new();
    let plain = Upstream::start(|mut peer| peer.send(&ok(b"plain")));
    let silent = support::listen();
    // A body up to the connection's end, cut without TLS's own end: not whole.
    let cut = serve(server_config(&certificates), |mut tls| {
        if read_head(&mut tls).is_some() {
            let _sent = tls.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of it");
            let _sent = tls.flush();
        }
    });
    let ended = serve(server_config(&certificates), |mut tls| {
        if read_head(&mut tls).is_some() {
            let _sent = tls.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it");
            tls.conn.send_close_notify();
            let _sent = tls.flush();
        }
    });
    for driver in drivers() {
        let gateway = Gateway::start(driver, "", &resources(plain.port, "false", ""));
        assert_eq!(gateway.get("/").status, 502);
        gateway.reload(&resources(
            silent.local_addr().unwrap().port(),
            "false",
            "      retries: 0\n      timeout: {connect: 0.2, send: 5, read: 5}\n",
        ));
        assert_eq!(gateway.get("/").status, 504);
        gateway.reload(&resources(cut, "false", ""));
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.whole), (200, false));
        gateway.reload(&resources(ended, "false", ""));
        let answer = gateway.get("/");
        assert_eq!((answer.text().as_str(), answer.whole), ("all of it", true));
        let log = gateway.log(4);
        let reasons: Vec<&str> = log.iter().map(|line| line["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["upstream_tls", "upstream_connect_timeout", "upstream_cut", "done"]);
    }
}

#[test]
fn websockets_and_probes_go_over_tls() {
    let certificates = Certificates::new();
    let port = serve(server_config(&certificates), |mut tls| {
        let Some(head) = read_head(&mut tls) else { return };
        if !head.contains("Upgrade: websocket") {
            let _sent = tls.write_all(&ok(b""));
            let _sent = tls.flush();
            return;
        }
        let _sent = tls.write_all(SWITCHED);
        let mut bytes = [0; 1000];
        while let Ok(read @ 1..) = tls.read(&mut bytes) {
            let _sent = tls.write_all(&bytes[..read]);
            let _sent = tls.flush();
        }
    });
    let checks = "      checks: {active: {type: https, https_verify_certificate: false, http_path: /up, healthy: {interval: 1, successes: 1, \
        http_statuses: [200]}, unhealthy: {interval: 1, tcp_failures: 1}}}\n";
    for driver in drivers() {
        let text = resources(port, "false", checks).replace("  - uri", "  - enable_websocket: true\n    uri");
        let gateway = Gateway::start(driver, "", &text);
        let mut client = gateway.connect();
        client.send(UPGRADE);
        assert_eq!(client.answer().status, 101);
        for size in [1_usize, 900, 20_000, 70_000] {
            let sent = noise(size);
            client.send(&sent);
            assert_eq!(client.exactly(size), sent, "{size} on {driver}");
        }
        support::until("a good probe", || {
            let page = support::control(&gateway, "/v1/healthcheck");
            (page.contains("\"success\":1") || page.contains("\"status\":\"healthy\"")).then_some(())
        });
    }
}

fn server_config(certificates: &Certificates) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(certificates.server.0.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificates.server.1.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A TLS server whose every connection runs a script.
fn serve(config: Arc<ServerConfig>, script: impl Fn(Tls) + Send + Sync + 'static) -> u16 {
    let listener = support::listen();
    let port = listener.local_addr().unwrap().port();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
            let (config, script) = (config.clone(), script.clone());
            std::thread::spawn(move || script(StreamOwned::new(ServerConnection::new(config).unwrap(), stream)));
        }
    });
    port
}

fn read_head(tls: &mut Tls) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match tls.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}
