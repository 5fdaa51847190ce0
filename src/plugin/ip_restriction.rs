//! `ip-restriction`: lets or keeps client addresses. APISIX plugins-first.md.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::{Answer, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("whitelist", Shape::Texts(1), "", "Addresses and nets that are let; exactly one of `whitelist` and `blacklist`."),
    field("blacklist", Shape::Texts(1), "", "Addresses and nets that are kept out."),
    field("message", Shape::Text(1, 1024), "Your IP address is not allowed", "Message of the refusal."),
    field("response_code", Shape::Int(403, 404), "403", "Its status."),
];

struct IpRestriction {
    nets: Vec<IpNet>,
    allows: bool,
    message: String,
    status: u16,
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let (list, allows, name) = match (conf.get("whitelist"), conf.get("blacklist")) {
        (Some(list), None) => (list, true, "whitelist"),
        (None, Some(list)) => (list, false, "blacklist"),
        _ => return Err(vec![ConfFault::at("", "exactly one of `whitelist` and `blacklist` is needed")]),
    };
    let nets = nets(list, name)?;
    let message = conf.get("message").and_then(Json::as_str).unwrap_or("Your IP address is not allowed").to_owned();
    let status = if conf.get("response_code").and_then(Json::as_i64) == Some(404) { 404 } else { 403 };
    Ok(Arc::new(IpRestriction { nets, allows, message, status }))
}

/// Addresses and nets of a list.
///
/// # Errors
/// Those that are none; `name` is the list's.
pub fn nets(list: &Json, name: &str) -> Result<Vec<IpNet>, Vec<ConfFault>> {
    let (mut nets, mut faults) = (Vec::new(), Vec::new());
    for (at, text) in list.as_array().into_iter().flatten().enumerate() {
        let text = text.as_str().unwrap_or_default();
        match text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            Some(net) => nets.push(net.trunc()),
            None => faults.push(ConfFault::at(format!("/{name}/{at}"), format!("invalid ip address: {text}"))),
        }
    }
    if faults.is_empty() { Ok(nets) } else { Err(faults) }
}

impl Plugin for IpRestriction {
    fn phases(&self) -> Phases {
        Phases::ACCESS
    }

    fn access<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        let listed = ctx.remote_ip().is_some_and(|ip| self.nets.iter().any(|net| net.contains(&ip)));
        if listed == self.allows { Flow::Next } else { Flow::Answer(Answer::message(self.status, &self.message)) }
    }
}
