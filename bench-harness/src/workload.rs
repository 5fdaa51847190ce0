//! The loads, by name.

use std::net::SocketAddr;
use std::time::Duration;

use crate::load::Spec;

/// What Chrome sends with a page.
const BROWSER: [&str; 7] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.7",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cookie: session=6f1c2a9e8b7d4d3a9c5e; theme=dark; consent=1",
    "Cache-Control: max-age=0",
    "Upgrade-Insecure-Requests: 1",
];

/// One load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, for the report.
    pub title: &'static str,
    connections: usize,
    answer_bytes: u64,
    body_bytes: usize,
    browser: bool,
    close: bool,
    spread: bool,
    pipeline: usize,
    /// Requests per second of the open loop.
    pub rate: Option<f64>,
}

const SMALL: u64 = crate::backend::SMALL.len() as u64;
const BASE: Workload = Workload {
    name: "c64",
    title: "keepalive GET, 13 bytes, 64 connections",
    connections: 64,
    answer_bytes: SMALL,
    body_bytes: 0,
    browser: false,
    close: false,
    spread: false,
    pipeline: 1,
    rate: None,
};

/// All loads.
pub const ALL: [Workload; 16] = [
    BASE,
    Workload { name: "c1", title: "keepalive GET, 13 bytes, 1 connection", connections: 1, ..BASE },
    Workload { name: "c16", title: "keepalive GET, 13 bytes, 16 connections", connections: 16, ..BASE },
    Workload { name: "c256", title: "keepalive GET, 13 bytes, 256 connections", connections: 256, ..BASE },
    Workload { name: "c1024", title: "keepalive GET, 13 bytes, 1024 connections", connections: 1024, ..BASE },
    Workload { name: "browser", title: "keepalive GET, 7 browser headers, 64 connections", browser: true, ..BASE },
    Workload { name: "1k", title: "1 KB answers, 64 connections", answer_bytes: 1024, ..BASE },
    Workload { name: "10k", title: "10 KB answers, 64 connections", answer_bytes: 10 * 1024, ..BASE },
    Workload { name: "100k", title: "100 KB answers, 64 connections", answer_bytes: 100 * 1024, ..BASE },
    Workload { name: "1m", title: "1 MB answers, 16 connections", answer_bytes: 1 << 20, connections: 16, ..BASE },
    Workload { name: "post4k", title: "POST of 4 KB, 64 connections", body_bytes: 4 * 1024, ..BASE },
    Workload { name: "conn", title: "a connection per request, 64 at once", close: true, ..BASE },
    Workload { name: "pipeline", title: "8 pipelined GETs on 16 connections", connections: 16, pipeline: 8, ..BASE },
    Workload { name: "spread", title: "keepalive GET over 10,000 of --routes, 64 connections", spread: true, ..BASE },
    Workload {
        name: "open",
        title: "open loop, 2,000 requests/s over 16 connections",
        connections: 16,
        rate: Some(2_000.0),
        ..BASE
    },
    Workload { name: "open23k", title: "open loop, 23,000 requests/s over 64 connections", rate: Some(23_000.0), ..BASE },
];

/// Picks loads by names separated by commas; `default`, `quick` and `all` name sets.
///
/// # Errors
/// Names the word that is unknown and those that are known.
pub fn pick(words: &str) -> Result<Vec<Workload>, String> {
    let mut picked: Vec<Workload> = Vec::new();
    for word in words.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let names: Vec<&str> = match word {
            "default" => vec!["c64", "open"],
            "quick" => vec!["c64", "c16", "c256", "browser", "10k", "post4k", "conn", "open"],
            "all" => ALL.iter().map(|w| w.name).collect(),
            one => vec![one],
        };
        for name in names {
            let known = || ALL.iter().map(|w| w.name).collect::<Vec<_>>().join(", ");
            let workload =
                ALL.iter().find(|w| w.name == name).ok_or_else(|| format!("no workload {name}; there are {}", known()))?;
            if !picked.contains(workload) {
                picked.push(*workload);
            }
        }
    }
    Ok(picked)
}

/// Routes that `spread` asks for at most, evenly among all there are.
const SPREAD_ROUTES: usize = 10_000;

impl Workload {
    /// The request to make to `target`, which has so many routes `/many/NNNNNN/*`.
    pub fn spec(&self, target: SocketAddr, duration: Duration, routes: usize) -> Spec {
        let path = if self.spread && routes > 0 {
            "/many/{}/x".into()
        } else if self.answer_bytes == SMALL {
            "/".into()
        } else {
            format!("/bytes/{}", self.answer_bytes)
        };
        let variants = if self.spread { routes.clamp(1, SPREAD_ROUTES) } else { 1 };
        Spec {
            method: if self.body_bytes > 0 { "POST" } else { "GET" }.into(),
            headers: if self.browser { BROWSER.map(str::to_owned).to_vec() } else { Vec::new() },
            body_bytes: self.body_bytes,
            close: self.close,
            pipeline: self.pipeline,
            variants,
            stride: (routes / variants).max(1),
            rate: self.rate,
            expect_bytes: Some(self.answer_bytes),
            ..Spec::get(target, &path, self.connections, duration)
        }
    }

    /// The floor is one: it opens an upstream connection per client connection, so it is none where each request has its own.
    pub fn has_floor(&self) -> bool {
        !self.close
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_names_are_picked_once() {
        assert_eq!(pick("c64,default").unwrap().iter().map(|w| w.name).collect::<Vec<_>>(), ["c64", "open"]);
        assert_eq!(pick("all").unwrap().len(), ALL.len());
        assert!(pick("c63").unwrap_err().contains("c64"));
    }
}
