//! Connections that stay take a slot in the ring's table of descriptors. What is in there stays open, so each leaves it with its
//! end, whoever ends it; and a slot that is used again brings nobody what another asked for.

mod support;

use std::fs;

use support::{Client, Gateway, Upstream, drivers, until};

const CLIENTS: usize = 24;
const REQUESTS: usize = 12;
const ROUNDS: usize = 4;

/// Whether this kernel's tables are used (`vendor/monoio/src/driver/uring/files.rs`).
fn has_table(driver: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0_u32), numbers.next().unwrap_or(0_u32));
    driver == "io_uring" && version >= (6, 15)
}

/// Slots that are taken in all rings of the gateway, as the kernel tells them.
fn taken(gateway: &Gateway) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fdinfo", gateway.pid())).unwrap().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let slots = |text: &String| {
        let table = text.lines().skip_while(|line| !line.starts_with("UserFiles:")).skip(1);
        table.take_while(|line| line.starts_with(' ')).filter(|line| line.contains("socket:")).count()
    };
    texts.map(|text| slots(&text)).sum()
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

#[test]
fn connections_that_stay_take_a_slot_and_leave_it() {
    for driver in drivers() {
        let upstream = Upstream::echoing();
        let resources = format!(
            "upstreams:\n  - {{id: 1, nodes: {{\"127.0.0.1:{}\": 1}}, keepalive_pool: {{idle_timeout: 1}}}}\n\
             routes:\n  - {{uri: /*, upstream_id: 1}}",
            upstream.port
        );
        let gateway = Gateway::start(driver, "", &resources);
        for round in 0..ROUNDS {
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.connect()).collect();
            ask(&mut clients, round);
            if has_table(driver) {
                until("every client to have a slot", || (taken(&gateway) >= CLIENTS).then_some(()));
            } else {
                assert_eq!(taken(&gateway), 0, "{driver}: nobody has a slot");
            }
            if round % 2 == 0 {
                for client in &mut clients {
                    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    assert!(client.answer().whole && client.is_closed(), "{driver}: the gateway closes");
                }
            }
            drop(clients);
        }
        until("clients and upstream connections to be gone", || (taken(&gateway) == 0).then_some(()));
        until("no client to be counted", || (gateway.metric("ringway_connections{") == 0).then_some(()));
    }
}
