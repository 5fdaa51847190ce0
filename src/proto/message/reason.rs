//! How an exchange ended: exactly one reason out of a closed list, set where the fault is seen.

macro_rules! reasons {
    ($($(#[$mark:meta])* $variant:ident = $name:literal: $what:literal,)*) => {
        /// Why an exchange ended as it did: who failed, doing what.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $what] $(#[$mark])* $variant,)*
        }

        impl Reason {
            /// All reasons, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Self::$variant,)*];

            /// Its name in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, for `ringway explain --reason NAME`.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

reasons! {
    Done = "done": "The upstream's answer was sent to the client whole.",
    Answered = "answered": "Ringway answered by itself: a plugin ended the request, or a redirect.",
    NoRoute = "no_route": "No route matched; 404.",
    RouteBroken = "route_broken": "The route names a service, plugin config, consumer group or upstream that does not exist; 404, 502 or 503 as APISIX.",
    RequestMalformed = "request_malformed": "The client's head broke a rule of RFC 9110 or 9112; 400 and the connection closed.",
    RequestUnsupported = "request_unsupported": "The client asked for a method, version or transfer coding that is not served; 405, 501 or 505.",
    RequestTooLarge = "request_too_large": "The client's head, target or body passed a limit; 431, 414 or 413.",
    RequestBodyMalformed = "request_body_malformed": "The client's chunked body broke its framing; 400 if no answer had begun.",
    ClientHeaderTimeout = "client_header_timeout": "The client did not finish its head in timeouts.header; 408 if it had sent a byte of it.",
    ClientBodyTimeout = "client_body_timeout": "The client's body did not advance within timeouts.body; 408 if no answer had begun.",
    ClientSendTimeout = "client_send_timeout": "The client did not take the answer: no byte within timeouts.send.",
    ClientClosed = "client_closed": "The client closed or reset its connection before the exchange was over; 499 in the log.",
    NoUpstream = "no_upstream": "The route has no upstream, or its upstream no usable node; 502 or 503.",
    UpstreamRefused = "upstream_refused": "The upstream node refused the connection or could not be reached; 502.",
    UpstreamConnectTimeout = "upstream_connect_timeout": "The upstream node did not accept the connection within timeout.connect; 504.",
    UpstreamTls = "upstream_tls": "The TLS handshake with the upstream node failed, or its certificate was not accepted; 502. The error log has the cause.",
    UpstreamSendTimeout = "upstream_send_timeout": "The upstream node did not take the request: no byte within timeout.send; 504.",
    UpstreamReadTimeout = "upstream_read_timeout": "The upstream node was silent for timeout.read; 504, or a cut answer once the head was sent.",
    UpstreamClosed = "upstream_closed": "The upstream node closed or reset the connection before its head was whole; 502.",
    UpstreamMalformed = "upstream_malformed": "The upstream node's answer broke a rule of RFC 9110 or 9112; 502, or a cut answer.",
    UpstreamTooLarge = "upstream_too_large": "The upstream node's head passed its limit; 502.",
    UpstreamCut = "upstream_cut": "The upstream node broke off inside its body; the client sees a cut answer.",
    Upgraded = "upgraded": "A WebSocket tunnel was opened and has ended.",
    UpgradeIdle = "upgrade_idle": "A WebSocket tunnel was silent for its timeout and was closed.",
    Overloaded = "overloaded": "A limit of connections or memory was reached; 503.",
    Draining = "draining": "The worker stopped and its drain deadline passed.",
    #[default]
    Internal = "internal": "A fault of Ringway itself; 500. The error log has its place.",
}
