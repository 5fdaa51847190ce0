//! HTTP/1.1 without I/O: heads, framing, emission. RFC 9110, RFC 9112.
