//! Does a peer keep the terms? One request shows it: what arrived at the backend, and what stands in the log.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::ECHO;
use crate::children::eventually;
use crate::fetch::fetch;
use crate::peers::Running;

const HOST: &str = "bench.local";
/// How long a line may wait in a peer's buffer: each is told to write them after a second.
const LOG: Duration = Duration::from_secs(3);

/// Asks each peer once and says in words which of the terms it does not keep. What the harness did not configure is not asked.
pub fn audit(peers: &[Running]) -> Vec<String> {
    let mut faults = Vec::new();
    for peer in peers {
        let Some(forwards) = peer.promise().forwards else { continue };
        match ask(peer.address) {
            Ok(head) => faults.extend(forwarded(&head, peer.address, forwards).map(|fault| format!("{}: {fault}", peer.name))),
            Err(e) => faults.push(format!("{}: the request for {ECHO} failed: {e}", peer.name)),
        }
    }
    for peer in peers {
        let Some(log) = &peer.promise().log else { continue };
        if !eventually(LOG, || fs::read_to_string(log).is_ok_and(|text| text.contains(ECHO))) {
            faults.push(format!("{}: its access log has no line for a request", peer.name));
        }
    }
    faults
}

/// The head of the request that arrived at the backend, in lower case.
fn ask(address: SocketAddr) -> io::Result<String> {
    let body = fetch(address, HOST, ECHO)?;
    if !body.starts_with("GET ") {
        return Err(io::Error::other("the backend did not say what it was asked"));
    }
    Ok(body.to_ascii_lowercase())
}

/// Which of the five forwarded headers are wrong, or there when they should not be.
fn forwarded(head: &str, address: SocketAddr, wanted: bool) -> Option<String> {
    let port = address.port().to_string();
    let loopback = "127.0.0.1";
    let expected = [
        ("x-real-ip", loopback),
        ("x-forwarded-for", loopback),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", HOST),
        ("x-forwarded-port", &port),
    ];
    let wrong = expected.into_iter().filter_map(|(name, value)| {
        let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        (found != wanted.then_some(value)).then(|| format!("{name} is {}", found.unwrap_or("not there")))
    });
    let wrong: Vec<String> = wrong.collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_is_looked_at() {
        let address = "127.0.0.1:80".parse().unwrap();
        let all = "get /echo http/1.1\r\nhost: bench.local\r\nx-real-ip: 127.0.0.1\r\nx-forwarded-for: 127.0.0.1\r\n\
            x-forwarded-proto: http\r\nx-forwarded-host: bench.local\r\nx-forwarded-port: 80\r\n\r\n";
        assert_eq!(forwarded(all, address, true), None);
        assert!(forwarded(all, address, false).unwrap().contains("x-real-ip is 127.0.0.1"));
        let none = "get /echo http/1.1\r\nhost: bench.local\r\n\r\n";
        assert_eq!(forwarded(none, address, false), None);
        assert_eq!(forwarded(none, address, true).unwrap().matches("not there").count(), 5);
        assert_eq!(forwarded(&all.replace(": 80", ": 81"), address, true).unwrap(), "x-forwarded-port is 81");
    }
}
