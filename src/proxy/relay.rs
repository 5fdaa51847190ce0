//! The response's body on its way to the client. One chunk is sent while the next one is received, no more: a client that
//! does not take its answer holds the upstream back.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::task::{Context, Poll, ready};

use super::attempt::Deadlines;
use super::core::Kept;
use super::downstream::Downstream;
use super::exchange::cold;
use super::reframe::{self, Framing};
use super::upload::{Upload, upstream_fault};
use crate::base::buf::Chunk;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::Wait;
use crate::net::rt::{self, Carrier};
use crate::plugin::Ctx;
use crate::plugin::chain::Chain;
use crate::proto::h1::body::Decoder;
use crate::proto::h1::emit;
use crate::proto::message::BodyShape;
use crate::upstream::Connection;

/// The upstream's body: what of it came along with the head, then what is received.
pub struct Download {
    decoder: Decoder,
    shape: BodyShape,
    /// The upstream failed: what was received before is sent first.
    failed: Option<Error>,
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
        let mut body = Self::new(response.body, behind_head.len());
        if !body.whole {
            let appended = reframe::append(&mut body.decoder, framing, behind_head, first);
            let (used, data, done) = appended.map_err(|_| Error::new(Side::Upstream, Kind::Malformed))?;
            body.data = data;
            body.whole = done;
            body.excess = done && used < behind_head.len();
        }
        Ok(body)
    }

    /// The same where much of the body came along with the head: it stays where it was received, and the head that goes out
    /// (`out`) is put in front of it. What the fields of the received head lie in is copied instead.
    ///
    /// # Errors
    /// As above.
    #[cold]
    pub fn begin_in_place(ctx: &mut Ctx<'_>, framing: Framing, out: &mut Chunk) -> Result<Self, Error> {
        let response = &mut *ctx.response;
        let chunk = response.fields.take_behind(response.head_bytes);
        let mut body = Self::new(response.body, chunk.len());
        if body.whole {
            return Ok(body);
        }
        let reframed =
            reframe::reframe(&mut body.decoder, framing, chunk).map_err(|_| Error::new(Side::Upstream, Kind::Malformed))?;
        (body.data, body.whole, body.excess) = (reframed.data, reframed.done, !reframed.rest.is_empty());
        emit::put_chunk(out, reframed.out);
        Ok(body)
    }

    fn new(shape: BodyShape, behind_head: usize) -> Self {
        Self {
            decoder: Decoder::new(shape),
            shape,
            failed: None,
            whole: shape.is_empty(),
            excess: shape.is_empty() && behind_head > 0,
            data: 0,
            received: behind_head as u64,
        }
    }

    /// The next piece in the client's framing; `None` at the end. Pending while there is none.
    fn poll_piece(&mut self, cx: &mut Context<'_>, up: &mut Connection, framing: Framing) -> Poll<Result<Option<Chunk>, Error>> {
        loop {
            if self.whole {
                return Poll::Ready(Ok(None));
            }
            let input = match ready!(up.poll_recv(cx, self.chunk_bytes())) {
                Ok(input) => input,
                Err(error) => return Poll::Ready(Err(upstream_fault(&up.stream, &error))),
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
            emit::put(&mut last, b"0\r\n\r\n");
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

/// How far [`stream`] came.
pub enum Delivered {
    /// All is sent.
    Sent,
    /// All is received, and the rest of it waits in the outbox: the upstream's connection is free. [`flush`] sends it.
    Received,
}

/// Sends `first` (head and, without a filter, the body's first bytes), then the rest of the body as it comes.
///
/// # Errors
/// Whose side failed; the client has seen a cut answer then.
pub fn stream(
    ctx: &mut Ctx<'_>,
    down: &mut Downstream,
    up: &mut Connection,
    upload: &mut Upload,
    body: &mut Download,
    mut way: impl Way,
    outbox: &mut Outbox<'_>,
    first: Chunk,
    deadlines: &Deadlines<'_>,
) -> impl Future<Output = Result<Delivered, Error>> {
    async move {
        send_next(ctx, down, first, deadlines);
        if !body.whole {
            up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
        }
        let mut turn = 0_usize;
        loop {
            let end = poll_fn(|cx| poll(cx, ctx, down, up, upload, body, &mut way, outbox, deadlines, &mut turn)).await;
            match end {
                Step::Done => return Ok(Delivered::Sent),
                Step::Received => return Ok(Delivered::Received),
                Step::Failed(error) => return Err(error),
                Step::Yield => {
                    turn = 0;
                    cold(rt::yield_now()).await;
                }
            }
        }
    }
}

/// Sends what waits in the outbox.
///
/// # Errors
/// The client's side failed.
pub async fn flush(
    ctx: &mut Ctx<'_>,
    down: &mut Downstream,
    outbox: &mut Outbox<'_>,
    deadlines: &Deadlines<'_>,
) -> Result<(), Error> {
    loop {
        if down.stream.sending()
            && let Err(error) = poll_fn(|cx| down.stream.poll_send(cx)).await
        {
            return Err(down.fault(&error));
        }
        let Some(chunk) = outbox.next() else {
            down.stream.watch().disarm();
            return Ok(());
        };
        send_next(ctx, down, chunk, deadlines);
    }
}

#[inline(always)] // on every request's way
fn send_next(ctx: &mut Ctx<'_>, down: &mut Downstream, chunk: Chunk, deadlines: &Deadlines<'_>) {
    ctx.sent.bytes += chunk.len() as u64;
    down.stream.watch().arm(Wait::Send, deadlines.client.send);
    down.stream.start_send(chunk);
}

enum Step {
    Done,
    Received,
    Failed(Error),
    Yield,
}

/// Pieces that wait for the client: one, or as many as are allowed where responses are buffered.
#[derive(Default)]
pub struct Outbox<'k> {
    waiting: Option<Chunk>,
    ahead: Option<Box<Ahead<'k>>>,
}

/// Room for more than one piece.
struct Ahead<'k> {
    keep: &'k dyn Fn(usize) -> Option<Kept>,
    left: usize,
    queue: VecDeque<(Chunk, Option<Kept>)>,
}

impl<'k> Outbox<'k> {
    /// One that takes up to `most` bytes more, as long as `keep` has room for them.
    pub fn buffering(most: usize, keep: &'k dyn Fn(usize) -> Option<Kept>) -> Self {
        Self { waiting: None, ahead: Some(Box::new(Ahead { keep, left: most, queue: VecDeque::new() })) }
    }

    fn has_room(&self) -> bool {
        self.waiting.is_none() || self.ahead.as_ref().is_some_and(|ahead| ahead.left > 0)
    }

    fn put(&mut self, piece: Chunk) {
        match self.waiting {
            Some(_) => self.queue(piece),
            None => self.waiting = Some(piece),
        }
    }

    #[cold]
    fn queue(&mut self, piece: Chunk) {
        let Some(ahead) = &mut self.ahead else { return };
        let piece = piece.fitted();
        let kept = (ahead.keep)(piece.capacity());
        ahead.left = if kept.is_some() { ahead.left.saturating_sub(piece.len()) } else { 0 };
        ahead.queue.push_back((piece, kept));
    }

    #[inline]
    fn next(&mut self) -> Option<Chunk> {
        let next = self.waiting.take()?;
        if self.ahead.is_some() {
            self.refill();
        }
        Some(next)
    }

    #[cold]
    fn refill(&mut self) {
        if let Some(ahead) = &mut self.ahead
            && let Some((piece, kept)) = ahead.queue.pop_front()
        {
            if kept.is_some() {
                ahead.left += piece.len();
            }
            self.waiting = Some(piece);
        }
    }
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
    way: &mut impl Way,
    outbox: &mut Outbox<'_>,
    deadlines: &Deadlines<'_>,
    turn: &mut usize,
) -> Poll<Step> {
    if !upload.sent_whole() {
        if let Err(error) = go_on_with(upload, cx, down, up, deadlines) {
            return Poll::Ready(Step::Failed(error));
        }
        if down.stream.sending() {
            down.stream.watch().arm(Wait::Send, deadlines.client.send);
        }
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
        if outbox.has_room() && !way.is_over(body) && body.failed.is_none() {
            match way.poll_piece(cx, ctx, up, body) {
                Poll::Ready(Ok(piece)) => {
                    if let Some(piece) = piece {
                        outbox.put(piece);
                    }
                    moved = true;
                }
                Poll::Ready(Err(error)) => body.failed = Some(error),
                Poll::Pending => {}
            }
        }
        if !down.stream.sending() {
            if let Some(chunk) = outbox.next() {
                *turn += chunk.len();
                send_next(ctx, down, chunk, deadlines);
                moved = true;
            } else if way.is_over(body) {
                down.stream.watch().disarm();
                return Poll::Ready(Step::Done);
            } else if let Some(error) = body.failed {
                return Poll::Ready(Step::Failed(error));
            } else if upload.sent_whole() {
                down.stream.watch().disarm(); // nothing is sent: a quiet node is no slow client
            }
        }
        if outbox.ahead.is_some() && way.is_over(body) && upload.sent_whole() {
            return Poll::Ready(Step::Received);
        }
        if !moved {
            return Poll::Pending;
        }
        if *turn > TURN_BYTES && rt::carrier() == Carrier::Epoll {
            return Poll::Ready(Step::Yield);
        }
    }
}

/// An early answer: the request's rest goes on as long as the upstream takes it. Only the client's faults are faults here.
fn go_on_with(
    upload: &mut Upload,
    cx: &mut Context<'_>,
    down: &mut Downstream,
    up: &mut Connection,
    deadlines: &Deadlines<'_>,
) -> Result<(), Error> {
    match upload.poll(cx, down, &mut up.stream, (deadlines.client.body, deadlines.upstream.send)) {
        Poll::Ready(Err(error)) if error.side == Side::Downstream => Err(error),
        _ => {
            up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
            Ok(())
        }
    }
}

/// Receives the whole body up to `limit` bytes, without framing.
///
/// # Errors
/// Of the upstream's side.
pub async fn collect(
    down: &mut Downstream,
    up: &mut Connection,
    upload: &mut Upload,
    body: &mut Download,
    first: Chunk,
    limit: usize,
    deadlines: &Deadlines<'_>,
) -> Result<Vec<u8>, Error> {
    let mut all = first.filled().to_vec();
    up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
    let mut next = async || {
        poll_fn(|cx| {
            if !upload.sent_whole()
                && let Err(error) = go_on_with(upload, cx, down, up, deadlines)
            {
                return Poll::Ready(Err(error));
            }
            body.poll_piece(cx, up, Framing::Plain)
        })
        .await
    };
    while let Some(piece) = next().await? {
        let room = limit.saturating_sub(all.len());
        all.extend_from_slice(piece.filled().get(..room.min(piece.len())).unwrap_or_default());
    }
    all.truncate(limit);
    Ok(all)
}

/// How a body's pieces get from the upstream's framing into the client's.
pub trait Way {
    /// The next piece for the client; `None` at the end.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &mut Ctx<'_>,
        up: &mut Connection,
        body: &mut Download,
    ) -> Poll<Result<Option<Chunk>, Error>>;

    /// Nothing more comes.
    fn is_over(&self, body: &Download) -> bool;
}

