//! `client-control`: the largest body a client may send here. APISIX plugins-traffic.md §10.

use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::{Answer, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::proto::message::BodyShape;

/// Its fields.
pub const FIELDS: &[Field] =
    &[field("max_body_size", Shape::Int(0, i64::MAX), "", "Bytes of a body; 413 above; 0 lifts the gateway's own limit.")];

struct ClientControl {
    limit: Option<u64>,
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let limit = conf.get("max_body_size").and_then(whole).and_then(|limit| u64::try_from(limit).ok());
    Ok(Arc::new(ClientControl { limit }))
}

impl Plugin for ClientControl {
    fn phases(&self) -> Phases {
        if self.limit.is_some() { Phases::REWRITE } else { Phases::default() }
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        ctx.extras_mut().body_limit = self.limit;
        match (ctx.request.body, self.limit) {
            (BodyShape::Length(length), Some(limit)) if limit > 0 && length > limit => Flow::Answer(Answer::page(413)),
            _ => Flow::Next,
        }
    }
}
