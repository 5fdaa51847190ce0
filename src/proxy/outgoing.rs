//! The request as the upstream gets it: one pass over the fields into one chunk, hop-by-hop fields left out, ours put in.
//! APISIX request.md §3.5 to §3.7.

use crate::base::buf::Chunk;
use crate::base::limits;
use crate::config::gateway::Paths;
use crate::config::model::PassHost;
use crate::plugin::Ctx;
use crate::proto::h1::emit::put;
use crate::proto::h1::{emit, hop};
use crate::proto::message::{BodyShape, Known, KnownSet, PathForm};
use crate::proto::uri;
use crate::upstream::Spec;

/// Fields that Ringway writes itself, so that the client's lines of them are left out.
const OWN: KnownSet =
    hop::REQUEST.with(Known::Host).with(Known::ContentLength).with(Known::Expect).with(Known::XRealIp).with(Known::XForwardedFor);

/// The same while nobody looked at the forwarded fields: they are written at the end instead of being edited first.
const OWN_FORWARDED: KnownSet =
    OWN.with(Known::XForwardedProto).with(Known::XForwardedHost).with(Known::XForwardedPort).with(Known::Forwarded);

/// Writes the request head for a node. The body's first bytes are [`super::upload::Upload`]'s, who copies them behind it or not.
#[inline(always)] // on every request's way; its other caller makes copies of requests
pub fn write(ctx: &Ctx<'_>, spec: &Spec, node: u16, websocket: bool, forwarded_applied: bool, paths: &Paths) -> Chunk {
    let request = &*ctx.request;
    let behind_head = request.fields.received().len().saturating_sub(request.head_bytes);
    let mut out = Chunk::with_capacity(request.head_bytes + behind_head + limits::OWN_FIELDS_BYTES);
    let method = ctx.outgoing().and_then(|outgoing| outgoing.method.as_deref()).unwrap_or_else(|| request.method_text());
    put(&mut out, method);
    put(&mut out, b" ");
    target(ctx, paths, &mut out);
    put(&mut out, b" HTTP/1.1\r\n");
    host(ctx, spec, node, &mut out);
    let skip = if forwarded_applied { OWN } else { OWN_FORWARDED };
    emit::fields(&mut out, &request.fields, skip, &hop::Nominated::of(&request.fields));
    forwarded(ctx, forwarded_applied, &mut out);
    match request.body {
        BodyShape::Length(length) => {
            put(&mut out, b"Content-Length: ");
            emit::number(&mut out, length);
            put(&mut out, b"\r\n");
        }
        BodyShape::Chunked => put(&mut out, b"Transfer-Encoding: chunked\r\n"),
        BodyShape::None | BodyShape::UntilClose => {}
    }
    if websocket {
        put(&mut out, b"Connection: upgrade\r\nUpgrade: websocket\r\n");
    }
    put(&mut out, b"\r\n");
    out
}

/// Path and query: a plugin's, else as the client wrote it, else the canonical path encoded again (design.md §4).
fn target(ctx: &Ctx<'_>, paths: &Paths, out: &mut Chunk) {
    let request = &*ctx.request;
    if let Some(uri) = ctx.outgoing().and_then(|outgoing| outgoing.uri.as_deref()) {
        return put(out, uri);
    }
    match request.path_form {
        PathForm::AsWritten => put(out, request.fields.bytes(request.origin)),
        PathForm::Canonical => {
            let origin = request.fields.bytes(request.origin);
            let raw = origin.split(|&byte| byte == b'?').next().unwrap_or_default();
            let mut path = Vec::with_capacity(raw.len());
            if raw.is_empty() || uri::canonical_encoded(raw, paths, &mut path).is_err() {
                uri::encode_path(&request.path, &mut path);
            }
            put(out, &path);
            if request.query.is_some() {
                put(out, b"?");
                put(out, request.query_text());
            }
        }
    }
}

/// The text of the Host field for a node.
pub fn host_text<'a>(ctx: &'a Ctx<'_>, spec: &'a Spec, node: u16) -> &'a [u8] {
    match &spec.pass_host {
        PassHost::Rewrite(host) => host.as_bytes(),
        PassHost::Node => spec.nodes.get(usize::from(node)).map(|node| node.authority.as_slice()).unwrap_or_default(),
        PassHost::Pass => match ctx.outgoing().and_then(|outgoing| outgoing.host.as_deref()) {
            Some(host) => host,
            None => {
                let authority = ctx.request.fields.bytes(ctx.request.authority);
                if authority.is_empty() { &ctx.request.host } else { authority }
            }
        },
    }
}

fn host(ctx: &Ctx<'_>, spec: &Spec, node: u16, out: &mut Chunk) {
    emit::checked_field(out, b"Host: ", host_text(ctx, spec, node)); // a plugin may have made it
}

fn forwarded(ctx: &Ctx<'_>, applied: bool, out: &mut Chunk) {
    let address = ctx.remote_text();
    let address = address.as_bytes();
    emit::own_field(out, b"X-Real-IP: ", address);
    put(out, b"X-Forwarded-For: ");
    let mut first = true;
    for value in ctx.request.fields.all_known(Known::XForwardedFor).filter(|value| !value.is_empty()) {
        if !first {
            put(out, b", ");
        }
        first = false;
        put(out, value);
    }
    if !first {
        put(out, b", ");
    }
    put(out, address);
    put(out, b"\r\n");
    if !applied {
        let own = super::prelude::Forwarded::of(ctx);
        emit::own_field(out, b"X-Forwarded-Proto: ", own.proto);
        emit::own_field(out, b"X-Forwarded-Host: ", own.host);
        emit::own_field(out, b"X-Forwarded-Port: ", own.port());
    }
}
