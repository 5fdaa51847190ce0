//! Connections that stay take a slot in the ring's table of descriptors. What is in there stays open, so each leaves it with its
//! end, whoever ends it; and a slot that is used again brings nobody what another asked for.

mod support;

use std::fs;
use std::path::Path;

use support::{Client, Gateway, Upstream, drivers, until};

const CLIENTS: usize = 24;
const REQUESTS: usize = 12;
const ROUNDS: usize = 4;

/// Whether this kernel's tables are used (`vendor/monoio/src/driver/uring/files.rs`).
fn has_table(driver: &str) -> bool {
    driver == "io_uring" && ringway::net::host::kernel().1 >= (6, 15)
}

/// Slots that are taken in the gateway's rings, as the kernel tells them; none while one of them is busy.
fn taken(gateway: &Gateway) -> Option<usize> {
    let process = format!("/proc/{}", gateway.pid());
    let is_ring =
        |name: &String| fs::read_link(format!("{process}/fd/{name}")).is_ok_and(|to| to == Path::new("anon_inode:[io_uring]"));
    let open = fs::read_dir(format!("{process}/fd")).unwrap().flatten();
    let rings = open.filter_map(|file| file.file_name().into_string().ok()).filter(is_ring);
    let slots = |name: String| {
        let text = fs::read_to_string(format!("{process}/fdinfo/{name}")).ok()?;
        let mut lines = text.lines().skip_while(|line| !line.starts_with("UserFiles:"));
        lines.next()?;
        Some(lines.take_while(|line| line.starts_with(' ')).filter(|line| line.contains("socket:")).count())
    };
    rings.map(slots).sum()
}

/// Each asks for something of its own and gets that, all of them by turns.
fn ask(clients: &mut [Client], round: usize) {
    for request in 0..REQUESTS {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET /{round}/{request}/{number} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.answer();
            let line = format!("GET /{round}/{request}/{number} HTTP/1.1\r\n");
            assert!(answer.text().starts_with(&line), "client {number} asked for {line} and got {}", answer.text());
        }
    }
}

fn start(driver: &'static str, workers: usize, upstream: &Upstream) -> Gateway {
    let resources = format!(
        "upstreams:\n  - {{id: 1, nodes: {{\"127.0.0.1:{}\": 1}}, keepalive_pool: {{idle_timeout: 1}}}}\n\
         routes:\n  - {{uri: /*, upstream_id: 1}}",
        upstream.port
    );
    Gateway::start(driver, &format!("  workers: {{count: {workers}, driver: {driver}}}\n"), &resources)
}

#[test]
fn connections_that_stay_take_a_slot_and_leave_it() {
    for driver in drivers() {
        // None of its connections stays.
        let upstream = Upstream::answering(|request| {
            let length = request.head.len();
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}", request.head).into_bytes()
        });
        let gateway = start(driver, 1, &upstream);
        for round in 0..ROUNDS {
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.connect()).collect();
            ask(&mut clients, round);
            if has_table(driver) {
                until("every client to have a slot", || taken(&gateway).filter(|taken| *taken == CLIENTS));
            } else {
                assert_eq!(taken(&gateway).unwrap_or(0), 0, "{driver}: nobody has a slot");
            }
            if round % 2 == 0 {
                for client in &mut clients {
                    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    assert!(client.answer().whole && client.is_closed(), "{driver}: the gateway closes");
                }
            }
            drop(clients);
        }
        if has_table(driver) {
            until("every client to leave its slot", || taken(&gateway).filter(|taken| *taken == 0));
        }
        until("no client to be counted", || (gateway.metric("ringway_connections{") == 0).then_some(()));
    }
}

#[test]
fn a_connection_that_other_workers_may_take_has_left_its_slot() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let gateway = start(driver, 2, &upstream);
        for round in 0..ROUNDS {
            let mut client = [gateway.connect()];
            ask(&mut client, round);
            drop(client);
            until("it to lie between the workers", || (gateway.metric("ringway_pool_spare") == 1).then_some(()));
            if has_table(driver) {
                until("all slots to be empty", || taken(&gateway).filter(|taken| *taken == 0));
            }
        }
        until("it to be closed", || (gateway.metric("ringway_pool_spare") == 0).then_some(()));
    }
}
