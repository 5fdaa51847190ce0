//! Just enough of RFC 6455 to open a tunnel, send short text frames and check their echo.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::http::Connection;

/// The key of RFC 6455 §1.3's example, so that nobody here needs SHA-1.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Its answer.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The longest payload with a length of one octet.
const PAYLOAD_BYTES: usize = 125;

/// An open tunnel, on the client's side.
pub struct Tunnel(Connection);

impl Tunnel {
    /// Opens a tunnel at `path`.
    ///
    /// # Errors
    /// Where the answer is not the right 101.
    pub fn open(address: SocketAddr, path: &str) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        connection.send(
            format!(
                "GET {path} HTTP/1.1\r\nHost: load.local\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            .as_bytes(),
        )?;
        let (status, head) = connection.head()?;
        if status != 101 || !head.windows(ACCEPT.len()).any(|w| w == ACCEPT.as_bytes()) {
            return Err(io::Error::other(format!("no tunnel: status {status}")));
        }
        Ok(Self(connection))
    }

    /// Sends a text and reads its echo; false if what came is another.
    ///
    /// # Errors
    /// Where the tunnel breaks.
    pub fn echo(&mut self, text: &str) -> io::Result<bool> {
        self.0.send(&masked(TEXT, text.as_bytes()))?;
        let head = self.0.exactly(2)?;
        if head[0] != TEXT || usize::from(head[1]) > PAYLOAD_BYTES {
            return Ok(false);
        }
        Ok(self.0.exactly(usize::from(head[1]))? == text.as_bytes())
    }

    /// Says goodbye and reads the answer.
    ///
    /// # Errors
    /// Where the tunnel broke before.
    pub fn close(mut self) -> io::Result<()> {
        self.0.send(&masked(CLOSE, &[3, 232]))?;
        self.0.exactly(2).map(drop)
    }
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(PAYLOAD_BYTES)];
    let mut frame = vec![opcode, 0x80 | payload.len() as u8];
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

/// The server's side: echoes short frames until the client closes.
///
/// # Errors
/// Where the tunnel breaks or a frame is none of a client's short ones.
pub fn serve(stream: &mut TcpStream, early: &[u8]) -> io::Result<()> {
    let (mut octets, mut buffer) = (early.to_vec(), [0; 4096]);
    loop {
        while octets.len() >= 6 {
            let (length, is_masked) = (usize::from(octets[1] & 0x7f), octets[1] & 0x80 != 0);
            if length > PAYLOAD_BYTES || !is_masked {
                return Err(ErrorKind::InvalidData.into());
            }
            if octets.len() < 6 + length {
                break;
            }
            let frame: Vec<u8> = octets.drain(..6 + length).collect();
            let mask = &frame[2..6];
            let mut answer = vec![frame[0], length as u8];
            answer.extend(frame[6..].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
            stream.write_all(&answer)?;
            if frame[0] == CLOSE {
                return Ok(());
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => octets.extend_from_slice(&buffer[..n]),
        }
    }
}
