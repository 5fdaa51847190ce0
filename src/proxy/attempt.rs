//! One try at an upstream node: the request goes out, the response's head comes in.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::downstream::Downstream;
use super::exchange::cold;
use super::upload::{Upload, upstream_fault};
use crate::base::buf::Chunk;
use crate::base::clock;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::config::gateway::Timeouts;
use crate::config::model::Timeout;
use crate::net::Wait;
use crate::plugin::Ctx;
use crate::proto::h1::{self, HeadLimits, Progress};
use crate::proto::message::Version;
use crate::upstream::Connection;

/// Deadlines of a try.
#[derive(Clone, Copy)]
pub struct Deadlines<'e> {
    /// The upstream's.
    pub upstream: &'e Timeout,
    /// The client's.
    pub client: &'e Timeouts,
}

const HEAD: HeadLimits =
    HeadLimits { bytes: limits::UPSTREAM_HEADER_BYTES, fields: limits::HEADERS_MAX, target_bytes: usize::MAX };

/// Sends `out` (head and the body's first bytes) and the rest of the body, until the head of a final response is whole in
/// `ctx.response`. The body may still be on its way then (an early response). `awaited`: the receive was looked at just now by
/// this task, so that it will be woken.
///
/// # Errors
/// Whose side failed; `retry` is set where the upstream failed and not a byte of an answer was seen.
pub fn run(
    ctx: &mut Ctx<'_>,
    down: &mut Downstream,
    up: &mut Connection,
    upload: &mut Upload,
    out: Chunk,
    deadlines: &Deadlines<'_>,
    gated: bool,
    awaited: bool,
) -> impl Future<Output = Result<(), Error>> {
    async move {
        up.served += 1;
        ctx.response.clear();
        drop(ctx.response.fields.take_received());
        up.stream.watch().arm(Wait::Send, deadlines.upstream.send);
        match upload.read_whole() {
            true => up.stream.start_send_quietly(out), // nothing follows it; its end shows in the answer
            false => up.stream.start_send(out),
        }
        let mut interim = 0;
        let mut waiting = Waiting { awaited, ..Waiting::default() };
        loop {
            let got = poll_fn(|cx| poll(cx, down, up, upload, deadlines, gated, &mut waiting)).await;
            let chunk = match got {
                Ok(chunk) if !chunk.is_empty() => chunk,
                ended => return Err(waiting.client.unwrap_or_else(|| ended_early(ctx, up, ended, waiting.broken))),
            };
            if ctx.inside_nanos > 0 {
                clock::refresh(); // the time inside the worker goes on now, not with the turn's begin
            }
            up.stream.watch().touch();
            ctx.response.fields.received_mut().join(chunk);
            while let Progress::Complete = parse(ctx)? {
                match ctx.response.status {
                    101 => return Ok(()),
                    100..=199 => {
                        interim += 1;
                        if interim > limits::INTERIM_RESPONSES {
                            return Err(Error::new(Side::Upstream, Kind::Malformed));
                        }
                        cold(pass_interim(ctx, down, deadlines.client.send)).await?;
                    }
                    _ => return Ok(()),
                }
            }
        }
    }
}

/// What went wrong while the answer was waited for, and whether it is waited for already.
#[derive(Default)]
struct Waiting {
    awaited: bool,
    /// The client's side: the try is over.
    client: Option<Error>,
    /// The upstream stopped taking the request; its answer may still come.
    broken: Option<Error>,
}

/// The answer's next bytes; an empty chunk where the upstream ended or the client failed.
fn poll(
    cx: &mut Context<'_>,
    down: &mut Downstream,
    up: &mut Connection,
    upload: &mut Upload,
    deadlines: &Deadlines<'_>,
    gated: bool,
    waiting: &mut Waiting,
) -> Poll<io::Result<Chunk>> {
    let mut uploading = up.stream.sending() || (waiting.broken.is_none() && !upload.sent_whole());
    if uploading {
        match upload.poll(cx, down, &mut up.stream, (deadlines.client.body, deadlines.upstream.send)) {
            Poll::Ready(Err(error)) if error.side == Side::Downstream => {
                waiting.client = Some(error);
                return Poll::Ready(Ok(Chunk::empty()));
            }
            Poll::Ready(result) => {
                uploading = false;
                waiting.broken = result.err();
                up.stream.watch().arm(Wait::Read, deadlines.upstream.read);
            }
            Poll::Pending => {}
        }
    }
    // The answer first: once it is there nobody needs to know whether the client would have waited for it.
    let answer = match std::mem::take(&mut waiting.awaited) {
        true => Poll::Pending,
        false => up.poll_recv(cx, limits::CHUNK_SMALL_BYTES),
    };
    if answer.is_pending()
        && !uploading
        && let Poll::Ready(error) = down.poll_gone(cx, gated)
    {
        waiting.client = Some(error);
        return Poll::Ready(Ok(Chunk::empty()));
    }
    answer
}

fn ended_early(ctx: &Ctx<'_>, up: &Connection, ended: io::Result<Chunk>, broken: Option<Error>) -> Error {
    let error = match ended {
        Ok(_) if up.stream.watch().fired().is_some() => Error::new(Side::Upstream, Kind::TimedOut),
        Ok(_) => broken.unwrap_or(Error::new(Side::Upstream, Kind::Closed)),
        Err(error) => upstream_fault(&up.stream, &error),
    };
    if ctx.response.fields.received().is_empty() { error.retryable() } else { error }
}

fn parse(ctx: &mut Ctx<'_>) -> Result<Progress, Error> {
    if ctx.response.fields.received().is_empty() {
        return Ok(Progress::Partial);
    }
    h1::response::parse(ctx.response, ctx.request.method, &HEAD).map_err(|fault| {
        let kind = if fault.status == 431 { Kind::TooLarge } else { Kind::Malformed };
        Error::new(Side::Upstream, kind)
    })
}

/// An interim response: 100 was answered by Ringway already, others go on to clients that know them. RFC 9110 §15.2.
async fn pass_interim(ctx: &mut Ctx<'_>, down: &mut Downstream, timeout: Duration) -> Result<(), Error> {
    if ctx.response.status != 100 && ctx.request.version == Version::Http11 {
        let mut out = Chunk::small();
        h1::emit::status_line(&mut out, ctx.response.status, ctx.response.fields.bytes(ctx.response.phrase));
        let nominated = h1::hop::Nominated::of(&ctx.response.fields);
        h1::emit::fields(&mut out, &ctx.response.fields, h1::hop::RESPONSE, &nominated);
        crate::proto::h1::emit::put(&mut out, b"\r\n");
        ctx.sent.bytes += down.send(out, timeout).await?;
    }
    let head_bytes = ctx.response.head_bytes;
    ctx.response.clear();
    ctx.response.fields.received_mut().consume(head_bytes);
    Ok(())
}
