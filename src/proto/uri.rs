//! Request targets: one canonical path, made once. design.md §4, "One canonical path".
//!
//! Routing, rules and plugins see the path decoded once, slashes merged, dot segments resolved. The upstream gets what the
//! client wrote as long as nobody can read a dot segment into it; a path that could be read so is resolved or refused.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::config::gateway::{EncodedMark, Paths};
use crate::proto::message::PathForm;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriFault {
    /// A raw `#`, backslash or control byte.
    RawMark,
    /// `%` without two hex digits.
    Escape,
    /// An escaped NUL.
    Nul,
    /// A dot segment that appears only by decoding `%2F` or `%5C`.
    HiddenDots,
    /// A dot segment with a parameter (`..;x`).
    DotParameter,
    /// An empty segment that is only a parameter (`/;x/`).
    EmptyParameter,
    /// More `..` than segments.
    AboveRoot,
    /// `gateway.paths` refuses the mark.
    Refused,
}

impl UriFault {
    /// For the error log.
    pub fn what(self) -> &'static str {
        match self {
            Self::RawMark => "a raw `#`, backslash or control byte in the path",
            Self::Escape => "a malformed escape in the path",
            Self::Nul => "an escaped NUL in the path",
            Self::HiddenDots => "a dot segment behind an escaped slash or backslash",
            Self::DotParameter => "a dot segment with a parameter",
            Self::EmptyParameter => "an empty segment with a parameter",
            Self::AboveRoot => "a path above the root",
            Self::Refused => "an escaped slash, backslash or parameter that gateway.paths refuses",
        }
    }
}

/// Parts of a target as (offset, length).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Path and query.
    pub origin: (usize, usize),
    /// Path.
    pub path: (usize, usize),
    /// Query without `?`.
    pub query: Option<(usize, usize)>,
    /// Authority of an absolute form.
    pub authority: Option<(usize, usize)>,
}

/// Takes a target apart: origin form, absolute form (`http` and `https`), or `*`. RFC 9112 §3.2. The path of an absolute form
/// may be empty, which means `/` (RFC 9110 §4.2.3).
pub fn split_target(target: &[u8]) -> Option<Split> {
    let (authority, start) = match target.first()? {
        b'/' => (None, 0),
        b'*' if target.len() == 1 => (None, 0),
        _ => {
            let scheme = [&b"http://"[..], b"https://"]
                .into_iter()
                .find(|scheme| target.get(..scheme.len()).is_some_and(|have| have.eq_ignore_ascii_case(scheme)))?;
            let rest = target.get(scheme.len()..)?;
            let len = rest.iter().position(|&byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
            if len == 0 {
                return None;
            }
            (Some((scheme.len(), len)), scheme.len() + len)
        }
    };
    let origin = (start, target.len() - start);
    let text = target.get(start..)?;
    let path_len = memchr::memchr(b'?', text).unwrap_or(text.len());
    let query = (path_len < text.len()).then(|| (start + path_len + 1, text.len() - path_len - 1));
    Some(Split { origin, path: (start, path_len), query, authority })
}

/// Appends the canonical path of `raw` to `out` and says what the upstream gets.
///
/// # Errors
/// If some reader could take the path for another one.
pub fn canonical(raw: &[u8], paths: &Paths, out: &mut Vec<u8>) -> Result<PathForm, UriFault> {
    if is_plain(raw) {
        out.extend_from_slice(raw);
        return Ok(PathForm::AsWritten);
    }
    let mut form = PathForm::AsWritten;
    let mut segment = Vec::new();
    for raw_segment in raw.split(|&byte| byte == b'/') {
        segment.clear();
        let marks = decode_segment(raw_segment, &mut segment)?;
        check_marks(marks, paths)?;
        if is_dots(&segment) {
            form = PathForm::Canonical;
        } else {
            check_segment(&segment)?;
        }
        if marks.slash && paths.encoded_slash == EncodedMark::Decode
            || marks.backslash && paths.encoded_backslash == EncodedMark::Decode
        {
            form = PathForm::Canonical;
        }
    }
    let start = out.len();
    resolve(raw, paths, out, |raw_segment, out| {
        let _checked = decode_segment(raw_segment, out);
    })?;
    debug_assert!(out.get(start) == Some(&b'/'), "a canonical path is absolute");
    Ok(form)
}

/// Appends the canonical path of `raw` as an upstream gets it: percent-encoded again, `;` only where it was escaped.
///
/// # Errors
/// As [`canonical`].
pub fn canonical_encoded(raw: &[u8], paths: &Paths, out: &mut Vec<u8>) -> Result<(), UriFault> {
    resolve(raw, paths, out, encode_segment)
}

/// Nothing in it needs a second look: no escape, no mark, no empty and no dot segment.
fn is_plain(raw: &[u8]) -> bool {
    let mut before = b'x';
    for &byte in raw {
        let odd = match byte {
            b'%' | b'\\' | b'#' | b';' | 0x7f => true,
            b'/' | b'.' => before == b'/',
            byte => byte < 0x21,
        };
        if odd {
            return false;
        }
        before = byte;
    }
    true
}

/// What was escaped in a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    slash: bool,
    backslash: bool,
    parameter: bool,
}

