//! The WebSocket tunnel: after a matching 101 bytes go both ways untouched, each side's FIN is passed on, and silence in both
//! directions ends it. Tunnels are silent most of the time: they wait for readiness and lend no memory meanwhile.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::downstream::Downstream;
use crate::base::buf::Chunk;
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::{Stream, Wait};

/// One direction.
#[derive(Default)]
struct Way {
    waiting: Option<Chunk>,
    ended: bool,
    finished: bool,
    bytes: u64,
}

/// Bytes of a tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// From the client.
    pub up: u64,
    /// To the client.
    pub down: u64,
}

/// Runs the tunnel until both sides have finished, one broke, or both were silent for `idle`.
pub async fn tunnel(down: &mut Downstream, up: &mut Stream, behind_101: Chunk, idle: Duration) -> (Carried, Option<Error>) {
    let mut to_client = Way { waiting: Some(behind_101).filter(|chunk| !chunk.is_empty()), ..Way::default() };
    let mut to_node = Way::default();
    down.stream.watch().arm(Wait::Tunnel, idle);
    up.watch().arm(Wait::Tunnel, idle);
    let end = poll_fn(|cx| poll(cx, down, up, &mut to_client, &mut to_node)).await;
    let carried = Carried { up: to_node.bytes, down: to_client.bytes };
    (carried, end.err())
}

fn poll(
    cx: &mut Context<'_>,
    down: &mut Downstream,
    up: &mut Stream,
    to_client: &mut Way,
    to_node: &mut Way,
) -> Poll<Result<(), Error>> {
    loop {
        let mut moved = false;
        // Towards the node.
        if up.sending() {
            match up.poll_send(cx) {
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(fault(up, Side::Upstream, &error))),
                Poll::Pending => {}
            }
        }
        if to_node.waiting.is_none() && !to_node.ended {
            match down.poll_bytes(cx, true, limits::CHUNK_SMALL_BYTES) {
                Poll::Ready(Ok(chunk)) => moved |= to_node.take(chunk),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(fault(&down.stream, Side::Downstream, &error))),
                Poll::Pending => {}
            }
        }
        moved |= to_node.push(up);
        // Towards the client.
        if down.stream.sending() {
            match down.stream.poll_send(cx) {
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(fault(&down.stream, Side::Downstream, &error))),
                Poll::Pending => {}
            }
        }
        if to_client.waiting.is_none() && !to_client.ended {
            match up.poll_recv_gated(cx, limits::CHUNK_SMALL_BYTES) {
                Poll::Ready(Ok(chunk)) => moved |= to_client.take(chunk),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(fault(up, Side::Upstream, &error))),
                Poll::Pending => {}
            }
        }
        moved |= to_client.push(&mut down.stream);
        if moved {
            down.stream.watch().touch();
            up.watch().touch();
        }
        if down.stream.watch().fired().is_some() || up.watch().fired().is_some() {
            return Poll::Ready(Err(Error::new(Side::Us, Kind::TimedOut)));
        }
        if to_client.finished && to_node.finished {
            return Poll::Ready(Ok(()));
        }
        if !moved {
            return Poll::Pending;
        }
    }
}

impl Way {
    fn take(&mut self, chunk: Chunk) -> bool {
        if chunk.is_empty() {
            self.ended = true;
        } else {
            self.bytes += chunk.len() as u64;
            self.waiting = Some(chunk);
        }
        true
    }

    /// Starts the next send, or passes the FIN on once all is sent.
    fn push(&mut self, to: &mut Stream) -> bool {
        if to.sending() {
            return false;
        }
        if let Some(chunk) = self.waiting.take() {
            to.start_send(chunk);
            return true;
        }
        if self.ended && !self.finished {
            self.finished = true;
            to.finish();
            return true;
        }
        false
    }
}

fn fault(stream: &Stream, side: Side, error: &std::io::Error) -> Error {
    match stream.watch().fired() {
        Some(_) => Error::new(Side::Us, Kind::TimedOut),
        None => Error::from_io(side, error),
    }
}
