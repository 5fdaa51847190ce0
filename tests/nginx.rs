//! nginx behind the gateway: a real server's answers, over IPv4, `::1` and a Unix socket in front.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use support::{DEADLINE, Gateway, Nginx, Scratch, checksum, drivers, free_port, noise, unzip};

/// Serves a directory with two files, and a few fixed answers.
fn start() -> Nginx {
    Nginx::start(|port, dir| {
        std::fs::write(format!("{dir}/big"), noise(1 << 20)).unwrap();
        std::fs::write(format!("{dir}/text.txt"), "a line\n".repeat(5000)).unwrap();
        format!(
            "  server {{\n    listen 127.0.0.1:{port};\n    listen [::1]:{port};\n    root {dir};\n    client_max_body_size 0;\n    \
             port_in_redirect off;\n    gzip on;\n    gzip_types *;\n    gzip_min_length 1;\n    gzip_proxied any;\n    \
             location /empty {{ return 204; }}\n    location /moved {{ return 301 /elsewhere; }}\n    \
             location /upload {{ client_body_in_single_buffer on; proxy_pass http://127.0.0.1:{port}/taken; }}\n    \
             location /taken {{ return 200 \"$content_length\"; }}\n  }}"
        )
    })
}

#[test]
fn the_answers_of_nginx_arrive_as_they_are() {
    let nginx = start();
    let big = std::fs::read(nginx.scratch.0.join("big")).unwrap();
    let text = std::fs::read(nginx.scratch.0.join("text.txt")).unwrap();
    for driver in drivers() {
        for node in [format!("127.0.0.1:{}", nginx.port), format!("[::1]:{}", nginx.port)] {
            let resources = format!("routes:\n  - {{uri: /*, upstream: {{nodes: {{\"{node}\": 1}}}}}}");
            let gateway = Gateway::start(driver, "", &resources);
            let mut client = gateway.connect();
            let mut ask = |method: &str, rest: &str| {
                client.send(format!("{method} {rest}\r\n\r\n").as_bytes());
                client.answer_to(method)
            };
            for _ in 0..3 {
                let answer = ask("GET", "/big HTTP/1.1\r\nHost: a");
                assert_eq!((answer.status, checksum(&answer.body)), (200, checksum(&big)), "{driver} {node}");
                let tag = answer.header("etag").unwrap().to_owned();
                let length = answer.header("content-length").unwrap().to_owned();
                let unchanged = ask("GET", &format!("/big HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}"));
                assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some(tag.as_str())));
                let head = ask("HEAD", "/big HTTP/1.1\r\nHost: a");
                assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
                let part = ask("GET", "/big HTTP/1.1\r\nHost: a\r\nRange: bytes=10-19");
                assert_eq!((part.status, part.body.as_slice()), (206, &big[10..20]));
                assert_eq!(ask("GET", "/empty HTTP/1.1\r\nHost: a").status, 204);
                let moved = ask("GET", "/moved HTTP/1.1\r\nHost: a.example");
                assert_eq!((moved.status, moved.header("location")), (301, Some("http://a.example/elsewhere")));
                assert_eq!(ask("GET", "/nothing HTTP/1.1\r\nHost: a").status, 404);
                let zipped = ask("GET", "/text.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip");
                assert_eq!(zipped.header("transfer-encoding"), Some("chunked"));
                assert!(zipped.whole && unzip(&zipped.body) == text, "{driver} {node}");
            }
            assert!(
                support::control(&gateway, "/metrics").contains("ringway_upstream_connects_total{worker=\"0\"} 1\n"),
                "kept alive"
            );
        }
    }
}

#[test]
fn uploads_reach_nginx_whole() {
    let nginx = start();
    let body = noise(1 << 20);
    for driver in drivers() {
        let resources = format!("routes:\n  - {{uri: /*, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}", nginx.port);
        let gateway = Gateway::start(driver, "", &resources);
        let mut client = gateway.connect();
        for _ in 0..2 {
            client.send(format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
            client.send(&body);
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, body.len().to_string()), "{driver}: {}", nginx.errors());
            client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(50_000) {
                client.send(format!("{:x}\r\n", piece.len()).as_bytes());
                client.send(piece);
                client.send(b"\r\n");
            }
            client.send(b"0\r\n\r\n");
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, body.len().to_string()), "nginx gathered the chunks");
        }
    }
}

#[test]
fn nginx_is_reached_through_every_kind_of_listener() {
    let nginx = start();
    for driver in drivers() {
        let scratch = Scratch::new();
        let socket = scratch.0.join("http.sock");
        let (four, six) = (free_port(), free_port());
        let settings = format!(
            "  listeners:\n    - {{address: \"127.0.0.1:{four}\"}}\n    - {{address: \"[::1]:{six}\"}}\n    - {{address: \"unix:{}\"}}\n",
            socket.display()
        );
        let resources = format!("routes:\n  - {{uri: /*, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}", nginx.port);
        let _gateway = Gateway::start(driver, &settings, &resources);
        let request = b"GET /text.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let tcp = |address: SocketAddr| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(request).unwrap();
            read(&mut stream)
        };
        let mut unix = UnixStream::connect(&socket).unwrap();
        unix.write_all(request).unwrap();
        for answer in [tcp(([127, 0, 0, 1], four).into()), tcp((Ipv6Addr::LOCALHOST, six).into()), read(&mut unix)] {
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("a line\n"), "{driver}: {answer}");
        }
    }
}

fn read(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
