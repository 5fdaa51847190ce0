//! `real-ip`: takes the client's address from a field or variable where the peer is trusted. APISIX plugins-traffic.md §16.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::ip_restriction::nets;
use super::{BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::proto::message::Known;
use crate::proto::uri::address_and_port;
use crate::proto::vars::{Var, Vars};

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("source", Shape::Text(1, 256), "**required**", "Variable that holds the address, for example `http_x_real_ip`."),
    field("trusted_addresses", Shape::Texts(1), "", "Peers that may say so; any where it is absent."),
    field("recursive", Shape::Bool, "false", "With `http_x_forwarded_for`: the last address that is not trusted."),
];

struct RealIp {
    source: Source,
    trusted: Option<Vec<IpNet>>,
    recursive: bool,
}

enum Source {
    ForwardedFor,
    Var(Var),
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let Some(source) = conf.get("source").and_then(Json::as_str) else {
        return Err(vec![ConfFault::at("", "`source` is required")]);
    };
    let source = match source {
        "http_x_forwarded_for" => Source::ForwardedFor,
        name => match Var::parse(name) {
            Var::Unknown(name) => return Err(vec![ConfFault::at("/source", format!("unknown variable `{name}`"))]),
            var => Source::Var(var),
        },
    };
    let trusted = conf.get("trusted_addresses").map(|list| nets(list, "trusted_addresses")).transpose()?;
    let recursive = conf.get("recursive").and_then(Json::as_bool) == Some(true);
    Ok(Arc::new(RealIp { source, trusted, recursive }))
}

impl RealIp {
    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&ip)))
    }

    /// The last line of X-Forwarded-For: its last address, or with `recursive` the last one that is not trusted.
    fn forwarded_for(&self, ctx: &Ctx<'_>) -> Option<Vec<u8>> {
        let line = ctx.request.fields.all_known(Known::XForwardedFor).last()?;
        let mut addresses = line.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let last = addresses.next()?;
        if !self.recursive || self.trusted.is_none() {
            return Some(last.to_vec());
        }
        let trusted = |text: &[u8]| address_and_port(text).is_some_and(|(ip, _)| self.trusts(ip));
        let mut found = last;
        for text in addresses {
            if !trusted(found) {
                break;
            }
            found = text;
        }
        Some(found.to_vec())
    }
}

impl Plugin for RealIp {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        if self.trusted.is_some() && !ctx.remote_ip().is_some_and(|ip| self.trusts(ip)) {
            return Flow::Next;
        }
        let found = match &self.source {
            Source::ForwardedFor => self.forwarded_for(ctx),
            Source::Var(var) => ctx.var(var).map(|value| value.to_text().into_owned()),
        };
        match found.filter(|text| !text.is_empty()) {
            None => crate::limited!(warn, "real-ip: missing real address"),
            Some(text) => match address_and_port(&text) {
                Some(address) => ctx.real_ip = Some(address),
                None => crate::limited!(warn, "real-ip: bad address: {}", text.escape_ascii()),
            },
        }
        Flow::Next
    }
}
