//! The request's body on its way to the upstream.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::core::Kept;
use super::downstream::Downstream;
use super::reframe::{self, Framing};
use crate::base::buf::Chunk;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::{Stream, Wait};
use crate::proto::h1::body::Decoder;
use crate::proto::h1::emit;
use crate::proto::message::{BodyShape, Method, RequestHead};

/// One request body.
pub struct Upload {
    shape: BodyShape,
    decoder: Decoder,
    framing: Framing,
    read_whole: bool,
    sent_whole: bool,
    given_away: bool,
    gathered: Option<Box<Gathered>>,
    /// Bytes of the body that came along with the head and belong to it.
    pub with_head: usize,
    /// Data bytes taken so far.
    pub taken: u64,
    /// Bytes received for it, framing included, those with the head left out.
    pub received: u64,
    limit: u64,
}

impl Upload {
    /// A body of this shape; `limit` bytes at most (0: no limit).
    pub fn new(shape: BodyShape, limit: u64) -> Self {
        let framing = if shape == BodyShape::Chunked { Framing::Chunked } else { Framing::Plain };
        let empty = shape.is_empty();
        Self {
            shape,
            decoder: Decoder::new(shape),
            framing,
            read_whole: empty,
            sent_whole: empty,
            given_away: false,
            gathered: None,
            with_head: 0,
            taken: 0,
            received: 0,
            limit,
        }
    }

    /// Another limit than the gateway's; 0 is none.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Its length, which the head says, is above the limit: it is not to be waited for.
    pub fn says_too_much(&self) -> bool {
        matches!(self.shape, BodyShape::Length(length) if self.limit > 0 && length > self.limit)
    }

    /// All of it was read from the client.
    pub fn read_whole(&self) -> bool {
        self.read_whole
    }

    /// All of it was handed to the upstream.
    pub fn sent_whole(&self) -> bool {
        self.sent_whole
    }

    /// A second try can send it again: what was read of it lies behind the head still.
    pub fn replayable(&self) -> bool {
        !self.given_away
    }

    /// Begins (again): appends what came along with the head, `behind_head`, to the request that goes out.
    ///
    /// # Errors
    /// If its framing is broken or it is longer than its limit; the client's fault.
    pub fn begin(&mut self, behind_head: &[u8], out: &mut Chunk) -> Result<(), Error> {
        if let Some(gathered) = &self.gathered {
            put_framed(out, &gathered.data, self.framing);
            if self.read_whole && self.framing == Framing::Chunked {
                emit::last_chunk(out, self.decoder.trailers());
            }
            self.sent_whole = false;
            return Ok(());
        }
        debug_assert!(self.replayable(), "there would be a hole in it");
        self.taken = 0;
        if self.start_is_empty() {
            return Ok(());
        }
        self.decoder = Decoder::new(self.shape);
        let (used, data, done) = reframe::append(&mut self.decoder, self.framing, behind_head, out)
            .map_err(|_| Error::new(Side::Downstream, Kind::Malformed))?;
        self.with_head = used;
        self.read_whole = done;
        self.sent_whole = false;
        self.count(data)
    }

    /// True where much of the body came along with the head, nothing came behind it, and it need not be kept for a second try.
    pub fn may_begin_in_place(&self, behind_head: usize, method: Method) -> bool {
        let BodyShape::Length(length) = self.shape else { return false };
        let much = behind_head > limits::COPIED_BYTES && behind_head as u64 <= length;
        much && self.gathered.is_none() && !method.is_idempotent()
    }

    /// Begins with what came along with the head where it lies: the head that goes out (`out`) is put in front of it.
    ///
    /// # Errors
    /// If it is longer than its limit; the client's fault.
    pub fn begin_in_place(&mut self, head: &mut RequestHead, out: &mut Chunk) -> Result<(), Error> {
        let input = head.fields.take_behind(head.head_bytes);
        self.given_away = true;
        self.sent_whole = false;
        self.with_head = input.len();
        let reframed = reframe::reframe(&mut self.decoder, self.framing, input)
            .map_err(|_| Error::new(Side::Downstream, Kind::Malformed))?;
        self.read_whole = reframed.done;
        emit::put_chunk(out, reframed.out);
        self.count(reframed.data)
    }

