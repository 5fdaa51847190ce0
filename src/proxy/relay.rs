//! The response's body on its way to the client. One chunk is sent while the next one is received, no more: a client that
//! does not take its answer holds the upstream back.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::attempt::Deadlines;
use super::downstream::Downstream;
use super::exchange::cold;
use super::reframe::{self, Framing};
use super::upload::{Upload, upstream_fault};
use crate::base::buf::Chunk;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::Wait;
use crate::net::rt::{self, Carrier};
use crate::plugin::chain::Chain;
use crate::plugin::{BodyPlan, Ctx};
use crate::proto::h1::body::Decoder;
use crate::proto::message::BodyShape;
use crate::upstream::Connection;

/// The upstream's body: what of it came along with the head, then what is received.
pub struct Download {
    decoder: Decoder,
    shape: BodyShape,
    ahead: Option<Chunk>,
    /// All of it was received.
    pub whole: bool,
    /// Bytes came behind it: the connection can't be used again.
    pub excess: bool,
    /// Data bytes so far.
    pub data: u64,
    /// Bytes received for it.
    pub received: u64,
}

impl Download {
    /// The body of the response whose head is in `ctx`.
    ///
    /// # Errors
    /// If the framing of what came along is broken.
    pub fn begin(ctx: &Ctx<'_>, framing: Framing, first: &mut Chunk) -> Result<Self, Error> {
        let response = &*ctx.response;
        let behind_head = response.fields.received().filled().get(response.head_bytes..).unwrap_or_default();
        let mut body = Self {
            decoder: Decoder::new(response.body),
            shape: response.body,
            ahead: None,
            whole: response.body.is_empty(),
            excess: false,
            data: 0,
            received: behind_head.len() as u64,
        };
        if body.whole {
            body.excess = !behind_head.is_empty();
        } else {
            let appended = reframe::append(&mut body.decoder, framing, behind_head, first);
            let (used, data, done) = appended.map_err(|_| Error::new(Side::Upstream, Kind::Malformed))?;
            body.data = data;
            body.whole = done;
            body.excess = done && used < behind_head.len();
        }
        Ok(body)
    }

    /// The next piece in the client's framing; `None` at the end. Pending while there is none.
    fn poll_piece(&mut self, cx: &mut Context<'_>, up: &mut Connection, framing: Framing) -> Poll<Result<Option<Chunk>, Error>> {
        loop {
            if self.whole {
                return Poll::Ready(Ok(None));
            }
            let input = match self.ahead.take() {
                Some(ahead) => ahead,
                None => match up.poll_recv(cx, self.chunk_bytes()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(input)) => input,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(upstream_fault(&up.stream, &error))),
                },
            };
            up.stream.watch().touch();
            if input.is_empty() {
                return Poll::Ready(self.ended(up, framing));
            }
            self.received += input.len() as u64;
            let reframed =
                reframe::reframe(&mut self.decoder, framing, input).map_err(|_| Error::new(Side::Upstream, Kind::Malformed))?;
            self.data += reframed.data;
            self.whole = reframed.done;
            self.excess |= !reframed.rest.is_empty();
            if !reframed.out.is_empty() {
                return Poll::Ready(Ok(Some(reframed.out)));
            }
        }
    }

    /// The upstream closed: right where the body's end is the connection's, a cut answer elsewhere.
    fn ended(&mut self, up: &Connection, framing: Framing) -> Result<Option<Chunk>, Error> {
        if up.stream.watch().fired().is_some() {
            return Err(Error::new(Side::Upstream, Kind::TimedOut));
        }
        if self.decoder.finish().is_err() {
            return Err(Error::new(Side::Upstream, Kind::Closed));
        }
        self.whole = true;
        self.excess = true; // nothing can follow on this connection
        let mut last = Chunk::empty();
        if framing == Framing::Chunked {
            last = Chunk::small();
            crate::proto::h1::emit::put(&mut last, b"0\r\n\r\n");
        }
        Ok((!last.is_empty()).then_some(last))
    }

    fn chunk_bytes(&self) -> usize {
        let large = match self.shape {
            BodyShape::Length(length) => length.saturating_sub(self.data) > limits::LARGE_BODY_BYTES,
            _ => self.data > limits::LARGE_BODY_BYTES,
        };
        if large { limits::CHUNK_LARGE_BYTES } else { limits::CHUNK_SMALL_BYTES }
    }
}

/// Sends `first` (head and the body's first bytes), then the rest of the body as it comes.
///
/// # Errors
/// Whose side failed; the client has seen a cut answer then.
pub async fn stream(
    ctx: &mut Ctx<'_>,
    down: &mut Downstream,
    up: &mut Connection,
    upload: &mut Upload,
    body: &mut Download,
    framing: Framing,
    first: Chunk,
    deadlines: &Deadlines,
) -> Result<(), Error> {
    ctx.sent.bytes += first.len() as u64;
    down.stream.watch().arm(Wait::Send, deadlines.send);
    down.stream.start_send(first);
    if !body.whole {
        up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
    }
    let mut waiting: Option<Chunk> = None;
    let mut turn = 0_usize;
    loop {
        let end = poll_fn(|cx| poll(cx, ctx, down, up, upload, body, framing, &mut waiting, deadlines, &mut turn)).await;
        match end {
            Step::Done => return Ok(()),
            Step::Failed(error) => return Err(error),
            Step::Yield => {
                turn = 0;
                cold(rt::yield_now()).await;
            }
        }
    }
}

enum Step {
    Done,
    Failed(Error),
    Yield,
}

