//! Body bytes from one side's framing into the other's, in place: data stays where it was received, size lines are written
//! anew in front of it. Every octet of the old framing goes through the decoder.

use crate::base::buf::Chunk;
use crate::proto::h1::body::{BodyFault, Decoder};
use crate::proto::h1::emit::{self, put};

/// How the receiving side frames a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Bytes as they are: a length was said, or the end is the connection's.
    Plain,
    /// Chunked coding.
    Chunked,
}

/// What came of a received chunk.
#[derive(Debug)]
pub struct Reframed {
    /// What to send; may be empty.
    pub out: Chunk,
    /// Data bytes in it.
    pub data: u64,
    /// The body is whole.
    pub done: bool,
    /// Bytes behind the body.
    pub rest: Chunk,
}

/// Longest size line of a chunk: 16 hex digits and CRLF.
const LINE: usize = 18;

/// Takes a received chunk apart and puts it together in the other framing. With the body's end the last chunk is added.
///
/// # Errors
/// If the old framing is broken.
pub fn reframe(decoder: &mut Decoder, framing: Framing, mut input: Chunk) -> Result<Reframed, BodyFault> {
    let mut first = 0; // length of the data at the front of the window
    let mut written = 0; // end of what is ready, counted from the window's start
    let mut read = 0;
    let mut data = 0;
    let mut done = false;
    loop {
        let step = decoder.decode(input.filled().get(read..).unwrap_or_default())?;
        done |= step.done;
        let at = read + step.skip;
        read = at + step.data;
        data += step.data as u64;
        if step.data > 0 {
            if written == 0 {
                input.consume(at);
                (first, written, read) = (step.data, step.data, step.data);
            } else {
                written = join(&mut input, framing, written, at, step.data);
            }
        }
        if done || (step.skip == 0 && step.data == 0) {
            break;
        }
    }
    let mut rest = Chunk::empty();
    if let Some(behind) = input.filled().get(read..).filter(|behind| done && !behind.is_empty()) {
        rest = Chunk::with_capacity(behind.len());
        let _fits = rest.append(behind);
    }
    input.truncate(written);
    let input = finish(input, framing, first, done, decoder);
    Ok(Reframed { out: input, data, done, rest })
}

/// Moves the data at `at` up to what is ready, its framing in between. The new framing is never longer than the old one.
fn join(input: &mut Chunk, framing: Framing, written: usize, at: usize, len: usize) -> usize {
    let mut to = written;
    if framing == Framing::Chunked {
        let mut line = [0; LINE + 2];
        let line = between(&mut line, len);
        if let Some(place) = input.filled_mut().get_mut(to..to + line.len()) {
            place.copy_from_slice(line);
        }
        to += line.len();
    }
    input.move_within(at, to, len);
    to + len
}

/// CRLF and the size line of the next chunk.
fn between(buffer: &mut [u8; LINE + 2], len: usize) -> &[u8] {
    buffer[0] = b'\r';
    buffer[1] = b'\n';
    let line = emit::chunk_line(len);
    let line = line.as_bytes();
    let end = (2 + line.len()).min(buffer.len());
    buffer[2..end].copy_from_slice(&line[..end - 2]);
    &buffer[..end]
}

fn finish(mut input: Chunk, framing: Framing, first: usize, done: bool, decoder: &Decoder) -> Chunk {
    if framing == Framing::Plain {
        return input;
    }
    if first > 0 {
        let line = emit::chunk_line(first);
        put(&mut input, b"\r\n");
        // Lanes leave room in front of and behind what they read, but where a head came in pieces it may be used up.
        if !input.prepend(line.as_bytes()) {
            input = behind(line.as_bytes(), &input);
        }
    }
    if done {
        emit::last_chunk(&mut input, decoder.trailers());
    }
    input
}

#[cold]
fn behind(line: &[u8], data: &Chunk) -> Chunk {
    let mut out = Chunk::with_capacity(line.len() + data.len() + LINE);
    put(&mut out, line);
    put(&mut out, data.filled());
    out
}

