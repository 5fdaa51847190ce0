//! Copies of requests for `proxy-mirror`: sent beside the exchange by a task of their own, their answers thrown away.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, Kept};
use super::exchange::Exchange;
use super::outgoing;
use crate::base::buf::Chunk;
use crate::base::count::Bound;
use crate::base::limits;
use crate::config::model::Timeout;
use crate::net::{Wait, rt, tls};
use crate::plugin::Ctx;
use crate::plugin::extras::Mirror;
use crate::proto::h1::emit::put;
use crate::upstream::pool::{self, Way};
use crate::upstream::{Choice, Pools, Spec, Tried};

/// Bytes of an answer that are read before the connection is closed on it.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

impl<'e> Exchange<'e> {
    /// Sends a copy of the request elsewhere. A body goes along if it was gathered whole; else there is no copy.
    #[cold]
    pub(super) fn mirror(&mut self, ctx: &mut Ctx<'e>, spec: &Arc<Spec>, mirror: &Mirror) {
        let Some(to) = self.view.snapshot.upstreams.get(&mirror.upstream) else { return };
        let core = self.core;
        if core.mirrors.get() >= limits::MIRRORS {
            return core.met(Bound::Mirrors);
        }
        let gathered = self.upload.gathered().map(<[u8]>::len);
        if gathered.is_none() && !ctx.request.body.is_empty() {
            return core.met(Bound::Buffering);
        }
        let Some(kept) = core.keep(gathered.unwrap_or(0), self.snapshot().gateway.buffering.worker_bytes) else { return };
        let head = outgoing::write(ctx, spec, 0, false, self.forwarded_applied, &self.snapshot().gateway.paths);
        let mut request = copy(&head, mirror);
        if gathered.is_some() && self.upload.begin(b"", &mut request).is_err() {
            return; // what was gathered was looked at before
        }
        let host = outgoing::host_text(ctx, spec, 0).to_vec();
        core.mirrors.set(core.mirrors.get() + 1);
        let (counted, to, timeout) = (Counted(core.clone(), kept), to.clone(), mirror.timeout);
        rt::spawn(async move {
            if let Err(error) = send(&counted.0, &to, &host, request, timeout).await {
                crate::limited!(info, "{}: a copy of a request was not taken: {error}", to.identity);
            }
            drop(counted);
        });
    }
}

/// Counts a copy and its bytes as long as it is under way.
struct Counted(Rc<Core>, #[expect(dead_code, reason = "given back with it")] Kept);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

/// The request's head with another target, for a connection of its own.
fn copy(head: &Chunk, mirror: &Mirror) -> Chunk {
    let head = head.filled();
    let line_end = memchr::memmem::find(head, b" HTTP/1.1\r\n").unwrap_or(0);
    let (line, rest) = head.split_at_checked(line_end).unwrap_or_default();
    let at = memchr::memchr(b' ', line).map_or(0, |at| at + 1);
    let (method, target) = line.split_at_checked(at).unwrap_or_default();
    let mut out = Chunk::with_capacity(head.len() + limits::OWN_FIELDS_BYTES);
    put(&mut out, method);
    match (&mirror.path, mirror.prefix) {
        (None, _) => put(&mut out, target),
        (Some(path), true) => {
            put(&mut out, path.as_bytes());
            put(&mut out, target);
        }
        (Some(path), false) => {
            put(&mut out, path.as_bytes());
            let query = memchr::memchr(b'?', target).and_then(|at| target.get(at..));
            put(&mut out, query.unwrap_or_default());
        }
    }
    put(&mut out, rest.strip_suffix(b"\r\n").unwrap_or(rest));
    put(&mut out, b"Connection: close\r\n\r\n");
    out
}

async fn send(core: &Rc<Core>, to: &Arc<Spec>, host: &[u8], request: Chunk, timeout: Timeout) -> std::io::Result<()> {
    let (picked, client) = {
        let (mut pools, mut upstreams) = (core.pools.borrow_mut(), core.upstreams.borrow_mut());
        let Some(state) = upstreams.of(to, &mut pools, core.index) else { return Ok(()) };
        match state.pick(&Tried::default(), b"", None) {
            Choice::Node(picked) => (picked, state.tls()),
            _ => return Err(std::io::Error::other("its host has no address")),
        }
    };
    let Timeout { connect, send, read } = timeout;
    let tls = client.as_ref().map(|client| (client, tls::server_name(host)));
    let way = Way { address: picked.address, source: None, introduction: None, tls };
    let mut up = Pools::open(&core.counters, way, connect).await.map_err(|(_, error)| error)?;
    up.stream.watch().arm(Wait::Send, send);
    let sent = up.stream.send(request).await.map(drop);
    let mut answered = 0;
    while sent.is_ok() && answered < ANSWER_BYTES {
        up.stream.watch().arm(Wait::Read, read.max(Duration::from_millis(1)));
        match up.stream.recv().await {
            Ok(chunk) if !chunk.is_empty() => answered += chunk.len(),
            _ => break, // whatever it says, nobody asked
        }
    }
    pool::retire(up);
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_target_it_was_given() {
        let copied = |path: Option<&str>, prefix: bool| {
            let mut head = Chunk::small();
            put(&mut head, b"POST /a/b?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n");
            let mirror = Mirror { upstream: 0, path: path.map(Into::into), prefix, timeout: Timeout::default() };
            String::from_utf8(copy(&head, &mirror).filled().to_vec()).unwrap()
        };
        assert_eq!(copied(None, false), "POST /a/b?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
        assert!(copied(Some("/other"), false).starts_with("POST /other?x=1 HTTP/1.1\r\n"));
        assert!(copied(Some("/other"), true).starts_with("POST /other/a/b?x=1 HTTP/1.1\r\n"));
    }
}
