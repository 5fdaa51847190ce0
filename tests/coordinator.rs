//! The coordinator from outside: start, exit codes, reloads, signals, listeners, the Control API. On the real binary.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_ringway");
const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway in a directory of its own, killed at the end.
struct Gateway {
    child: Child,
    directory: PathBuf,
    http: SocketAddr,
    control: SocketAddr,
}

fn free_address() -> SocketAddr {
    bench_harness::children::free_address().unwrap()
}

fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// An upstream that answers every connection's first request with its name.
fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, name));
        }
    });
    address
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    if head.windows(5).any(|window| window == b"/slow") {
        std::thread::park_timeout(Duration::from_millis(700));
    }
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
}

fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    exchange(stream, path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> Option<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
}

impl Gateway {
    fn start(name: &str, gateway: &str, rest: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("ringway-coordinator-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let (http, control) = (free_address(), free_address());
        let config = Self::config(&directory, http, control, gateway, rest);
        std::fs::write(directory.join("ringway.yaml"), config).unwrap();
        let log = std::fs::File::create(directory.join("error.log")).unwrap();
        let child = Command::new(BINARY)
            .args(["run", "-c"])
            .arg(directory.join("ringway.yaml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { child, directory, http, control };
        wait_for("readiness", || get(this.control, "/status/ready").filter(|(status, _)| *status == 200));
        this
    }

    fn config(directory: &Path, http: SocketAddr, control: SocketAddr, gateway: &str, rest: &str) -> String {
        let log = directory.join("access.log");
        format!(
            "gateway:\n  workers: {{count: 2}}\n  control: {{address: \"{control}\"}}\n  access_log: {{path: {}}}\n  listeners:\n    \
             - {{address: \"{http}\"}}\n{gateway}\n{rest}\n",
            log.display()
        )
    }

    fn rewrite(&self, gateway: &str, rest: &str) {
        let config = Self::config(&self.directory, self.http, self.control, gateway, rest);
        std::fs::write(self.directory.join("new"), config).unwrap();
        std::fs::rename(self.directory.join("new"), self.directory.join("ringway.yaml")).unwrap();
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn page(&self) -> serde_json::Value {
        let (status, body) = get(self.control, "/v1/ringway").unwrap();
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    }

    fn wait_epoch(&self, epoch: u64) {
        wait_for("the epoch", || {
            (self.page()["workers"].as_array()?.iter().all(|worker| worker["epoch"] == epoch)).then_some(())
        });
    }

    fn wait_outcome(&self, outcome: &str) -> serde_json::Value {
        wait_for(outcome, || Some(self.page()["reload"]["last"].clone()).filter(|last| last["outcome"] == outcome))
    }

    fn wait_exit(&mut self) -> Option<i32> {
        wait_for("the end", || self.child.try_wait().unwrap()).code()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("error.log")).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn route(upstream: SocketAddr) -> String {
    format!("routes:\n  - id: r1\n    uri: /*\n    upstream: {{type: roundrobin, nodes: {{\"{upstream}\": 1}}}}\n")
}

fn ringway(arguments: &[&str], input: &str) -> Output {
    let mut child =
        Command::new(BINARY).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_changed_file_becomes_an_epoch_and_a_broken_one_does_not() {
    let (one, two) = (upstream("one"), upstream("two"));
    let gateway = Gateway::start("reload", "", &route(one));
    assert_eq!(get(gateway.http, "/").unwrap(), (200, "one".into()));
    gateway.rewrite("", &route(two));
    gateway.wait_epoch(2);
    assert_eq!(get(gateway.http, "/").unwrap(), (200, "two".into()));

    gateway.rewrite("", "routes:\n  - id: r1\n    urii: /*\n");
    let last = gateway.wait_outcome("refused");
    assert!(last["report"].to_string().contains("urii"), "{last}");
    assert_eq!(get(gateway.http, "/").unwrap(), (200, "two".into()));
    let (_, metrics) = get(gateway.control, "/metrics").unwrap();
    assert!(metrics.contains("ringway_config_reload_success 0\n"), "{metrics}");
    assert_eq!(get(gateway.control, "/status/ready").unwrap().0, 200);

    gateway.rewrite("", &route(two));
    gateway.wait_outcome("unchanged");
    let (_, metrics) = get(gateway.control, "/metrics").unwrap();
    assert!(metrics.contains("ringway_config_reload_success 1\n"), "{metrics}");
    assert!(metrics.contains("ringway_config_reload_failures_total 1\n"), "{metrics}");
    let log = gateway.log();
    assert!(log.contains("refused") && log.contains("good again"), "{log}");
}

#[test]
fn hup_reads_again_at_once_and_says_that_nothing_changed() {
    let gateway = Gateway::start("hup", "", &route(upstream("one")));
    gateway.signal("HUP");
    gateway.wait_outcome("unchanged");
    assert_eq!(gateway.page()["epoch"], 1);
    assert!(gateway.log().contains("unchanged"));
}

#[test]
fn listeners_come_and_go_with_a_reload() {
    let one = upstream("one");
    let gateway = Gateway::start("listeners", "", &route(one));
    let (second, socket) = (free_address(), gateway.directory.join("http.sock"));
    let more = format!(
        "    - {{address: \"{second}\", accept: shared}}\n    - {{address: \"unix:{}\", mode: \"0660\"}}",
        socket.display()
    );
    gateway.rewrite(&more, &route(one));
    gateway.wait_epoch(2);
    wait_for("the second listener", || get(second, "/").filter(|(status, _)| *status == 200));
    let stream = wait_for("the Unix socket", || UnixStream::connect(&socket).ok());
    assert_eq!(exchange(stream, "/").unwrap().0, 200);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);

    gateway.rewrite("", &route(one));
    gateway.wait_epoch(3);
    wait_for("the listeners to go", || {
        (gateway.page()["listeners"].as_array()?.len() == 1 && TcpStream::connect(second).is_err() && !socket.exists())
            .then_some(())
    });
    assert_eq!(get(gateway.http, "/").unwrap().0, 200);
}

#[test]
fn a_listener_that_cannot_be_opened_refuses_the_reload() {
    let one = upstream("one");
    let gateway = Gateway::start("refused-listener", "", &route(one));
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    gateway.rewrite(&format!("    - {{address: \"{address}\"}}"), &route(one));
    let last = gateway.wait_outcome("refused");
    assert!(last["report"].to_string().contains("in use"), "{last}");
    drop(busy);
    gateway.signal("HUP");
    gateway.wait_epoch(2);
    wait_for("the listener", || get(address, "/").filter(|(status, _)| *status == 200));
}

#[test]
fn term_finishes_what_is_begun_and_a_busy_port_is_code_3() {
    let mut gateway = Gateway::start("term", "", &route(upstream("one")));
    let config = gateway.directory.join("ringway.yaml");
    let second = ringway(&["run", "-c", config.to_str().unwrap()], "");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(3), "{text}");
    assert!(text.contains(&gateway.http.to_string()) && text.contains(&format!("(pid {})", gateway.child.id())), "{text}");

    let http = gateway.http;
    let slow = std::thread::spawn(move || get(http, "/slow"));
    wait_for("the slow request", || {
        gateway.page()["workers"].as_array()?.iter().any(|worker| worker["connections"] != 0).then_some(())
    });
    gateway.signal("TERM");
    assert_eq!(slow.join().unwrap(), Some((200, "one".into())));
    assert_eq!(gateway.wait_exit(), Some(0));
    assert!(TcpStream::connect(http).is_err());
}

#[test]
fn readiness_fails_before_the_drain_and_a_second_term_stops_at_once() {
    let mut gateway = Gateway::start("delay", "  timeouts: {drain_delay: 60s}", &route(upstream("one")));
    gateway.signal("TERM");
    wait_for("failing readiness", || get(gateway.control, "/status/ready").filter(|(status, _)| *status == 503));
    assert_eq!(get(gateway.control, "/status").unwrap().0, 200);
    assert_eq!(get(gateway.http, "/").unwrap().0, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit(), Some(0));
}

#[test]
fn usr1_opens_the_access_log_again_and_all_lines_are_there_at_the_end() {
    let mut gateway = Gateway::start("usr1", "", &route(upstream("one")));
    let (log, rotated) = (gateway.directory.join("access.log"), gateway.directory.join("access.log.1"));
    assert_eq!(get(gateway.http, "/first").unwrap().0, 200);
    wait_for("the first line", || std::fs::read_to_string(&log).ok().filter(|text| text.contains("/first")));
    std::fs::rename(&log, &rotated).unwrap();
    gateway.signal("USR1");
    wait_for("the new file", || log.exists().then_some(()));
    assert_eq!(get(gateway.http, "/second").unwrap().0, 200);
    gateway.signal("INT");
    assert_eq!(gateway.wait_exit(), Some(0));
    assert!(std::fs::read_to_string(&log).unwrap().contains("/second"));
    assert!(!std::fs::read_to_string(&rotated).unwrap().contains("/second"));
}

#[test]
fn the_control_api_shows_resources_and_answers_others_in_json() {
    let rest =
        format!("{}services:\n  - id: s1\nupstreams:\n  - id: u1\n    nodes: {{\"127.0.0.1:1\": 1}}\n", route(upstream("one")));
    let gateway = Gateway::start("api", "", &rest);
    let json = |path: &str| {
        let (status, body) = get(gateway.control, path).unwrap();
        (status, serde_json::from_str::<serde_json::Value>(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    };
    let (status, node) = json("/v1/route/r1");
    assert_eq!((status, &node["key"], &node["value"]["uri"]), (200, &"/routes/r1".into(), &"/*".into()));
    assert_eq!(node["value"]["upstream"]["nodes"][0]["weight"], 1);
    assert_eq!(json("/v1/routes").1.as_array().unwrap().len(), 1);
    assert_eq!(json("/v1/services").1.as_array().unwrap().len(), 1);
    assert_eq!(json("/v1/upstream/u1").1["value"]["nodes"][0]["port"], 1);
    assert_eq!(json("/v1/route/none"), (404, serde_json::json!({"error_msg": "route[none] not found"})));
    assert_eq!(json("/status"), (200, serde_json::json!({"status": "ok"})));
    assert_eq!(json("/none").0, 404);
    assert!(json("/v1/schema").1["main"]["route"].is_object());
    assert_eq!(get(gateway.http, "/").unwrap().0, 200);
    for path in ["/metrics", "/apisix/prometheus/metrics"] {
        let (status, text) = get(gateway.control, path).unwrap();
        assert_eq!(status, 200);
        assert!(text.contains("apisix_http_requests_total") && text.contains("ringway_worker_epoch{worker=\"1\"} 1\n"), "{text}");
    }
    let address = gateway.control.to_string();
    assert_eq!(ringway(&["status", "--ready", "--address", &address], "").status.code(), Some(0));
    let status = ringway(&["status", "--address", &address], "");
    assert!(String::from_utf8_lossy(&status.stdout).contains("epoch     1"));
    assert_eq!(ringway(&["status", "--address", &free_address().to_string()], "").status.code(), Some(4));
}

#[test]
fn checks_speak_by_their_exit_codes() {
    let good = "routes:\n  - id: r1\n    uri: /a\n    upstream: {nodes: {\"127.0.0.1:80\": 1}}\n";
    let quiet = ringway(&["check", "-q", "-c", "-"], good);
    assert_eq!((quiet.status.code(), quiet.stdout.as_slice(), quiet.stderr.as_slice()), (Some(0), &b""[..], &b""[..]));
    let broken = ringway(&["check", "-c", "-"], "routes:\n  - id: r1\n    urii: /a\n");
    let text = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert_eq!(broken.status.code(), Some(1));
    assert!(text.contains("urii") && text.contains('3'), "{text}");
    let json = ringway(&["check", "--format", "json", "-c", "-"], "routes:\n  - id: r1\n    urii: /a\n");
    assert!(serde_json::from_slice::<serde_json::Value>(&json.stdout).is_ok());
    assert_eq!(ringway(&["-t", "-c", "-"], good).status.code(), Some(0));
    assert!(String::from_utf8_lossy(&ringway(&["-T", "-c", "-"], good).stdout).contains("127.0.0.1:80"));
    assert_eq!(ringway(&["run", "-c", "/none.yaml"], "").status.code(), Some(1));
    assert_eq!(ringway(&["fly"], "").status.code(), Some(2));
}

#[test]
fn explain_names_the_route_and_those_passed_over() {
    let config = "routes:\n  - {id: post, uri: /a, methods: [POST], priority: 5, upstream: {nodes: {\"127.0.0.1:80\": 1}}}\n  \
        - {id: any, uri: /a, plugins: {proxy-rewrite: {uri: /b}}, upstream: {nodes: {\"127.0.0.1:81\": 1}}}\n";
    let output = ringway(&["explain", "GET", "http://host/a", "-c", "-"], config);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["any", "post", "method", "proxy-rewrite", "127.0.0.1:81"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
