//! Request heads. RFC 9112 §3 to §6.

use std::mem::MaybeUninit;

use super::head::{self, FieldRoom, HeadFault, HeadLimits, Progress};
use crate::base::limits;
use crate::config::gateway::Paths;
use crate::proto::message::{BodyShape, Known, Method, RequestHead, Span, Version};
use crate::proto::{uri, websocket};

/// Parses the head at the front of the received window. On `Partial` more bytes are to be appended; nothing is filled in.
///
/// # Errors
/// The rule that was broken; the connection is to be answered and closed.
pub fn parse(head: &mut RequestHead, limits: &HeadLimits, paths: &Paths) -> Result<Progress, HeadFault> {
    let window = head.fields.received().filled();
    let skipped = leading_line_ends(window);
    let bytes = window.get(skipped..).unwrap_or_default();
    // What was looked at before and had no end is only parsed again once it has one: trickling costs nobody a thing.
    if head.searched > 0 && head::head_len(bytes, head.searched.saturating_sub(skipped)).is_none() {
        return partial(head, skipped, limits);
    }
    head.fields.clear();
    let received = head.fields.take_received(); // borrowed while its fields are filed
    let filed = file(head, received.filled(), skipped, limits);
    *head.fields.received_mut() = received;
    let Some(length) = filed? else { return partial(head, skipped, limits) };
    head.head_bytes = skipped + length;
    head.searched = 0;
    target(head, paths)?;
    semantics(head)?;
    Ok(Progress::Complete)
}

/// Request line and field lines, by httparse. The head's length, if its end is there.
fn file(head: &mut RequestHead, window: &[u8], skipped: usize, limits: &HeadLimits) -> Result<Option<usize>, HeadFault> {
    let bytes = window.get(skipped..).unwrap_or_default();
    let mut room: FieldRoom<'_> = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
    let room = room.get_mut(..limits.fields.min(limits::HEADERS_MAX)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(fault_of(error, bytes)),
    };
    if length > limits.bytes {
        return Err(too_large(bytes, limits));
    }
    let target = request.path.unwrap_or_default().as_bytes();
    if target.len() > limits.target_bytes {
        return Err(HeadFault::too_large(414, "the target is too long"));
    }
    head::check_head_end(bytes.get(..length).unwrap_or_default())?;
    let method = request.method.unwrap_or_default().as_bytes();
    if head::span_in(window, method).start() != skipped {
        return Err(HeadFault::malformed("line ends in front of the request line"));
    }
    head.method = match Method::from_known(method) {
        Some(Method::Connect | Method::Trace) => return Err(HeadFault::unsupported(405, "CONNECT and TRACE are not served")),
        Some(known) => known,
        None => Method::Other(head::span_in(window, method)),
    };
    head.version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    head.target = head::span_in(window, target);
    let behind_line = head.target.start() + head.target.len() + b" HTTP/1.1".len();
    head::check_line_end(window.get(behind_line..).unwrap_or_default())?;
    head::take_fields(&mut head.fields, window, request.headers, true)?;
    Ok(Some(length))
}

fn fault_of(error: httparse::Error, bytes: &[u8]) -> HeadFault {
    match error {
        httparse::Error::TooManyHeaders => HeadFault::too_large(431, "too many fields"),
        httparse::Error::Version => {
            let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
            let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
            let three_words = memchr::memchr_iter(b' ', line).count() == 2;
            match version.strip_prefix(b"HTTP/").filter(|_| three_words) {
                Some([b'0'..=b'9', b'.', b'0'..=b'9']) => HeadFault::unsupported(505, "a version other than 1.0 and 1.1"),
                _ => HeadFault::malformed("the version is not one"),
            }
        }
        httparse::Error::Token => HeadFault::malformed("the request line is malformed"),
        httparse::Error::HeaderName => HeadFault::malformed("a field name is malformed"),
        httparse::Error::HeaderValue => HeadFault::malformed("a field value is malformed"),
        _ => HeadFault::malformed("the head is malformed"),
    }
}

/// RFC 9112 §2.2: empty lines before a request line are skipped; two at the most.
fn leading_line_ends(window: &[u8]) -> usize {
    let mut skipped = 0;
    while skipped < 4 && window.get(skipped..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        skipped += 2;
    }
    skipped
}

