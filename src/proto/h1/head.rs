//! What request and response heads have in common: where a head ends, and its field lines.

use std::mem::MaybeUninit;

use crate::base::limits;
use crate::proto::message::{Field, Fields, Known, KnownSet, Reason, Span};

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub bytes: usize,
    /// Field lines.
    pub fields: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
}

/// How far a head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// The head is whole.
    Complete,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFault {
    /// Status for the client (for a response: what the client gets is 502).
    pub status: u16,
    /// Reason of the exchange.
    pub reason: Reason,
    /// Which rule it broke.
    pub what: &'static str,
}

impl HeadFault {
    pub(super) const fn malformed(what: &'static str) -> Self {
        Self { status: 400, reason: Reason::RequestMalformed, what }
    }

    pub(super) const fn unsupported(status: u16, what: &'static str) -> Self {
        Self { status, reason: Reason::RequestUnsupported, what }
    }

    pub(super) const fn too_large(status: u16, what: &'static str) -> Self {
        Self { status, reason: Reason::RequestTooLarge, what }
    }
}

/// Room for a head's fields on the stack.
pub(super) type FieldRoom<'b> = [MaybeUninit<httparse::Header<'b>>; limits::HEADERS_MAX];

/// Length of the head with its empty line, if the empty line is there. `from` is how far it was searched before.
pub(super) fn head_len(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from.saturating_sub(3);
    loop {
        let found = memchr::memchr(b'\n', bytes.get(at..)?)? + at;
        match bytes.get(found + 1) {
            Some(b'\r') if bytes.get(found + 2) == Some(&b'\n') => return Some(found + 3),
            Some(b'\n') => return Some(found + 2),
            _ => at = found + 1,
        }
    }
}

/// Takes over the parsed field lines, checking what httparse lets pass: it takes a bare LF for a line's end, as old servers
/// did, and two readers may then disagree on where a line ends. (A bare CR it refuses.) `window` is what the spans count from.
pub(super) fn take_fields(
    fields: &mut Fields,
    window: &[u8],
    parsed: &[httparse::Header<'_>],
    request: bool,
) -> Result<(), HeadFault> {
    for line in parsed {
        let name = line.name.as_bytes();
        let known = Known::of(name);
        let (name_at, value_at) = (span_in(window, name), span_in(window, line.value));
        let behind = window.get(value_at.start() + value_at.len()..).unwrap_or_default();
        let spaces = behind.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
        check_line_end(behind.get(spaces..).unwrap_or_default())?;
        if known == Known::Other && request && hides_known(name) {
            continue; // `X_Forwarded_For` and its kind: CGI-style readers take them for the real field
        }
        let colon = name_at.start() + name_at.len();
        let one_space = value_at.start() == colon + 2 && window.get(colon + 1) == Some(&b' ');
        fields.push(Field { name: name_at, value: value_at, known, verbatim: spaces == 0 && one_space });
    }
    Ok(())
}

/// CRLF, nothing shorter.
pub(super) fn check_line_end(behind: &[u8]) -> Result<(), HeadFault> {
    if behind.starts_with(b"\r\n") { Ok(()) } else { Err(HeadFault::malformed("a bare LF in the head")) }
}

/// What ends a head must be CRLF twice.
pub(super) fn check_head_end(head: &[u8]) -> Result<(), HeadFault> {
    if head.ends_with(b"\r\n\r\n") { Ok(()) } else { Err(HeadFault::malformed("a bare LF in the head")) }
}

/// The span of a slice of the window.
pub(super) fn span_in(window: &[u8], part: &[u8]) -> Span {
    Span::received((part.as_ptr() as usize).saturating_sub(window.as_ptr() as usize), part.len())
}

/// A name that equals a framing, forwarded or plugin-set field once `_` is read as `-`.
fn hides_known(name: &[u8]) -> bool {
    if !name.contains(&b'_') || name.len() > 32 {
        return false;
    }
    let mut buffer = [0_u8; 32];
    for (to, from) in buffer.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    matches!(
        Known::of(buffer.get(..name.len()).unwrap_or_default()),
        Known::ContentLength
            | Known::TransferEncoding
            | Known::Forwarded
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XForwardedProto
            | Known::XRealIp
            | Known::XConsumerUsername
            | Known::XConsumerCustomId
            | Known::XCredentialIdentifier
    )
}

/// What the framing fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

/// Reads Content-Length and Transfer-Encoding. RFC 9112 §6: anything that two readers could take differently is a fault.
pub(super) fn framing(fields: &Fields) -> Result<Framing, HeadFault> {
    const FRAMING: KnownSet = KnownSet::new(&[Known::ContentLength, Known::TransferEncoding]);
    let mut framing = Framing::default();
    if !fields.may_have(FRAMING) {
        return Ok(framing);
    }
    let mut codings = 0;
    for field in fields.list() {
        let value = || fields.bytes(field.value);
        match field.known {
            Known::ContentLength => {
                if framing.length.is_some() {
                    return Err(HeadFault::malformed("more than one Content-Length"));
                }
                framing.length = Some(decimal(value()).ok_or(HeadFault::malformed("Content-Length is not a number"))?);
            }
            Known::TransferEncoding => {
                codings += 1;
                if codings > 1 {
                    return Err(HeadFault::malformed("more than one Transfer-Encoding"));
                }
                if !value().eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadFault::unsupported(501, "a transfer coding other than chunked"));
                }
                framing.chunked = true;
            }
            _ => {}
        }
    }
    if framing.chunked && framing.length.is_some() {
        return Err(HeadFault::malformed("Content-Length beside Transfer-Encoding"));
    }
    Ok(framing)
}

/// Digits alone, no sign, no overflow.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, &digit| {
        digit.is_ascii_digit().then(|| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))).flatten()
    })
}

/// Options of Connection that matter here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

/// Reads all Connection lines.
pub(super) fn options(fields: &Fields) -> Options {
    let mut options = Options::default();
    for value in fields.all_known(Known::Connection) {
        for token in tokens(value) {
            options.close |= token.eq_ignore_ascii_case(b"close");
            options.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            options.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
    }
    options
}

/// Elements of a comma-separated list, trimmed, empty ones left out.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
