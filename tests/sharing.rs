//! Workers share no line that one of them writes: what the coordinator makes for all of them is put on pages of its own, which
//! are made read-only while two workers serve. A count of owners that a request raises and lowers again would be seen, too.
//! `perf c2c` would say the same of a real run, where the hardware lets it count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringway::base::count::Counters;
use ringway::config::gateway::{Driver, Listener};
use ringway::config::{Input, LoadOptions, load};
use ringway::limit::store::Counter;
use ringway::snapshot::{compile, published::Published};
use ringway::upstream::Spares;
use ringway::upstream::health::Health;
use ringway::upstream::names::{Name, Names};
use ringway::worker::{Event, Handle, ListenSocket, Message, Seed, spawn};

/// Two lines: processors fetch them in pairs.
const LINES: usize = 128;
const PAGE: usize = 4096;
const ARENA: usize = 64 << 20;

/// Puts what a thread allocates while [`SHARED`] is set into an arena that can be made read-only.
struct Shared;

static BASE: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);
static WRITES: AtomicUsize = AtomicUsize::new(0);
static FIRST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARED: Cell<bool> = const { Cell::new(false) };
}

fn in_arena(address: usize) -> bool {
    let base = BASE.load(Ordering::Relaxed);
    base > 0 && (base..base + ARENA).contains(&address)
}

// SAFETY: the arena gives out each of its bytes once, aligned; everything else goes on to the system's allocator.
unsafe impl GlobalAlloc for Shared {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !SHARED.try_with(Cell::get).unwrap_or(false) {
            // SAFETY: as the caller promised.
            return unsafe { System.alloc(layout) };
        }
        let room = layout.size() + layout.align();
        let at = BASE.load(Ordering::Relaxed) + USED.fetch_add(room, Ordering::Relaxed);
        assert!(in_arena(at + room), "the arena is too small");
        at.next_multiple_of(layout.align()) as *mut u8
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if !in_arena(pointer as usize) {
            // SAFETY: as the caller promised; it came from the system's allocator.
            unsafe { System.dealloc(pointer, layout) }
        }
    }
}

#[global_allocator]
static ALLOCATOR: Shared = Shared;

/// Counts a write to the arena and lets it pass, so that the test can go on to its verdict.
extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a whole siginfo_t, which has an address for this signal; mprotect and signal are system calls.
    unsafe {
        let address = (*info).si_addr() as usize;
        if !in_arena(address) {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL); // a real fault: it comes again and ends the process
            return;
        }
        WRITES.fetch_add(1, Ordering::Relaxed);
        let _ = FIRST.compare_exchange(0, address, Ordering::Relaxed, Ordering::Relaxed);
        libc::mprotect((address & !(PAGE - 1)) as *mut libc::c_void, PAGE, libc::PROT_READ | libc::PROT_WRITE);
    }
}

fn prepare() {
    // SAFETY: a fresh mapping that nobody else knows; the action is a whole struct with a handler of the right form.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let base = libc::mmap(std::ptr::null_mut(), ARENA, access, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED);
        BASE.store(base as usize, Ordering::Relaxed);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn protect(access: libc::c_int) {
    // SAFETY: the arena is our own mapping; faults on it are handled.
    let done = unsafe { libc::mprotect(BASE.load(Ordering::Relaxed) as *mut libc::c_void, ARENA, access) };
    assert_eq!(done, 0);
}

fn shared<T>(make: impl FnOnce() -> T) -> T {
    SHARED.set(true);
    let made = make();
    SHARED.set(false);
    made
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) && stream.write_all(ANSWER).is_ok() {}
            });
        }
    });
    port
}

