//! The real binary on ports the kernel gives, and scripted upstreams behind it. Whatever is started is stopped on drop.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The drivers to test: both, or epoll alone where the kernel forbids rings (said loudly).
pub fn drivers() -> Vec<&'static str> {
    let forbidden = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|flag| flag.trim() == "2");
    if forbidden {
        eprintln!("io_uring is forbidden by kernel.io_uring_disabled: only the epoll driver is tested");
        return vec!["epoll"];
    }
    vec!["io_uring", "epoll"]
}

/// Polls until `condition` gives something.
#[expect(clippy::disallowed_methods, reason = "the one place that waits between two looks")]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5)); // between two looks
    }
}

/// A listener on a port of the kernel's choice that no other test of this process was given.
pub fn listen() -> TcpListener {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if !given.contains(&port) {
            given.push(port);
            return listener;
        }
    }
}

/// A port nobody listens on, reserved for whoever is started on it.
pub fn free_port() -> u16 {
    bench_harness::children::free_address().unwrap().port()
}

/// A directory of its own, removed on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ringway-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A running gateway.
pub struct Gateway {
    pub address: SocketAddr,
    pub control: SocketAddr,
    pub scratch: Scratch,
    child: Child,
    driver: &'static str,
    settings: String,
}

impl Gateway {
    /// Starts with resources; `settings` are further lines of `gateway:` (two spaces in front).
    pub fn start(driver: &'static str, settings: &str, resources: &str) -> Self {
        Self::start_as(driver, settings, resources, |_| {})
    }

    /// The same; `prepare` may change the command before it runs.
    pub fn start_as(driver: &'static str, settings: &str, resources: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let scratch = Scratch::new();
        let (address, control): (SocketAddr, SocketAddr) =
            (([127, 0, 0, 1], free_port()).into(), ([127, 0, 0, 1], free_port()).into());
        let child = Command::new(env!("CARGO_BIN_EXE_ringway")).arg("version").stdout(Stdio::null()).spawn().unwrap();
        let mut gateway = Self { address, control, scratch, child, driver, settings: settings.to_owned() };
        gateway.child.wait().unwrap();
        gateway.write(resources);
        let errors = std::fs::File::create(gateway.scratch.0.join("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(["run", "-c"]).arg(gateway.scratch.0.join("ringway.yaml")).stdout(Stdio::null()).stderr(errors);
        prepare(&mut command);
        gateway.child = command.spawn().unwrap();
        until("readiness", || {
            let ready = http_get(gateway.control, "/status/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
            assert!(gateway.child.try_wait().unwrap().is_none(), "the gateway ended: {}", gateway.stderr());
            ready.then_some(())
        });
        gateway
    }

    fn write(&self, resources: &str) {
        let log = self.scratch.0.join("access.log");
        let text = format!(
            "gateway:\n{}  control: {{address: \"{}\"}}\n  access_log: {{path: {}}}\n{}{}\n{resources}\n",
            if self.settings.contains("workers:") {
                String::new()
            } else {
                format!("  workers: {{count: 1, driver: {}}}\n", self.driver)
            },
            self.control,
            log.display(),
            if self.settings.contains("listeners:") {
                String::new()
            } else {
                format!("  listeners: [{{address: \"{}\"}}]\n", self.address)
            },
            self.settings,
        );
        self.scratch.file("ringway.yaml", &text);
    }

    /// Writes other resources and waits until every worker serves them.
    pub fn reload(&self, resources: &str) {
        let before = self.epoch();
        self.write(resources);
        self.signal("HUP");
        until("the new epoch", || (self.epoch() > before).then_some(()));
    }

    /// Other lines of `gateway:` for the next reload.
    pub fn set(&mut self, settings: &str) {
        settings.clone_into(&mut self.settings);
    }

    pub fn epoch(&self) -> u64 {
        let answer = http_get(self.control, "/v1/ringway").unwrap_or_default();
        let status: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or("null")).unwrap_or_default();
        status["workers"][0]["epoch"].as_u64().unwrap_or(0)
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of the process in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The value of the first series whose line begins so.
    pub fn metric(&self, series: &str) -> u64 {
        let page = control(self, "/metrics");
        let line = page.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{series} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        until("the end", || self.child.try_wait().unwrap())
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.scratch.0.join("stderr")).unwrap_or_default()
    }

    /// The access log, once it has this many lines.
    pub fn log(&self, lines: usize) -> Vec<serde_json::Value> {
        until("the access log", || {
            let text = std::fs::read_to_string(self.scratch.0.join("access.log")).unwrap_or_default();
            let parsed: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (parsed.len() >= lines).then_some(parsed)
        })
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.answer()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- gateway ({}):\n{}", self.driver, self.stderr());
        }
    }
}

fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// A page of the control address.
pub fn control(gateway: &Gateway, path: &str) -> String {
    http_get(gateway.control, path).unwrap()
}

/// Any request to the control address.
pub fn control_with(gateway: &Gateway, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(gateway.control);
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    client.answer()
}

/// A client's connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The body ended as its framing says.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (have, value) = line.split_once(':')?;
            have.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let _broken_pipe_shows_in_the_answer = self.stream.write_all(bytes);
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&buffer[..read]);
                true
            }
        }
    }

    fn line_end(&self, what: &[u8]) -> Option<usize> {
        self.buffer.windows(what.len()).position(|window| window == what)
    }

    /// Raw bytes until `n` are there.
    pub fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n && self.more() {}
        self.buffer.drain(..n.min(self.buffer.len())).collect()
    }

    /// True if the other side has closed, as far as can be seen now.
    pub fn is_over(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        match seen {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Waits for the other side to close (what it still sends is dropped); false where it stays open.
    pub fn is_closed(&mut self) -> bool {
        let (begun, mut dropped) = (Instant::now(), [0; 65536]);
        while begun.elapsed() < DEADLINE {
            match self.stream.read(&mut dropped) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
        false
    }

    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> Answer {
        let end = loop {
            match self.line_end(b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.more() => {}
                None => return Answer { status: 0, head: String::new(), body: self.buffer.clone(), whole: false },
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new(), whole: true };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.whole = self.chunks(&mut answer.body);
        } else if let Some(length) = answer.header("content-length").map(|length| length.parse().unwrap()) {
            answer.body = self.exactly(length);
            answer.whole = answer.body.len() == length;
        } else {
            while self.more() {}
            answer.body = std::mem::take(&mut self.buffer);
        }
        answer
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            match self.chunk() {
                Some(chunk) if chunk.is_empty() => return self.trailers(),
                Some(chunk) => body.extend_from_slice(&chunk),
                None => return false,
            }
        }
    }

    /// The next chunk of a chunked body; an empty one is the last (its trailers are still to come).
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            match self.line_end(b"\r\n") {
                Some(end) => break end,
                None if self.more() => {}
                None => return None,
            }
        };
        let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
        let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return Some(Vec::new());
        }
        let mut chunk = self.exactly(size + 2);
        let whole = chunk.len() == size + 2;
        chunk.truncate(size);
        whole.then_some(chunk)
    }

    /// A head up to its empty line; what lies behind stays.
    pub fn head(&mut self) -> String {
        let end = loop {
            match self.line_end(b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.more() => {}
                None => return String::new(),
            }
        };
        String::from_utf8(self.buffer.drain(..end).collect()).unwrap()
    }

    /// Reads lines up to the empty one.
    fn trailers(&mut self) -> bool {
        loop {
            match self.line_end(b"\r\n") {
                Some(end) => {
                    self.buffer.drain(..end + 2);
                    if end == 0 {
                        return true;
                    }
                }
                None if self.more() => {}
                None => return false,
            }
        }
    }
}