    /// Reads on, before anything goes out, until the body is whole or `most` bytes of it are there. `keep` says whether the
    /// worker has room for so many more bytes.
    ///
    /// # Errors
    /// Of the client's side.
    pub async fn gather(
        &mut self,
        behind_head: &[u8],
        down: &mut Downstream,
        timeout: Duration,
        most: usize,
        mut keep: impl FnMut(usize) -> Option<Kept>,
    ) -> Result<(), Error> {
        if self.read_whole || self.gathered.is_some() {
            return Ok(());
        }
        let mut first = Chunk::small();
        self.decoder = Decoder::new(self.shape);
        let appended = reframe::append(&mut self.decoder, Framing::Plain, behind_head, &mut first);
        let (used, data, done) = appended.map_err(|_| Error::new(Side::Downstream, Kind::Malformed))?;
        (self.with_head, self.read_whole, self.sent_whole) = (used, done, false);
        self.count(data)?;
        let mut gathered = Gathered { data: first.filled().to_vec(), kept: Vec::new() };
        while !self.read_whole && gathered.data.len() < most {
            down.await_body(timeout);
            let input = poll_fn(|cx| down.poll_bytes(cx, false, self.chunk_bytes())).await.map_err(|error| down.fault(&error))?;
            down.stream.watch().disarm();
            if input.is_empty() {
                return Err(ended(down));
            }
            let piece = self.decode(Framing::Plain, input, down)?;
            let Some(room) = keep(piece.len()) else {
                gathered.data.extend_from_slice(piece.filled());
                break;
            };
            gathered.kept.push(room);
            gathered.data.extend_from_slice(piece.filled());
        }
        self.gathered = Some(Box::new(gathered));
        Ok(())
    }

    /// The body, where all of it was gathered.
    pub fn gathered(&self) -> Option<&[u8]> {
        self.gathered.as_ref().filter(|_| self.read_whole).map(|gathered| gathered.data.as_slice())
    }

    /// A gathered body goes out with its length, unless it has trailers; gives the length.
    pub fn say_length(&mut self) -> Option<u64> {
        let length = self.gathered()?.len() as u64;
        if self.framing == Framing::Plain || !self.decoder.trailers().is_empty() {
            return None;
        }
        self.framing = Framing::Plain;
        Some(length)
    }

    fn start_is_empty(&self) -> bool {
        self.read_whole && self.sent_whole && self.with_head == 0
    }

    fn count(&mut self, data: u64) -> Result<(), Error> {
        self.taken += data;
        if self.limit > 0 && self.taken > self.limit {
            return Err(Error::new(Side::Downstream, Kind::TooLarge));
        }
        Ok(())
    }

    /// Goes on until all is handed to the upstream. The first send (head and what lay behind it) is in flight already.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Downstream,
        up: &mut Stream,
        waits: (Duration, Duration),
    ) -> Poll<Result<(), Error>> {
        let (body_timeout, send_timeout) = waits;
        loop {
            if up.sending() {
                match ready!(up.poll_send(cx)) {
                    Ok(_) => up.watch().disarm(),
                    Err(error) => return Poll::Ready(Err(upstream_fault(up, &error))),
                }
            }
            if self.read_whole {
                self.sent_whole = true;
                return Poll::Ready(Ok(()));
            }
            down.await_body(body_timeout);
            let input = match ready!(down.poll_bytes(cx, false, self.chunk_bytes())) {
                Ok(input) => input,
                Err(error) => return Poll::Ready(Err(down.fault(&error))),
            };
            down.stream.watch().disarm();
            if input.is_empty() {
                return Poll::Ready(Err(ended(down)));
            }
            self.given_away = true;
            let out = self.decode(self.framing, input, down)?;
            if !out.is_empty() {
                up.watch().arm(Wait::Send, send_timeout);
                up.start_send(out);
            }
        }
    }

    fn decode(&mut self, framing: Framing, input: Chunk, down: &mut Downstream) -> Result<Chunk, Error> {
        self.received += input.len() as u64;
        let reframed =
            reframe::reframe(&mut self.decoder, framing, input).map_err(|_| Error::new(Side::Downstream, Kind::Malformed))?;
        self.received -= reframed.rest.len() as u64;
        self.read_whole = reframed.done;
        down.put_back(reframed.rest);
        self.count(reframed.data)?;
        Ok(reframed.out)
    }

    /// Large bodies get large chunks.
    fn chunk_bytes(&self) -> usize {
        if self.taken > limits::LARGE_BODY_BYTES { limits::CHUNK_LARGE_BYTES } else { limits::CHUNK_SMALL_BYTES }
    }
}

/// A body's bytes that are kept in memory.
struct Gathered {
    data: Vec<u8>,
    kept: Vec<Kept>,
}

fn put_framed(out: &mut Chunk, data: &[u8], framing: Framing) {
    let chunked = framing == Framing::Chunked && !data.is_empty();
    out.make_room(data.len() + limits::OWN_FIELDS_BYTES);
    if chunked {
        emit::put(out, emit::chunk_line(data.len()).as_bytes());
    }
    emit::put(out, data);
    if chunked {
        emit::put(out, b"\r\n");
    }
}

/// The client closed inside its body, or its deadline passed.
fn ended(down: &Downstream) -> Error {
    let kind = if down.stream.watch().fired() == Some(Wait::Body) { Kind::TimedOut } else { Kind::Closed };
    Error::new(Side::Downstream, kind)
}

/// Reads an I/O error of the upstream's side, a fired deadline told apart.
pub fn upstream_fault(up: &Stream, error: &std::io::Error) -> Error {
    match up.watch().fired() {
        Some(_) => Error::new(Side::Upstream, Kind::TimedOut),
        None => Error::from_io(Side::Upstream, error),
    }
}
