//! Nodes from registries: name servers, Consul and Kubernetes, each by a scripted server that speaks its protocol.

mod support;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use support::{Gateway, Upstream, control, free_port, ok, until};

fn route(service: &str, registry: &str) -> String {
    format!(
        "routes: [{{id: r, uri: /*, upstream: {{service_name: \"{service}\", discovery_type: {registry}, type: roundrobin}}}}]"
    )
}

/// Who answers within some requests.
fn who(gateway: &Gateway) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..12 {
        *seen.entry(gateway.get("/").text()).or_default() += 1;
    }
    seen
}

fn only(gateway: &Gateway, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let mut last = BTreeMap::new();
    let begun = std::time::Instant::now();
    until("the nodes", || {
        last = who(gateway);
        assert!(begun.elapsed() < support::DEADLINE / 2, "{last:?}");
        (last == expected).then_some(())
    });
}

/// Records by name and type: the data of each.
type Zone = Arc<Mutex<BTreeMap<(String, u16), Vec<Vec<u8>>>>>;

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
    [&priority.to_be_bytes()[..], &weight.to_be_bytes(), &port.to_be_bytes(), &labels(target)].concat()
}

fn name_server(zone: Zone) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let (mut at, mut name) = (12, String::new());
            while query[at] > 0 {
                let end = at + 1 + usize::from(query[at]);
                name += &format!("{}.", String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
                at = end;
            }
            let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
            let question = query[12..at + 5].to_vec();
            let records = zone.lock().unwrap().get(&(name, kind)).cloned().unwrap_or_default();
            let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
            answer.extend_from_slice(&question);
            for data in records {
                answer.extend_from_slice(&[0xc0, 12]);
                answer.extend_from_slice(&kind.to_be_bytes());
                answer.extend_from_slice(&[0, 1, 0, 0, 0, 1]); // one second
                answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
                answer.extend_from_slice(&data);
            }
            let _gone = socket.send_to(&answer, peer);
            assert!(length <= query.len());
        }
    });
    port
}

#[test]
fn name_servers_give_ports_weights_and_priorities() {
    let (one, two, spare) = (Upstream::named("one"), Upstream::named("two"), Upstream::named("spare"));
    let zone: Zone = Arc::default();
    let set = |name: &str, kind: u16, data: Vec<Vec<u8>>| drop(zone.lock().unwrap().insert((name.to_owned(), kind), data));
    let local = || vec![vec![127, 0, 0, 1]];
    set("n1.example.", 1, local());
    set("n2.example.", 1, local());
    set(
        "api.example.",
        33,
        vec![srv(1, 3, one.port, "n1.example"), srv(1, 1, two.port, "n2.example"), srv(2, 9, spare.port, "n1.example")],
    );
    set("plain.example.", 1, local());
    let server = name_server(zone.clone());
    let settings = format!("  discovery: {{dns: {{servers: [\"127.0.0.1:{server}\"]}}}}\n");
    let gateway = Gateway::start("epoll", &settings, &route("api.example", "dns"));
    only(&gateway, &[("one", 9), ("two", 3)]);
    // The first of another priority goes: the spare one serves, and not a request is lost while that changes.
    set("api.example.", 33, vec![srv(2, 9, spare.port, "n1.example")]);
    only(&gateway, &[("spare", 12)]);
    gateway.reload(&route(&format!("plain.example:{}", two.port), "dns"));
    only(&gateway, &[("two", 12)]);
    gateway.reload(&route("nobody.example", "dns"));
    until("no node", || (gateway.get("/").status == 503).then_some(()));
}

/// A Consul that knows instances by service, and answers a blocking query once its index moves.
struct Consul {
    index: Arc<AtomicU64>,
    questions: Arc<AtomicU64>,
    services: Arc<Mutex<BTreeMap<String, Vec<u16>>>>,
    server: Upstream,
}

