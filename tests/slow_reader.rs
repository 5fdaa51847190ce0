//! Back-pressure: a client that does not take its answer holds the upstream back, costs bounded memory, and loses nothing.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::{Gateway, Upstream, drivers, noise, until};

const MIB: u64 = 1 << 20;
const BODY: u64 = 64 * MIB;
const READERS: u64 = 4;

#[test]
fn a_stalled_reader_holds_the_upstream_back_and_gets_everything_in_the_end() {
    let piece = Arc::new(noise(MIB as usize));
    for driver in drivers() {
        for chunked in [false, true] {
            let written = Arc::new(AtomicU64::new(0));
            let (count, body) = (written.clone(), piece.clone());
            let upstream = Upstream::start(move |mut peer| {
                while peer.request().is_some() {
                    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                    peer.send(if chunked { b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" } else { length.as_bytes() });
                    for _ in 0..BODY / MIB {
                        for part in body.chunks(32 * 1024) {
                            if chunked {
                                peer.send(format!("{:x}\r\n", part.len()).as_bytes());
                            }
                            peer.send(part);
                            if chunked {
                                peer.send(b"\r\n");
                            }
                            count.fetch_add(part.len() as u64, Ordering::SeqCst);
                        }
                    }
                    peer.send(if chunked { b"0\r\n\r\n" } else { b"" });
                }
            });
            let gateway = Gateway::start(driver, "", &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
            let calm = gateway.memory();
            let mut readers: Vec<_> = (0..READERS).map(|_| gateway.connect()).collect();
            readers.iter_mut().for_each(|reader| reader.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"));
            let stuck_at = standstill(&written);
            assert!(stuck_at < READERS * BODY / 2, "{driver}: the upstream wrote {} MiB to nobody", stuck_at / MIB);
            let grown = gateway.memory().saturating_sub(calm);
            assert!(grown < READERS * MIB + 8 * MIB, "{driver}: {} KiB for each stalled reader", grown / 1024 / READERS);
            for mut reader in readers {
                let answer = reader.answer();
                assert!(answer.whole, "{driver}");
                assert_eq!(answer.body.len() as u64, BODY, "{driver} chunked {chunked}");
                assert!(answer.body.chunks(MIB as usize).all(|got| got == *piece), "{driver} chunked {chunked}");
            }
        }
    }
}

/// Waits until the count has not moved for a hundred looks.
fn standstill(count: &AtomicU64) -> u64 {
    let (mut last, mut same) = (0, 0);
    until("the upstream to be held back", || {
        let now = count.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        (same >= 100).then_some(now)
    })
}