fn decode_segment(raw: &[u8], out: &mut Vec<u8>) -> Result<Marks, UriFault> {
    let mut marks = Marks::default();
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        at += 1;
        let decoded = match byte {
            b'%' => {
                let escaped = escape(raw, at).ok_or(UriFault::Escape)?;
                at += 2;
                match escaped {
                    0 => return Err(UriFault::Nul),
                    b'/' => marks.slash = true,
                    b'\\' => marks.backslash = true,
                    b';' => marks.parameter = true,
                    _ => {}
                }
                escaped
            }
            b'\\' | b'#' | 0x7f => return Err(UriFault::RawMark),
            byte if byte < 0x21 => return Err(UriFault::RawMark),
            b';' => {
                marks.parameter = true;
                byte
            }
            byte => byte,
        };
        out.push(decoded);
    }
    Ok(marks)
}

fn escape(raw: &[u8], at: usize) -> Option<u8> {
    Some(hex(*raw.get(at)?)? << 4 | hex(*raw.get(at + 1)?)?)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn check_marks(marks: Marks, paths: &Paths) -> Result<(), UriFault> {
    let refused = marks.slash && paths.encoded_slash == EncodedMark::Refuse
        || marks.backslash && paths.encoded_backslash == EncodedMark::Refuse
        || marks.parameter && !paths.parameters;
    if refused { Err(UriFault::Refused) } else { Ok(()) }
}

fn is_dots(segment: &[u8]) -> bool {
    segment == b"." || segment == b".."
}

/// A decoded segment that is no dot segment itself must not hold one for any reader.
fn check_segment(segment: &[u8]) -> Result<(), UriFault> {
    let split = segment.iter().any(|&byte| byte == b'/' || byte == b'\\');
    for part in segment.split(|&byte| byte == b'/' || byte == b'\\') {
        let name = part.split(|&byte| byte == b';').next().unwrap_or_default();
        let has_parameter = name.len() < part.len();
        if is_dots(name) {
            return Err(if split { UriFault::HiddenDots } else { UriFault::DotParameter });
        }
        if has_parameter && name.is_empty() {
            return Err(UriFault::EmptyParameter);
        }
    }
    Ok(())
}

/// Joins the segments, merging slashes and resolving dot segments. `write` appends a segment's form.
fn resolve(raw: &[u8], paths: &Paths, out: &mut Vec<u8>, write: impl Fn(&[u8], &mut Vec<u8>)) -> Result<(), UriFault> {
    let start = out.len();
    let mut dots = Vec::new();
    let mut segments = raw.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        dots.clear();
        decode_segment(segment, &mut dots)?;
        match dots.as_slice() {
            b"." => {
                if last {
                    slash(out, start, paths);
                }
            }
            b".." => {
                let kept = out.get(start..).unwrap_or_default();
                let kept = kept.strip_suffix(b"/").filter(|_| paths.merge_slashes).unwrap_or(kept);
                let up = memchr::memrchr(b'/', kept).ok_or(UriFault::AboveRoot)?;
                out.truncate(start + up);
                if last {
                    slash(out, start, paths);
                }
            }
            _ => {
                slash(out, start, paths);
                let from = out.len();
                write(segment, out);
                if paths.merge_slashes {
                    merge(out, from);
                }
            }
        }
    }
    if out.len() == start {
        out.push(b'/');
    }
    Ok(())
}

