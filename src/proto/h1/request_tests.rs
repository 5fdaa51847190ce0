use super::*;
use crate::proto::message::Reason;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 20, target_bytes: 1000 };

fn parse_bytes(bytes: &[u8]) -> (RequestHead, Result<Progress, HeadFault>) {
    let mut head = RequestHead::default();
    *head.fields.received_mut() = crate::base::buf::Chunk::small();
    assert!(head.fields.received_mut().append(bytes));
    let result = parse(&mut head, &LIMITS, &Paths::default());
    (head, result)
}

fn status(text: &str) -> u16 {
    match parse_bytes(text.as_bytes()).1 {
        Ok(Progress::Complete) => 200,
        Ok(Progress::Partial) => 0,
        Err(fault) => fault.status,
    }
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn a_whole_head_is_taken_apart() {
    let text = b"POST /a/../b?x=1 HTTP/1.1\r\nHost: Example.COM:8080\r\nContent-Length: 5\r\nX-Y:  z \r\n\r\nhello";
    let (head, result) = parse_bytes(text);
    assert_eq!(result, Ok(Progress::Complete));
    assert_eq!((head.method, head.body, head.keep_alive), (Method::Post, BodyShape::Length(5), true));
    assert_eq!(head.path, b"/b");
    assert_eq!(head.query_text(), b"x=1");
    assert_eq!(head.host, b"example.com");
    assert_eq!(head.fields.bytes(head.authority), b"Example.COM:8080");
    assert_eq!(head.fields.bytes(head.origin), b"/a/../b?x=1");
    assert_eq!(head.fields.first(b"x-y"), Some(&b"z"[..]));
    assert_eq!(head.head_bytes, text.len() - 5);
}

#[test]
fn any_prefix_is_partial_and_the_whole_is_the_same_however_it_came() {
    let text = b"\r\nGET /x?y HTTP/1.1\r\nHost: a\r\nCookie: b=c\r\nConnection: close\r\n\r\n";
    let mut head = RequestHead::default();
    *head.fields.received_mut() = crate::base::buf::Chunk::small();
    for (at, byte) in text.iter().enumerate() {
        assert!(head.fields.received_mut().append(&[*byte]));
        let result = parse(&mut head, &LIMITS, &Paths::default());
        let expected = if at + 1 == text.len() { Progress::Complete } else { Progress::Partial };
        assert_eq!(result, Ok(expected), "{at}");
    }
    assert_eq!((head.path.as_slice(), head.keep_alive, head.head_bytes), (&b"/x"[..], false, text.len()));
}

#[test]
fn framing_that_two_readers_could_take_differently_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "X: a\nY: b\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X: a\x0bb\r\n",
        "X: a\x7fb\r\n",
        " X: a\r\n",
        ": a\r\n",
        "X Y: a\r\n",
        "Host: b\r\n",
    ] {
        assert_eq!(status(&get(fields)), 400, "{fields:?}");
    }
    for fields in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ] {
        let status = status(&get(fields));
        assert!(status == 501 || status == 400, "{fields:?}: {status}");
    }
    assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    assert_eq!(status(&get("Transfer-Encoding: Chunked\r\n")), 200);
}

#[test]
fn lines_targets_and_hosts() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /..;/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("\x16\x03\x01\x02", 400),
    ] {
        assert_eq!(status(text), expected, "{text:?}");
    }
}

#[test]
fn an_absolute_target_wins_over_host() {
    let (head, _) = parse_bytes(b"GET http://B.example/p?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.host.as_slice(), head.path.as_slice()), (&b"b.example"[..], &b"/p"[..]));
    assert_eq!(head.fields.bytes(head.origin), b"/p?q");
}

#[test]
fn limits_have_their_statuses() {
    assert_eq!(status(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1001))), 414);
    assert_eq!(status(&format!("GET /{}", "x".repeat(2000))), 414);
    assert_eq!(status(&get(&format!("X: {}\r\n", "y".repeat(5000)))), 431);
    assert_eq!(status(&get(&"X: y\r\n".repeat(30))), 431);
    let (_, result) = parse_bytes(get(&"X: y\r\n".repeat(30)).as_bytes());
    assert_eq!(result.unwrap_err().reason, Reason::RequestTooLarge);
}

#[test]
fn persistence_and_upgrades() {
    let keeps = |text: &str| parse_bytes(text.as_bytes()).0.keep_alive;
    assert!(keeps(&get("")));
    assert!(!keeps(&get("Connection: x, Close\r\n")));
    assert!(!keeps("GET / HTTP/1.0\r\nHost: a\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n"));
    let socket = "Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert!(parse_bytes(get(socket).as_bytes()).0.upgrades_websocket);
    assert!(!parse_bytes(get(&socket.replace("13", "12")).as_bytes()).0.upgrades_websocket);
    assert!(!parse_bytes(get(&socket.replace("WebSocket\r", "h2c\r")).as_bytes()).0.upgrades_websocket);
}

#[test]
fn underscored_twins_of_guarded_fields_are_dropped() {
    let (head, _) =
        parse_bytes(get("X_Forwarded_For: 1\r\nContent_Length: 9\r\nX_Other: 2\r\nx-consumer_username: r\r\n").as_bytes());
    let names: Vec<_> = head.fields.iter().map(|(name, ..)| name.to_vec()).collect();
    assert_eq!(names, [b"Host".to_vec(), b"X_Other".to_vec()]);
}
