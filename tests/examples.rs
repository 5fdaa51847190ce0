//! Every file in examples/ runs as it is written, but on ports of the test's own, and serves what it is an example of.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Answer, Client, SWITCHED, Scratch, Upstream, free_port, until, unzip};

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
        // Its shares and its coding have a test of their own.
        &[("GET /a HTTP/1.1\r\nHost: a\r\nX-Version: new", "second\nGET /a")],
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
            ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0", "Content-Length: 2\r\n"),
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

/// An example that runs, with two upstreams behind it.
struct Example {
    name: &'static str,
    child: Child,
    port: u16,
    scratch: Scratch,
}

impl Drop for Example {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Example {
    fn start(name: &'static str) -> Self {
        let (scratch, port) = (Scratch::new(), free_port());
        let file = copy(&scratch, name, port, [upstream("first").port, upstream("second").port]);
        let errors = std::fs::File::create(scratch.0.join("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        let child = command.args(["run", "-c"]).arg(file).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let mut example = Self { name, child, port, scratch };
        until("the example to listen", || {
            assert!(example.child.try_wait().unwrap().is_none(), "{name}: {}", example.told());
            match name {
                "unix-socket" => UnixStream::connect(example.socket()).map(drop).ok(),
                _ => std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).ok(),
            }
        });
        example
    }

    fn socket(&self) -> PathBuf {
        self.scratch.0.join("example.sock")
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.scratch.0.join("stderr")).unwrap()
    }

    fn ask(&self, request: &str) -> Answer {
        let mut client = Client::connect(([127, 0, 0, 1], self.port).into());
        client.send(format!("{request}\r\n\r\n").as_bytes());
        client.answer()
    }

    /// Head and body as one text.
    fn text(&self, request: &str) -> String {
        if self.name == "unix-socket" {
            let mut stream = UnixStream::connect(self.socket()).unwrap();
            stream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            return text;
        }
        let answer = self.ask(request);
        answer.head.clone() + &answer.text()
    }
}

/// Says who it is and what it was asked, in plain text; and takes upgrades.
fn upstream(name: &'static str) -> Upstream {
    Upstream::answering(move |request| {
        if request.head.contains("Upgrade: websocket") {
            return SWITCHED.to_vec();
        }
        let body = [name.as_bytes(), b"\n", request.head.as_bytes(), &request.body].concat();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    })
}

/// Copies the examples, their ports exchanged for the test's own.
fn copy(scratch: &Scratch, name: &str, port: u16, upstreams: [u16; 2]) -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let socket = scratch.0.join("example.sock").display().to_string();
    let [first, second] = upstreams;
    for entry in std::fs::read_dir(examples).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let text = text
            .replace("/tmp/ringway-example.sock", &socket)
            .replace(":9080", &format!(":{port}"))
            .replace(":9081", &format!(":{}", free_port()))
            .replace(":8080", &format!(":{first}"))
            .replace(":8081", &format!(":{second}"))
            .replace("port: 8080", &format!("port: {first}"))
            .replace("port: 8081", &format!("port: {second}"));
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
        let example = Example::start(name);
        for (request, expected) in *requests {
            let text = example.text(request);
            assert!(text.contains(expected), "{name}: {request}\n{text}\n{}", example.told());
        }
    }
}

#[test]
fn the_canary_gets_its_tenth_and_who_asks_for_it_and_answers_are_coded() {
    let example = Example::start("canary");
    let new = |request: &str| (0..100).filter(|_| example.ask(request).text().starts_with("second\n")).count();
    assert_eq!(new("GET /a HTTP/1.1\r\nHost: a\r\nX-Version: new"), 100);
    // Each worker counts by itself and connections fall where they fall.
    let tenth = new("GET /a HTTP/1.1\r\nHost: a");
    assert!((1..=30).contains(&tenth), "{tenth} of 100");
    let plain = example.ask("GET /a HTTP/1.1\r\nHost: a\r\nX-Version: new");
    assert_eq!(plain.header("content-encoding"), None);
    let coded = example.ask("GET /a HTTP/1.1\r\nHost: a\r\nX-Version: new\r\nAccept-Encoding: gzip");
    assert_eq!((coded.status, coded.header("content-encoding")), (200, Some("gzip")));
    assert!(String::from_utf8(unzip(&coded.body)).unwrap().starts_with("second\nGET /a HTTP/1.1\r\n"));
}
