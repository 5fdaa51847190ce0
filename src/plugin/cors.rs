//! `cors`: answers preflight requests and says which origins may read answers. APISIX plugins-first.md.

use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::{Answer, AnswerBody, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::proto::message::{Known, Method};
use crate::route::regex::Regex;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("allow_origins", Shape::Text(1, 65_536), "*", "`*`, `**` (the one that asks), `null`, or a list with commas."),
    field("allow_origins_by_regex", Shape::Texts(1), "", "Patterns of origins, in place of `allow_origins`."),
    field("allow_origins_by_metadata", Shape::Texts(1), "", "Names of lists in the metadata's `allow_origins`, tried first."),
    field("allow_methods", Shape::Text(0, 4096), "*", "Methods; `**` is all of them by name."),
    field("allow_headers", Shape::Text(0, 4096), "*", "Request fields; `**` is what was asked for."),
    field("expose_headers", Shape::Text(0, 4096), "", "Answer fields that scripts may read."),
    field("max_age", Shape::Int(i64::MIN, i64::MAX), "5", "Seconds a preflight answer holds."),
    field("allow_credential", Shape::Bool, "false", "Cookies and credentials are allowed; not together with `*`."),
    field("timing_allow_origins", Shape::Text(1, 65_536), "", "The same list for Timing-Allow-Origin."),
    field("timing_allow_origins_by_regex", Shape::Texts(1), "", "Patterns for it."),
];

const ALL_METHODS: &str = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE";

struct Cors {
    origins: Origins,
    timing: Option<Origins>,
    by_metadata: Vec<Origins>,
    any_origin: bool,
    methods: String,
    headers: String,
    expose: Option<String>,
    max_age: String,
    credential: bool,
}

/// Which origins are allowed.
enum Origins {
    Any,
    Asking,
    Listed(Vec<String>),
    Matching(Vec<Regex>),
}

impl Origins {
    fn parse(text: &str) -> Self {
        match text {
            "*" => Self::Any,
            "**" => Self::Asking,
            list => Self::Listed(list.split(',').map(|origin| origin.trim().to_owned()).collect()),
        }
    }

    fn patterns(list: &Json, name: &str) -> Result<Self, Vec<ConfFault>> {
        let (mut patterns, mut faults) = (Vec::new(), Vec::new());
        for (at, text) in list.as_array().into_iter().flatten().enumerate() {
            match Regex::compile(text.as_str().unwrap_or_default(), false) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => faults.push(ConfFault::at(format!("/{name}/{at}"), error.to_string())),
            }
        }
        if faults.is_empty() { Ok(Self::Matching(patterns)) } else { Err(faults) }
    }

    /// What the field says to this origin; `None` where it is not allowed.
    fn allowed(&self, origin: Option<&[u8]>) -> Option<Vec<u8>> {
        let asking = |origin: &[u8]| match self {
            Self::Any => Some(b"*".to_vec()),
            Self::Asking => Some(origin.to_vec()),
            Self::Listed(list) => list.iter().any(|listed| listed.as_bytes() == origin).then(|| origin.to_vec()),
            Self::Matching(patterns) => patterns.iter().any(|pattern| pattern.is_match(origin)).then(|| origin.to_vec()),
        };
        match (self, origin) {
            (Self::Any | Self::Asking, None) => Some(b"*".to_vec()),
            (_, None) => None,
            (_, Some(origin)) => asking(origin),
        }
    }
}

/// Builds an instance.
pub fn build(conf: &Json, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let text = |name: &str| conf.get(name).and_then(Json::as_str);
    let origins_text = text("allow_origins").unwrap_or("*");
    let (methods, headers) = (text("allow_methods").unwrap_or("*"), text("allow_headers").unwrap_or("*"));
    let credential = conf.get("allow_credential").and_then(Json::as_bool) == Some(true);
    if credential && [origins_text, methods, headers].contains(&"*") {
        let message = "you can not set '*' for other option when 'allow_credential' is true";
        return Err(vec![ConfFault::at("/allow_credential", message)]);
    }
    let origins = match conf.get("allow_origins_by_regex") {
        Some(list) => Origins::patterns(list, "allow_origins_by_regex")?,
        None => Origins::parse(origins_text),
    };
    let timing = match (conf.get("timing_allow_origins_by_regex"), text("timing_allow_origins")) {
        (Some(list), _) => Some(Origins::patterns(list, "timing_allow_origins_by_regex")?),
        (None, Some(list)) => Some(Origins::parse(list)),
        (None, None) => None,
    };
    let named = conf.get("allow_origins_by_metadata").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    let lists = context.metadata.and_then(|metadata| metadata.get("allow_origins"));
    let by_metadata = named.filter_map(|name| lists?.get(name)?.as_str()).map(Origins::parse).collect();
    let max_age = conf.get("max_age").and_then(whole).unwrap_or(5);
    Ok(Arc::new(Cors {
        any_origin: origins_text == "*" && !matches!(origins, Origins::Matching(_)),
        origins,
        timing,
        by_metadata,
        methods: if methods == "**" { ALL_METHODS.to_owned() } else { methods.to_owned() },
        headers: headers.to_owned(),
        expose: text("expose_headers").filter(|expose| !expose.is_empty()).map(str::to_owned),
        max_age: max_age.to_string(),
        credential,
    }))
}

impl Plugin for Cors {
    fn phases(&self) -> Phases {
        Phases::REWRITE.and(Phases::HEADER_FILTER)
    }

    /// Every OPTIONS is answered, preflight or not, as APISIX does.
    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        if ctx.request.method != Method::Options {
            return Flow::Next;
        }
        Flow::Answer(Answer { status: 200, body: AnswerBody::Text(Vec::new()), headers: Vec::new() })
    }

    fn header_filter(&self, ctx: &mut Ctx<'_>) {
        let origin = ctx.request.fields.known(Known::Origin).map(<[u8]>::to_vec);
        let origin = origin.as_deref();
        if !self.any_origin {
            vary_by_origin(ctx);
        }
        if let Some(timing) = self.timing.as_ref().and_then(|timing| timing.allowed(origin)) {
            ctx.response.fields.set(b"Timing-Allow-Origin", &timing);
        }
        let named = self.by_metadata.iter().find_map(|origins| origins.allowed(origin));
        let Some(allowed) = named.or_else(|| self.origins.allowed(origin)) else { return };
        let asked = ctx.request.fields.first(b"access-control-request-headers").map(<[u8]>::to_vec);
        let fields = &mut ctx.response.fields;
        fields.set(b"Access-Control-Allow-Origin", &allowed);
        fields.set(b"Access-Control-Allow-Methods", self.methods.as_bytes());
        fields.set(b"Access-Control-Max-Age", self.max_age.as_bytes());
        if let Some(expose) = &self.expose {
            fields.set(b"Access-Control-Expose-Headers", expose.as_bytes());
        }
        match self.headers.as_str() {
            "**" => {
                if let Some(asked) = asked {
                    fields.set(b"Access-Control-Allow-Headers", &asked);
                }
            }
            headers => fields.set(b"Access-Control-Allow-Headers", headers.as_bytes()),
        }
        if self.credential {
            fields.set(b"Access-Control-Allow-Credentials", b"true");
        }
    }
}

/// `Vary: Origin` beside what the answer varies by already.
fn vary_by_origin(ctx: &mut Ctx<'_>) {
    let has = |value: &[u8]| value.split(|&byte| byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"origin"));
    if !ctx.response.fields.all_known(Known::Vary).any(has) {
        ctx.response.fields.add(b"Vary", b"Origin");
    }
}
