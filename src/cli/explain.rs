//! `ringway explain`

use std::path::Path;

use clap::Args;

use super::code;
use crate::proto::message::Reason;

/// Say which route a request would take and why, with its plugins and its upstream.
#[derive(Debug, Args)]
pub struct Explain {
    /// Method, for example GET
    #[arg(required_unless_present = "reason")]
    method: Option<String>,
    /// URL or path, for example http://example.com/a?b=c
    #[arg(required_unless_present = "reason")]
    url: Option<String>,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Client address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    remote_addr: std::net::IpAddr,
    /// Explain a `reason` of the access log instead; `all` lists them
    #[arg(long, value_name = "NAME", conflicts_with_all = ["method", "url"])]
    reason: Option<String>,
}

impl Explain {
    /// Explains.
    pub fn run(&self, _config: Option<&Path>) -> u8 {
        if let Some(name) = &self.reason {
            return reason(name);
        }
        0
    }
}

fn reason(name: &str) -> u8 {
    let line = |reason: &Reason| format!("{}: {}\n", reason.name(), reason.meaning());
    if name == "all" {
        super::print(&Reason::ALL.iter().map(line).collect::<String>());
        return 0;
    }
    match Reason::ALL.iter().find(|reason| reason.name() == name) {
        Some(reason) => {
            super::print(&line(reason));
            0
        }
        None => {
            let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            eprintln!("error: there is no reason {name:?}; there are {}", names.join(", "));
            code::USAGE
        }
    }
}
