//! The client's side of a connection: its stream, and what was read of it ahead of time.

use std::io;
use std::task::{Context, Poll};

use crate::base::buf::Chunk;
use crate::base::clock::{self, Tick};
use crate::base::error::{Error, Kind, Side};
use crate::base::limits;
use crate::net::{Stream, Wait};

/// A client connection.
pub struct Downstream {
    /// Its stream.
    pub stream: Stream,
    /// When it was accepted.
    pub opened: Tick,
    /// When the request under way must have come whole.
    pub until: Option<Tick>,
    early: Option<Chunk>,
    ended: bool,
}

impl Downstream {
    /// Takes a connected stream.
    pub fn new(stream: Stream) -> Self {
        Self { stream, opened: clock::now(), until: None, early: None, ended: false }
    }

    /// Bytes read ahead of time, or the next receive. An empty chunk is the end.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>, gated: bool, size: usize) -> Poll<io::Result<Chunk>> {
        if let Some(early) = self.early.take() {
            return Poll::Ready(Ok(early));
        }
        if self.ended {
            return Poll::Ready(Ok(Chunk::empty()));
        }
        let polled = if gated { self.stream.poll_recv_gated(cx, size) } else { self.stream.poll_recv_sized(cx, size) };
        if let Poll::Ready(Ok(chunk)) = &polled {
            self.ended = chunk.is_empty();
        }
        polled
    }

    /// While the upstream works: keeps a receive posted, sees a reset. A FIN is remembered and is no reason to stop
    /// (design.md §4); bytes are kept for the next request, and nothing more is read until they are taken.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, gated: bool) -> Poll<Error> {
        if self.early.is_some() || self.ended {
            return Poll::Pending;
        }
        match self.poll_bytes(cx, gated, limits::CHUNK_HEAD_BYTES) {
            Poll::Ready(Ok(chunk)) if chunk.is_empty() => Poll::Pending,
            Poll::Ready(Ok(chunk)) => {
                self.early = Some(chunk);
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Error::from_io(Side::Downstream, &error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Bytes were read ahead of time.
    pub fn has_bytes(&self) -> bool {
        self.early.is_some()
    }

    /// Body bytes are waited for: until the next advance is due, or the whole request.
    pub fn await_body(&self, timeout: std::time::Duration) {
        let due = clock::now().after(timeout);
        self.stream.watch().arm_at(Wait::Body, self.until.map_or(due, |until| until.min(due)));
    }

    /// Older than a connection may become.
    pub fn is_old(&self, lifetime: std::time::Duration) -> bool {
        clock::now().since(self.opened) >= lifetime
    }

    /// Gives back bytes that belong to the next request.
    pub fn put_back(&mut self, rest: Chunk) {
        if rest.is_empty() {
            return;
        }
        match &mut self.early {
            None => self.early = Some(rest),
            Some(early) => {
                let behind = std::mem::replace(early, rest);
                early.join(behind);
            }
        }
    }

    /// True once the client sent FIN.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Sends a chunk under a deadline for each advance.
    ///
    /// # Errors
    /// `TimedOut` when the client took nothing in time; else how the connection broke.
    pub async fn send(&mut self, chunk: Chunk, timeout: std::time::Duration) -> Result<u64, Error> {
        let bytes = chunk.len() as u64;
        self.stream.watch().arm(Wait::Send, timeout);
        match self.stream.send(chunk).await {
            Ok(_) => {
                self.stream.watch().disarm();
                Ok(bytes)
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Reads an I/O error of this side, a fired deadline told apart.
    pub fn fault(&self, error: &io::Error) -> Error {
        match self.stream.watch().fired() {
            Some(Wait::Send | Wait::Body | Wait::Header) => Error::new(Side::Downstream, Kind::TimedOut),
            _ => Error::from_io(Side::Downstream, error),
        }
    }

    /// Ends the connection so that the client gets all that was sent: FIN, then its last bytes are read and dropped for a
    /// while (a close with unread bytes would be a reset that can overtake the answer).
    pub async fn linger(mut self) {
        self.stream.finish();
        let until = clock::refresh().after(std::time::Duration::from_secs(limits::LINGER_SECS));
        self.stream.watch().arm_at(Wait::Linger, until);
        let mut dropped = 0;
        self.early = None;
        while dropped < limits::LINGER_BYTES {
            let read = std::future::poll_fn(|cx| self.poll_bytes(cx, false, limits::CHUNK_SMALL_BYTES)).await;
            match read {
                Ok(chunk) if !chunk.is_empty() => dropped += chunk.len() as u64,
                _ => break,
            }
        }
        self.stream.close().await;
    }
}
