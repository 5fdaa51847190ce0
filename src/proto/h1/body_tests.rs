use super::*;

/// Decodes in pieces of the given sizes; gives back the data, the trailers and what lies behind the body.
fn decode(shape: BodyShape, input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, usize), BodyFault> {
    let mut decoder = Decoder::new(shape);
    let (mut data, mut at, mut end) = (Vec::new(), 0, piece.min(input.len()));
    loop {
        let step = decoder.decode(&input[at..end])?;
        data.extend_from_slice(&input[at + step.skip..at + step.skip + step.data]);
        at += step.skip + step.data;
        if step.done {
            return Ok((data, decoder.trailers().to_vec(), at));
        }
        if step.skip == 0 && step.data == 0 {
            if end == input.len() {
                decoder.finish()?;
                return Ok((data, Vec::new(), at));
            }
            end = (end + piece).min(input.len());
        }
    }
}

#[test]
fn chunked_bodies_are_the_same_however_they_are_cut() {
    let body = b"5\r\nhello\r\n0A;ext=\"a;b\\\"c\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\nGET /";
    for piece in 1..=body.len() {
        let (data, trailers, used) = decode(BodyShape::Chunked, body, piece).unwrap();
        assert_eq!(data, b"hello0123456789", "{piece}");
        assert_eq!(trailers, b"X-Sum: 1\r\n");
        assert_eq!(&body[used..], b"GET /");
    }
}

#[test]
fn broken_framing_is_refused() {
    for body in [
        &b"x\r\n"[..],
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"-1\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello\r\n0\r\nBad Trailer: x\r\n\r\n",
        b"5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: \x01\r\n\r\n",
        b"5;a\x00b\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"\r\n",
        b";x\r\n",
        b"11111111111111111\r\n",
        b"fffffffffffffffff\r\n",
        b"5\r\nhel",
        b"5\r\nhello\r\n",
        b"0\r\n",
    ] {
        assert!(decode(BodyShape::Chunked, body, 3).is_err(), "{:?}", String::from_utf8_lossy(body));
    }
    let long = [&b"5;"[..], &[b'a'; 2000], b"\r\nhello\r\n0\r\n\r\n"].concat();
    assert!(decode(BodyShape::Chunked, &long, 100).is_err());
    let trailers = [&b"0\r\n"[..], &b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1000)].concat();
    assert!(decode(BodyShape::Chunked, &trailers, 1000).is_err());
}

#[test]
fn lengths_end_where_they_say() {
    assert_eq!(decode(BodyShape::Length(5), b"hello!", 2).unwrap(), (b"hello".to_vec(), Vec::new(), 5));
    assert!(decode(BodyShape::Length(5), b"hell", 2).is_err());
    assert_eq!(decode(BodyShape::UntilClose, b"hello", 2).unwrap().0, b"hello");
    assert_eq!(decode(BodyShape::None, b"x", 1).unwrap().2, 0);
}
