//! Small answers that a client does not take: it gets all of them in the end, or is let go
//! when its time is over, and keeps nobody else from theirs.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::{Client, Gateway, Upstream, drivers, noise, ok, until};

/// An answer of one piece, and so many requests that no socket holds their answers.
const BODY: usize = 12 * 1024;
const REQUESTS: u64 = 4000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn counting(count: &Arc<AtomicU64>) -> Upstream {
    let count = count.clone();
    Upstream::answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        ok(&noise(BODY))
    })
}

/// Sends requests and reads no answer, until the gateway asks the upstream for no more. `at_once` none of them waits for the one
/// before. The count of requests that were sent, and of those that were asked for.
fn stuck(gateway: &Gateway, count: &AtomicU64, at_once: bool) -> (Client, u64, u64) {
    let mut client = gateway.connect();
    if at_once {
        client.send(&REQUEST.repeat(REQUESTS as usize));
        return (client, REQUESTS, standstill(count, 0));
    }
    for sent in 1..=REQUESTS {
        client.send(REQUEST);
        let asked = standstill(count, sent);
        if asked < sent {
            return (client, sent, asked);
        }
    }
    panic!("all {REQUESTS} answers were taken from the upstream for a client that read none");
}

/// Waits until the count has reached `enough`, or has not moved for so many looks that it is no stall of the machine.
fn standstill(count: &AtomicU64, enough: u64) -> u64 {
    let (mut last, mut same) = (0, 0);
    until("the gateway to wait for its client", || {
        let now = count.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        (same >= 400 || (enough > 0 && now >= enough)).then_some(now)
    })
}

#[test]
fn a_client_that_reads_late_gets_every_answer_whole() {
    for driver in drivers() {
        for at_once in [false, true] {
            let count = Arc::new(AtomicU64::new(0));
            let upstream = counting(&count);
            let gateway = Gateway::start(driver, "", &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
            let (mut client, sent, _) = stuck(&gateway, &count, at_once);
            assert_eq!(gateway.get("/").body, noise(BODY), "{driver}: others are served meanwhile");
            for number in 0..sent {
                let answer = client.answer();
                assert!(answer.whole && answer.body == noise(BODY), "{driver}, at once {at_once}: answer {number} of {sent}");
            }
            assert_eq!(count.load(Ordering::SeqCst), sent + 1, "{driver}: each was asked for once");
        }
    }
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    for driver in drivers() {
        let count = Arc::new(AtomicU64::new(0));
        let upstream = counting(&count);
        let settings = "  timeouts: {send: 1s}\n";
        let gateway = Gateway::start(driver, settings, &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
        let (_client, _, asked) = stuck(&gateway, &count, false);
        until("the connection to be let go", || (gateway.metric("ringway_connections{") == 0).then_some(()));
        let told = gateway.metric("ringway_exchanges_total{worker=\"0\",reason=\"client_send_timeout\"}");
        assert_eq!(told, 1, "{driver}: the answer that it did not take is counted");
        assert_eq!(count.load(Ordering::SeqCst), asked, "{driver}: nothing more is asked for it");
    }
}

#[test]
fn no_answer_is_cut_when_the_gateway_stops() {
    for driver in drivers() {
        let count = Arc::new(AtomicU64::new(0));
        let upstream = counting(&count);
        let mut gateway = Gateway::start(driver, "", &format!("routes:\n  - {{uri: /*, upstream: {}}}", upstream.nodes()));
        let (mut client, _, asked) = stuck(&gateway, &count, false);
        gateway.signal("TERM");
        until("the listener to be gone", || std::net::TcpStream::connect(gateway.address).is_err().then_some(()));
        let mut whole = 0;
        loop {
            let answer = client.answer();
            if answer.status == 0 {
                assert!(answer.body.is_empty(), "{driver}: the beginning of an answer, then the end");
                break;
            }
            assert!(answer.whole && answer.body == noise(BODY), "{driver}: answer {whole} is cut");
            whole += 1;
        }
        assert!(whole >= asked, "{driver}: {whole} answers, {asked} were there already");
        assert!(gateway.wait_for_end().success(), "{driver}");
    }
}
