//! What must hold for any bytes: called by the fuzz targets in fuzz/ and, over their corpus and seeded mutations of it, by
//! tests/fuzz_corpus.rs on stable.

use super::h1::body::Decoder;
use super::h1::{self, HeadLimits, Progress};
use super::message::{BodyShape, Method, RequestHead, ResponseHead};
use super::{proxy_protocol, uri};
use crate::base::buf::Chunk;
use crate::config::gateway::Paths;

const LIMITS: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100, target_bytes: 8 * 1024 };

fn chunk(bytes: &[u8]) -> Chunk {
    let mut chunk = Chunk::with_capacity(bytes.len());
    let _fits = chunk.append(bytes);
    chunk
}

/// A request head never panics; one that is accepted has a canonical path and one way to read its body, and says the same
/// when it comes byte by byte.
pub fn request_head(bytes: &[u8]) {
    let mut head = RequestHead::default();
    *head.fields.received_mut() = chunk(bytes);
    let result = h1::request::parse(&mut head, &LIMITS, &Paths::default());
    if result != Ok(Progress::Complete) {
        return;
    }
    assert!(head.head_bytes <= bytes.len() && head.head_bytes > 0);
    assert!(head.path.first() == Some(&b'/') || head.path == b"*");
    assert!(!head.path.split(|&byte| byte == b'/').any(|part| part == b"." || part == b".."), "a dot segment survived");
    assert!(!head.fields.bytes(head.origin).iter().any(|&byte| byte <= b' '), "the target would end early");
    for (name, value, _) in head.fields.iter() {
        assert!(!name.is_empty() && memchr::memchr3(b'\r', b'\n', 0, value).is_none(), "a field would break out");
    }
    let mut slow = RequestHead::default();
    *slow.fields.received_mut() = chunk(&[]);
    for byte in bytes.get(..head.head_bytes).unwrap_or_default() {
        slow.fields.received_mut().make_room(1);
        let _fits = slow.fields.received_mut().append(&[*byte]);
        match h1::request::parse(&mut slow, &LIMITS, &Paths::default()) {
            Ok(Progress::Partial) => {}
            Ok(Progress::Complete) => break,
            Err(fault) => unreachable!("accepted whole, refused in pieces: {}", fault.what),
        }
    }
    assert_eq!((slow.path, slow.body, slow.head_bytes), (head.path, head.body, head.head_bytes));
}

/// A response head never panics, and a bodyless one has no body.
pub fn response_head(bytes: &[u8]) {
    for method in [Method::Get, Method::Head] {
        let mut head = ResponseHead::default();
        *head.fields.received_mut() = chunk(bytes);
        if h1::response::parse(&mut head, method, &LIMITS) == Ok(Progress::Complete) {
            assert!((100..=599).contains(&head.status) && head.head_bytes <= bytes.len());
            assert!(method != Method::Head || head.body == BodyShape::None);
        }
    }
}

/// A chunked body is taken apart the same way however it is cut.
pub fn chunked(bytes: &[u8]) {
    let run = |piece: usize| -> Option<(Vec<u8>, usize, bool)> {
        let mut decoder = Decoder::new(BodyShape::Chunked);
        let (mut data, mut at, mut end) = (Vec::new(), 0, piece.min(bytes.len()));
        loop {
            let step = decoder.decode(bytes.get(at..end)?).ok()?;
            data.extend_from_slice(bytes.get(at + step.skip..at + step.skip + step.data)?);
            at += step.skip + step.data;
            if step.done {
                return Some((data, at, true));
            }
            if step.skip + step.data == 0 {
                if end == bytes.len() {
                    return Some((data, at, false));
                }
                end = (end + piece).min(bytes.len());
            }
        }
    };
    assert_eq!(run(bytes.len().max(1)), run(1));
}

/// A path that is accepted reads the same after it was encoded for the upstream: nothing is decoded twice.
pub fn path(bytes: &[u8]) {
    let mut path = Vec::new();
    let mut raw = vec![b'/'];
    raw.extend_from_slice(bytes);
    if uri::canonical(&raw, &Paths::default(), &mut path).is_err() {
        return;
    }
    let mut encoded = Vec::new();
    if uri::canonical_encoded(&raw, &Paths::default(), &mut encoded).is_ok() {
        let mut again = Vec::new();
        let read = uri::canonical(&encoded, &Paths::default(), &mut again);
        assert!(read.is_err() || again == path, "{raw:?} became {again:?} instead of {path:?}");
    }
}

/// A PROXY header never panics and takes no more than there is.
pub fn proxy_header(bytes: &[u8]) {
    if let Ok(proxy_protocol::Parsed::Done { consumed, .. }) = proxy_protocol::parse(bytes) {
        assert!(consumed <= bytes.len());
    }
}
