//! Floor 1: protocols without I/O. State machines over bytes; time is an argument.

pub mod fuzzing;
pub mod h1;
pub mod message;
pub mod proxy_protocol;
pub mod scan;
pub mod uri;
pub mod vars;
pub mod websocket;

/// A table of octets: ASCII letters, digits and `others`.
const fn octets(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}
