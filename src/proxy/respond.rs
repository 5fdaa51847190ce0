//! The response head as the client gets it.

use super::reframe::Framing;
use crate::base::buf::Chunk;
use crate::base::limits;
use crate::plugin::Ctx;
use crate::proto::h1::emit::put;
use crate::proto::h1::{emit, hop};
use crate::proto::message::{BodyShape, Known, KnownSet, Method, Version};

/// How a response goes out.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Framing of its body.
    pub framing: Framing,
    /// The connection stays.
    pub keep_alive: bool,
    /// No body is sent: HEAD, 204, 304.
    pub bodyless: bool,
    /// A length to say that is not the upstream's (a body made or changed here).
    pub length: Option<u64>,
    /// The body's length is not the upstream's and not known: its Content-Length is dropped.
    pub remade: bool,
}

const SKIP: KnownSet = hop::RESPONSE;
const SKIP_LENGTH: KnownSet = SKIP.with(Known::ContentLength);

/// Decides framing and persistence for a response whose head (`ctx.response`) is filtered. `keep_alive` is what everything
/// but the response allows.
pub fn manner(ctx: &Ctx<'_>, keep_alive: bool, length: Option<u64>, remade: bool) -> Manner {
    let response = &*ctx.response;
    let bodyless = ctx.request.method == Method::Head || matches!(response.status, 204 | 304) || response.status < 200;
    let known_length = length.is_some() || (!remade && matches!(response.body, BodyShape::Length(_) | BodyShape::None));
    let old_client = ctx.request.version == Version::Http10;
    let framing = if known_length || bodyless || old_client { Framing::Plain } else { Framing::Chunked };
    let ends_by_close = framing == Framing::Plain && !known_length && !bodyless;
    Manner { framing, keep_alive: keep_alive && !ends_by_close, bodyless, length, remade: remade || length.is_some() }
}

/// Writes the head.
pub fn write(ctx: &Ctx<'_>, manner: &Manner, date: &[u8]) -> Chunk {
    let response = &*ctx.response;
    let mut out = Chunk::with_capacity(response.head_bytes + limits::OWN_FIELDS_BYTES);
    emit::status_line(&mut out, response.status, response.fields.bytes(response.phrase));
    let chunked = manner.framing == Framing::Chunked;
    let skip = if chunked || manner.remade { SKIP_LENGTH } else { SKIP };
    emit::fields(&mut out, &response.fields, skip, &hop::Nominated::of(&response.fields));
    if response.fields.known(Known::Date).is_none() {
        emit::own_field(&mut out, b"Date: ", date);
    }
    if chunked {
        put(&mut out, b"Transfer-Encoding: chunked\r\n");
    } else if let Some(length) = manner.length {
        put(&mut out, b"Content-Length: ");
        emit::number(&mut out, length);
        put(&mut out, b"\r\n");
    }
    match (manner.keep_alive, ctx.request.version) {
        (false, _) => put(&mut out, b"Connection: close\r\n"),
        (true, Version::Http10) => put(&mut out, b"Connection: keep-alive\r\n"),
        (true, Version::Http11) => {}
    }
    put(&mut out, b"\r\n");
    out
}

/// Writes the head of a 101 that was checked.
pub fn write_upgrade(ctx: &Ctx<'_>) -> Chunk {
    let response = &*ctx.response;
    let mut out = Chunk::with_capacity(response.head_bytes + limits::OWN_FIELDS_BYTES);
    emit::status_line(&mut out, 101, response.fields.bytes(response.phrase));
    emit::fields(&mut out, &response.fields, SKIP_LENGTH, &hop::Nominated::of(&response.fields));
    put(&mut out, b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    out
}
