//! The message, one type for all protocols: a head whose fields are slices into one buffer with edits over it, and the
//! shape of a body. Nothing here allocates once a connection has served a request: the tables are cleared and filled again.

pub mod fields;
pub mod known;
pub mod reason;

pub use fields::{Field, Fields, Span};
pub use known::{Known, KnownSet};
pub use reason::Reason;

/// A request method. RFC 9110 §9; unknown tokens are kept as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// CONNECT
    Connect,
    /// DELETE
    Delete,
    /// GET
    Get,
    /// HEAD
    Head,
    /// OPTIONS
    Options,
    /// PATCH
    Patch,
    /// POST
    Post,
    /// PURGE (APISIX routes may name it)
    Purge,
    /// PUT
    Put,
    /// TRACE
    Trace,
    /// Any other token; its text is in the head.
    Other(Span),
}

impl Method {
    /// Known methods by their exact, case-sensitive text; `None` for any other token.
    pub fn from_known(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"GET" => Self::Get,
            b"POST" => Self::Post,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"PURGE" => Self::Purge,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => return None,
        })
    }

    /// The text of a known method; empty for [`Method::Other`].
    pub fn known_text(self) -> &'static [u8] {
        match self {
            Self::Connect => b"CONNECT",
            Self::Delete => b"DELETE",
            Self::Get => b"GET",
            Self::Head => b"HEAD",
            Self::Options => b"OPTIONS",
            Self::Patch => b"PATCH",
            Self::Post => b"POST",
            Self::Purge => b"PURGE",
            Self::Put => b"PUT",
            Self::Trace => b"TRACE",
            Self::Other(_) => b"",
        }
    }

    /// Bit of this method in a [`MethodSet`]; unknown methods share one bit that no configuration can name.
    pub fn bit(self) -> u16 {
        match self {
            Self::Connect => 1,
            Self::Delete => 2,
            Self::Get => 4,
            Self::Head => 8,
            Self::Options => 16,
            Self::Patch => 32,
            Self::Post => 64,
            Self::Purge => 128,
            Self::Put => 256,
            Self::Trace => 512,
            Self::Other(_) => 1 << 15,
        }
    }

    /// RFC 9110 §9.2.2: the request may be repeated. nginx's rule: everything but POST, LOCK and PATCH; unknown tokens are
    /// taken as not idempotent.
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Patch | Self::Connect | Self::Other(_))
    }
}

/// A set of methods; empty means any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MethodSet(pub u16);

impl MethodSet {
    /// Adds a method.
    pub fn insert(&mut self, method: Method) {
        self.0 |= method.bit();
    }

    /// True if the method is in the set, or the set is empty.
    pub fn allows(self, method: Method) -> bool {
        self.0 == 0 || self.0 & method.bit() != 0
    }
}

/// Protocol version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// How long a body is and how its end is known. RFC 9112 §6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyShape {
    /// No body, by the message's kind or a length of 0 without a field.
    #[default]
    None,
    /// Exactly this many bytes (a `Content-Length` was there, 0 included).
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

impl BodyShape {
    /// True if no byte of a body can follow the head.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// What the upstream gets as the path. design.md §4, "One canonical path".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathForm {
    /// As the client wrote it: no reading of it that decodes at most once holds a dot segment.
    #[default]
    AsWritten,
    /// The canonical path, percent-encoded again.
    Canonical,
}

/// A request's head. Filled by a protocol's parser, read by routing and plugins, edited by plugins.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The fields, and the buffer they lie in.
    pub fields: Fields,
    /// Method.
    pub method: Method,
    /// Target as it stood on the request line (absolute form included).
    pub target: Span,
    /// Path and query part of the target: what is forwarded when nothing rewrites it.
    pub origin: Span,
    /// Raw query without `?`; `None` if there was no `?`.
    pub query: Option<Span>,
    /// Canonical path: percent-decoded once, repeated slashes merged, dot segments resolved. Starts with `/`, or is `*`.
    pub path: Vec<u8>,
    /// What the upstream gets as the path.
    pub path_form: PathForm,
    /// Canonical host: lower-cased, without port, IPv6 in brackets; `_` if the request had none (nginx `$host`).
    pub host: Vec<u8>,
    /// The authority as the client sent it, port and case kept: the `Host` field, or the absolute form's authority (which wins).
    pub authority: Span,
    /// Protocol version.
    pub version: Version,
    /// Body shape.
    pub body: BodyShape,
    /// The client keeps the connection after this exchange, as far as its head says.
    pub keep_alive: bool,
    /// `Expect: 100-continue` was asked (HTTP/1.1 only).
    pub expects_continue: bool,
    /// A valid WebSocket upgrade (RFC 6455 §4.1) was asked.
    pub upgrades_websocket: bool,
    /// Bytes of the head on the wire: request line, fields, empty line.
    pub head_bytes: usize,
    /// Bytes already searched for the empty line, while the head is partial.
    pub searched: usize,
}

impl Default for Method {
    fn default() -> Self {
        Self::Other(Span::default())
    }
}

impl RequestHead {
    /// The method's text.
    pub fn method_text(&self) -> &[u8] {
        match self.method {
            Method::Other(span) => self.fields.bytes(span),
            known => known.known_text(),
        }
    }

    /// Raw query without `?`; empty if there is none.
    pub fn query_text(&self) -> &[u8] {
        self.query.map(|span| self.fields.bytes(span)).unwrap_or_default()
    }

    /// Empties the head for the next request, keeping allocations and the buffer.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.method = Method::default();
        self.target = Span::default();
        self.origin = Span::default();
        self.query = None;
        self.path.clear();
        self.path_form = PathForm::AsWritten;
        self.host.clear();
        self.authority = Span::default();
        self.version = Version::Http11;
        self.body = BodyShape::None;
        self.keep_alive = false;
        self.expects_continue = false;
        self.upgrades_websocket = false;
        self.head_bytes = 0;
        self.searched = 0;
    }
}

/// A response's head.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The fields, and the buffer they lie in.
    pub fields: Fields,
    /// Status code, 100..=599 (999 is refused).
    pub status: u16,
    /// Reason phrase; may be empty.
    pub phrase: Span,
    /// Protocol version.
    pub version: Version,
    /// Body shape, the request's method and the status taken into account (RFC 9112 §6.3).
    pub body: BodyShape,
    /// The upstream keeps the connection after this exchange, as far as its head says.
    pub keep_alive: bool,
    /// Bytes of the head on the wire.
    pub head_bytes: usize,
    /// Bytes already searched for the empty line, while the head is partial.
    pub searched: usize,
}

impl ResponseHead {
    /// Empties the head for the next response, keeping allocations and the buffer.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.status = 0;
        self.phrase = Span::default();
        self.version = Version::Http11;
        self.body = BodyShape::None;
        self.keep_alive = false;
        self.head_bytes = 0;
        self.searched = 0;
    }
}
