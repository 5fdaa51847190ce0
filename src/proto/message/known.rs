//! Well-known fields, recognised without hashing: by length, then by comparing once or twice.

macro_rules! known {
    ($($variant:ident = $name:literal,)*) => {
        /// A field that some part of the gateway treats by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum Known { Other, $($variant,)* }

        impl Known {
            /// Name in lower case; empty for [`Known::Other`].
            pub const fn name(self) -> &'static str {
                match self { Self::Other => "", $(Self::$variant => $name,)* }
            }

            const ALL: &'static [Known] = &[$(Self::$variant,)*];
        }
    };
}

known! {
    Accept = "accept", AcceptEncoding = "accept-encoding", Authorization = "authorization", Connection = "connection",
    ContentEncoding = "content-encoding", ContentLength = "content-length", ContentType = "content-type", Cookie = "cookie",
    Date = "date", Etag = "etag", Expect = "expect", Forwarded = "forwarded", Host = "host", Http2Settings = "http2-settings",
    KeepAlive = "keep-alive", LastModified = "last-modified", Location = "location", Origin = "origin",
    ProxyAuthenticate = "proxy-authenticate", ProxyAuthorization = "proxy-authorization", ProxyConnection = "proxy-connection",
    Range = "range", Referer = "referer", SecWebSocketAccept = "sec-websocket-accept", SecWebSocketKey = "sec-websocket-key",
    SecWebSocketVersion = "sec-websocket-version", Server = "server", SetCookie = "set-cookie", Te = "te", Trailer = "trailer",
    TransferEncoding = "transfer-encoding", Upgrade = "upgrade", UserAgent = "user-agent", Vary = "vary", Via = "via",
    XConsumerCustomId = "x-consumer-custom-id", XConsumerUsername = "x-consumer-username",
    XCredentialIdentifier = "x-credential-identifier", XForwardedFor = "x-forwarded-for", XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port", XForwardedProto = "x-forwarded-proto", XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
}

/// Longest name in the table.
const LONGEST: usize = 24;

/// Up to this many known names share a length.
const PER_LENGTH: usize = 8;

/// Known fields by the length of their name.
static BY_LENGTH: [[Known; PER_LENGTH]; LONGEST] = by_length();

impl Known {
    /// The well-known field of this name (compared without case), or [`Known::Other`].
    pub fn of(name: &[u8]) -> Self {
        let Some(row) = BY_LENGTH.get(name.len()) else { return Self::Other };
        for &known in row {
            if known == Self::Other {
                break;
            }
            if name.eq_ignore_ascii_case(known.name().as_bytes()) {
                return known;
            }
        }
        Self::Other
    }

    /// Bit in a [`KnownSet`].
    pub const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

/// A set of well-known fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownSet(u64);

impl KnownSet {
    /// A set of these fields. [`Known::Other`] can't be in a set.
    pub const fn new(members: &[Known]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < members.len() {
            bits |= members[at].bit();
            at += 1;
        }
        Self(bits & !Known::Other.bit())
    }

    /// This set and one more.
    pub const fn with(self, known: Known) -> Self {
        Self((self.0 | known.bit()) & !Known::Other.bit())
    }

    /// This set without one.
    pub const fn without(self, known: Known) -> Self {
        Self(self.0 & !known.bit())
    }

    /// True if the field is in the set.
    pub const fn contains(self, known: Known) -> bool {
        self.0 & known.bit() != 0
    }
}

const fn by_length() -> [[Known; PER_LENGTH]; LONGEST] {
    let mut table = [[Known::Other; PER_LENGTH]; LONGEST];
    let mut at = 0;
    while at < Known::ALL.len() {
        let known = Known::ALL[at];
        let row = known.name().len();
        let mut slot = 0;
        while !matches!(table[row][slot], Known::Other) {
            slot += 1; // a row that is too short fails the build here
        }
        table[row][slot] = known;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for &known in Known::ALL {
            assert_eq!(Known::of(known.name().to_ascii_uppercase().as_bytes()), known);
        }
        assert_eq!(Known::of(b"hosts"), Known::Other);
        assert_eq!(Known::of(b""), Known::Other);
        assert_eq!(Known::of(&[b'x'; 300]), Known::Other);
        assert!(Known::ALL.len() < 64, "a KnownSet has 64 bits");
    }
}