/// Bytes that one task may move on the epoll driver before others have their turn. The ring yields by itself.
const TURN_BYTES: usize = 1024 * 1024;

fn poll(
    cx: &mut Context<'_>,
    ctx: &mut Ctx<'_>,
    down: &mut Downstream,
    up: &mut Connection,
    upload: &mut Upload,
    body: &mut Download,
    framing: Framing,
    waiting: &mut Option<Chunk>,
    deadlines: &Deadlines,
    turn: &mut usize,
) -> Poll<Step> {
    if !upload.sent_whole() {
        // An early answer: the request's rest goes on as long as the upstream takes it.
        match upload.poll(cx, down, &mut up.stream, (deadlines.body, deadlines.upstream.send)) {
            Poll::Ready(Err(error)) if error.side == Side::Downstream => return Poll::Ready(Step::Failed(error)),
            _ => up.stream.watch().arm(Wait::Read, deadlines.upstream.read),
        }
        down.stream.watch().arm(Wait::Send, deadlines.send);
    }
    loop {
        let mut moved = false;
        if down.stream.sending() {
            match down.stream.poll_send(cx) {
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Step::Failed(down.fault(&error))),
                Poll::Pending => {}
            }
        }
        if waiting.is_none() && !body.whole {
            match body.poll_piece(cx, up, framing) {
                Poll::Ready(Ok(piece)) => {
                    *waiting = piece;
                    moved = true;
                }
                Poll::Ready(Err(error)) if !down.stream.sending() => return Poll::Ready(Step::Failed(error)),
                Poll::Ready(Err(error)) => {
                    // What was received before is sent first; the fault is met again on a closed connection.
                    body.ahead = Some(Chunk::empty());
                    return flush_then(cx, down, error);
                }
                Poll::Pending => {}
            }
        }
        if !down.stream.sending() {
            if let Some(chunk) = waiting.take() {
                *turn += chunk.len();
                ctx.sent.bytes += chunk.len() as u64;
                down.stream.watch().arm(Wait::Send, deadlines.send);
                down.stream.start_send(chunk);
                moved = true;
            } else if body.whole {
                down.stream.watch().disarm();
                return Poll::Ready(Step::Done);
            }
        }
        if !moved {
            return Poll::Pending;
        }
        if *turn > TURN_BYTES && rt::carrier() == Carrier::Epoll {
            return Poll::Ready(Step::Yield);
        }
    }
}

/// The upstream failed while a send is in flight: the send ends by itself or by its deadline.
fn flush_then(cx: &mut Context<'_>, down: &mut Downstream, error: Error) -> Poll<Step> {
    match down.stream.poll_send(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(_) => Poll::Ready(Step::Failed(error)),
    }
}

/// Receives the whole body up to `limit` bytes, without framing.
///
/// # Errors
/// Of the upstream's side.
pub async fn collect(up: &mut Connection, body: &mut Download, first: Chunk, limit: usize) -> Result<Vec<u8>, Error> {
    let mut all = first.filled().to_vec();
    while let Some(piece) = poll_fn(|cx| body.poll_piece(cx, up, Framing::Plain)).await? {
        let room = limit.saturating_sub(all.len());
        all.extend_from_slice(piece.filled().get(..room.min(piece.len())).unwrap_or_default());
    }
    all.truncate(limit);
    Ok(all)
}

/// Sends the body piece by piece through the `body_filter` phase, chunked or until close.
///
/// # Errors
/// Whose side failed.
pub async fn filtered(
    ctx: &mut Ctx<'_>,
    chains: &[&Chain],
    down: &mut Downstream,
    up: &mut Connection,
    body: &mut Download,
    framing: Framing,
    first: Chunk,
    deadlines: &Deadlines,
) -> Result<(), Error> {
    let mut piece = first.filled().to_vec();
    loop {
        let last = body.whole;
        for chain in chains {
            chain.run_body_filter(ctx, &mut piece, last);
        }
        ctx.sent.body_bytes += piece.len() as u64;
        send_framed(ctx, down, &piece, framing, last, deadlines).await?;
        if last {
            return Ok(());
        }
        up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
        let next = poll_fn(|cx| body.poll_piece(cx, up, Framing::Plain)).await?;
        piece.clear();
        piece.extend_from_slice(next.as_ref().map(Chunk::filled).unwrap_or_default());
    }
}

async fn send_framed(
    ctx: &mut Ctx<'_>,
    down: &mut Downstream,
    piece: &[u8],
    framing: Framing,
    last: bool,
    deadlines: &Deadlines,
) -> Result<(), Error> {
    let mut out = Chunk::with_capacity(piece.len() + 64);
    if framing == Framing::Chunked && !piece.is_empty() {
        crate::proto::h1::emit::put(&mut out, crate::proto::h1::emit::chunk_line(piece.len()).as_bytes());
    }
    crate::proto::h1::emit::put(&mut out, piece);
    if framing == Framing::Chunked && !piece.is_empty() {
        crate::proto::h1::emit::put(&mut out, b"\r\n");
    }
    if framing == Framing::Chunked && last {
        crate::proto::h1::emit::put(&mut out, b"0\r\n\r\n");
    }
    if !out.is_empty() {
        ctx.sent.bytes += down.send(out, deadlines.send).await?;
    }
    Ok(())
}

/// True if nothing of the body's plan keeps it from streaming straight through.
pub fn streams(ctx: &Ctx<'_>, has_body_filters: bool) -> bool {
    matches!(ctx.body_plan, BodyPlan::Stream) && !has_body_filters
}
