//! Lines of the access log: JSON, nginx's combined, APISIX's, or a string of variables. Whatever a client sent, a line is one
//! line: control bytes and quotes are escaped.

use std::net::IpAddr;

use crate::base::clock;
use crate::config::gateway::LogFormat;
use crate::config::nearest;
use crate::plugin::{Ctx, time_iso8601, time_local};
use crate::proto::message::Known;
use crate::proto::scan::quotes_itself;
use crate::proto::vars::{Named, Value, Var, Vars};

/// A compiled format.
#[derive(Debug)]
pub enum Format {
    /// One JSON object.
    Json,
    /// Text and variables.
    Line(Vec<Piece>),
}

/// A piece of a line.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Text.
    Text(Box<[u8]>),
    /// A variable; `-` where it is missing.
    Var(Var),
    /// The variable of a well-known request field (`http_user_agent` and its kind), found without comparing names.
    Field(Known, Var),
}

const COMBINED: &str =
    "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";
const APISIX: &str = "$remote_addr - $remote_user [$time_local] $http_host \"$request\" $status $body_bytes_sent $request_time \
     \"$http_referer\" \"$http_user_agent\" $upstream_addr $upstream_status $upstream_response_time \
     \"$upstream_scheme://$upstream_host$upstream_uri\" \"$apisix_request_id\"";

impl Format {
    /// Compiles a format.
    ///
    /// # Errors
    /// A variable that nobody serves.
    pub fn compile(format: &LogFormat) -> Result<Self, String> {
        match format {
            LogFormat::Json => Ok(Self::Json),
            LogFormat::Combined => line(COMBINED),
            LogFormat::Apisix => line(APISIX),
            LogFormat::Custom(text) => line(text),
        }
    }

    /// Appends the line of an exchange that has ended.
    pub fn write(&self, ctx: &Ctx<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Json => json(ctx, out),
            Self::Line(pieces) => pieces.iter().for_each(|piece| match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Var(var) => write_var(ctx, var, out),
                Piece::Field(known, var) => write_field(ctx, *known, var, out),
            }),
        }
        out.push(b'\n');
    }

    /// True if some variable satisfies `which`.
    pub fn reads(&self, which: impl Fn(&Var) -> bool) -> bool {
        match self {
            Self::Json => false,
            Self::Line(pieces) => {
                pieces.iter().any(|piece| matches!(piece, Piece::Var(var) | Piece::Field(_, var) if which(var)))
            }
        }
    }
}

fn line(text: &str) -> Result<Format, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push_text(&mut pieces, &rest[..at]);
        let name = &rest[at + 1..];
        let (name, behind) = match name.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, behind)) => (name, behind),
            None => name.split_at(name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len())),
        };
        if name.is_empty() {
            push_text(&mut pieces, "$");
        } else {
            match Var::parse(name) {
                Var::Unknown(name) => {
                    let near = nearest(&name, Named::ALL.iter().map(|named| named.name()));
                    let hint = near.map(|near| format!("; did you mean `${near}`?")).unwrap_or_default();
                    return Err(format!("unknown variable `${name}`{hint}"));
                }
                var => pieces.push(piece_of(var)),
            }
        }
        rest = behind;
    }
    push_text(&mut pieces, rest);
    Ok(Format::Line(pieces))
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.as_bytes().into()));
    }
}

fn piece_of(var: Var) -> Piece {
    let known = match &var {
        Var::Http(name) => Known::of(name.replace('_', "-").as_bytes()),
        _ => Known::Other,
    };
    if known == Known::Other { Piece::Var(var) } else { Piece::Field(known, var) }
}

fn write_field(ctx: &Ctx<'_>, known: Known, var: &Var, out: &mut Vec<u8>) {
    let mut values = ctx.request.fields.all_known(known);
    match (values.next(), values.next()) {
        (None | Some(b""), None) => out.push(b'-'),
        (Some(value), None) => escape(value, out),
        _ => write_var(ctx, var, out), // several lines, which are joined
    }
}

