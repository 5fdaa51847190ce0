//! Variables of a request: the names that `vars` expressions, templates and log formats use, parsed once, and the trait by
//! which they are read. APISIX request.md §2.

use std::borrow::Cow;
use std::net::IpAddr;

/// A variable's name, parsed when the configuration is compiled so that reading it compares nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Var {
    /// `arg_NAME`: first query argument of that name, decoded.
    Arg(Box<str>),
    /// `cookie_NAME`
    Cookie(Box<str>),
    /// `http_NAME`: request field, name lower-cased with `-` turned to `_` (compared that way).
    Http(Box<str>),
    /// `sent_http_NAME`: field of the response as the client gets it.
    SentHttp(Box<str>),
    /// `upstream_http_NAME`: field of the upstream's response.
    UpstreamHttp(Box<str>),
    /// `uri_param_NAME`: capture of the matched path pattern.
    UriParam(Box<str>),
    /// A variable of the fixed table.
    Named(Named),
    /// A name nobody serves; always missing.
    Unknown(Box<str>),
}

impl Var {
    /// It is one of the forwarded fields, which are written into the request only where somebody reads them.
    pub fn is_forwarded(&self) -> bool {
        matches!(self, Self::Http(name) if name.contains("forwarded"))
    }
}

macro_rules! named {
    ($($variant:ident = $name:literal $(| $alias:literal)*,)*) => {
        /// Variables with a fixed name (nginx's and APISIX's).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum Named { $($variant,)* }

        impl Named {
            /// All of them.
            pub const ALL: &'static [Named] = &[$(Self::$variant,)*];

            /// By name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name $(| $alias)* => Some(Self::$variant),)* _ => None }
            }

            /// Its (first) name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

named! {
    ApisixRequestId = "apisix_request_id" | "request_id", Args = "args" | "query_string", BalancerIp = "balancer_ip",
    BalancerPort = "balancer_port", BodyBytesSent = "body_bytes_sent", BytesSent = "bytes_sent",
    Connection = "connection", ConnectionRequests = "connection_requests", ConsumerGroupId = "consumer_group_id",
    ConsumerName = "consumer_name", ContentLength = "content_length", ContentType = "content_type", Epoch = "epoch",
    Host = "host", Hostname = "hostname", HttpHost = "http_host", Https = "https", IsArgs = "is_args", Msec = "msec",
    Pid = "pid", ProxyAddXForwardedFor = "proxy_add_x_forwarded_for", ProxyProtocolAddr = "proxy_protocol_addr",
    ProxyProtocolPort = "proxy_protocol_port", RealRequestUri = "real_request_uri",
    RealipRemoteAddr = "realip_remote_addr", RealipRemotePort = "realip_remote_port", Reason = "reason",
    RemoteAddr = "remote_addr", RemotePort = "remote_port", RemoteUser = "remote_user", Request = "request" | "request_line",
    RequestLength = "request_length", RequestMethod = "request_method" | "method", RequestTime = "request_time",
    RequestType = "request_type", RequestUri = "request_uri", ResponseSource = "response_source", RouteId = "route_id",
    RouteName = "route_name", Scheme = "scheme", ServerAddr = "server_addr", ServerName = "server_name",
    ServerPort = "server_port", ServerProtocol = "server_protocol", ServiceId = "service_id", ServiceName = "service_name",
    Status = "status", TimeIso8601 = "time_iso8601", TimeLocal = "time_local", UpstreamAddr = "upstream_addr",
    UpstreamBytesReceived = "upstream_bytes_received", UpstreamBytesSent = "upstream_bytes_sent",
    UpstreamConnectTime = "upstream_connect_time", UpstreamHeaderTime = "upstream_header_time",
    UpstreamHost = "upstream_host", UpstreamResponseLength = "upstream_response_length",
    UpstreamResponseTime = "upstream_response_time" | "apisix_upstream_response_time", UpstreamScheme = "upstream_scheme",
    UpstreamStatus = "upstream_status", UpstreamUnresolvedHost = "upstream_unresolved_host", UpstreamUri = "upstream_uri",
    Uri = "uri" | "document_uri", Worker = "worker",
}

impl Var {
    /// Reads a name (without `$`).
    pub fn parse(name: &str) -> Self {
        let under = |name: &str| name.to_ascii_lowercase().replace('-', "_").into_boxed_str();
        if let Some(named) = Named::parse(name) {
            return Self::Named(named);
        }
        for (prefix, make) in PREFIXES {
            if let Some(rest) = name.strip_prefix(prefix) {
                return match make {
                    Prefix::Arg => Self::Arg(rest.into()),
                    Prefix::Cookie => Self::Cookie(rest.into()),
                    Prefix::Http => Self::Http(under(rest)),
                    Prefix::SentHttp => Self::SentHttp(under(rest)),
                    Prefix::UpstreamHttp => Self::UpstreamHttp(under(rest)),
                    Prefix::UriParam => Self::UriParam(rest.into()),
                };
            }
        }
        Self::Unknown(name.into())
    }
}

#[derive(Clone, Copy)]
enum Prefix {
    Arg,
    Cookie,
    Http,
    SentHttp,
    UpstreamHttp,
    UriParam,
}

const PREFIXES: &[(&str, Prefix)] = &[
    ("arg_", Prefix::Arg),
    ("cookie_", Prefix::Cookie),
    ("http_", Prefix::Http),
    ("sent_http_", Prefix::SentHttp),
    ("upstream_http_", Prefix::UpstreamHttp),
    ("uri_param_", Prefix::UriParam),
];

/// A variable's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text, not necessarily UTF-8.
    Text(Cow<'a, [u8]>),
    /// A whole number.
    Int(i64),
    /// A number; seconds are given with three decimals when written.
    Float(f64),
    /// True or false (`?flag` without `=`).
    Bool(bool),
    /// An address.
    Ip(IpAddr),
}

impl<'a> Value<'a> {
    /// Borrowed text.
    pub fn text(bytes: &'a [u8]) -> Self {
        Self::Text(Cow::Borrowed(bytes))
    }

    /// Appends the value as text.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        let _infallible = match self {
            Self::Text(text) => {
                out.extend_from_slice(text);
                Ok(())
            }
            Self::Int(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
                Ok(())
            }
            Self::Float(number) if (0.0..1e15).contains(number) => {
                let millis = (number * 1000.0).round() as u64;
                let digit = |at: u64| b'0' + (millis / at % 10) as u8;
                out.extend_from_slice(itoa::Buffer::new().format(millis / 1000).as_bytes());
                out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
                Ok(())
            }
            Self::Float(number) => write!(out, "{number:.3}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Ip(IpAddr::V4(ip)) => {
                for (at, octet) in ip.octets().into_iter().enumerate() {
                    out.extend_from_slice(if at == 0 { b"" } else { b"." });
                    out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
                Ok(())
            }
            Self::Ip(IpAddr::V6(ip)) => write!(out, "{ip}"),
        };
    }

    /// The value as text, borrowed where it is text already.
    pub fn to_text(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            other => {
                let mut out = Vec::new();
                other.write(&mut out);
                Cow::Owned(out)
            }
        }
    }
}

/// Reads the variables of one request. Missing ones are `None`, never an error.
pub trait Vars {
    /// The value of a variable as it stands now.
    fn var(&self, var: &Var) -> Option<Value<'_>>;
}
