//! The runtime's traps (monoio 0.2), one by one and on both drivers: each test does what would spring the trap and sees that
//! the floor above the runtime, `net/`, does not.

mod support;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringway::base::buf::Chunk;
use ringway::base::clock;
use ringway::config::gateway::Driver;
use ringway::net::accept::Acceptor;
use ringway::net::{Stream, Wait, connect, rt, watch};
use support::{DEADLINE, drivers};

/// Runs a test on each driver, on a thread of its own as a worker has one.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F + Copy + Send + 'static) {
    for driver in drivers() {
        let choice = if driver == "epoll" { Driver::Epoll } else { Driver::IoUring };
        let ended = std::thread::spawn(move || rt::run(choice, |_| bounded(test())).unwrap()).join();
        assert!(ended.is_ok(), "on {driver}");
    }
}

/// A test that hangs fails. The sweeper runs beside it, as in a worker.
async fn bounded(test: impl Future<Output = ()>) {
    rt::spawn(async {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            timer(watch::SWEEP).await;
            watch::sweep(clock::refresh());
        }
        eprintln!("the test hangs");
        std::process::abort();
    });
    clock::refresh();
    test.await;
}

/// The runtime's timer, which the tests look at themselves.
async fn timer(duration: Duration) {
    rt::sleep(duration).await; // between two looks
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A stream of the runtime and the plain socket at its other end.
async fn pair() -> (Stream, TcpStream) {
    let (listener, address) = listener();
    let stream = connect::connect(address.into(), None, Duration::from_secs(5)).await.unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    (stream, peer)
}

fn chunk(bytes: &[u8]) -> Chunk {
    let mut chunk = Chunk::with_capacity(bytes.len());
    assert!(chunk.append(bytes));
    chunk
}

/// Waits for a condition without blocking the loop.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        timer(Duration::from_millis(1)).await;
    }
}

/// runtime.md §3.1: a deadline ends the wait, and what had arrived before it is still read, in order.
#[test]
fn a_deadline_loses_no_byte_that_arrived() {
    on_both(|| async {
        for _ in 0..20 {
            let (mut stream, mut peer) = pair().await;
            stream.watch().arm(Wait::Header, Duration::from_millis(1));
            let mut got = Vec::new();
            peer.write_all(b"hello ").unwrap();
            got.extend_from_slice(stream.recv().await.unwrap().filled());
            peer.write_all(b"world").unwrap(); // arrives before or after the deadline shuts receiving; it counts in either case
            loop {
                let received = stream.recv().await.unwrap();
                if received.is_empty() {
                    break; // how a wait ends at its deadline
                }
                got.extend_from_slice(received.filled());
            }
            assert_eq!(stream.watch().fired(), Some(Wait::Header));
            assert_eq!(got, b"hello world");
            stream.send(chunk(b"408")).await.unwrap(); // the other direction lives on: an answer can be given
            stream.close().await;
            let reader = std::thread::spawn(move || {
                let mut answer = Vec::new();
                let _reset_behind_it = peer.read_to_end(&mut answer);
                answer
            });
            until("the end", || reader.is_finished()).await; // the loop closes the socket with its next turn
            assert_eq!(reader.join().unwrap(), b"408");
        }
    });
}

/// vendor/README.md: a receive that did not fill its chunk has emptied the socket, and the next one waits. What comes meanwhile,
/// what fills a chunk to its last byte, and an end that came with the last bytes are all seen.
#[test]
fn what_comes_behind_a_short_receive_is_read() {
    on_both(|| async {
        for size in [1, 100, 1000, 10_000, 100_000] {
            let (mut stream, mut peer) = pair().await;
            let bytes: Vec<u8> = (0..size).map(|at: u32| at as u8).collect();
            let mut got = Vec::new();
            for round in 1..=3 {
                peer.write_all(&bytes).unwrap(); // before the receive, so that a first look finds it
                while got.len() < round * bytes.len() {
                    got.extend_from_slice(stream.recv().await.unwrap().filled());
                }
            }
            peer.write_all(b"last").unwrap();
            drop(peer);
            loop {
                let received = stream.recv().await.unwrap();
                if received.is_empty() {
                    break;
                }
                got.extend_from_slice(received.filled());
            }
            assert_eq!(got, [&bytes.repeat(3)[..], b"last"].concat());
            stream.close().await;
        }
    });
}

/// runtime.md §3.1 and §3.5: an owner that goes away with operations in flight leaves no socket open and no task behind.
#[test]
fn a_stream_dropped_in_the_middle_of_its_operations_closes() {
    on_both(|| async {
        for _ in 0..20 {
            let (mut stream, mut peer) = pair().await;
            let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(stream.poll_recv(cx).is_pending())).await;
            assert!(pending, "a receive is in flight");
            drop(stream);
            peer.set_nonblocking(true).unwrap();
            until("the end of the connection", || matches!(peer.read(&mut [0; 8]), Ok(0))).await;
        }
    });
}