fn slash(out: &mut Vec<u8>, start: usize, paths: &Paths) {
    if !(paths.merge_slashes && out.len() > start && out.last() == Some(&b'/')) {
        out.push(b'/');
    }
}

/// Merges slashes that decoding brought in, from `from` on.
fn merge(out: &mut Vec<u8>, from: usize) {
    let mut to = from;
    for at in from..out.len() {
        let byte = out[at];
        if byte == b'/' && to > 0 && out[to - 1] == b'/' {
            continue;
        }
        out[to] = byte;
        to += 1;
    }
    out.truncate(to);
}

fn encode_segment(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        at += 1;
        let (byte, escaped) = match byte {
            b'%' => {
                let decoded = escape(raw, at).unwrap_or(b'%');
                at += 2;
                (decoded, true)
            }
            byte => (byte, false),
        };
        encode_byte(byte, escaped && byte == b';', out);
    }
}

fn encode_byte(byte: u8, always: bool, out: &mut Vec<u8>) {
    if always || !(0x21..0x7f).contains(&byte) || b"%?#\\\"<>^`{|}".contains(&byte) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    } else {
        out.push(byte);
    }
}

/// Percent-encodes a decoded path: controls, space, non-ASCII and `" # % < > ? \ ^ backtick { | }`. APISIX proxy-rewrite.
pub fn encode_path(path: &[u8], out: &mut Vec<u8>) {
    path.iter().for_each(|&byte| encode_byte(byte, false, out));
}

/// A query argument. APISIX request.md §2.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg<'q> {
    /// `name` without `=`.
    Flag,
    /// `name=value`, decoded.
    Value(Cow<'q, [u8]>),
}

/// The first argument of this name; names are case-sensitive and compared decoded.
pub fn query_arg<'q>(query: &'q [u8], name: &[u8]) -> Option<Arg<'q>> {
    for pair in query.split(|&byte| byte == b'&') {
        let equals = memchr::memchr(b'=', pair);
        let key = pair.get(..equals.unwrap_or(pair.len())).unwrap_or_default();
        if !pair.is_empty() && *decode(key) == *name {
            return Some(match equals {
                Some(at) => Arg::Value(decode(pair.get(at + 1..).unwrap_or_default())),
                None => Arg::Flag,
            });
        }
    }
    None
}

/// Decodes `%XX` and `+`; malformed escapes stay as they are.
pub fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'+' => out.push(b' '),
            b'%' => match escape(text, at) {
                Some(decoded) => {
                    out.push(decoded);
                    at += 2;
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
    }
    Cow::Owned(out)
}

/// `host` or `host:port`, nothing else: no userinfo, no path, brackets around IPv6. RFC 3986 §3.2.
pub fn is_authority(text: &[u8]) -> bool {
    let host = host_of(text);
    let port = text.get(host.len()..).unwrap_or_default();
    let port_is_one = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let host_is_one = match host {
        [b'[', inner @ .., b']'] => std::str::from_utf8(inner).is_ok_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()),
        [] => false,
        name => name.iter().all(|&byte| NAME[usize::from(byte)]),
    };
    port_is_one && host_is_one
}

/// Octets of a registered name, escapes left out. RFC 3986 §3.2.2.
static NAME: [bool; 256] = super::octets(b"-._~!$&'()*+,=");

/// The host part of an authority, brackets kept, port left out.
pub fn host_of(authority: &[u8]) -> &[u8] {
    let end = match authority.first() {
        Some(b'[') => memchr::memchr(b']', authority).map_or(authority.len(), |at| at + 1),
        _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
    };
    authority.get(..end).unwrap_or_default()
}

/// An address as fields carry it: `ip`, `ip:port`, `[v6]` or `[v6]:port`. Port 0 where there is none.
pub fn address_and_port(text: &[u8]) -> Option<(IpAddr, u16)> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, 0));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip(), address.port()));
    }
    let ip = text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    Some((ip, 0))
}

#[cfg(test)]
#[path = "uri_tests.rs"]
mod tests;
