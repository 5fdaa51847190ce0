//! The least proxy on Pingora: one thread, keepalive to one upstream, the forwarded headers and the log of the other peers.
//!
//! `bench-pingora LISTEN UPSTREAM [--access-log FILE] [--forwarded]`, or `--version`.

#[path = "../../src/date.rs"]
mod date;
mod log;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::modules::http::HttpModules;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, ProxyServiceBuilder, Session};

use crate::log::Log;

/// The release of pingora-proxy, as the lock file has it.
const PINGORA: &str = "0.9.1";
/// Idle connections kept to the upstream, as many as the other peers keep.
const KEPT: usize = 512;
const USAGE: &str = "bench-pingora LISTEN UPSTREAM [--access-log FILE] [--forwarded]";

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "--version") {
        println!("pingora {PINGORA}");
        return Ok(());
    }
    let options = Options::parse(&arguments).ok_or(USAGE)?;
    let log = options.access_log.map(|path| Log::open(&path).map_err(|e| format!("{}: {e}", path.display()))).transpose()?;
    // One thread has nobody to steal from: the plain current-thread runtime is the cheaper one.
    let settings = ServerConf { threads: 1, work_stealing: false, upstream_keepalive_pool_size: KEPT, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let upstream = HttpPeer::new(options.upstream, false, String::new());
    let proxy = Proxy { upstream, forwarded: options.forwarded, port: options.listen.port().to_string(), log };
    let mut service = ProxyServiceBuilder::new(&server.configuration, proxy).build();
    service.add_tcp(&options.listen.to_string());
    server.add_service(service);
    server.run_forever()
}

struct Options {
    listen: SocketAddr,
    upstream: SocketAddr,
    access_log: Option<PathBuf>,
    forwarded: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [listen, upstream, rest @ ..] = arguments else { return None };
        let mut options =
            Self { listen: listen.parse().ok()?, upstream: upstream.parse().ok()?, access_log: None, forwarded: false };
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match word.as_str() {
                "--access-log" => options.access_log = Some(rest.next()?.into()),
                "--forwarded" => options.forwarded = true,
                _ => return None,
            }
        }
        Some(options)
    }
}

struct Proxy {
    upstream: HttpPeer,
    forwarded: bool,
    /// Where it listens, for `X-Forwarded-Port`.
    port: String,
    log: Option<Arc<Log>>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None: the one that stands here by default compresses nothing and costs a little.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, _: &mut ()) -> Result<()> {
        // The other peers answer pipelined requests too.
        session.as_downstream_mut().set_pipelining_enabled(true);
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.upstream.clone()))
    }

    async fn upstream_request_filter(&self, session: &mut Session, request: &mut RequestHeader, _: &mut ()) -> Result<()> {
        if self.forwarded { self.forward(session, request) } else { Ok(()) }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, _: &mut ()) {
        if let Some(log) = &self.log {
            log.write(session);
        }
    }
}

impl Proxy {
    fn forward(&self, session: &Session, request: &mut RequestHeader) -> Result<()> {
        let client = session.client_addr().and_then(|a| a.as_inet()).map(|a| a.ip().to_string()).unwrap_or_default();
        let list = match request.headers.get("x-forwarded-for").and_then(|list| list.to_str().ok()) {
            Some(before) => format!("{before}, {client}"),
            None => client.clone(),
        };
        if let Some(host) = request.headers.get("host").cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        request.insert_header("X-Real-IP", client)?;
        request.insert_header("X-Forwarded-For", list)?;
        request.insert_header("X-Forwarded-Proto", "http")?;
        request.insert_header("X-Forwarded-Port", self.port.as_str())
    }
}
