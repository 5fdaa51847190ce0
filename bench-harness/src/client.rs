//! Reading answers, sans-io: where one ends and how long its body was.

/// The largest head taken from a peer.
pub const HEAD_BYTES: usize = 64 * 1024;

/// An answer that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Octets of the body, framing not counted.
    pub body_bytes: u64,
    /// The peer will close the connection.
    pub close: bool,
}

/// Reads answers off one connection, in whatever pieces they come.
#[derive(Default)]
pub struct Reader {
    state: State,
    head: Vec<u8>,
    answer: Option<Answer>,
    /// The request was HEAD: no answer has a body.
    pub head_only: bool,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize(u64),
    ChunkSizeTail(u64),
    ChunkData(u64),
    ChunkEnd,
    Trailer {
        empty: bool,
    },
    UntilClose,
}

impl Reader {
    /// Takes octets; gives how many belong to the current answer, and the answer once it is whole. Octets left over begin the
    /// next one.
    ///
    /// # Errors
    /// Where the octets are no HTTP/1 answer.
    pub fn feed(&mut self, data: &[u8]) -> Result<(usize, Option<Answer>), &'static str> {
        let mut at = 0;
        while at < data.len() {
            let rest = &data[at..];
            match self.state {
                State::Head => at += self.feed_head(rest)?,
                State::Length(left) => {
                    let took = left.min(rest.len() as u64);
                    at += took as usize;
                    self.took(took);
                    self.state = State::Length(left - took);
                }
                State::UntilClose => {
                    self.took(rest.len() as u64);
                    at = data.len();
                }
                _ => at += self.feed_chunked(rest)?,
            }
            if let State::Length(0) = self.state {
                self.state = State::Head;
                return Ok((at, self.answer.take()));
            }
        }
        Ok((at, None))
    }

    /// The peer closed: an answer framed by that is whole now.
    ///
    /// # Errors
    /// Where the answer was cut off.
    pub fn closed(&mut self) -> Result<Option<Answer>, &'static str> {
        match self.state {
            State::UntilClose => {
                self.state = State::Head;
                Ok(self.answer.take())
            }
            State::Head if self.head.is_empty() => Ok(None),
            _ => Err("closed inside an answer"),
        }
    }

    fn took(&mut self, octets: u64) {
        if let Some(answer) = &mut self.answer {
            answer.body_bytes += octets;
        }
    }

    fn feed_head(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        if self.head.is_empty()
            && let Some(end) = head_end(rest, 0)
        {
            self.begin(&rest[..end])?;
            return Ok(end);
        }
        let before = self.head.len();
        self.head.extend_from_slice(rest);
        match head_end(&self.head, before.saturating_sub(3)) {
            Some(end) => {
                let head = std::mem::take(&mut self.head);
                self.begin(&head[..end])?;
                Ok(end - before)
            }
            None if self.head.len() > HEAD_BYTES => Err("head too large"),
            None => Ok(rest.len()),
        }
    }

    fn begin(&mut self, head: &[u8]) -> Result<(), &'static str> {
        let status = head.get(9..12).filter(|_| head.starts_with(b"HTTP/1.")).and_then(decimal).ok_or("no status line")?;
        let (mut length, mut chunked, mut close) = (None, false, head.starts_with(b"HTTP/1.0"));
        for line in head.split(|b| *b == b'\n').skip(1) {
            let Some((name, value)) = field(line) else { continue };
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => length = Some(decimal(value).ok_or("bad content-length")?),
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => chunked = value.eq_ignore_ascii_case(b"chunked"),
                10 if name.eq_ignore_ascii_case(b"connection") => close = value.eq_ignore_ascii_case(b"close"),
                _ => {}
            }
        }
        if (100..200).contains(&status) && status != 101 {
            return Ok(()); // an interim answer: the next head follows
        }
        let bodiless = self.head_only || status == 204 || status == 304 || status == 101;
        self.state = match length {
            _ if bodiless => State::Length(0),
            _ if chunked => State::ChunkSize(0),
            Some(length) => State::Length(length),
            None => State::UntilClose,
        };
        self.answer =
            Some(Answer { status: status as u16, body_bytes: 0, close: close || matches!(self.state, State::UntilClose) });
        Ok(())
    }

    fn feed_chunked(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let byte = rest[0];
        self.state = match self.state {
            State::ChunkSize(size) => match (byte as char).to_digit(16) {
                Some(digit) if size < 1 << 56 => State::ChunkSize(size * 16 + u64::from(digit)),
                None if byte == b'\n' => after_size(size),
                None if matches!(byte, b'\r' | b';' | b' ') => State::ChunkSizeTail(size),
                _ => return Err("bad chunk size"),
            },
            State::ChunkSizeTail(size) if byte == b'\n' => after_size(size),
            State::ChunkData(left) => {
                let took = left.min(rest.len() as u64);
                self.took(took);
                self.state = if took == left { State::ChunkEnd } else { State::ChunkData(left - took) };
                return Ok(took as usize);
            }
            State::ChunkEnd if byte == b'\n' => State::ChunkSize(0),
            State::Trailer { empty: true } if byte == b'\n' => State::Length(0),
            State::Trailer { empty } => State::Trailer { empty: byte == b'\n' || (empty && byte == b'\r') },
            same => same,
        };
        Ok(1)
    }
}

fn after_size(size: u64) -> State {
    if size == 0 { State::Trailer { empty: true } } else { State::ChunkData(size) }
}

/// Where the head ends (behind its empty line), looking from `from` on.
pub fn head_end(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(step) = data.get(at..)?.iter().position(|b| *b == b'\r') {
        at += step;
        if data[at..].starts_with(b"\r\n\r\n") {
            return Some(at + 4);
        }
        at += 1;
    }
    None
}

/// A field line's name and its value without white space around it.
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// A decimal number of up to 18 digits.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &[u8], piece: usize) -> Vec<Answer> {
        let (mut reader, mut answers) = (Reader::default(), Vec::new());
        for part in text.chunks(piece) {
            let mut part = part;
            while !part.is_empty() {
                let (took, answer) = reader.feed(part).unwrap();
                answers.extend(answer);
                part = &part[took..];
            }
        }
        answers.extend(reader.closed().unwrap());
        answers
    }

    #[test]
    fn answers_are_told_apart_at_any_split() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\
            Transfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: 1\r\n\r\nHTTP/1.1 204 \
            No\r\nConnection: close\r\n\r\n";
        let expected = [
            Answer { status: 200, body_bytes: 5, close: false },
            Answer { status: 200, body_bytes: 19, close: false },
            Answer { status: 204, body_bytes: 0, close: true },
        ];
        for piece in 1..=text.len() {
            assert_eq!(whole(text, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\n\r\nabc", 4), [Answer { status: 200, body_bytes: 3, close: true }]);
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let mut reader = Reader::default();
        reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").unwrap();
        assert!(reader.closed().is_err());
        assert!(Reader::default().feed(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