fn partial(head: &mut RequestHead, skipped: usize, limits: &HeadLimits) -> Result<Progress, HeadFault> {
    let window = head.fields.received().filled();
    let bytes = window.get(skipped..).unwrap_or_default();
    if bytes.len() >= limits.bytes {
        return Err(too_large(bytes, limits));
    }
    let line_ends = memchr::memchr(b'\n', bytes).is_some();
    if !line_ends && bytes.len() > limits.target_bytes + 64 {
        return Err(HeadFault::too_large(414, "the request line is too long"));
    }
    // What can't become a request is told at once: a TLS hello, a PROXY header, binary noise.
    let first = bytes.iter().take_while(|&&byte| byte != b' ' && byte != b'\r' && byte != b'\n');
    if !first.clone().all(|&byte| is_token(byte)) {
        return Err(HeadFault::malformed("the method is no token"));
    }
    head.searched = window.len();
    Ok(Progress::Partial)
}

fn too_large(bytes: &[u8], limits: &HeadLimits) -> HeadFault {
    match memchr::memchr(b'\n', bytes) {
        Some(line) if line <= limits.target_bytes + 64 => HeadFault::too_large(431, "the head is too large"),
        _ => HeadFault::too_large(414, "the request line is too long"),
    }
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

static TOKEN: [bool; 256] = crate::proto::octets(b"!#$%&'*+-.^_`|~");

/// Target forms, canonical path and host. RFC 9112 §3.2; design.md §4.
fn target(head: &mut RequestHead, paths: &Paths) -> Result<(), HeadFault> {
    let whole = head.target;
    let split = {
        let text = head.fields.bytes(whole);
        uri::split_target(text).ok_or(HeadFault::malformed("the target is no origin or absolute form"))?
    };
    let base = whole.start();
    head.origin = Span::received(base + split.origin.0, split.origin.1);
    head.query = split.query.map(|(at, len)| Span::received(base + at, len));
    let mut path = std::mem::take(&mut head.path);
    path.clear();
    let raw = head.fields.bytes(Span::received(base + split.path.0, split.path.1));
    let form = if raw == b"*" && head.method == Method::Options {
        path.push(b'*');
        Ok(crate::proto::message::PathForm::AsWritten)
    } else if raw == b"*" {
        return Err(HeadFault::malformed("`*` is for OPTIONS"));
    } else if raw.is_empty() {
        path.push(b'/');
        Ok(crate::proto::message::PathForm::Canonical)
    } else {
        uri::canonical(raw, paths, &mut path)
    };
    head.path = path;
    head.path_form = form.map_err(|fault| HeadFault::malformed(fault.what()))?;
    if let Some(query) = head.query
        && head.fields.bytes(query).iter().any(|&byte| byte == b'#' || byte < 0x21 || byte == 0x7f)
    {
        return Err(HeadFault::malformed("a raw `#` or control byte in the query"));
    }
    authority(head, split.authority.map(|(at, len)| Span::received(base + at, len)))
}

/// One Host in HTTP/1.1, at most one in 1.0, and it is an authority; an absolute form's authority wins (RFC 9112 §3.2.2).
fn authority(head: &mut RequestHead, absolute: Option<Span>) -> Result<(), HeadFault> {
    let mut hosts = head.fields.list().iter().filter(|field| field.known == Known::Host);
    let host = hosts.next().map(|field| field.value);
    if hosts.next().is_some() {
        return Err(HeadFault::malformed("more than one Host"));
    }
    if host.is_none() && head.version == Version::Http11 {
        return Err(HeadFault::malformed("no Host"));
    }
    for span in [host, absolute].into_iter().flatten() {
        if !uri::is_authority(head.fields.bytes(span)) {
            return Err(HeadFault::malformed("Host is no authority"));
        }
    }
    head.authority = absolute.or(host).unwrap_or_default();
    head.host.clear();
    let text = head.fields.bytes(head.authority);
    head.host.extend_from_slice(uri::host_of(text));
    head.host.make_ascii_lowercase();
    if head.host.is_empty() {
        head.host.push(b'_');
    }
    Ok(())
}

/// Body, persistence, expectations and upgrades.
fn semantics(head: &mut RequestHead) -> Result<(), HeadFault> {
    let framing = head::framing(&head.fields)?;
    if framing.chunked && head.version == Version::Http10 {
        return Err(HeadFault::malformed("Transfer-Encoding in HTTP/1.0"));
    }
    head.body = match (framing.chunked, framing.length) {
        (true, _) => BodyShape::Chunked,
        (false, Some(length)) => BodyShape::Length(length),
        (false, None) => BodyShape::None,
    };
    let options = head::options(&head.fields);
    head.keep_alive = match head.version {
        Version::Http11 => !options.close,
        Version::Http10 => options.keep_alive && !options.close,
    };
    head.expects_continue = false;
    if let Some(expect) = head.fields.known(Known::Expect) {
        if !expect.eq_ignore_ascii_case(b"100-continue") {
            return Err(HeadFault::unsupported(417, "an expectation other than 100-continue"));
        }
        head.expects_continue = head.version == Version::Http11;
    }
    head.upgrades_websocket = options.upgrade && websocket::asks(head);
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