/// nginx with a configuration of the test's own.
pub struct Nginx {
    child: Child,
    pub port: u16,
    pub scratch: Scratch,
}

impl Nginx {
    /// Starts it; `http` makes the inside of its `http` section out of its port and directory.
    pub fn start(http: impl FnOnce(u16, &str) -> String) -> Self {
        let (scratch, port) = (Scratch::new(), free_port());
        let dir = scratch.0.display().to_string();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {dir}/temp-{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 256; }}\n\
             http {{\n  access_log off;\n{temp}{}\n}}\n",
            http(port, &dir)
        );
        let file = scratch.file("nginx.conf", &text);
        // Debian's lies outside a user's path. A relative prefix would be root's: everything is named in full.
        let program = if std::path::Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["-e", &format!("{dir}/error.log"), "-g", "user root;"]).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("nginx can't be started ({error}); `.ci/setup` installs it"));
        let mut nginx = Self { child, port, scratch };
        until("nginx", || {
            assert!(nginx.child.try_wait().unwrap().is_none(), "nginx ended: {}", nginx.errors());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        nginx
    }

    /// Its error log.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.scratch.0.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _gone = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let _gone = self.child.wait();
    }
}

/// An upstream whose every connection runs a script.
pub struct Upstream {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start(script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = listen();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, script) = (connections.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let script = script.clone();
                std::thread::spawn(move || script(Peer { client: Client::of(stream) }));
            }
        });
        Self { port, connections }
    }

    /// Answers every request with what `answer` makes of it, on one connection after the other.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |mut peer| {
            while let Some(request) = peer.request() {
                peer.send(&answer(&request));
            }
        })
    }

    /// Answers with what it was asked: the head as the body.
    pub fn echoing() -> Self {
        Self::answering(|request| ok(&[request.head.as_bytes(), &request.body].concat()))
    }

    /// Answers with a name of its own.
    pub fn named(name: &'static str) -> Self {
        Self::answering(move |_| ok(name.as_bytes()))
    }

    pub fn nodes(&self) -> String {
        format!("{{nodes: {{\"127.0.0.1:{}\": 1}}}}", self.port)
    }
}

/// A 200 with a length.
pub fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// A request as an upstream got it.
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

/// The gateway's connection as an upstream sees it.
pub struct Peer {
    pub client: Client,
}

impl Client {
    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }
}

impl Peer {
    pub fn send(&mut self, bytes: &[u8]) {
        self.client.send(bytes);
    }

    pub fn request(&mut self) -> Option<Request> {
        let client = &mut self.client;
        let end = loop {
            match client.line_end(b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if client.more() => {}
                None => return None,
            }
        };
        let head = String::from_utf8(client.buffer.drain(..end).collect()).unwrap();
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if lower.contains("transfer-encoding: chunked") {
            client.chunks(&mut body);
        } else if let Some(length) = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()) {
            body = client.exactly(length.parse().unwrap());
        }
        Some(Request { head, body })
    }
}

/// A WebSocket handshake for `/ws`, with the key of RFC 6455 §1.3's example.
pub const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Its answer.
pub const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a body coded with gzip says.
pub fn unzip(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut plain).unwrap();
    plain
}

/// Sum over bytes, to compare large bodies.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// Bytes that do not repeat soon.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}