impl Consul {
    fn start() -> Self {
        let index = Arc::new(AtomicU64::new(1));
        let services: Arc<Mutex<BTreeMap<String, Vec<u16>>>> = Arc::default();
        let questions: Arc<AtomicU64> = Arc::default();
        let (at, known, asked) = (index.clone(), services.clone(), questions.clone());
        let server = Upstream::start(move |mut peer| {
            while let Some(request) = peer.request() {
                let target = request.head.split(' ').nth(1).unwrap().to_owned();
                asked.fetch_add(1, Ordering::SeqCst);
                assert!(request.head.to_lowercase().contains("x-consul-token: t0ken"), "{}", request.head);
                let name = target.split(['/', '?']).nth(4).unwrap().to_owned();
                let seen: Option<u64> = target.split("&index=").nth(1).and_then(|rest| rest.split('&').next()?.parse().ok());
                if let Some(seen) = seen {
                    until("the index to move", || (at.load(Ordering::SeqCst) > seen).then_some(()));
                }
                let ports = known.lock().unwrap().get(&name).cloned().unwrap_or_default();
                let instances: Vec<_> = ports
                    .iter()
                    .map(|port| serde_json::json!({"Node": {"Address": "10.9.9.9"}, "Service": {"Address": "127.0.0.1", "Port": port}}))
                    .collect();
                let body = serde_json::to_vec(&instances).unwrap();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nX-Consul-Index: {}\r\nContent-Length: {}\r\n\r\n",
                    at.load(Ordering::SeqCst),
                    body.len()
                );
                peer.send(&[head.as_bytes(), &body].concat());
            }
        });
        Self { index, questions, services, server }
    }

    fn set(&self, name: &str, ports: &[u16]) {
        self.services.lock().unwrap().insert(name.to_owned(), ports.to_vec());
        self.index.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn consul_is_followed_by_blocking_queries() {
    let (one, two, fallback) = (Upstream::named("one"), Upstream::named("two"), Upstream::named("fallback"));
    let consul = Consul::start();
    consul.set("web", &[one.port]);
    let settings = format!(
        "  discovery: {{consul: {{servers: [\"http://127.0.0.1:{}\"], token: t0ken, timeout: {{wait: 5}}, \
         default_service: {{host: 127.0.0.1, port: {}}}}}}}\n",
        consul.server.port, fallback.port
    );
    let gateway = Gateway::start("epoll", &settings, &route("web", "consul"));
    assert_eq!(who(&gateway), BTreeMap::from([("one".to_owned(), 12)]), "known before the first request");
    consul.set("web", &[one.port, two.port]);
    only(&gateway, &[("one", 6), ("two", 6)]);
    consul.set("web", &[two.port]);
    only(&gateway, &[("two", 12)]);
    consul.set("web", &[]);
    only(&gateway, &[("fallback", 12)]);
    assert!(!gateway.stderr().contains("t0ken") && !control(&gateway, "/v1/ringway").contains("t0ken"));
    let epochs = gateway.epoch();
    consul.set("other", &[1]);
    consul.set("web", &[one.port]);
    only(&gateway, &[("one", 12)]);
    assert_eq!(gateway.epoch(), epochs + 1, "what changes nothing makes no epoch");
    // A file that is broken on disk keeps no news from the workers, and is not taken for mended by them.
    let good = std::fs::read(gateway.scratch.0.join("ringway.yaml")).unwrap();
    gateway.scratch.file("ringway.yaml", "routes: [");
    gateway.signal("HUP");
    until("the refusal", || gateway.stderr().contains("is refused").then_some(()));
    consul.set("web", &[two.port]);
    only(&gateway, &[("two", 12)]);
    assert!(!gateway.stderr().contains("good again"));
    gateway.scratch.file("ringway.yaml", std::str::from_utf8(&good).unwrap());
    gateway.signal("HUP");
    until("the mending", || gateway.stderr().contains("good again").then_some(()));
    // A service that no upstream names any more is not asked for.
    gateway.reload(&format!("routes: [{{id: r, uri: /*, upstream: {}}}]", one.nodes()));
    let (mut seen, mut since) = (0, std::time::Instant::now());
    until("the last question", || {
        consul.index.fetch_add(1, Ordering::SeqCst); // whoever asks is answered
        let now = consul.questions.load(Ordering::SeqCst);
        if now != seen {
            (seen, since) = (now, std::time::Instant::now());
        }
        (since.elapsed() > std::time::Duration::from_secs(1)).then_some(())
    });
}

/// An API server with one Endpoints object, whose watch tells each change.
#[test]
fn kubernetes_is_listed_and_watched() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let object = |ports: &[u16]| {
        let subsets: Vec<_> = ports
            .iter()
            .map(|port| serde_json::json!({"addresses": [{"ip": "127.0.0.1"}], "notReadyAddresses": [{"ip": "127.0.0.3"}], "ports": [{"name": "http", "port": port}]}))
            .collect();
        serde_json::json!({"metadata": {"namespace": "shop", "name": "web", "resourceVersion": "7"}, "subsets": subsets})
    };
    let list = serde_json::json!({"metadata": {"resourceVersion": "5"}, "items": [object(&[one.port])]}).to_string();
    let told = events.clone();
    let server = Upstream::start(move |mut peer| {
        while let Some(request) = peer.request() {
            let head = request.head.to_lowercase();
            assert!(head.contains("authorization: bearer s3cret"), "{head}");
            if !request.head.contains("watch=true") {
                assert!(request.head.starts_with("GET /api/v1/endpoints?limit="), "{head}");
                peer.send(&ok(list.as_bytes()));
                continue;
            }
            assert!(head.contains("resourceversion=5"), "{head}");
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut sent = 0;
            loop {
                let line = until("an event", || told.lock().unwrap().get(sent).cloned());
                sent += 1;
                let (front, back) = line.split_at(line.len() / 2); // a line may come in pieces
                for piece in [front, back, "\n"] {
                    peer.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
                }
            }
        }
    });
    let settings = format!(
        "  discovery: {{kubernetes: {{service: {{schema: http, host: 127.0.0.1, port: \"{}\"}}, client: {{token: s3cret}}, \
         namespace_selector: {{match: [\"sh.*\"]}}}}}}\n",
        server.port
    );
    let gateway = Gateway::start("epoll", &settings, &route("shop/web:http", "kubernetes"));
    assert_eq!(who(&gateway), BTreeMap::from([("one".to_owned(), 12)]));
    let tell = |kind: &str, object: serde_json::Value| {
        events.lock().unwrap().push(serde_json::json!({"type": kind, "object": object}).to_string());
    };
    tell("BOOKMARK", serde_json::json!({"metadata": {"resourceVersion": "6"}}));
    tell("MODIFIED", object(&[one.port, two.port]));
    only(&gateway, &[("one", 6), ("two", 6)]);
    tell("MODIFIED", object(&[two.port]));
    only(&gateway, &[("two", 12)]);
    tell("DELETED", object(&[]));
    until("no node", || (gateway.get("/").status == 503).then_some(()));
}

