//! `proxy-mirror`: a share of the requests is copied to another host, whose answers nobody waits for. APISIX plugins-first.md.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::extras::Mirror;
use super::{BuildContext, ConfFault, Ctx, Flow, Phases, Plugin, random};
use crate::config::model::{Timeout, mirror_identity};

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("host", Shape::Text(8, 512), "**required**", "Where copies go: `http://host:port` or `https://host:port`."),
    field("path", Shape::Text(2, 4096), "", "Path in place of the request's; its query stays."),
    field("path_concat_mode", Shape::Word(&["replace", "prefix"]), "replace", "`prefix`: `path` goes in front of the request's."),
    field("sample_ratio", Shape::Number, "1", "Share of the requests, 0.00001 to 1."),
];

struct ProxyMirror {
    mirror: Mirror,
    /// Of 2^32 requests.
    sample: u64,
}

/// Builds an instance.
pub fn build(conf: &Json, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let text = |name: &str| conf.get(name).and_then(Json::as_str);
    let mut faults = Vec::new();
    let host = text("host").unwrap_or_default();
    if host.starts_with("grpc") {
        faults.push(ConfFault::at("/host", "copies of gRPC calls are not supported yet"));
    }
    let upstream = (context.upstream)(&mirror_identity(context.item));
    if upstream.is_none() && faults.is_empty() {
        let mut fault = ConfFault::at("/host", format!("`{host}` is no place for copies"));
        fault.help = Some("write http://host or https://host, with :port where it is not the usual one".to_owned());
        faults.push(fault);
    }
    let ratio = conf.get("sample_ratio").and_then(Json::as_f64).unwrap_or(1.0);
    if !(0.00001..=1.0).contains(&ratio) {
        faults.push(ConfFault::at("/sample_ratio", "a share from 0.00001 to 1"));
    }
    if text("path").is_some_and(|path| !path.starts_with('/') || path.contains(['?', '&'])) {
        faults.push(ConfFault::at("/path", "a path begins with `/` and has no `?` or `&`"));
    }
    match upstream {
        Some(upstream) if faults.is_empty() => Ok(Arc::new(ProxyMirror {
            mirror: Mirror {
                upstream,
                path: text("path").map(Into::into),
                prefix: text("path_concat_mode") == Some("prefix"),
                timeout: timeout(context.attr),
            },
            sample: (ratio * 4_294_967_296.0) as u64,
        })),
        _ => Err(faults),
    }
}

/// `plugin_attr.proxy-mirror.timeout`, as nginx writes times: `60s`, `500ms`.
fn timeout(attr: Option<&Json>) -> Timeout {
    let given = |name: &str| {
        let text = attr?.get("timeout")?.get(name)?.as_str()?;
        let number = |unit: &str| text.strip_suffix(unit)?.parse::<u64>().ok();
        number("ms").map(Duration::from_millis).or_else(|| number("s").map(Duration::from_secs))
    };
    let minute = Duration::from_secs(60);
    let part = |name: &str| given(name).unwrap_or(minute);
    Timeout { connect: part("connect"), send: part("send"), read: part("read") }
}

impl Plugin for ProxyMirror {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        if self.sample > 0xffff_ffff || random::next() >> 32 < self.sample {
            ctx.extras_mut().mirror = Some(Box::new(self.mirror.clone()));
        }
        Flow::Next
    }
}