/// Straight through: where it was received, with new framing around it.
pub struct Straight(pub Framing);

impl Way for Straight {
    #[inline]
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        _ctx: &mut Ctx<'_>,
        up: &mut Connection,
        body: &mut Download,
    ) -> Poll<Result<Option<Chunk>, Error>> {
        body.poll_piece(cx, up, self.0)
    }

    #[inline]
    fn is_over(&self, body: &Download) -> bool {
        body.whole
    }
}

/// Through the plugins.
pub struct Filter<'f> {
    chains: Vec<&'f Chain>,
    framing: Framing,
    first: Option<Chunk>,
    ended: bool,
}

impl<'f> Filter<'f> {
    /// Through these chains into this framing; `first` came along with the head.
    pub fn new(chains: Vec<&'f Chain>, framing: Framing, first: Chunk) -> Self {
        Self { chains, framing, first: Some(first), ended: false }
    }
}

impl Way for Filter<'_> {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &mut Ctx<'_>,
        up: &mut Connection,
        body: &mut Download,
    ) -> Poll<Result<Option<Chunk>, Error>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            let piece = match self.first.take() {
                Some(first) => Some(first),
                None => ready!(body.poll_piece(cx, up, Framing::Plain))?,
            };
            let mut data = piece.as_ref().map(|piece| piece.filled().to_vec()).unwrap_or_default();
            self.ended = body.whole;
            filter_body(&self.chains, ctx, &mut data, self.ended);
            ctx.sent.body_bytes += data.len() as u64;
            let out = framed(&data, self.framing, self.ended);
            if !out.is_empty() {
                return Poll::Ready(Ok(Some(out)));
            }
        }
    }

    fn is_over(&self, _body: &Download) -> bool {
        self.ended
    }
}

/// Runs the body phases: `body_filter` of all chains, then what codes the result.
pub fn filter_body(chains: &[&Chain], ctx: &mut Ctx<'_>, data: &mut Vec<u8>, last: bool) {
    chains.iter().for_each(|chain| chain.run_body_filter(ctx, data, last));
    ctx.code_body(data, last);
}

fn framed(piece: &[u8], framing: Framing, last: bool) -> Chunk {
    let mut out = Chunk::with_capacity(piece.len() + 64);
    if framing == Framing::Chunked && !piece.is_empty() {
        emit::put(&mut out, emit::chunk_line(piece.len()).as_bytes());
    }
    emit::put(&mut out, piece);
    if framing == Framing::Chunked && !piece.is_empty() {
        emit::put(&mut out, b"\r\n");
    }
    if framing == Framing::Chunked && last {
        emit::put(&mut out, b"0\r\n\r\n");
    }
    out
}
