//! Response heads, as strict towards the upstream as request heads are towards the client. RFC 9112 §4 and §6.3.

use std::mem::MaybeUninit;

use super::head::{self, FieldRoom, HeadFault, HeadLimits, Progress};
use crate::base::limits;
use crate::proto::message::{BodyShape, Known, Method, ResponseHead, Span, Version};

/// Parses the head at the front of the received window; the request's method decides about the body.
///
/// # Errors
/// The rule that was broken; the client gets 502.
pub fn parse(head: &mut ResponseHead, request_method: Method, limits: &HeadLimits) -> Result<Progress, HeadFault> {
    let window = head.fields.received().filled();
    if !b"HTTP/1.".starts_with(window.get(..window.len().min(7)).unwrap_or_default()) {
        return Err(HeadFault::malformed("not an HTTP/1 response"));
    }
    if head.searched > 0 && head::head_len(window, head.searched).is_none() {
        return partial(head, limits);
    }
    head.fields.clear();
    let received = head.fields.take_received(); // borrowed while its fields are filed
    let filed = file(head, received.filled(), limits);
    *head.fields.received_mut() = received;
    let Some(length) = filed? else { return partial(head, limits) };
    head.searched = 0;
    head.head_bytes = length;
    shape(head, request_method)?;
    Ok(Progress::Complete)
}

fn partial(head: &mut ResponseHead, limits: &HeadLimits) -> Result<Progress, HeadFault> {
    let there = head.fields.received().len();
    if there >= limits.bytes {
        return Err(HeadFault::too_large(431, "the response head is too large"));
    }
    head.searched = there;
    Ok(Progress::Partial)
}

/// Status line and field lines, by httparse. The head's length, if its end is there.
fn file(head: &mut ResponseHead, window: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadFault> {
    let mut room: FieldRoom<'_> = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
    let room = room.get_mut(..limits.fields.min(limits::HEADERS_MAX)).unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, window, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::too_large(431, "too many response fields")),
        Err(_) => return Err(HeadFault::malformed("the response head is malformed")),
    };
    if length > limits.bytes {
        return Err(HeadFault::too_large(431, "the response head is too large"));
    }
    head::check_head_end(window.get(..length).unwrap_or_default())?;
    head.status = response.code.unwrap_or(0);
    if !(100..=599).contains(&head.status) {
        return Err(HeadFault::malformed("the status is none"));
    }
    let phrase = response.reason.unwrap_or_default();
    head.phrase = if phrase.is_empty() { Span::default() } else { head::span_in(window, phrase.as_bytes()) };
    let line = match head.phrase.is_empty() {
        false => head.phrase.start() + head.phrase.len(),
        // None, or one with octets above ASCII, which is not told.
        true => memchr::memchr(b'\n', window).unwrap_or_default().saturating_sub(1),
    };
    head::check_line_end(window.get(line..).unwrap_or_default())?;
    head.version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
    head::take_fields(&mut head.fields, window, response.headers, false)?;
    Ok(Some(length))
}

/// RFC 9112 §6.3.
fn shape(head: &mut ResponseHead, request_method: Method) -> Result<(), HeadFault> {
    let options = head::options(&head.fields);
    head.keep_alive = match head.version {
        Version::Http11 => !options.close,
        Version::Http10 => options.keep_alive && !options.close,
    };
    let framing = head::framing(&head.fields).map_err(|fault| HeadFault::malformed(fault.what))?;
    if framing.chunked && head.version == Version::Http10 {
        return Err(HeadFault::malformed("Transfer-Encoding in an HTTP/1.0 response"));
    }
    let bodyless = head.status < 200 || matches!(head.status, 204 | 304) || request_method == Method::Head;
    if (head.status < 200 || head.status == 204) && (framing.chunked || framing.length.is_some_and(|length| length > 0)) {
        return Err(HeadFault::malformed("a body where none can be"));
    }
    head.body = match (bodyless, framing.chunked, framing.length) {
        (true, ..) => BodyShape::None,
        (false, true, _) => BodyShape::Chunked,
        (false, false, Some(length)) => BodyShape::Length(length),
        (false, false, None) => BodyShape::UntilClose,
    };
    if head.body == BodyShape::UntilClose {
        head.keep_alive = false;
    }
    if head.status == 101 && head.fields.known(Known::Upgrade).is_none() {
        return Err(HeadFault::malformed("101 without Upgrade"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
