//! An upstream that misbehaves in every way the table knows: for each the documented answer and its reason, and the next request
//! is served as if nothing had been.

mod support;

use std::net::TcpStream;
use std::time::Duration;

use support::{Gateway, Peer, Upstream, drivers};

/// What the upstream does once it has sent its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Serves the next request.
    Go,
    /// Closes.
    Close,
    /// Resets.
    Reset,
    /// Says nothing more, and keeps the connection.
    Stall,
}

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gets {
    /// A whole answer of this status.
    Whole(u16),
    /// A head of this status and a body that is cut.
    Cut(u16),
}
use Gets::{Cut, Whole};
use Then::{Close, Go, Reset, Stall};

type Row = (&'static str, &'static [u8], Then, Gets, &'static str);

const TABLE: &[Row] = &[
    // No answer at all.
    ("closes at once", b"", Close, Whole(502), "upstream_closed"),
    ("resets at once", b"", Reset, Whole(502), "upstream_closed"),
    ("says nothing", b"", Stall, Whole(504), "upstream_read_timeout"),
    // Heads.
    ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", Close, Whole(502), "upstream_closed"),
    ("half a head, then silence", b"HTTP/1.1 200 OK\r\nContent-Le", Stall, Whole(504), "upstream_read_timeout"),
    ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Stall, Whole(502), "upstream_malformed"),
    ("HTTP/0.9", b"<html>hello</html>", Close, Whole(502), "upstream_malformed"),
    ("version 2", b"HTTP/2.0 200 OK\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("status 99", b"HTTP/1.1 099 X\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("status 700", b"HTTP/1.1 700 X\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("status of letters", b"HTTP/1.1 abc X\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", Go, Whole(502), "upstream_malformed"),
    ("bare LF in a field", b"HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 0\r\n\r\n", Go, Whole(502), "upstream_malformed"),
    ("bare CR", b"HTTP/1.1 200 OK\r\nX: 1\r2\r\nContent-Length: 0\r\n\r\n", Go, Whole(502), "upstream_malformed"),
    ("NUL", b"HTTP/1.1 200 OK\r\nX: 1\x002\r\nContent-Length: 0\r\n\r\n", Go, Whole(502), "upstream_malformed"),
    ("space before the colon", b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("folded line", b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", Go, Whole(502), "upstream_malformed"),
    ("length with a sign", b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na", Go, Whole(502), "upstream_malformed"),
    (
        "length too large",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\na",
        Go,
        Whole(502),
        "upstream_malformed",
    ),
    (
        "length and chunks",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Go,
        Whole(502),
        "upstream_malformed",
    ),
    ("another coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("chunks in 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Close, Whole(502), "upstream_malformed"),
    ("unasked 101", b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Stall, Whole(502), "upstream_malformed"),
    ("204 with a length", b"HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\nabc", Go, Whole(502), "upstream_malformed"),
    ("unasked 100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Go, Whole(200), "done"),
    // Bodies.
    ("short body", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Close, Cut(200), "upstream_cut"),
    ("short body, reset", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Reset, Cut(200), "upstream_cut"),
    ("body that stalls", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Stall, Cut(200), "upstream_read_timeout"),
    ("chunks that end early", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", Close, Cut(200), "upstream_cut"),
    ("no last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Close, Cut(200), "upstream_cut"),
    (
        "chunks that stall",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab",
        Stall,
        Cut(200),
        "upstream_read_timeout",
    ),
    ("too long a body", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", Go, Whole(200), "done"),
    (
        "two answers",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        Go,
        Whole(200),
        "done",
    ),
    ("body until the end", b"HTTP/1.0 200 OK\r\n\r\nabc", Close, Whole(200), "done"),
];

/// Broken chunks that come along with the head are seen before anything is sent.
const CHUNKS: &[&[u8]] =
    &[b"x\r\nabc\r\n", b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n", b"fffffffffffffffff\r\n", b"\r\n"];

fn end(peer: Peer, then: Then) -> Option<Peer> {
    match then {
        Go => return Some(peer),
        Close => {}
        Reset => socket2::SockRef::from(&peer.client.stream).set_linger(Some(Duration::ZERO)).unwrap(),
        Stall => hold(&peer.client.stream),
    }
    None
}

/// Waits until the other side has had enough.
fn hold(stream: &TcpStream) {
    let mut stream = stream;
    while std::io::Read::read(&mut stream, &mut [0; 256]).is_ok_and(|read| read > 0) {}
}

/// Serves `/fine` properly and everything else as `script` says.
fn upstream(script: impl Fn(&str) -> (Vec<u8>, Then) + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |mut peer| {
        while let Some(request) = peer.request() {
            let path = request.head.split(' ').nth(1).unwrap().to_owned();
            if path == "/fine" {
                peer.send(&support::ok(b"fine"));
                continue;
            }
            let (bytes, then) = script(&path);
            peer.send(&bytes);
            match end(peer, then) {
                Some(left) => peer = left,
                None => return,
            }
        }
    })
}

fn gateway(driver: &'static str, upstream: &Upstream) -> Gateway {
    let resources = format!(
        "routes:\n  - {{uri: /*, upstream: {{retries: 0, timeout: {{connect: 2, send: 2, read: 0.3}}, nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
        upstream.port
    );
    Gateway::start(driver, "", &resources)
}

/// Asks on a connection of its own, then asks for something fine, and gives back what the client got.
fn ask(gateway: &Gateway, path: &str) -> Gets {
    let answer = gateway.get(path);
    let fine = gateway.get("/fine");
    assert_eq!((fine.status, fine.text().as_str()), (200, "fine"), "after {path}");
    if answer.whole { Whole(answer.status) } else { Cut(answer.status) }
}

#[test]
fn every_misbehaviour_has_its_answer_and_its_reason() {
    for driver in drivers() {
        let upstream = upstream(|path| {
            let row = &TABLE[path[1..].parse::<usize>().unwrap()];
            (row.1.to_vec(), row.2)
        });
        let gateway = gateway(driver, &upstream);
        for (at, (name, _, _, gets, _)) in TABLE.iter().enumerate() {
            assert_eq!(ask(&gateway, &format!("/{at}")), *gets, "{driver}: {name}");
        }
        let log = gateway.log(2 * TABLE.len());
        for (at, (name, .., reason)) in TABLE.iter().enumerate() {
            let line = log.iter().find(|line| line["uri"] == format!("/{at}")).unwrap();
            assert_eq!(line["reason"], *reason, "{driver}: {name}");
            assert_eq!(line["tries"].as_array().unwrap().len(), 1, "{driver}: {name}");
        }
    }
}

#[test]
fn a_connection_that_is_reset_at_any_byte_never_looks_whole() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello";
    let head = ANSWER.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    for driver in drivers() {
        for then in [Close, Reset] {
            let upstream = upstream(move |path| (ANSWER[..path[1..].parse::<usize>().unwrap()].to_vec(), then));
            let gateway = gateway(driver, &upstream);
            for cut in 0..=ANSWER.len() {
                let got = ask(&gateway, &format!("/{cut}"));
                // A reset may overtake what was sent before it: then nothing of the answer was seen.
                let allowed: &[Gets] = match cut {
                    cut if cut < head => &[Whole(502)],
                    cut if cut < ANSWER.len() && then == Close => &[Cut(200)],
                    cut if cut < ANSWER.len() => &[Cut(200), Whole(502)],
                    _ if then == Close => &[Whole(200)],
                    _ => &[Whole(200), Whole(502)],
                };
                assert!(allowed.contains(&got), "{driver} {then:?} after {cut} of {}: {got:?}", ANSWER.len());
            }
        }
    }
}

#[test]
fn broken_chunks_floods_and_endless_heads_are_refused() {
    for driver in drivers() {
        let upstream = upstream(|path| match path {
            "/endless" => ([b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-Field: value\r\n".repeat(8000)].concat(), Stall),
            "/fields" => ([b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: 1\r\n".repeat(300), b"\r\n".to_vec()].concat(), Stall),
            "/long" => ([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 100_000]].concat(), Stall),
            "/flood" => (b"HTTP/1.1 102 Processing\r\n\r\n".repeat(500), Stall),
            path => {
                let chunks = CHUNKS[path[1..].parse::<usize>().unwrap()];
                ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks].concat(), Close)
            }
        });
        let gateway = gateway(driver, &upstream);
        for path in ["/endless", "/fields", "/long"] {
            assert_eq!(ask(&gateway, path), Whole(502), "{driver} {path}");
        }
        let mut client = gateway.connect();
        client.send(b"GET /flood HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut interim = 0;
        let last = loop {
            match client.answer() {
                answer if answer.status == 102 => interim += 1,
                answer => break answer.status,
            }
        };
        assert!(last == 502 && interim <= 32, "{driver}: {interim} interim answers, then {last}");
        for (at, chunks) in CHUNKS.iter().enumerate() {
            let got = ask(&gateway, &format!("/{at}"));
            assert!(matches!(got, Whole(502) | Cut(200)), "{driver}: {:?} gave {got:?}", String::from_utf8_lossy(chunks));
        }
        let lines = gateway.log(3 * 2 + 1 + CHUNKS.len() * 2);
        let reason = |path: &str| lines.iter().find(|line| line["uri"] == path).unwrap()["reason"].as_str().unwrap().to_owned();
        assert_eq!([reason("/endless"), reason("/fields"), reason("/long")], ["upstream_too_large"; 3], "{driver}");
        assert_eq!(reason("/flood"), "upstream_malformed", "{driver}");
        for (at, chunks) in CHUNKS.iter().enumerate() {
            assert_eq!(reason(&format!("/{at}")), "upstream_malformed", "{driver}: {:?}", String::from_utf8_lossy(chunks));
        }
    }
}
