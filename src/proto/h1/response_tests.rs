use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 20, target_bytes: usize::MAX };

fn parse_as(text: &str, method: Method) -> Result<(u16, BodyShape, bool), u16> {
    let mut head = ResponseHead::default();
    *head.fields.received_mut() = crate::base::buf::Chunk::small();
    assert!(head.fields.received_mut().append(text.as_bytes()));
    match parse(&mut head, method, &LIMITS) {
        Ok(Progress::Complete) => Ok((head.status, head.body, head.keep_alive)),
        Ok(Progress::Partial) => Err(0),
        Err(fault) => Err(fault.status),
    }
}

#[test]
fn bodies_by_status_method_and_fields() {
    use BodyShape::*;
    for (text, method, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get, Ok((200, Length(3), true))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Head, Ok((200, None, true))),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get, Ok((200, Chunked, true))),
        ("HTTP/1.1 200 OK\r\n\r\n", Method::Get, Ok((200, UntilClose, false))),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get, Ok((200, Length(3), false))),
        ("HTTP/1.1 204 No\r\n\r\n", Method::Get, Ok((204, None, true))),
        ("HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", Method::Get, Ok((304, None, true))),
        ("HTTP/1.1 103 Early\r\nLink: x\r\n\r\n", Method::Get, Ok((103, None, true))),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Method::Get, Ok((200, Length(0), false))),
    ] {
        assert_eq!(parse_as(text, method), expected, "{text:?}");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    for text in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 999 x\r\n\r\n",
        "HTTP/1.1 abc x\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
    ] {
        assert_eq!(parse_as(text, Method::Get), Err(400), "{text:?}");
    }
    assert_eq!(parse_as("HTTP/1.1 200 OK\r\nX: y\r\n", Method::Get), Err(0));
    assert_eq!(parse_as(&format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(5000)), Method::Get), Err(431));
}
