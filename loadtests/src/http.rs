//! A blocking HTTP/1.1 client connection that keeps what it got, so that every byte can be checked.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bench_harness::client::{decimal, field, head_end};

/// No answer takes longer; a stall becomes a failure, not a hang.
pub const PATIENCE: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 64 * 1024;
const BODY_BYTES: u64 = 64 << 20;

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The peer closes the connection after it.
    pub close: bool,
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects, with deadlines on everything.
    ///
    /// # Errors
    /// What connect gives.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// GETs `path`.
    ///
    /// # Errors
    /// Where the connection breaks or the answer is no HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Reply> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: load.local\r\n\r\n").as_bytes())?;
        self.reply()
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    /// What the socket gives.
    pub fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets)
    }

    /// True if the peer closed, or sent what nobody asked for, while the connection was idle.
    pub fn stale(&self) -> bool {
        let mut octet = [0];
        let _ = self.stream.set_nonblocking(true);
        let seen = self.stream.peek(&mut octet);
        let _ = self.stream.set_nonblocking(false);
        !matches!(seen, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// The peer closed, or answered, on a connection that does not block.
    pub fn ended(&self) -> bool {
        let mut octets = [0; 64];
        !matches!((&self.stream).read(&mut octets), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Reads a head up to its empty line and gives it with its status.
    ///
    /// # Errors
    /// Where the connection breaks or the head is no answer's.
    pub fn head(&mut self) -> io::Result<(u16, Vec<u8>)> {
        loop {
            if let Some(end) = head_end(&self.unread, 0) {
                let head: Vec<u8> = self.unread.drain(..end).collect();
                let status = head.get(9..12).and_then(decimal).ok_or(ErrorKind::InvalidData)? as u16;
                if status != 101 && status < 200 {
                    continue;
                }
                return Ok((status, head));
            }
            if self.unread.len() > HEAD_BYTES {
                return Err(ErrorKind::InvalidData.into());
            }
            self.more()?;
        }
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// Where the connection breaks or the answer is no HTTP.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let (status, head) = self.head()?;
        let (mut length, mut chunked, mut close) = (None, false, false);
        for line in head.split(|b| *b == b'\n').skip(1) {
            let Some((name, value)) = field(line) else { continue };
            if name.eq_ignore_ascii_case(b"content-length") {
                length = decimal(value);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"connection") {
                close = value.eq_ignore_ascii_case(b"close");
            }
        }
        let body = match length {
            _ if chunked => self.chunks()?,
            _ if status == 204 || status == 304 => Vec::new(),
            Some(length) if length <= BODY_BYTES => self.exactly(length as usize)?,
            Some(_) => return Err(ErrorKind::InvalidData.into()),
            None => {
                close = true;
                self.rest()?
            }
        };
        Ok(Reply { status, body, close })
    }

    /// Reads exactly so many octets.
    ///
    /// # Errors
    /// Where the connection ends before.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.more()?;
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            let size = std::str::from_utf8(size).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
            match size.ok_or(ErrorKind::InvalidData)? {
                0 => break,
                size if body.len() + size > BODY_BYTES as usize => return Err(ErrorKind::InvalidData.into()),
                size => body.extend(self.exactly(size)?),
            }
            self.line()?;
        }
        while !self.line()?.trim_ascii().is_empty() {}
        Ok(body)
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                return self.exactly(end + 1);
            }
            if self.unread.len() > HEAD_BYTES {
                return Err(ErrorKind::InvalidData.into());
            }
            self.more()?;
        }
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(()) if self.unread.len() as u64 > BODY_BYTES => return Err(ErrorKind::InvalidData.into()),
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(std::mem::take(&mut self.unread)),
                Err(e) => return Err(e),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }
}
