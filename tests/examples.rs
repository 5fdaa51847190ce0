//! Every file in examples/ runs as it is written, but on ports of the test's own, and serves what it is an example of.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{Client, Scratch, Upstream, free_port, ok, until};

/// An example, and requests with a part of what their answers (head and body) must hold.
const TABLE: &[(&str, &[(&str, &str)])] = &[
    ("access-log", &[("GET /x HTTP/1.1\r\nHost: a", "GET /x HTTP/1.1")]),
    (
        "apisix",
        &[
            ("GET /hello HTTP/1.1\r\nHost: a", "HTTP/1.1 200"),
            ("POST /hello HTTP/1.1\r\nHost: a", "404 Route Not Found"),
            ("GET /a/x HTTP/1.1\r\nHost: web.example.com", "X-From: apisix.yaml"),
        ],
    ),
    (
        "canary",
        &[("GET /a HTTP/1.1\r\nHost: a\r\nX-Version: new", "X-Version: new"), ("GET /a HTTP/1.1\r\nHost: a", "HTTP/1.1 200")],
    ),
    ("from-apisix", &[("GET /a HTTP/1.1\r\nHost: web.example.com", "X-From: apisix.yaml")]),
    (
        "hosts-and-prefixes",
        &[
            ("DELETE /orders/7 HTTP/1.1\r\nHost: shop.example.com", "DELETE /orders/7"),
            ("GET / HTTP/1.1\r\nHost: eu.shop.example.com", "HTTP/1.1 200"),
            ("GET /x HTTP/1.1\r\nHost: b\r\nX-Beta: 1", "X-Beta: 1"),
        ],
    ),
    (
        "key-auth",
        &[
            ("GET /api/x HTTP/1.1\r\nHost: a", "HTTP/1.1 401"),
            ("GET /api/x HTTP/1.1\r\nHost: a\r\nX-Api-Key: nobody", "HTTP/1.1 401"),
            ("GET /api/x HTTP/1.1\r\nHost: a\r\nX-Api-Key: alice-dev-key", "X-Consumer-Username: alice"),
            ("GET /api/x HTTP/1.1\r\nHost: a\r\nX-Api-Key: bob-dev-key", "X-Plan: guest"),
        ],
    ),
    ("quickstart", &[("GET /anything/x?y=1 HTTP/1.1\r\nHost: a", "GET /x?y=1 HTTP/1.1")]),
    (
        "resilient-upstream",
        &[
            ("GET /a HTTP/1.1\r\nHost: a", "Set-Cookie: node="),
            ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0", "Content-Length: 2"),
        ],
    ),
    (
        "rewrite-and-redirect",
        &[
            ("GET /v1/y HTTP/1.1\r\nHost: a\r\nX-Debug: 1", "GET /api/y HTTP/1.1"),
            ("GET /v1/y HTTP/1.1\r\nHost: a", "X-Api-Version: 1"),
            ("GET /v1/y HTTP/1.1\r\nHost: a", "X-Served-By: 127.0.0.1"),
            ("GET /old/z?q=1 HTTP/1.1\r\nHost: a", "Location: /v1/z?q=1"),
            ("GET /teapot HTTP/1.1\r\nHost: a", "short and stout"),
        ],
    ),
    ("unix-socket", &[("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7", "X-Real-IP: 192.0.2.7")]),
    (
        "websocket",
        &[
            ("GET /chat HTTP/1.1\r\nHost: a", "HTTP/1.1 200"),
            (
                "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "HTTP/1.1 101",
            ),
        ],
    ),
    ("weighted-nodes", &[("GET /1 HTTP/1.1\r\nHost: a", "HTTP/1.1 200"), ("GET /2 HTTP/1.1\r\nHost: a", "HTTP/1.1 200")]),
];

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Copies the examples, their ports exchanged for the test's own.
fn copy(scratch: &Scratch, name: &str, port: u16, upstream: u16) -> std::path::PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let socket = scratch.0.join("example.sock").display().to_string();
    for entry in std::fs::read_dir(examples).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let text = text
            .replace("/tmp/ringway-example.sock", &socket)
            .replace(":9080", &format!(":{port}"))
            .replace(":9081", &format!(":{}", free_port()))
            .replace(":8080", &format!(":{upstream}"))
            .replace(":8081", &format!(":{upstream}"))
            .replace("port: 8080", &format!("port: {upstream}"))
            .replace("port: 8081", &format!("port: {upstream}"));
        let own = format!("gateway:\n  control: {{address: \"127.0.0.1:{}\"}}\n", free_port());
        let text = match text.split_once("gateway:\n") {
            Some((before, behind)) => format!("{before}{own}{behind}"),
            None if name == "apisix" => format!("{own}  listeners: [{{address: \"127.0.0.1:{port}\"}}]\n{text}"),
            None => text, // it is included by another
        };
        std::fs::write(scratch.0.join(entry.file_name()), text).unwrap();
    }
    scratch.0.join(format!("{name}.yaml"))
}

fn serve(name: &str, requests: &[(&str, &str)]) {
    let upstream = Upstream::answering(|request| match request.head.contains("Upgrade: websocket") {
        true => b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            .to_vec(),
        false => ok(&[request.head.as_bytes(), &request.body].concat()),
    });
    let (scratch, port) = (Scratch::new(), free_port());
    let file = copy(&scratch, name, port, upstream.port);
    let errors = std::fs::File::create(scratch.0.join("stderr")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    let child = command.args(["run", "-c"]).arg(file).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
    let mut running = Running(child);
    let socket = scratch.0.join("example.sock");
    let told = || std::fs::read_to_string(scratch.0.join("stderr")).unwrap();
    until("the example to listen", || {
        assert!(running.0.try_wait().unwrap().is_none(), "{name}: {}", told());
        match name {
            "unix-socket" => UnixStream::connect(&socket).map(drop).ok(),
            _ => std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).ok(),
        }
    });
    for (request, expected) in requests {
        let text = match name {
            "unix-socket" => {
                let mut stream = UnixStream::connect(&socket).unwrap();
                stream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            }
            _ => {
                let mut client = Client::connect(([127, 0, 0, 1], port).into());
                client.send(format!("{request}\r\n\r\n").as_bytes());
                let answer = client.answer();
                answer.head.clone() + &answer.text()
            }
        };
        assert!(text.contains(expected), "{name}: {request}\n{text}\n{}", told());
    }
}

#[test]
fn every_example_does_what_it_is_an_example_of() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names: Vec<String> = std::fs::read_dir(examples)
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    names.sort();
    let known: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "an example has its row in the table");
    for (name, requests) in TABLE {
        serve(name, requests);
    }
}