/// runtime.md §3.2: stopping a listener while an accept is in flight and connections are queued gives every one of them.
#[test]
fn a_listener_that_stops_gives_up_no_connection() {
    on_both(|| async {
        for round in 0..10 {
            let (listener, address) = listener();
            let acceptor = Rc::new(Acceptor::tcp(listener).unwrap());
            let taken = Rc::new(RefCell::new(Vec::new()));
            let ended = Rc::new(Cell::new(false));
            let (accepting, into, end) = (acceptor.clone(), taken.clone(), ended.clone());
            rt::spawn(async move {
                while let Some((stream, _)) = accepting.accept().await.unwrap() {
                    into.borrow_mut().push(stream);
                }
                end.set(true);
            });
            if round % 2 == 0 {
                rt::yield_now().await; // an accept is in flight; else nothing was polled yet
            }
            let mut clients: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
            acceptor.stop();
            until("the end of the accept loop", || ended.get()).await;
            clients.extend((0..10).map(|_| TcpStream::connect(address).unwrap())); // the socket is open still
            acceptor.set_nonblocking().unwrap();
            while let Ok((stream, _)) = acceptor.accept_queued() {
                taken.borrow_mut().push(stream);
            }
            assert_eq!(taken.borrow().len(), clients.len(), "nothing is left in the queue, nothing leaked");
            for mut stream in taken.take() {
                stream.send(chunk(b"served")).await.unwrap();
                stream.close().await;
            }
            let readers = std::thread::spawn(move || {
                for client in &mut clients {
                    client.set_read_timeout(Some(DEADLINE)).unwrap();
                    let mut said = String::new();
                    client.read_to_string(&mut said).unwrap();
                    assert_eq!(said, "served");
                }
            });
            until("all answers", || readers.is_finished()).await; // the loop closes the sockets with its next turn
            readers.join().unwrap();
        }
    });
}

/// runtime.md §3.3: a task that yields in a loop lets timers, completions and other tasks have their turn.
#[test]
fn a_yield_starves_nobody() {
    on_both(|| async {
        let (mut stream, mut peer) = pair().await;
        let (ticks, bytes, turns) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0_u64)));
        let ticking = ticks.clone();
        rt::spawn(async move {
            for _ in 0..5 {
                timer(Duration::from_millis(2)).await;
                ticking.set(ticking.get() + 1);
            }
        });
        let receiving = bytes.clone();
        rt::spawn(async move {
            while let Ok(received) = stream.recv().await {
                if received.is_empty() {
                    break;
                }
                receiving.set(receiving.get() + received.len());
            }
            stream.close().await;
        });
        let others: Vec<_> = (0..2).map(|_| turns.clone()).collect();
        for others in others {
            rt::spawn(async move {
                for _ in 0..1000 {
                    rt::yield_now().await; // several yielders at once do not take each other's wake-up
                    others.set(others.get() + 1);
                }
            });
        }
        let begun = Instant::now();
        while ticks.get() < 5 || bytes.get() < 100 || turns.get() < 2000 {
            assert!(begun.elapsed() < DEADLINE, "{} ticks, {} bytes, {} turns", ticks.get(), bytes.get(), turns.get());
            peer.write_all(b"x").unwrap();
            rt::yield_now().await;
        }
    });
}

/// runtime.md §3.4: a panic ends its task alone, closes its connection and is counted.
#[test]
fn a_panic_costs_one_connection() {
    ringway::worker::guard::name_panics();
    on_both(|| async {
        let before = rt::panics();
        let (mut doomed, mut peer) = pair().await;
        let (mut stream, mut other) = pair().await;
        rt::spawn(async move {
            let received = doomed.recv().await.unwrap();
            assert_eq!(received.filled(), b"fine", "what the test wants to see fail");
        });
        peer.write_all(b"boom").unwrap();
        peer.set_nonblocking(true).unwrap();
        until("the doomed connection's end", || matches!(peer.read(&mut [0; 8]), Ok(0))).await;
        assert_eq!(rt::panics(), before + 1);
        other.write_all(b"alive").unwrap();
        assert_eq!(stream.recv().await.unwrap().filled(), b"alive");
        stream.close().await;
    });
}

/// The choice of a driver: what was asked for is what runs, and its name says with which flags.
#[test]
fn the_driver_asked_for_is_taken() {
    for driver in drivers() {
        let (choice, name) = if driver == "epoll" { (Driver::Epoll, "epoll") } else { (Driver::IoUring, "io_uring (") };
        let taken = std::thread::spawn(move || rt::run(choice, |taken| async { taken }).unwrap()).join().unwrap();
        assert!(taken.name.starts_with(name), "{taken:?}");
        assert_eq!(taken.carrier == rt::Carrier::Epoll, driver == "epoll");
    }
}

/// A quiet send that the kernel takes in parts goes on all the same: the sweeper looks after it.
#[test]
fn a_quiet_send_ends_though_nobody_waits_for_it() {
    on_both(|| async {
        let (mut stream, mut peer) = pair().await;
        let sent: Vec<u8> = support::noise(8 << 20);
        stream.start_send_quietly(chunk(&sent));
        let (done, expected) = (Rc::new(Cell::new(false)), sent.clone());
        let end = done.clone();
        rt::spawn(async move {
            std::future::poll_fn(|cx| stream.poll_send(cx)).await.unwrap();
            end.set(true);
            stream.close().await;
        });
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            got
        });
        until("the end of the send", || done.get() && reader.is_finished()).await;
        assert!(reader.join().unwrap() == expected);
    });
}
