//! A client just large enough for the control address: one GET, one answer that ends with the connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer taken.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Status and body of a GET.
///
/// # Errors
/// If nothing listens, nothing answers in time, or what answers does not speak HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.get(..3)?.parse().ok()?;
    Some((status, body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_taken_apart() {
        assert_eq!(parse("HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\n{}\n"), Some((503, "{}\n".into())));
        assert_eq!(parse("SSH-2.0-OpenSSH"), None);
    }
}