fn write_var(ctx: &Ctx<'_>, var: &Var, out: &mut Vec<u8>) {
    match var {
        Var::Named(Named::TimeLocal) => return kept_time(time_local, out),
        Var::Named(Named::TimeIso8601) => return kept_time(time_iso8601, out),
        Var::Named(Named::RemoteAddr) => return out.extend_from_slice(ctx.remote_text().as_bytes()),
        Var::Named(Named::Status) if ctx.sent.status > 0 => return digits(u64::from(ctx.sent.status), out),
        Var::Named(Named::BodyBytesSent) => return digits(ctx.sent.body_bytes, out),
        Var::Named(Named::Request) => {
            return match ctx.request_line() {
                line if line.is_empty() => out.push(b'-'),
                line => escape(&line, out),
            };
        }
        Var::Named(Named::RemoteUser) if ctx.request.fields.known(Known::Authorization).is_none() => return out.push(b'-'),
        _ => {}
    }
    match ctx.var(var) {
        Some(Value::Text(text)) if text.is_empty() => out.push(b'-'),
        Some(Value::Text(text)) => escape(&text, out),
        Some(value) => value.write(out),
        None => out.push(b'-'),
    }
}

fn digits(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A time to the second, made once a second per thread and form.
fn kept_time(make: fn() -> Vec<u8>, out: &mut Vec<u8>) {
    use std::cell::RefCell;
    type Kept = (usize, u64, Vec<u8>);
    thread_local! {
        static KEPT: RefCell<[Kept; 2]> = const { RefCell::new([(0, 0, Vec::new()), (0, 0, Vec::new())]) };
    }
    let (form, second) = (make as usize, clock::unix_second_of(clock::now()));
    KEPT.with_borrow_mut(|kept| {
        let place = usize::from(kept[0].0 != form && kept[0].0 != 0);
        let (have, at, text) = &mut kept[place];
        if *have != form || *at != second {
            (*have, *at, *text) = (form, second, make());
        }
        out.extend_from_slice(text);
    });
}

/// nginx's escaping: quotes, backslashes, controls and bytes above ASCII as `\xHH`.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    if quotes_itself(text) {
        return out.extend_from_slice(text);
    }
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        let byte = rest.get(at).copied().unwrap_or_default();
        out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]);
        rest = rest.get(at + 1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

/// Printable ASCII but for the two that quoting needs.
fn is_plain(byte: u8) -> bool {
    (byte.wrapping_sub(0x20) < 0x5f) & (byte != b'"') & (byte != b'\\')
}

fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }
}

/// Fields in a fixed order, so that lines compress and read well.
fn json(ctx: &Ctx<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    write_time(out);
    out.extend_from_slice(b"\",\"remote_addr\":\"");
    out.extend_from_slice(ctx.remote_text().as_bytes());
    out.push(b'"');
    text(out, "method", ctx.request.method_text());
    text(out, "host", &ctx.request.host);
    text(out, "uri", ctx.request.fields.bytes(ctx.request.origin));
    number(out, "status", u64::from(ctx.sent.status));
    text(out, "reason", ctx.reason.name().as_bytes());
    text(out, "source", ctx.source.name().as_bytes());
    seconds(out, "request_time", ctx.sent.total);
    number(out, "request_length", ctx.request_bytes);
    number(out, "bytes_sent", ctx.sent.bytes);
    number(out, "body_bytes_sent", ctx.sent.body_bytes);
    if let Some(route) = ctx.route {
        text(out, "route_id", route.id.as_bytes());
        if let Some(service) = &route.service_id {
            text(out, "service_id", service.as_bytes());
        }
    }
    if let Some(consumer) = &ctx.consumer {
        text(out, "consumer", consumer.username.as_bytes());
    }
    for (name, field) in [("user_agent", Known::UserAgent), ("referer", Known::Referer)] {
        if let Some(value) = ctx.request.fields.known(field) {
            text(out, name, value);
        }
    }
    if ctx.has_request_id() {
        text(out, "request_id", ctx.request_id());
    }
    number(out, "worker", u64::from(ctx.worker));
    number(out, "epoch", ctx.epoch);
    tries(ctx, out);
    out.push(b'}');
}

