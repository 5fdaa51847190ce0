//! Writing messages: slices into a chunk, one pass. A value that could end its line early is never written.

use super::hop::Nominated;
use crate::base::buf::Chunk;
use crate::proto::message::{Fields, KnownSet};

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
pub fn put(out: &mut Chunk, bytes: &[u8]) {
    if !out.append(bytes) {
        out.grow((out.len() + bytes.len()).next_power_of_two());
        let _fits = out.append(bytes);
    }
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
    put(out, itoa::Buffer::new().format(status).as_bytes());
    put(out, b" ");
    put(out, if phrase.is_empty() || !is_safe(phrase) { usual_phrase(status).as_bytes() } else { phrase });
    put(out, b"\r\n");
}

/// One field line. A name or value that could break out of its line is left out: plugins and variables bring them.
pub fn field(out: &mut Chunk, name: &[u8], value: &[u8]) {
    if name.is_empty() || !name.iter().all(|&byte| super::request::is_token(byte)) || !is_safe(value) {
        return;
    }
    write(out, name, value);
}

fn write(out: &mut Chunk, name: &[u8], value: &[u8]) {
    let len = name.len() + value.len() + 4;
    if out.room() < len {
        out.grow((out.len() + len).next_power_of_two());
    }
    let Some(room) = out.room_mut().get_mut(..len) else { return };
    let (names, rest) = room.split_at_mut(name.len());
    let (values, end) = rest.split_at_mut(value.len() + 2);
    names.copy_from_slice(name);
    values[..2].copy_from_slice(b": ");
    values[2..].copy_from_slice(value);
    end.copy_from_slice(b"\r\n");
    out.advance(len);
}

/// The fields but for those in `skip` and those the sender's Connection named.
pub fn fields(out: &mut Chunk, fields: &Fields, skip: KnownSet, nominated: &Nominated) {
    for one in fields.list() {
        if skip.contains(one.known) || nominated.contains(fields, one) {
            continue;
        }
        let (name, value) = (fields.bytes(one.name), fields.bytes(one.value));
        if one.name.is_received() && one.value.is_received() {
            write(out, name, value); // the parser let nothing dangerous through
        } else {
            field(out, name, value);
        }
    }
}

/// No CR, LF or NUL.
fn is_safe(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_none()
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
