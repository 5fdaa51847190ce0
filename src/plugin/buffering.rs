//! `proxy-control` and `proxy-buffering`: whether bodies are kept in memory on their way. APISIX plugins-first.md. Ringway
//! streams unless told otherwise; what is kept is bounded by `gateway.buffering`.

use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::{BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};

/// Fields of `proxy-control`.
pub const CONTROL_FIELDS: &[Field] =
    &[field("request_buffering", Shape::Bool, "true", "The body is gathered before a node is asked; false streams it.")];

/// Fields of `proxy-buffering`.
pub const BUFFERING_FIELDS: &[Field] = &[field(
    "disable_proxy_buffering",
    Shape::Bool,
    "false",
    "The response is taken at the client's pace; false takes it as fast as its node gives it.",
)];

struct Says {
    request: Option<bool>,
    response: Option<bool>,
}

/// Builds a `proxy-control`.
pub fn build_control(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let on = conf.get("request_buffering").and_then(Json::as_bool).unwrap_or(true);
    Ok(Arc::new(Says { request: Some(on), response: None }))
}

/// Builds a `proxy-buffering`.
pub fn build_buffering(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let off = conf.get("disable_proxy_buffering").and_then(Json::as_bool).unwrap_or(false);
    Ok(Arc::new(Says { request: None, response: Some(!off) }))
}

impl Plugin for Says {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        let extras = ctx.extras_mut();
        extras.buffer_request = self.request.or(extras.buffer_request);
        extras.buffer_response = self.response.or(extras.buffer_response);
        Flow::Next
    }
}
