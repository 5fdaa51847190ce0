//! `key-auth`: identifies consumers by a key in a header or query argument. APISIX plugins-first.md.

use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::consumers::Identity;
use super::{Answer, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::proto::uri::{self, Arg};

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("header", Shape::Text(1, 256), "apikey", "Header that carries the key."),
    field("query", Shape::Text(1, 256), "apikey", "Query argument that carries it where the header is absent."),
    field("hide_credentials", Shape::Bool, "false", "The key is taken out before the request goes on."),
    field("realm", Shape::Text(1, 128), "key", "Realm of WWW-Authenticate."),
    field("anonymous_consumer", Shape::Text(1, 256), "", "Consumer attached where authentication fails."),
];

struct KeyAuth {
    header: String,
    query: String,
    hide: bool,
    challenge: String,
    anonymous: Option<String>,
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let text = |name: &str, default: &str| conf.get(name).and_then(Json::as_str).unwrap_or(default).to_owned();
    let realm = text("realm", "key");
    if !realm.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        return Err(vec![ConfFault::at("/realm", "a realm is printable ASCII without quotes and backslashes")]);
    }
    Ok(Arc::new(KeyAuth {
        header: text("header", "apikey"),
        query: text("query", "apikey"),
        hide: conf.get("hide_credentials").and_then(Json::as_bool) == Some(true),
        challenge: format!("apikey realm=\"{realm}\""),
        anonymous: conf.get("anonymous_consumer").and_then(Json::as_str).map(str::to_owned),
    }))
}

/// Where the key was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Query,
}

impl Plugin for KeyAuth {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        match self.identify(ctx) {
            Ok((identity, place)) => {
                if self.hide {
                    self.take_out(ctx, place);
                }
                ctx.attach_consumer(identity);
                Flow::Next
            }
            Err(why) => self.refuse(ctx, why),
        }
    }
}

impl KeyAuth {
    fn identify<'e>(&self, ctx: &Ctx<'e>) -> Result<(&'e Identity, Place), &'static str> {
        let missing = "Missing API key in request";
        let invalid = "Invalid API key in request";
        let mut headers = ctx.request.fields.all(self.header.as_bytes());
        let (key, place) = match (headers.next(), headers.next()) {
            (Some(key), None) => (std::borrow::Cow::Borrowed(key), Place::Header),
            (Some(_), Some(_)) => return Err(invalid), // two keys: nobody says which one counts
            (None, _) => match uri::query_arg(ctx.request.query_text(), self.query.as_bytes()) {
                Some(Arg::Value(key)) => (key, Place::Query),
                Some(Arg::Flag) => return Err(invalid),
                None => return Err(missing),
            },
        };
        let key = std::str::from_utf8(&key).map_err(|_| invalid)?;
        ctx.consumers.find("key-auth", key).map(|identity| (identity, place)).ok_or(invalid)
    }

    fn refuse<'a>(&self, ctx: &mut Ctx<'_>, why: &str) -> Flow<'a> {
        if let Some(name) = &self.anonymous {
            return match ctx.consumers.named(name) {
                Some(identity) => {
                    if self.hide {
                        self.take_out(ctx, Place::Header);
                        self.take_out(ctx, Place::Query);
                    }
                    ctx.attach_consumer(identity);
                    Flow::Next
                }
                None => Flow::Answer(self.unauthorized("Invalid user authorization")),
            };
        }
        Flow::Answer(self.unauthorized(why))
    }

    fn unauthorized(&self, why: &str) -> Answer {
        Answer::message(401, why).with("WWW-Authenticate", self.challenge.as_bytes())
    }

    /// Removes the key from where it was found, out of everything that goes on: upstream, log, later plugins.
    fn take_out(&self, ctx: &mut Ctx<'_>, place: Place) {
        match place {
            Place::Header => drop(ctx.request.fields.remove(self.header.as_bytes())),
            Place::Query => ctx.remove_query_arg(self.query.as_bytes()),
        }
    }
}
