//! Writing messages: slices into a chunk, one pass. A value that could end its line early is never written.

use super::hop::Nominated;
use crate::base::buf::Chunk;
use crate::proto::message::{Fields, Known, KnownSet};
use crate::proto::scan::stays_in_line;

/// Bytes of a chunk's size line.
#[derive(Clone, Copy, Debug)]
pub struct ChunkLine {
    bytes: [u8; 18],
    start: usize,
}

impl ChunkLine {
    /// Hex digits and CRLF.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The size line of a chunk of `size` bytes.
pub fn chunk_line(size: usize) -> ChunkLine {
    let mut line = ChunkLine { bytes: *b"0000000000000000\r\n", start: 16 };
    let mut left = size;
    for at in (0..16).rev() {
        line.bytes[at] = b"0123456789abcdef"[left & 15];
        line.start = at;
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    line
}

/// Appends, growing where it does not fit.
#[inline]
pub fn put(out: &mut Chunk, bytes: &[u8]) {
    if !out.append(bytes) {
        put_growing(out, bytes);
    }
}

/// Appends a chunk that may be long: what `out` holds is put in front of it where there is room, so that it stays where it lies.
pub fn put_chunk(out: &mut Chunk, mut chunk: Chunk) {
    if chunk.prepend(out.filled()) {
        *out = chunk;
    } else {
        put(out, chunk.filled());
    }
}

#[cold]
fn put_growing(out: &mut Chunk, bytes: &[u8]) {
    out.make_room(bytes.len());
    let _fits = out.append(bytes);
}

/// Appends the end of a chunked body: the last chunk, the trailers, the empty line.
pub fn last_chunk(out: &mut Chunk, trailers: &[u8]) {
    put(out, b"0\r\n");
    put(out, trailers);
    put(out, b"\r\n");
}

/// `HTTP/1.1 STATUS PHRASE`; an empty phrase becomes the usual one.
pub fn status_line(out: &mut Chunk, status: u16, phrase: &[u8]) {
    if status == 200 && (phrase.is_empty() || phrase == b"OK") {
        return put(out, b"HTTP/1.1 200 OK\r\n");
    }
    put(out, b"HTTP/1.1 ");
    number(out, u64::from(status));
    put(out, b" ");
    put(out, if phrase.is_empty() || !stays_in_line(phrase) { usual_phrase(status).as_bytes() } else { phrase });
    put(out, b"\r\n");
}

/// One field line. A name or value that could break out of its line is left out: plugins and variables bring them.
pub fn field(out: &mut Chunk, name: &[u8], value: &[u8]) {
    if !name.is_empty() && name.iter().all(|&byte| super::request::is_token(byte)) {
        line(out, name, value);
    }
}

/// A line whose name is a token; a value that could break out of it is left out with it.
fn line(out: &mut Chunk, name: &[u8], value: &[u8]) {
    if stays_in_line(value) {
        put(out, name);
        put(out, b": ");
        put(out, value);
        put(out, b"\r\n");
    }
}

/// One field line of Ringway's own. `lead` is its name and `: `; the value is the program's or went through a parser.
#[inline]
pub fn own_field(out: &mut Chunk, lead: &'static [u8], value: &[u8]) {
    debug_assert!(stays_in_line(value), "a value that breaks out of its line");
    put(out, lead);
    put(out, value);
    put(out, b"\r\n");
}

/// The same for a value that may come from anywhere: one that could break out of its line is left out with it.
pub fn checked_field(out: &mut Chunk, lead: &'static [u8], value: &[u8]) {
    if stays_in_line(value) {
        own_field(out, lead, value);
    }
}

/// A number in digits.
pub fn number(out: &mut Chunk, number: u64) {
    put(out, itoa::Buffer::new().format(number).as_bytes());
}

/// The fields but for those in `skip` and those the sender's Connection named. Lines that are next to each other in the
/// received buffer and stay as they are go out in one copy.
pub fn fields(out: &mut Chunk, fields: &Fields, skip: KnownSet, nominated: &Nominated) {
    let received = fields.received().filled();
    let (mut from, mut to) = (0, 0);
    for one in fields.list() {
        if skip.contains(one.known) || nominated.contains(fields, one) {
            continue;
        }
        let start = one.name.start();
        if one.verbatim {
            let end = one.value.start() + one.value.len() + 2; // the parser saw the CRLF
            if start != to {
                put(out, received.get(from..to).unwrap_or_default());
                from = start;
            }
            to = end;
            continue;
        }
        put(out, received.get(from..to).unwrap_or_default());
        (from, to) = (0, 0);
        match one.known {
            Known::Other => field(out, fields.bytes(one.name), fields.bytes(one.value)),
            _ => line(out, fields.bytes(one.name), fields.bytes(one.value)), // a known name is a token
        }
    }
    put(out, received.get(from..to).unwrap_or_default());
}

fn usual_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_lines() {
        assert_eq!(chunk_line(0).as_bytes(), b"0\r\n");
        assert_eq!(chunk_line(255).as_bytes(), b"ff\r\n");
        assert_eq!(chunk_line(usize::MAX).as_bytes(), b"ffffffffffffffff\r\n");
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        let mut out = Chunk::small();
        field(&mut out, b"X-A", b"1\r\nX-B: 2");
        field(&mut out, b"X A", b"1");
        field(&mut out, b"", b"1");
        field(&mut out, b"X-C", b"3");
        assert_eq!(out.filled(), b"X-C: 3\r\n");
        status_line(&mut out, 404, b"");
        assert!(out.filled().ends_with(b"HTTP/1.1 404 Not Found\r\n"));
    }
}
