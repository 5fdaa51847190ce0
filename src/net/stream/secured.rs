//! A stream under TLS: the same slots, records in between. A session's own replies (a key update) go out beside the owner's
//! sends and never mix with them; alerts are said without waiting, as whoever gets them may be gone.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::task::{Context, Poll, ready};

use rustls::ClientConnection;

use super::Stream;
use crate::base::buf::Chunk;
use crate::net::lane::{BACK, FRONT, RecvAsk};
use crate::net::rt;
use crate::net::tls::Client;

/// Bytes that a record adds to its data, at most; and bytes of data in a record.
const RECORD_OVERHEAD: usize = 48;
const RECORD: usize = 16 * 1024;

/// State of a TLS session.
pub(super) struct Session {
    tls: ClientConnection,
    /// Received and not read yet.
    raw: Chunk,
    /// Plain bytes that can be read.
    readable: usize,
    /// The peer said that it is done.
    pub(super) ended: bool,
    /// The owner waits for a send.
    pub(super) owed: bool,
    /// The owner's send, behind one of the session's own.
    queued: Option<Chunk>,
    /// Plain bytes sent.
    pub(super) sent: u64,
}

impl Session {
    /// Plain bytes that are there, up to `size`; `None` where more must be received first.
    fn plain(&mut self, size: usize) -> io::Result<Option<Chunk>> {
        let mut out: Option<Chunk> = None;
        loop {
            while self.readable > 0 {
                let chunk = out.get_or_insert_with(|| {
                    let mut chunk = Chunk::with_capacity(size);
                    chunk.reserve_front(FRONT);
                    chunk
                });
                let room = chunk.room_mut();
                let usable = room.len().saturating_sub(BACK);
                if usable == 0 {
                    return Ok(out);
                }
                let read = self.tls.reader().read(room.get_mut(..usable).unwrap_or_default())?;
                chunk.advance(read);
                self.readable = self.readable.saturating_sub(read.max(1));
            }
            if self.raw.is_empty() || self.ended {
                return Ok(out);
            }
            self.take_in()?;
        }
    }

    /// Takes some of what was received into the session.
    fn take_in(&mut self) -> io::Result<()> {
        let taken = self.tls.read_tls(&mut self.raw.filled())?;
        self.raw.consume(taken);
        let state = self.tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.readable = state.plaintext_bytes_to_read();
        self.ended = state.peer_has_closed();
        Ok(())
    }

    /// Seals what the owner sends.
    fn seal(&mut self, plain: &Chunk) -> io::Result<Chunk> {
        self.sent += plain.len() as u64;
        self.tls.writer().write_all(plain.filled())?;
        self.records(plain.len())
    }

    /// Records of all that waits to go out.
    fn records(&mut self, plain: usize) -> io::Result<Chunk> {
        let mut out = Chunk::with_capacity(plain + (plain / RECORD + 2) * RECORD_OVERHEAD);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Into(&mut out))?;
        }
        Ok(out)
    }
}

/// Appends to a chunk.
struct Into<'c>(&'c mut Chunk);

impl Write for Into<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.make_room(bytes.len());
        Ok(if self.0.append(bytes) { bytes.len() } else { 0 })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Begins TLS as the client and shakes hands. The caller has armed the watch.
    ///
    /// # Errors
    /// As the operating system gives them; `InvalidData` for what the peer did wrong, a certificate that does not fit included.
    pub async fn secure(mut self, client: &Client, name: &[u8], address: Option<IpAddr>) -> io::Result<Self> {
        let mut session = Session {
            tls: client.begin(name, address)?,
            raw: Chunk::empty(),
            readable: 0,
            ended: false,
            owed: false,
            queued: None,
            sent: 0,
        };
        let shaken = loop {
            if session.tls.wants_write() {
                let records = session.records(0)?;
                if let Err(error) = self.send(records).await {
                    break Err(error);
                }
            }
            if !session.tls.is_handshaking() {
                break Ok(());
            }
            if session.raw.is_empty() {
                match self.recv().await {
                    Ok(chunk) if chunk.is_empty() => break Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(chunk) => session.raw = chunk,
                    Err(error) => break Err(error),
                }
            }
            if let Err(error) = session.take_in() {
                break Err(error);
            }
        };
        self.session = Some(Box::new(session));
        match shaken {
            Ok(()) => Ok(self),
            Err(error) => {
                self.close().await; // with the alert that says why
                Err(error)
            }
        }
    }

    #[cold]
    pub(super) fn poll_recv_secured(&mut self, cx: &mut Context<'_>, ask: RecvAsk) -> Poll<io::Result<Chunk>> {
        loop {
            let Some(session) = &mut self.session else { return Poll::Pending };
            match session.plain(ask.size) {
                Ok(Some(chunk)) => return Poll::Ready(Ok(chunk)),
                Ok(None) if session.ended => return Poll::Ready(Ok(Chunk::empty())),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.reply(cx);
            if !self.recv.busy() {
                self.recv.start(&self.socket, ask);
            }
            let received = ready!(self.recv.poll(&self.socket, cx));
            rt::time_moves();
            match received {
                // Without the peer's word that it is done, whoever cut the connection decides where the answer ends.
                Ok(chunk) if chunk.is_empty() => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(chunk) => {
                    if let Some(session) = &mut self.session {
                        session.raw = chunk;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends what the session itself has to say, as far as the owner's sends leave room.
    #[cold]
    fn reply(&mut self, cx: &mut Context<'_>) {
        let Some(session) = &mut self.session else { return };
        if session.owed {
            return; // it goes along with the owner's
        }
        if !self.send.busy()
            && session.tls.wants_write()
            && let Ok(records) = session.records(0)
        {
            self.send.start(&self.socket, records, false);
        }
        if self.send.busy() {
            let _done = self.send.poll(&self.socket, &self.watch, cx);
        }
    }

    #[cold]
    pub(super) fn start_send_secured(&mut self, chunk: &Chunk) {
        let Some(session) = &mut self.session else { return };
        session.owed = true;
        match session.seal(chunk) {
            Ok(records) if self.send.busy() => session.queued = Some(records),
            Ok(records) => self.send.start(&self.socket, records, false),
            Err(_) => self.shut(), // the session is over: the operations find the connection closed
        }
    }

    #[cold]
    pub(super) fn poll_send_secured(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        loop {
            let Some(session) = &mut self.session else { return Poll::Pending };
            if !self.send.busy() && session.queued.is_none() {
                session.owed = false;
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let result = ready!(self.send.poll(&self.socket, &self.watch, cx));
            match session.queued.take() {
                Some(records) if result.is_ok() => self.send.start(&self.socket, records, false),
                _ => {
                    session.owed = false;
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Tells the peer that nothing follows, or why not, if the socket takes it at once.
    #[cold]
    pub(super) fn say_goodbye(&mut self) {
        let Some(session) = &mut self.session else { return };
        if self.shut || self.send.busy() {
            return;
        }
        session.tls.send_close_notify();
        if let Ok(records) = session.records(0) {
            let bytes = records.filled();
            // SAFETY: the descriptor is open as long as `self` lives; pointer and length are of a live slice.
            unsafe {
                libc::send(self.fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            }
        }
    }
}