fn exchange(client: &mut TcpStream, path: &str, times: usize) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\napikey: secret\r\n\r\n");
    let mut buffer = [0; 4096];
    for _ in 0..times {
        client.write_all(request.as_bytes()).unwrap();
        let mut have = 0;
        while !buffer[..have].ends_with(b"Hello, world!") {
            let read = client.read(&mut buffer[have..]).unwrap();
            assert!(read > 0, "the gateway closed: {}", String::from_utf8_lossy(&buffer[..have]));
            have += read;
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

/// Ways of a request that must write nothing shared: the plain one, and the everyday plugins.
const WAYS: [&str; 3] = ["/plain/x?y=1", "/plugins/x", "/regex/x?n=17"];

fn configuration() -> String {
    let node = format!("{{nodes: {{\"127.0.0.1:{}\": 1}}}}", upstream());
    format!(
        "routes:\n  - {{id: plain, uri: /plain/*, upstream: {node}}}\n  - id: plugins\n    uri: /plugins/*\n    upstream: {node}\n    \
         plugins:\n      key-auth: {{}}\n      prometheus: {{}}\n      proxy-rewrite: {{headers: {{set: {{X-A: b}}}}}}\n      \
         limit-count: {{count: 100000000, time_window: 600, key: remote_addr}}\n  - id: regex\n    uri: /regex/*\n    upstream: \
         {node}\n    vars: [[arg_n, \"~~\", \"^[0-9]+$\"]]\n    plugins: {{proxy-rewrite: {{regex_uri: [\"^/regex/(.*)\", \
         \"/$1\"]}}}}\n\
         consumers:\n  - {{username: jack, plugins: {{key-auth: {{key: secret}}}}}}\n"
    )
}

struct Pair {
    workers: [(Handle, SocketAddr); 2],
    counters: [Arc<Counters>; 2],
    published: Arc<Published>,
    heard: flume::Receiver<Event>,
}

fn start(driver: Driver) -> Pair {
    let text = configuration();
    let published = shared(|| {
        let input = Input::Text { name: "test".into(), text };
        let Ok(loaded) = load(&LoadOptions { input, strict: false, env: &|_| None }) else { panic!("the configuration is good") };
        let Ok(compiled) = compile(loaded, 1, None, &Names::default()) else { panic!("it compiles") };
        Arc::new(Published::new(compiled.snapshot))
    });
    let conf = shared(|| Arc::new(Listener::default()));
    let (events, heard) = flume::unbounded();
    let counters: [Arc<Counters>; 2] = Default::default();
    let spares = Spares::between(2).map(Arc::new); // shared on purpose, when a connection was not come back to: not on a request's way
    let worker = |index: u16| {
        let counters = counters[usize::from(index)].clone();
        let (published, spares, events) = (published.clone(), spares.clone(), events.clone());
        let handle = spawn(Seed { index, cpu: None, driver, published, counters, spares, events, log: None }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listen = Message::Listen { id: 1, socket: ListenSocket::Tcp(listener), conf: conf.clone() };
        handle.inbox.send(listen).unwrap();
        (handle, address)
    };
    let workers = [worker(0), worker(1)];
    let ready = heard.iter().filter(|event| matches!(event, Event::Ready { .. })).take(2).count();
    assert_eq!(ready, 2);
    drop(std::panic::take_hook()); // the workers' own, which writes to the error log
    Pair { workers, counters: counters.clone(), published, heard }
}

/// Pages of shared memory that were written while both workers served.
fn measure(driver: Driver) -> usize {
    let pair = start(driver);
    let addresses = [0, 1].map(|at: usize| pair.workers[at].1);
    let mut clients = addresses.map(connect);
    let warm = |clients: &mut [TcpStream; 2], times| {
        for client in clients {
            WAYS.iter().for_each(|way| exchange(client, way, times));
        }
    };
    warm(&mut clients, 20);
    protect(libc::PROT_READ);
    let before = WRITES.load(Ordering::Relaxed);
    warm(&mut clients, 300);
    for _ in 0..20 {
        warm(&mut addresses.map(connect), 1); // what a connection costs is no different
    }
    let written = WRITES.load(Ordering::Relaxed) - before;
    drop(pair.published.clone());
    assert!(WRITES.load(Ordering::Relaxed) > before + written, "a write is seen");
    protect(libc::PROT_READ | libc::PROT_WRITE);
    assert!(pair.counters.iter().all(|counters| counters.requests.get() >= 960), "both served");
    for (handle, _) in &pair.workers {
        handle.inbox.send(Message::Stop).unwrap();
    }
    let ended = pair.heard.iter().filter(|event| matches!(event, Event::Ended { .. })).take(2).count();
    assert_eq!(ended, 2);
    written
}

#[test]
fn requests_write_nothing_that_workers_share() {
    prepare();
    for (name, driver) in [("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)] {
        if driver == Driver::IoUring && std::fs::read("/proc/sys/kernel/io_uring_disabled").is_ok_and(|flag| flag != b"0\n") {
            eprintln!("io_uring is forbidden here: only the epoll driver is measured");
            continue;
        }
        let written = measure(driver);
        let first = FIRST.load(Ordering::Relaxed).wrapping_sub(BASE.load(Ordering::Relaxed));
        assert_eq!(written, 0, "{name}: pages of shared memory were written, the first at {first:#x} of the arena");
    }
}

#[test]
fn what_several_threads_reach_lies_on_lines_of_its_own() {
    fn check<T>(what: &str) {
        assert!(align_of::<T>() >= LINES && size_of::<T>().is_multiple_of(LINES), "{what} shares its lines with its neighbours");
    }
    check::<Counters>("what a worker counts");
    check::<Health>("the health of a node");
    check::<Name>("the answer for a name");
    check::<Counter>("the counter of a limit");
    check::<Published>("the number of the epoch");
    // Two workers' blocks and the counts of their owners: all apart, however the allocator places them.
    let blocks: Vec<Arc<Counters>> = (0..16).map(|_| Arc::default()).collect();
    let line = |at: usize| at / LINES;
    for (at, block) in blocks.iter().enumerate() {
        let begin = Arc::as_ptr(block) as usize;
        let own = line(begin - 2 * size_of::<usize>())..=line(begin + size_of::<Counters>() - 1); // its owners are counted in front
        let others = blocks.iter().enumerate().filter(|(other, _)| *other != at);
        for (other, block) in others {
            let begin = Arc::as_ptr(block) as usize;
            assert!(!own.contains(&line(begin)), "blocks {at} and {other} share a line");
            assert!(!own.contains(&line(begin - 1)), "block {at} and the owners of {other} share a line");
        }
    }
}
