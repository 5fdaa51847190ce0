//! Body framing: every octet of it is validated. RFC 9112 §6 and §7.1.

use crate::base::limits;
use crate::proto::message::BodyShape;

use super::request::is_token;

/// Takes a body apart: call [`Decoder::decode`] with what is there until it is done or wants more.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    trailers: Vec<u8>,
    line: usize, // bytes of the size line or trailer section so far
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Size { digits: u8, size: u64 },
    Extension { size: u64, quoted: bool, escaped: bool },
    SizeLf { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// This many bytes are framing, to be dropped.
    pub skip: usize,
    /// Behind them, this many bytes are data.
    pub data: usize,
    /// The body is whole behind them.
    pub done: bool,
}

/// A broken framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyFault(pub &'static str);

impl Decoder {
    /// A decoder for a body of this shape.
    pub fn new(shape: BodyShape) -> Self {
        let state = match shape {
            BodyShape::None | BodyShape::Length(0) => State::Done,
            BodyShape::Length(length) => State::Length(length),
            BodyShape::Chunked => State::Size { digits: 0, size: 0 },
            BodyShape::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Vec::new(), line: 0 }
    }

    /// Looks at the next bytes. Call again with what lies behind `skip + data` until both are 0 or the body is done.
    ///
    /// # Errors
    /// If the framing is broken; the decoder must not be used again.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, BodyFault> {
        let mut skip = 0;
        loop {
            let rest = input.get(skip..).unwrap_or_default();
            match self.state {
                State::Done => return Ok(Step { skip, data: 0, done: true }),
                State::UntilClose => return Ok(Step { skip, data: rest.len(), done: false }),
                State::Length(left) => {
                    let data = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - data as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Step { skip, data, done: left == 0 });
                }
                State::Data(left) if !rest.is_empty() => {
                    let data = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - data as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    return Ok(Step { skip, data, done: false });
                }
                _ => {}
            }
            let Some(&byte) = rest.first() else { return Ok(Step { skip, data: 0, done: false }) };
            skip += 1;
            self.state = self.framing_byte(byte)?;
        }
    }

    /// One octet of chunked framing.
    fn framing_byte(&mut self, byte: u8) -> Result<State, BodyFault> {
        self.line += 1;
        Ok(match (self.state, byte) {
            (State::Size { digits, size }, byte) => self.size_byte(digits, size, byte)?,
            (State::Extension { size, .. }, b'\r') => State::SizeLf { size },
            (State::Extension { size, quoted, escaped }, byte) => self.extension_byte(size, quoted, escaped, byte)?,
            (State::SizeLf { size }, b'\n') => {
                self.line = 0;
                if size == 0 { State::TrailerStart } else { State::Data(size) }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line = 0;
                State::Size { digits: 0, size: 0 }
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, byte) => self.trailer_byte(byte)?,
            (State::TrailerLf, b'\n') => {
                self.end_trailer()?;
                State::TrailerStart
            }
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(BodyFault("chunked framing is broken")),
        })
    }

    fn size_byte(&self, digits: u8, size: u64, byte: u8) -> Result<State, BodyFault> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(State::SizeLf { size }),
            b';' if digits > 0 => return Ok(State::Extension { size, quoted: false, escaped: false }),
            _ => return Err(BodyFault("a chunk size is malformed")),
        };
        if digits >= 16 || size > u64::MAX >> 8 {
            return Err(BodyFault("a chunk size is too large"));
        }
        Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
    }

    /// Extensions are dropped, but what they may be made of is checked: no bare LF, no control byte, a bounded line.
    fn extension_byte(&self, size: u64, quoted: bool, escaped: bool, byte: u8) -> Result<State, BodyFault> {
        if self.line > limits::CHUNK_LINE_BYTES {
            return Err(BodyFault("a chunk extension is too long"));
        }
        let plain = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
        if !plain {
            return Err(BodyFault("a control byte in a chunk extension"));
        }
        let quoted_now = if byte == b'"' && !escaped { !quoted } else { quoted };
        Ok(State::Extension { size, quoted: quoted_now, escaped: quoted && byte == b'\\' && !escaped })
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BodyFault> {
        if self.trailers.len() >= limits::TRAILER_BYTES {
            return Err(BodyFault("the trailers are too long"));
        }
        match byte {
            b'\r' => Ok(State::TrailerLf),
            b'\t' | 0x20..=0x7e | 0x80..=0xff => {
                self.trailers.push(byte);
                Ok(State::Trailer)
            }
            _ => Err(BodyFault("a control byte in a trailer")),
        }
    }

    /// A trailer line is whole: `name: value` with a token for a name, no folding.
    fn end_trailer(&mut self) -> Result<(), BodyFault> {
        let start = self.trailers.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line = self.trailers.get(start..).unwrap_or_default();
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if name.is_empty() || name.len() == line.len() || !name.iter().all(|&byte| is_token(byte)) {
            return Err(BodyFault("a trailer is malformed"));
        }
        if forbidden_trailer(name) {
            self.trailers.truncate(start);
        } else {
            self.trailers.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// Trailer lines that may be passed on, each with its CRLF.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// The connection ended: says whether the body is whole.
    ///
    /// # Errors
    /// If it is not.
    pub fn finish(&mut self) -> Result<(), BodyFault> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyFault("the body was cut")),
        }
    }
}

/// RFC 9110 §6.5.1: framing, routing, authentication and everything a head alone may say is dropped.
fn forbidden_trailer(name: &[u8]) -> bool {
    use crate::proto::message::Known;
    if matches!(Known::of(name), Known::Other | Known::Etag | Known::Date | Known::Vary | Known::Via | Known::LastModified) {
        return [&b"set-cookie"[..], b"www-authenticate", b"cache-control", b"content-range", b"age", b"expires"]
            .iter()
            .any(|forbidden| name.eq_ignore_ascii_case(forbidden));
    }
    true
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