#[test]
fn a_registry_that_is_away_keeps_the_last_nodes_and_one_that_is_not_named_is_told() {
    let one = Upstream::named("one");
    let consul = Consul::start();
    consul.set("web", &[one.port]);
    let settings = |port: u16| format!("  discovery: {{consul: {{servers: [\"http://127.0.0.1:{port}\"], token: t0ken}}}}\n");
    let mut gateway = Gateway::start("epoll", &settings(consul.server.port), &route("web", "consul"));
    only(&gateway, &[("one", 12)]);
    gateway.set(&settings(free_port()));
    gateway.reload(&route("web", "consul"));
    until("the failure", || gateway.stderr().contains("its last nodes stay").then_some(()));
    assert_eq!(who(&gateway), BTreeMap::from([("one".to_owned(), 12)]));
    let file = gateway.scratch.file("other.yaml", &route("a/b:c", "kubernetes"));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringway")).args(["check", "-c"]).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && told.contains("discovery kubernetes is uninitialized"), "{told}");
}

/// A port on which 127.0.0.2 is silent (a listener whose queue is full, held as long as what is given back) and 127.0.0.1 listens.
fn half_silent() -> (std::net::TcpListener, Vec<Box<dyn std::any::Any>>) {
    // A port that is free at one address may be taken at the other.
    let (socket, at, listener) = until("a port free at both", || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        let at = socket.local_addr().unwrap().as_socket().unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", at.port())).ok()?;
        Some((socket, at, listener))
    });
    socket.listen(0).unwrap();
    let mut held: Vec<Box<dyn std::any::Any>> = vec![Box::new(socket)];
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&at, std::time::Duration::from_millis(200)) {
        held.push(Box::new(stream));
    }
    (listener, held)
}

#[test]
fn an_address_that_is_silent_holds_nobody_up_while_another_answers() {
    let (listener, _held) = half_silent();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            let _head = std::io::Read::read(&mut stream, &mut bytes);
            let _sent =
                std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nhere");
        }
    });
    let zone: Zone = Arc::default();
    zone.lock().unwrap().insert(("two.example.".to_owned(), 1), vec![vec![127, 0, 0, 1], vec![127, 0, 0, 2]]);
    let server = name_server(zone);
    for driver in support::drivers() {
        let settings = format!("  dns: {{servers: [\"127.0.0.1:{server}\"]}}\n");
        // A connection may take two minutes: whoever waited for the silent address would not be answered here.
        let upstream = format!("{{nodes: {{\"two.example:{port}\": 1}}, timeout: {{connect: 120, send: 5, read: 5}}}}");
        let gateway = Gateway::start(driver, &settings, &format!("routes: [{{uri: /*, upstream: {upstream}}}]"));
        for _ in 0..4 {
            assert_eq!(gateway.get("/").text(), "here");
        }
        assert!(gateway.log(4).iter().all(|line| line["reason"] == "done"));
    }
}
