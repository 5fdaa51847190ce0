//! A small HTTP client for registries: one connection per question, as questions are few and long.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::connect::keep_alive;
use crate::net::tls::ClientPlan;

/// Bytes of an answer that is read whole.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Silence after which a connection is probed.
const IDLE: Duration = Duration::from_secs(30);

/// A registry's server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS.
    pub tls: Option<ClientPlan>,
}

impl Server {
    /// Asks; the answer's body is still to be read.
    ///
    /// # Errors
    /// What failed, in words.
    pub async fn get(&self, target: &str, fields: &[(&str, String)], connect: Duration) -> Result<Response<Incoming>, String> {
        let host = self.host.trim_matches(['[', ']']);
        let stream = match timeout(connect, TcpStream::connect((host, self.port))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("{}:{}: {error}", self.host, self.port)),
            Err(_) => return Err(format!("{}:{}: no connection in time", self.host, self.port)),
        };
        keep_alive(&stream, IDLE); // a watch may be silent for long
        let mut request =
            Request::get(target).header("Host", format!("{}:{}", self.host, self.port)).header("Accept", "application/json");
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| "the question can't be written".to_owned())?;
        match &self.tls {
            None => ask(TokioIo::new(stream), request).await,
            Some(plan) => {
                let shaken = timeout(connect, plan.connect(stream, &self.host, None)).await;
                match shaken {
                    Ok(Ok(stream)) => ask(TokioIo::new(stream), request).await,
                    Ok(Err(error)) => Err(format!("{}:{}: TLS: {error}", self.host, self.port)),
                    Err(_) => Err(format!("{}:{}: no TLS in time", self.host, self.port)),
                }
            }
        }
    }
}

async fn ask<T>(stream: T, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// Reads an answer whole; an error for a status other than 200.
///
/// # Errors
/// What failed, in words.
pub async fn json(answer: Response<Incoming>) -> Result<serde_json::Value, String> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
    if status != 200 {
        return Err(format!("it answered {status}"));
    }
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("its answer is no JSON: {error}"))
}
