//! HTTP/1.1 without I/O: heads, framing, emission. RFC 9110, RFC 9112. Stricter than asked for wherever two readers could
//! disagree: such a message is refused, never guessed at.

pub mod body;
pub mod emit;
mod head;
pub mod hop;
pub mod request;
pub mod response;

pub use head::{HeadFault, HeadLimits, Progress};

/// Elements of a comma-separated field value, trimmed, empty ones left out. RFC 9110 §5.6.1.
pub fn tokens_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    head::tokens(value)
}
