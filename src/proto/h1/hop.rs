//! Fields that live between two hops. RFC 9110 §7.6.1.

use super::head::tokens;
use crate::proto::message::{Field, Fields, Known, KnownSet};

/// Request fields that are never passed on. `Proxy-Authorization` goes on, as nginx and APISIX do: Ringway is not the proxy
/// it is meant for.
pub const REQUEST: KnownSet = KnownSet::new(&[
    Known::Connection,
    Known::Http2Settings,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::TransferEncoding,
    Known::Upgrade,
]);

/// Response fields that are never passed on.
pub const RESPONSE: KnownSet = KnownSet::new(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::TransferEncoding,
    Known::Upgrade,
]);

/// A sender can't have these taken out by naming them in Connection: framing, routing, identity.
const KEPT: KnownSet = KnownSet::new(&[
    Known::Authorization,
    Known::ContentLength,
    Known::ContentType,
    Known::Cookie,
    Known::Forwarded,
    Known::Host,
    Known::SecWebSocketKey,
    Known::SecWebSocketVersion,
    Known::SecWebSocketAccept,
    Known::XConsumerCustomId,
    Known::XConsumerUsername,
    Known::XCredentialIdentifier,
    Known::XForwardedFor,
    Known::XForwardedHost,
    Known::XForwardedPort,
    Known::XForwardedProto,
    Known::XRealIp,
    Known::XRequestId,
]);

/// Whether the message's Connection names further fields. Costs nothing where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Nominated {
    any: bool,
}

impl Nominated {
    /// Looks at the Connection lines of a message.
    pub fn of(fields: &Fields) -> Self {
        let any = fields.all_known(Known::Connection).any(|value| {
            tokens(value).any(|token| {
                !token.eq_ignore_ascii_case(b"keep-alive")
                    && !token.eq_ignore_ascii_case(b"close")
                    && !token.eq_ignore_ascii_case(b"upgrade")
            })
        });
        Self { any }
    }

    /// True if the field is named and may be taken out. A field that a plugin set is not the client's to remove.
    pub fn contains(&self, fields: &Fields, field: &Field) -> bool {
        if !self.any || KEPT.contains(field.known) || !field.name.is_received() || !field.value.is_received() {
            return false;
        }
        let name = fields.bytes(field.name);
        fields.all_known(Known::Connection).any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(name)))
    }
}
