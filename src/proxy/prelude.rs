//! Before anything looks at a request: who the client is (real-ip), and what the forwarded fields say. APISIX request.md §3.7.

use crate::config::gateway::{Gateway, RealIp};
use crate::plugin::Ctx;
use crate::proto::message::{Known, KnownSet};
use crate::proto::uri;

/// Takes the client's address from the configured field where the peer is trusted for it.
pub fn real_ip(ctx: &mut Ctx<'_>, conf: &RealIp) {
    if conf.trusted.is_empty() && !conf.trusts_unix {
        return;
    }
    if !conf.trusts(ctx.remote_ip()) {
        return;
    }
    if conf.header.eq_ignore_ascii_case("proxy_protocol") {
        if let Some(source) = ctx.conn.proxy_protocol {
            ctx.real_ip = Some((source.ip(), source.port()));
        }
        return;
    }
    let mut found = None;
    let values: Vec<&[u8]> = ctx.request.fields.all(conf.header.as_bytes()).collect();
    let addresses = values.iter().flat_map(|value| value.split(|&byte| byte == b',')).rev();
    for text in addresses {
        let Some((ip, port)) = uri::address_and_port(text) else { break };
        found = Some((ip, port));
        if !(conf.recursive && conf.trusts(Some(ip))) {
            break;
        }
    }
    if found.is_some() {
        ctx.real_ip = found;
    }
}

/// Ringway's own values of the forwarded fields.
pub struct Forwarded<'a> {
    /// X-Forwarded-Proto
    pub proto: &'a [u8],
    /// X-Forwarded-Host
    pub host: &'a [u8],
    port_text: PortText<'a>,
}

enum PortText<'a> {
    Sent(&'a [u8]),
    Own(u16),
}

impl<'a> Forwarded<'a> {
    /// The values for a request.
    pub fn of(ctx: &'a Ctx<'_>) -> Self {
        let authority = ctx.request.fields.bytes(ctx.request.authority);
        let host = if authority.is_empty() { ctx.request.host.as_slice() } else { authority };
        let port_text = match port_of(authority) {
            Some(port) => PortText::Sent(port),
            None => PortText::Own(ctx.conn.local.map_or(0, |local| local.port())),
        };
        Self { proto: ctx.conn.scheme.as_bytes(), host, port_text }
    }

    /// X-Forwarded-Port
    pub fn port(&self) -> &[u8] {
        match &self.port_text {
            PortText::Sent(port) => port,
            PortText::Own(port) => port_digits(*port),
        }
    }
}

/// The port after the last colon that is not inside brackets.
fn port_of(authority: &[u8]) -> Option<&[u8]> {
    let colon = authority.iter().rposition(|&byte| byte == b':')?;
    let port = authority.get(colon + 1..)?;
    (!port.is_empty() && port.iter().all(u8::is_ascii_digit)).then_some(port)
}

/// Digits of a port, kept per thread for the few ports a process listens on.
fn port_digits(port: u16) -> &'static [u8] {
    use std::cell::RefCell;
    thread_local! {
        static KEPT: RefCell<Vec<(u16, &'static [u8])>> = const { RefCell::new(Vec::new()) };
    }
    KEPT.with_borrow_mut(|kept| {
        if let Some((_, digits)) = kept.iter().find(|(have, _)| *have == port) {
            return *digits;
        }
        // At most 65,536 of them, and only for ports that were listened on.
        let digits: &'static [u8] = Box::leak(port.to_string().into_bytes().into_boxed_slice());
        kept.push((port, digits));
        digits
    })
}

/// Forwarded fields a client may have sent.
const FORWARDED: KnownSet = KnownSet::new(&[
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::XForwardedPort,
    Known::Forwarded,
]);

/// Overwrites the forwarded fields unless the TCP peer is trusted, so that matching and plugins see what the upstream will.
/// Says whether it did; a request that nobody looks at gets them written when its head goes out instead.
pub fn forwarded(ctx: &mut Ctx<'_>, gateway: &Gateway, needed: bool) -> bool {
    let sent = ctx.request.fields.may_have(FORWARDED);
    if !sent && !needed {
        return false;
    }
    let trusted = match (&gateway.trusted_addresses, ctx.conn.peer) {
        (None, _) => None,
        (Some(nets), Some(peer)) => Some(nets.iter().any(|net| net.contains(&peer.ip()))),
        (Some(_), None) => Some(false),
    };
    let (proto, host, port) = {
        let own = Forwarded::of(ctx);
        (own.proto.to_vec(), own.host.to_vec(), own.port().to_vec())
    };
    let fields = &mut ctx.request.fields;
    for (known, name, own) in [
        (Known::XForwardedProto, "X-Forwarded-Proto", proto),
        (Known::XForwardedHost, "X-Forwarded-Host", host),
        (Known::XForwardedPort, "X-Forwarded-Port", port),
    ] {
        let kept = trusted == Some(true) && fields.known(known).is_some_and(|value| !value.is_empty());
        if !kept {
            fields.set(name.as_bytes(), &own);
        }
    }
    if trusted != Some(true) {
        fields.remove_known(Known::Forwarded);
    }
    if trusted == Some(false) {
        fields.remove_known(Known::XForwardedFor);
    }
    true
}
