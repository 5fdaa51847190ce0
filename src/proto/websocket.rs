//! WebSocket handshakes. RFC 6455 §4.

use crate::proto::h1::tokens_of;
use crate::proto::message::{BodyShape, Known, Method, RequestHead, ResponseHead, Version};

/// True if the request asks for a WebSocket as RFC 6455 §4.2.1 says (that Connection names `upgrade` is the caller's to see).
pub fn asks(head: &RequestHead) -> bool {
    let fields = &head.fields;
    head.method == Method::Get
        && head.version == Version::Http11
        && head.body == BodyShape::None
        && fields.all_known(Known::Upgrade).any(|value| tokens_of(value).any(|token| token.eq_ignore_ascii_case(b"websocket")))
        && fields.known(Known::SecWebSocketVersion) == Some(b"13")
        && fields.known(Known::SecWebSocketKey).is_some_and(is_key)
}

/// 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// True if a 101 answers the handshake with this key. RFC 6455 §4.1: Upgrade, Connection and the accept key must match.
pub fn answers(head: &ResponseHead, key: &[u8]) -> bool {
    let fields = &head.fields;
    let names = |known: Known, token: &[u8]| {
        fields.all_known(known).any(|value| tokens_of(value).any(|have| have.eq_ignore_ascii_case(token)))
    };
    head.status == 101
        && names(Known::Upgrade, b"websocket")
        && names(Known::Connection, b"upgrade")
        && fields.known(Known::SecWebSocketAccept) == Some(accept_key(key).as_bytes())
}

/// The accept key for a client's key.
pub fn accept_key(key: &[u8]) -> String {
    use base64::Engine;
    let mut sha = sha1_smol::Sha1::new();
    sha.update(key);
    sha.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha.digest().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!is_key(b"dGhlIHNhbXBsZQ=="));
    }
}