/// Decodes `input` and appends its data to `out` in the other framing: for the bytes that came along with a head. Gives back
/// (bytes used, data bytes, whole).
///
/// # Errors
/// If the old framing is broken.
pub fn append(decoder: &mut Decoder, framing: Framing, input: &[u8], out: &mut Chunk) -> Result<(usize, u64, bool), BodyFault> {
    let (mut used, mut data) = (0, 0);
    loop {
        let step = decoder.decode(input.get(used..).unwrap_or_default())?;
        let at = used + step.skip;
        used = at + step.data;
        if step.data > 0 {
            data += step.data as u64;
            let bytes = input.get(at..used).unwrap_or_default();
            if framing == Framing::Chunked {
                put(out, emit::chunk_line(bytes.len()).as_bytes());
            }
            put(out, bytes);
            if framing == Framing::Chunked {
                put(out, b"\r\n");
            }
        }
        if step.done {
            if framing == Framing::Chunked {
                emit::last_chunk(out, decoder.trailers());
            }
            return Ok((used, data, true));
        }
        if step.skip == 0 && step.data == 0 {
            return Ok((used, data, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::BodyShape;

    #[test]
    fn data_without_room_around_it_is_framed_all_the_same() {
        let mut full = Chunk::small();
        let data = vec![b'x'; full.room()];
        assert!(full.append(&data));
        let reframed = reframe(&mut Decoder::new(BodyShape::UntilClose), Framing::Chunked, full).unwrap();
        let wanted = [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat();
        assert_eq!(reframed.out.filled(), wanted);
    }

    /// What a lane hands out: room in front and behind.
    fn received(bytes: &[u8]) -> Chunk {
        let mut chunk = Chunk::with_capacity(bytes.len() + 64);
        chunk.reserve_front(16);
        assert!(chunk.append(bytes));
        chunk
    }

    /// Reframes a body cut into pieces of `size`, and reads what came out with a decoder of its own.
    fn through(body: &[u8], shape: BodyShape, framing: Framing, size: usize) -> (Vec<u8>, bool) {
        let mut decoder = Decoder::new(shape);
        let mut out = Vec::new();
        let mut done = false;
        for piece in body.chunks(size) {
            let reframed = reframe(&mut decoder, framing, received(piece)).unwrap();
            out.extend_from_slice(reframed.out.filled());
            done |= reframed.done;
        }
        if framing == Framing::Plain {
            return (out, done);
        }
        let mut reader = Decoder::new(BodyShape::Chunked);
        let (mut data, mut at) = (Vec::new(), 0);
        loop {
            let step = reader.decode(&out[at..]).unwrap();
            data.extend_from_slice(&out[at + step.skip..at + step.skip + step.data]);
            at += step.skip + step.data;
            if step.done || step.skip + step.data == 0 {
                assert_eq!(step.done, done);
                return (data, done);
            }
        }
    }

    #[test]
    fn bodies_come_out_as_they_went_in_however_they_are_cut() {
        let mut body = Vec::new();
        let mut data = Vec::new();
        for n in [1_usize, 3, 15, 16, 17, 255, 256, 4000, 2, 70] {
            let piece: Vec<u8> = (0..n).map(|at| (at * 7 + n) as u8).collect();
            body.extend_from_slice(format!("{n:x};e=1\r\n").as_bytes());
            body.extend_from_slice(&piece);
            body.extend_from_slice(b"\r\n");
            data.extend_from_slice(&piece);
        }
        body.extend_from_slice(b"0\r\n\r\n");
        for size in (1..80).chain([100, 250, 1000, 5000, 100_000]) {
            for framing in [Framing::Chunked, Framing::Plain] {
                assert_eq!(through(&body, BodyShape::Chunked, framing, size), (data.clone(), true), "{size} {framing:?}");
            }
            assert_eq!(through(&data, BodyShape::Length(data.len() as u64), Framing::Plain, size), (data.clone(), true));
            assert_eq!(through(&data, BodyShape::UntilClose, Framing::Chunked, size), (data.clone(), false), "{size}");
        }
    }
}
