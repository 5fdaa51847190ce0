//! `ringway status`

use std::net::SocketAddr;
use std::path::Path;

use clap::Args;
use serde_json::Value as Json;

use super::{code, http};

/// Ask a running gateway for its epoch, workers and readiness.
///
/// Exit codes: 0 well, 1 not ready (with --ready), 4 nothing answers.
#[derive(Debug, Args)]
pub struct Status {
    /// Only say whether it should get requests: exit code 0 or 1 (a container's health check)
    #[arg(long)]
    ready: bool,
    /// Control address; default: gateway.control of the configuration, else 127.0.0.1:9090
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
    /// As JSON
    #[arg(long, conflicts_with = "ready")]
    json: bool,
}

impl Status {
    /// Asks and prints.
    pub fn run(&self, config: Option<&Path>) -> u8 {
        let address = match self.address.map(Ok).or_else(|| configured(config)) {
            Some(Ok(address)) => address,
            Some(Err(why)) => {
                eprintln!("error: {why}");
                return code::NOT_RUNNING;
            }
            None => SocketAddr::from(([127, 0, 0, 1], 9090)),
        };
        let path = if self.ready { "/status/ready" } else { "/v1/ringway" };
        let (status, body) = match http::get(address, path) {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("error: no gateway answers at {address}: {error}");
                return code::NOT_RUNNING;
            }
        };
        let page: Json = serde_json::from_str(&body).unwrap_or_default();
        if self.ready {
            if status == 200 {
                super::print("ready\n");
                return 0;
            }
            eprintln!("not ready: {}", page.get("error").and_then(Json::as_str).unwrap_or("no reason given"));
            return code::CONFIGURATION;
        }
        if status != 200 || !page.is_object() {
            eprintln!("error: what answers at {address} is no Ringway (status {status})");
            return code::NOT_RUNNING;
        }
        super::print(&if self.json { format!("{page:#}\n") } else { text(&page) });
        0
    }
}

/// `gateway.control` of the configuration; `None` if it cannot be read, an error if it is off.
fn configured(config: Option<&Path>) -> Option<Result<SocketAddr, String>> {
    let gateway = super::check::gateway(config)?;
    Some(gateway.control.ok_or_else(|| "gateway.control is off; name another address with --address".to_string()))
}

fn text(page: &Json) -> String {
    let string = |value: Option<&Json>| match value {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => "-".to_string(),
        Some(other) => other.to_string(),
    };
    let field = |name: &str| string(page.get(name));
    let list = |name: &str| page.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
    let mut text = format!(
        "ringway {} (pid {}), up {} s\nphase     {}\nready     {}\nepoch     {}\n",
        field("version"),
        field("pid"),
        field("uptime_seconds"),
        field("phase"),
        if page.get("ready") == Some(&Json::Bool(true)) { "yes".to_string() } else { format!("no: {}", field("ready_error")) },
        field("epoch"),
    );
    let reload = page.get("reload");
    let last = reload.and_then(|reload| reload.get("last")?.get("outcome"));
    if let Some(outcome) = last {
        text += &format!("reload    {}\n", string(Some(outcome)));
    }
    for listener in list("listeners") {
        let field = |name: &str| string(listener.get(name));
        text += &format!("listener  {} ({}, {})\n", field("address"), field("accept"), field("state"));
    }
    for worker in list("workers") {
        let field = |name: &str| string(worker.get(name));
        text += &format!(
            "worker {:<2} cpu {}, {}, epoch {}, {} connections, {} requests\n",
            field("id"),
            field("cpu"),
            field("driver"),
            field("epoch"),
            field("connections"),
            field("requests")
        );
    }
    text
}
