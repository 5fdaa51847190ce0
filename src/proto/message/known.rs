//! Well-known fields, recognised without hashing: by length, then by comparing three words once or twice.

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

/// Known fields by the length of their name, each with one word of its folded name: most rows fit a cache line.
static BY_LENGTH: [[(u64, Known); PER_LENGTH]; LONGEST] = by_length();

/// The whole folded names, by the field's number.
static FOLDED: [Folded; Known::ALL.len() + 1] = folded();

/// A name without case in three words: two that overlap cover what is longer than one.
type Folded = [u64; 3];

impl Known {
    /// The well-known field of this name (compared without case), or [`Known::Other`].
    pub fn of(name: &[u8]) -> Self {
        let Some(row) = BY_LENGTH.get(name.len()) else { return Self::Other };
        let Some(folded) = fold(name) else { return Self::Other };
        let tag = tag(&folded);
        for &(have, known) in row {
            if known == Self::Other {
                break;
            }
            if have == tag && FOLDED[known as usize] == folded {
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

    /// True if the sets share a member.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if the field is in the set.
    pub const fn contains(self, known: Known) -> bool {
        self.0 & known.bit() != 0
    }
}

/// Folds a name shorter than [`LONGEST`]. Setting the bit that tells the cases apart turns letters, digits and `-` into
/// themselves and nothing else into one of them, once control bytes are ruled out (`None`).
const fn fold(name: &[u8]) -> Option<Folded> {
    const CASE: u64 = 0x2020_2020_2020_2020;
    let raw = if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        let behind = name.split_at(if name.len() < 16 { name.len() - 8 } else { 8 }).1;
        let middle = match behind.first_chunk::<8>() {
            Some(middle) => middle,
            None => last,
        };
        [u64::from_le_bytes(*first), u64::from_le_bytes(*middle), u64::from_le_bytes(*last)]
    } else if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        [u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32, CASE, CASE]
    } else {
        match name {
            [a, b] => [CASE << 16 | (*b as u64) << 8 | *a as u64, CASE, CASE],
            [a, b, c] => [CASE << 24 | (*c as u64) << 16 | (*b as u64) << 8 | *a as u64, CASE, CASE],
            _ => return None,
        }
    };
    let [first, middle, last] = raw;
    let printable = (first | first >> 1) & (middle | middle >> 1) & (last | last >> 1) & CASE;
    if printable != CASE {
        return None;
    }
    Some([raw[0] | CASE, raw[1] | CASE, raw[2] | CASE])
}

/// Told apart by both ends: `x-forwarded-for` and `x-forwarded-...` begin alike.
const fn tag(folded: &Folded) -> u64 {
    folded[0] ^ folded[2].rotate_left(32)
}

const fn folded() -> [Folded; Known::ALL.len() + 1] {
    let mut table = [[0; 3]; Known::ALL.len() + 1];
    let mut at = 0;
    while at < Known::ALL.len() {
        table[Known::ALL[at] as usize] = match fold(Known::ALL[at].name().as_bytes()) {
            Some(folded) => folded,
            None => panic!("a known name is too short or holds a control byte"), // while building alone
        };
        at += 1;
    }
    table
}

const fn by_length() -> [[(u64, Known); PER_LENGTH]; LONGEST] {
    let all = folded();
    let mut table = [[(0, Known::Other); PER_LENGTH]; LONGEST];
    let mut at = 0;
    while at < Known::ALL.len() {
        let known = Known::ALL[at];
        let row = known.name().len();
        let mut slot = 0;
        while !matches!(table[row][slot].1, Known::Other) {
            slot += 1; // a row that is too short fails the build here
        }
        table[row][slot] = (tag(&all[known as usize]), known);
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

    #[test]
    fn nothing_else_is_taken_for_a_known_name() {
        for &known in Known::ALL {
            let name = known.name().as_bytes();
            for at in 0..name.len() {
                for byte in 0..=255_u8 {
                    let mut other = name.to_vec();
                    other[at] = byte;
                    let expected = Known::ALL.iter().copied().find(|k| other.eq_ignore_ascii_case(k.name().as_bytes()));
                    assert_eq!(Known::of(&other), expected.unwrap_or(Known::Other), "{other:?}");
                }
            }
        }
    }
}
