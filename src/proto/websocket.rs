//! WebSocket handshake checks (RFC 6455 §4).
