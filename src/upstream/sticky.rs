//! Cookie affinity: a cookie names the node that a client's session lies on, by a keyed value that says nothing of it.

use aws_lc_rs::hmac;

use crate::config::model::{SameSite, Sticky};

/// A node's value in the cookie: half of an HMAC-SHA-256 over `host:port`, in hex.
pub type Token = [u8; 32];

/// Stickiness of a compiled upstream.
#[derive(Debug)]
pub struct Stickiness {
    /// The cookie's name.
    pub cookie: Vec<u8>,
    /// Values by node, as `Spec::nodes`.
    tokens: Vec<Token>,
    /// What follows a value in `Set-Cookie`.
    attributes: Vec<u8>,
}

impl Stickiness {
    /// Compiles; `nodes` are `host:port` in order.
    pub fn new(sticky: &Sticky, identity: &str, nodes: impl Iterator<Item = String>) -> Self {
        let key = sticky.key.as_deref().unwrap_or(identity);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let mut attributes = format!("; Path={}", sticky.path);
        if let Some(ttl) = sticky.ttl {
            attributes += &format!("; Max-Age={}", ttl.as_secs());
        }
        if sticky.secure {
            attributes += "; Secure";
        }
        if sticky.http_only {
            attributes += "; HttpOnly";
        }
        attributes += match sticky.same_site {
            Some(SameSite::Strict) => "; SameSite=Strict",
            Some(SameSite::Lax) => "; SameSite=Lax",
            Some(SameSite::None) => "; SameSite=None",
            None => "",
        };
        Self {
            cookie: sticky.cookie.clone().into_bytes(),
            tokens: nodes.map(|node| token(&key, &node)).collect(),
            attributes: attributes.into_bytes(),
        }
    }

    /// The node that a cookie's value names.
    pub fn node(&self, value: &[u8]) -> Option<usize> {
        self.tokens.iter().position(|token| token == value)
    }

    /// The value of `Set-Cookie` that binds a client to a node.
    pub fn set_cookie(&self, node: usize) -> Option<Vec<u8>> {
        let token = self.tokens.get(node)?;
        Some([&self.cookie[..], b"=", token, &self.attributes].concat())
    }
}

fn token(key: &hmac::Key, node: &str) -> Token {
    let tag = hmac::sign(key, node.as_bytes());
    let mut token = [0; 32];
    for (pair, byte) in token.chunks_exact_mut(2).zip(tag.as_ref()) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(key: Option<&str>) -> Sticky {
        Sticky {
            cookie: "route".into(),
            ttl: Some(std::time::Duration::from_secs(60)),
            key: key.map(str::to_owned),
            path: "/".into(),
            secure: true,
            http_only: true,
            same_site: Some(SameSite::Lax),
        }
    }

    #[test]
    fn values_name_their_node_and_nothing_else() {
        let nodes = || ["10.0.0.1:80", "10.0.0.2:80"].map(str::to_owned).into_iter();
        let one = Stickiness::new(&sticky(None), "upstreams/1", nodes());
        let cookie = String::from_utf8(one.set_cookie(1).unwrap()).unwrap();
        let value = cookie.strip_prefix("route=").unwrap().split(';').next().unwrap();
        assert_eq!(one.node(value.as_bytes()), Some(1));
        assert!(cookie.ends_with("; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax") && !cookie.contains("10.0.0"));
        assert_eq!(one.node(b"10.0.0.2:80"), None);
        let other = Stickiness::new(&sticky(Some("another key, long enough")), "upstreams/1", nodes());
        assert_eq!(other.node(value.as_bytes()), None, "another key, other values");
        let fewer = Stickiness::new(&sticky(None), "upstreams/1", nodes().skip(1));
        assert_eq!(fewer.node(value.as_bytes()), Some(0), "the node keeps its value wherever it stands");
    }
}
