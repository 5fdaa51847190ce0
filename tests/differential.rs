//! The same generated requests through nginx and through the gateway, to one upstream that says what it got. Every difference
//! must be in the table below, and every row of the table must be met: a difference that nobody explained fails, and so does an
//! explanation that no request needs.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use support::{Gateway, Nginx, Upstream, checksum, ok};

const REQUESTS: usize = 10_000;

/// A twist that a request is given, and why the gateway treats it otherwise than nginx 1.22 (empty: it does not).
struct Twist {
    name: &'static str,
    difference: &'static str,
    apply: fn(&mut Request),
}

const fn twist(name: &'static str, difference: &'static str, apply: fn(&mut Request)) -> Twist {
    Twist { name, difference, apply }
}

/// A request in the making.
struct Request {
    method: String,
    target: String,
    version: String,
    fields: Vec<String>,
    line_end: &'static str,
    body: Vec<u8>,
}

impl Request {
    fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        for field in &self.fields {
            out.extend_from_slice(field.as_bytes());
            out.extend_from_slice(self.line_end.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    fn field(&mut self, line: &str) {
        self.fields.push(line.to_owned());
    }

    fn without(&mut self, name: &str) {
        self.fields.retain(|line| !line.to_ascii_lowercase().starts_with(name));
    }

    fn post(&mut self, framing: &str, body: &[u8]) {
        self.method = "POST".into();
        self.without("content-length");
        self.without("transfer-encoding");
        framing.split('\n').for_each(|line| self.field(line));
        self.body = body.to_vec();
    }

    fn chunked(&mut self, body: &[u8]) {
        self.post("Transfer-Encoding: chunked", body);
    }
}

static TWISTS: &[Twist] = &[
    // Targets.
    twist("query", "", |r| r.target.push_str("?a=1&b=%20&c")),
    twist("escapes", "", |r| r.target.push_str("/%41%62%7e")),
    twist("encoded slash", "", |r| r.target.push_str("/x%2Fy")),
    twist("double slash", "", |r| r.target.push_str("//z")),
    twist("parameter", "", |r| r.target.push_str("/p;v=1")),
    twist("not ASCII", "", |r| r.target.push_str("/\u{e9}")),
    twist("broken escape", "", |r| r.target.push_str("/%zz")),
    twist("NUL escape", "", |r| r.target.push_str("/%00")),
    twist("dot segments", "nginx forwards them as they are; the gateway resolves them once for rules and upstream", |r| {
        r.target.push_str("/a/../b/./c");
    }),
    twist("hidden dot segments", "a dot segment that appears by decoding is refused: two readers would see two paths", |r| {
        r.target.push_str("/x%2F..%2Fy");
    }),
    twist("parameter on dots", "`..;x` is a dot segment to some servers: refused", |r| r.target.push_str("/..;x/y")),
    twist("raw fragment", "a raw `#` is no part of a request target: refused; nginx cuts it off", |r| r.target.push_str("/f#g")),
    twist("raw backslash", "some servers take it for a slash: refused", |r| r.target.push_str("/a\\b")),
    twist("absolute form without a path", "", |r| r.target = "http://a.example".into()),
    twist("absolute form with a query alone", "", |r| r.target = "http://a.example?x=1".into()),
    twist("absolute form", "", |r| r.target = format!("http://a.example{}", r.target)),
    twist("above the root", "", |r| r.target = "/../../x".into()),
    twist("asterisk", "nginx serves `OPTIONS *` no upstream; the gateway routes the path `*`, which no prefix `/*` fits", |r| {
        (r.method, r.target) = ("OPTIONS".into(), "*".into());
    }),
    twist("no slash", "", |r| r.target = "x".into()),
    twist("long target", "", |r| {
        r.target.push_str(&"y".repeat(9000));
    }),
    // Request line.
    twist("other method", "", |r| r.method = "PROPFIND".into()),
    twist("lower-case method", "methods are tokens and pass, as RFC 9110 has it; nginx takes upper case alone", |r| {
        r.method = "get".into();
    }),
    twist("CONNECT", "", |r| r.method = "CONNECT".into()),
    twist("version 1.0", "", |r| r.version = "HTTP/1.0".into()),
    twist("version 1.9", "nginx takes any 1.x for 1.1; the gateway knows 1.0 and 1.1", |r| r.version = "HTTP/1.9".into()),
    twist("version 3.0", "", |r| r.version = "HTTP/3.0".into()),
    twist("no version", "HTTP/0.9 is served by nginx, and by nobody who should", |r| r.version = String::new()),
    twist("two spaces", "nginx takes several; RFC 9112 has one", |r| r.target.insert(0, ' ')),
    // Fields.
    twist("common fields", "", |r| {
        r.field("Accept: */*\r\nCookie: a=b; c=d\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
    }),
    twist("empty value", "", |r| r.field("X-Empty:")),
    twist("blanks around a value", "", |r| r.field("X-Blanks: \t v \t")),
    twist("octets above ASCII in a value", "", |r| r.field("X-High: \u{fc}")),
    twist("bare LF", "two readers may disagree where a line ends: refused; nginx takes it for a line end", |r| {
        r.field("X-A: 1\nX-B: 2");
    }),
    twist("bare CR in a value", "refused; nginx keeps it in the value", |r| r.field("X-A: 1\rX-B: 2")),
    twist("NUL in a value", "", |r| r.field("X-A: 1\u{0}2")),
    twist("control in a value", "refused; nginx passes it on", |r| r.field("X-A: 1\u{1}2")),
    twist("space before the colon", "", |r| r.field("X-A : 1")),
    twist("folded line", "", |r| r.field("X-A: 1\r\n 2")),
    twist("empty name", "", |r| r.field(": 1")),
    twist("strange name", "refused; nginx drops the line", |r| r.field("X(A): 1")),
    twist("no colon", "refused; nginx drops the line", |r| r.field("X-A")),
    twist("no Host", "", |r| r.without("host")),
    twist("two Hosts", "", |r| r.field("Host: b.example")),
    twist("strange Host", "", |r| {
        r.without("host");
        r.field("Host: a/b");
    }),
    twist("userinfo in Host", "no authority without it has an `@`: refused; nginx passes it on", |r| {
        r.without("host");
        r.field("Host: u@a.example");
    }),
    twist("connection options", "", |r| r.field("Connection: X-Named\r\nX-Named: 1")),
    twist("another expectation", "417; nginx ignores what it does not know", |r| r.field("Expect: something")),
    twist("many fields", "more than 100 fields are refused; nginx counts octets alone", |r| {
        (0..120).for_each(|n| r.fields.push(format!("X-{n}: 1")));
    }),
    // Framing.
    twist("a body", "", |r| r.post("Content-Length: 5", b"hello")),
    twist("an empty body", "", |r| r.post("Content-Length: 0", b"")),
    twist("chunks", "", |r| r.chunked(b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n")),
    twist("chunk extension", "", |r| r.chunked(b"5;a=b;c=\"d\"\r\nhello\r\n0\r\n\r\n")),
    twist("trailers", "", |r| r.chunked(b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n")),
    twist("chunk size 0x", "", |r| r.chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    twist("chunk size with a sign", "", |r| r.chunked(b"+5\r\nhello\r\n0\r\n\r\n")),
    twist("chunk size too large", "", |r| r.chunked(b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n")),
    twist("chunk without its end", "", |r| r.chunked(b"5\r\nhelloX\r\n0\r\n\r\n")),
    twist("chunk lines ended by LF", "refused; nginx takes it for a line end", |r| r.chunked(b"5\nhello\n0\n\n")),
    twist("two equal lengths", "", |r| r.post("Content-Length: 5\nContent-Length: 5", b"hello")),
    twist("two lengths", "", |r| r.post("Content-Length: 5\nContent-Length: 6", b"hello!")),
    twist("length list", "", |r| r.post("Content-Length: 5, 5", b"hello")),
    twist("length with a sign", "", |r| r.post("Content-Length: +5", b"hello")),
    twist("length and chunks", "", |r| r.post("Content-Length: 5\nTransfer-Encoding: chunked", b"0\r\n\r\n")),
    twist("two codings", "", |r| r.post("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n")),
    twist("identity", "", |r| r.post("Transfer-Encoding: identity", b"")),
    twist("chunked twice", "", |r| r.post("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", b"0\r\n\r\n")),
    twist("chunks in 1.0", "", |r| {
        r.chunked(b"5\r\nhello\r\n0\r\n\r\n");
        r.version = "HTTP/1.0".into();
    }),
];

/// What became of a request: the status, and what the upstream says it got (method, target, body).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    status: u16,
    upstream: Option<String>,
}

fn send(address: SocketAddr, request: &[u8]) -> Outcome {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_nodelay(true).unwrap();
    let _reset = stream.write_all(request);
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut ended = false;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
        if !ended && answer.windows(4).any(|window| window == b"\r\n\r\n") {
            ended = true;
            let _gone = stream.shutdown(Shutdown::Write); // nothing more will come: lingering servers need not wait
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let upstream = text.split("\r\n\r\n").nth(1).and_then(|body| body.strip_prefix("GOT ")).map(str::to_owned);
    Outcome { status, upstream }
}

fn nginx(upstream: u16) -> Nginx {
    Nginx::start(|port, _| {
        format!(
            "  upstream u {{ server 127.0.0.1:{upstream}; keepalive 8; }}\n  server {{\n    listen 127.0.0.1:{port};\n    \
             merge_slashes off;\n    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
             proxy_set_header Host $http_host; }}\n  }}"
        )
    })
}

/// A request with up to two twists, by its number.
fn request(number: usize) -> (Vec<&'static Twist>, Vec<u8>) {
    let mut dice = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |bound: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 20) as usize % bound
    };
    let mut request = Request {
        method: ["GET", "HEAD", "DELETE", "GET"][next(4)].into(),
        target: format!("/r{}", next(50)),
        version: "HTTP/1.1".into(),
        fields: vec!["Host: a.example".into(), "Connection: close".into()],
        line_end: "\r\n",
        body: Vec::new(),
    };
    let twists: Vec<&Twist> = (0..next(3)).map(|_| &TWISTS[next(TWISTS.len())]).collect();
    twists.iter().for_each(|twist| (twist.apply)(&mut request));
    (twists, request.bytes())
}

#[test]
fn every_difference_to_nginx_is_explained() {
    let upstream = Upstream::answering(|request| {
        let mut words = request.head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        ok(format!("GOT {method} {target} {}", checksum(&request.body)).as_bytes())
    });
    let nginx = nginx(upstream.port);
    let gateway = Gateway::start("auto", "", &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
    let mut used = BTreeSet::new();
    let mut unexplained: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for number in 0..REQUESTS {
        let (twists, bytes) = request(number);
        let (ours, theirs) = (send(gateway.address, &bytes), send(([127, 0, 0, 1], nginx.port).into(), &bytes));
        let refused = |outcome: &Outcome| outcome.status >= 400 && outcome.upstream.is_none();
        let either_fault = twists.len() > 1 && refused(&ours) && refused(&theirs); // each names the one it met first
        if ours == theirs || either_fault {
            continue;
        }
        match twists.iter().find(|twist| !twist.difference.is_empty()) {
            Some(twist) => drop(used.insert(twist.name)),
            None => {
                let names: Vec<&str> = twists.iter().map(|twist| twist.name).collect();
                let seen = unexplained.entry(names.join(" + ")).or_insert_with(|| {
                    (0, format!("{ours:?}, nginx {theirs:?}\n{}", String::from_utf8_lossy(&bytes).escape_debug()))
                });
                seen.0 += 1;
            }
        }
    }
    let report: String = unexplained.iter().map(|(names, (count, what))| format!("[{names}] {count} times: {what}\n")).collect();
    assert!(unexplained.is_empty(), "differences that nobody explained:\n{report}");
    let explained = TWISTS.iter().filter(|twist| !twist.difference.is_empty()).map(|twist| twist.name);
    let stale: Vec<&str> = explained.filter(|name| !used.contains(name)).collect();
    assert!(stale.is_empty(), "explanations that nothing needs: {stale:?}");
}