/// One object per upstream try.
fn tries(ctx: &Ctx<'_>, out: &mut Vec<u8>) {
    if ctx.tries.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"tries\":[");
    for (at, tried) in ctx.tries.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b",{\"address\":\"" } else { b"{\"address\":\"" });
        if let Some(node) = tried.node {
            match node.ip() {
                Some(ip @ IpAddr::V4(_)) => {
                    Value::Ip(ip).write(out);
                    out.push(b':');
                    Value::Int(i64::from(node.port())).write(out);
                }
                _ => out.extend_from_slice(node.to_string().as_bytes()),
            }
        }
        out.push(b'"');
        number(out, "status", u64::from(tried.status));
        seconds(out, "connect_time", tried.connect);
        if let Some(header) = tried.header {
            seconds(out, "header_time", header);
        }
        seconds(out, "time", tried.total);
        out.push(b'}');
    }
    out.push(b']');
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    digits(value, out);
}

/// Seconds with microseconds, by integers alone.
fn seconds(out: &mut Vec<u8>, name: &str, value: std::time::Duration) {
    key(out, name);
    digits(value.as_secs(), out);
    out.push(b'.');
    let mut micros = value.subsec_micros();
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    out.extend_from_slice(&digits);
}

/// A JSON string. Bytes that are not UTF-8 become replacement characters.
fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    out.push(b'"');
    if quotes_itself(value) {
        out.extend_from_slice(value);
    } else {
        for c in String::from_utf8_lossy(value).chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                c if c < ' ' || c == '\u{7f}' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

/// ISO 8601 in UTC with milliseconds; the date and time to the second are made once a second per thread.
fn write_time(out: &mut Vec<u8>) {
    use std::cell::RefCell;
    thread_local! {
        static KEPT: RefCell<(u64, Vec<u8>)> = const { RefCell::new((u64::MAX, Vec::new())) };
    }
    let now = clock::unix_of(clock::now());
    KEPT.with_borrow_mut(|(second, kept)| {
        if *second != now.as_secs() {
            *second = now.as_secs();
            *kept = time_iso8601();
            kept.truncate(19);
        }
        out.extend_from_slice(kept);
    });
    let millis = now.subsec_millis();
    out.extend_from_slice(&[
        b'.',
        b'0' + (millis / 100) as u8,
        b'0' + (millis / 10 % 10) as u8,
        b'0' + (millis % 10) as u8,
        b'Z',
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_compile_and_unknown_variables_are_named() {
        for format in [LogFormat::Json, LogFormat::Combined, LogFormat::Apisix] {
            assert!(Format::compile(&format).is_ok(), "{format:?}");
        }
        let fault = Format::compile(&LogFormat::Custom("$remote_adr $status".into())).unwrap_err();
        assert_eq!(fault, "unknown variable `$remote_adr`; did you mean `$remote_addr`?");
        let Ok(Format::Line(pieces)) = Format::compile(&LogFormat::Custom("a${status}b$".into())) else { panic!() };
        assert_eq!(pieces.len(), 4);
    }

    #[test]
    fn nothing_breaks_a_line() {
        let mut out = Vec::new();
        escape(b"a\"b\\c\r\n\x00\xff", &mut out);
        assert_eq!(out, b"a\\x22b\\x5Cc\\x0D\\x0A\\x00\\xFF");
        let mut out = Vec::new();
        text(&mut out, "k", "q\"\\\u{1}é".as_bytes());
        assert_eq!(String::from_utf8(out).unwrap(), ",\"k\":\"q\\\"\\\\\\u0001é\"");
    }
}
