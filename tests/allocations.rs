//! A keepalive request allocates nothing in steady state: a counting allocator watches the worker's thread while requests go
//! through a real worker on both drivers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::count::Counters;
use ringway::config::gateway::{Driver, Listener};
use ringway::config::{Input, LoadOptions, load};
use ringway::snapshot::{compile, published::Published};
use ringway::upstream::names::Names;
use ringway::worker::{Event, ListenSocket, Message, Seed, spawn};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The test's own threads are not counted.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

fn note() {
    if !OURS.try_with(Cell::get).unwrap_or(true) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

/// An upstream that answers every GET and every POST whose body ends with `body` with the same.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        OURS.set(true);
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                OURS.set(true);
                let mut stream = stream;
                let mut buffer = [0; 16 * 1024];
                let mut have = 0;
                while let Ok(read @ 1..) = stream.read(&mut buffer[have..]) {
                    have += read;
                    let seen = &buffer[..have];
                    if !(seen.ends_with(b"body") || seen.starts_with(b"GET") && seen.ends_with(b"\r\n\r\n")) {
                        continue;
                    }
                    have = 0;
                    if stream.write_all(ANSWER).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

fn exchange(client: &mut TcpStream, request: &[u8], times: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..times {
        client.write_all(request).unwrap();
        let mut have = 0;
        while !buffer[..have].ends_with(b"Hello, world!") {
            let read = client.read(&mut buffer[have..]).unwrap();
            assert!(read > 0, "the gateway closed: {}", String::from_utf8_lossy(&buffer[..have]));
            have += read;
        }
    }
}

/// Allocations of the worker during 1,000 requests.
fn measure(driver: Driver, request: &[u8]) -> u64 {
    let text = format!("routes:\n  - uri: /*\n    upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}\n", upstream());
    let input = Input::Text { name: "test".into(), text };
    let Ok(loaded) = load(&LoadOptions { input, strict: false, env: &|_| None }) else { panic!("the configuration is good") };
    let Ok(compiled) = compile(loaded, 1, None, &Names::default()) else { panic!("it compiles") };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (events, heard) = flume::unbounded();
    // A log that is taken as fast as it comes, its batches given back.
    let (log, lines) = flume::bounded::<Vec<u8>>(16);
    std::thread::spawn(move || {
        OURS.set(true);
        while lines.recv().is_ok() {}
    });
    let seed = Seed {
        index: 0,
        cpu: None,
        driver,
        published: Arc::new(Published::new(compiled.snapshot)),
        counters: Arc::new(Counters::default()),
        spares: None,
        events,
        log: Some(log),
    };
    let handle = spawn(seed).unwrap();
    let ready = heard.iter().find(|event| !matches!(event, Event::Acked { .. }));
    assert!(matches!(ready, Some(Event::Ready { .. })), "the worker runs");
    let listen = Message::Listen { id: 1, socket: ListenSocket::Tcp(listener), conf: Arc::new(Listener::default()) };
    handle.inbox.send(listen).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    exchange(&mut client, request, 2000); // pools, tables and the log's batches have reached their size
    let before = COUNT.load(Ordering::Relaxed);
    exchange(&mut client, request, 1000);
    let during = COUNT.load(Ordering::Relaxed) - before;
    handle.inbox.send(Message::Stop).unwrap();
    heard.iter().find(|event| matches!(event, Event::Ended { .. }));
    during
}

#[test]
fn a_keepalive_request_allocates_nothing() {
    OURS.set(true);
    let get = b"GET /path?x=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
    let post = b"POST /path HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\nbody";
    let long = format!("POST /path HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4096\r\n\r\n{}body", "x".repeat(4092));
    for (name, driver) in [("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)] {
        if driver == Driver::IoUring && std::fs::read("/proc/sys/kernel/io_uring_disabled").is_ok_and(|flag| flag != b"0\n") {
            eprintln!("io_uring is forbidden here: only the epoll driver is measured");
            continue;
        }
        for request in [&get[..], post, long.as_bytes()] {
            let during = measure(driver, request);
            // What the sweeper's timer and a log batch cost now and then is not per request.
            assert!(during <= 60, "{name}: {during} allocations in 1,000 requests");
            eprintln!("{name}: {during} allocations in 1,000 requests");
        }
    }
}
