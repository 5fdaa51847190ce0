//! `fault-injection`. APISIX plugins-transform.md §4.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::template::Template;
use super::{Answer, AnswerBody, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin, random};
use crate::net::rt;
use crate::route::expr::Expr;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("abort", Shape::Object(ABORT), "", "Ends a share of the requests."),
    field("delay", Shape::Object(DELAY), "", "Delays a share of the requests."),
];

const ABORT: &[Field] = &[
    field("http_status", Shape::Int(200, 999), "**required**", "Status."),
    field("body", Shape::Text(0, 1 << 20), "", "Body, with `$variables`."),
    field("headers", Shape::Any, "", "Further response headers; text values take `$variables`."),
    field("percentage", Shape::Int(0, 100), "100", "Share of the requests."),
    field("vars", Shape::Any, "", "List of expressions, one of which must hold."),
];

const DELAY: &[Field] = &[
    field("duration", Shape::Number, "**required**", "Seconds."),
    field("percentage", Shape::Int(0, 100), "100", "Share of the requests."),
    field("vars", Shape::Any, "", "List of expressions, one of which must hold."),
];

/// Longest delay.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

struct FaultInjection {
    abort: Option<Abort>,
    delay: Option<(Duration, When)>,
}

struct Abort {
    status: u16,
    body: Option<Template>,
    headers: Vec<(String, Template)>,
    when: When,
}

struct When {
    percentage: u64,
    vars: Option<Vec<Expr>>,
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let mut faults = Vec::new();
    if conf.get("abort").is_none() && conf.get("delay").is_none() {
        faults.push(ConfFault::at("", "`abort` or `delay` is needed"));
    }
    let abort = conf.get("abort").and_then(|conf| abort(conf, &mut faults));
    let delay = conf.get("delay").and_then(|conf| {
        let Some(seconds) = conf.get("duration").and_then(Json::as_f64) else {
            faults.push(ConfFault::at("/delay", "`duration` is required"));
            return None;
        };
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or(DELAY_MAX).min(DELAY_MAX);
        Some((duration, when(conf, "/delay", &mut faults)))
    });
    if faults.is_empty() { Ok(Arc::new(FaultInjection { abort, delay })) } else { Err(faults) }
}

fn abort(conf: &Json, faults: &mut Vec<ConfFault>) -> Option<Abort> {
    let Some(status) = conf.get("http_status").and_then(whole).and_then(|status| u16::try_from(status).ok()) else {
        faults.push(ConfFault::at("/abort", "`http_status` is required"));
        return None;
    };
    let mut headers = Vec::new();
    for (name, value) in conf.get("headers").and_then(Json::as_object).into_iter().flatten() {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => {
                faults.push(ConfFault::at(format!("/abort/headers/{name}"), "expected a string or a number"));
                continue;
            }
        };
        headers.push((name.clone(), Template::compile(&text)));
    }
    let body = conf.get("body").and_then(Json::as_str).map(Template::compile);
    Some(Abort { status, body, headers, when: when(conf, "/abort", faults) })
}

fn when(conf: &Json, pointer: &str, faults: &mut Vec<ConfFault>) -> When {
    let percentage = conf.get("percentage").and_then(whole).map_or(100, |share| share.clamp(0, 100) as u64);
    let vars = conf.get("vars").and_then(Json::as_array).map(|lists| {
        let compiled = lists.iter().enumerate().filter_map(|(at, list)| match Expr::compile(list) {
            Ok(expr) => Some(expr),
            Err(error) => {
                faults.push(ConfFault::at(format!("{pointer}/vars/{at}"), format!("failed to create vars expression: {error}")));
                None
            }
        });
        compiled.collect()
    });
    When { percentage, vars }
}

impl When {
    /// The share is drawn, and one of the expressions holds (none given: always; an empty list: never).
    fn holds(&self, ctx: &Ctx<'_>) -> bool {
        let fits = self.vars.as_ref().is_none_or(|vars| vars.iter().any(|expr| expr.holds(ctx)));
        fits && random::hits(self.percentage)
    }
}

impl Plugin for FaultInjection {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        let abort = self.abort.as_ref().filter(|abort| abort.when.holds(ctx));
        let answer = abort.map(|abort| abort.answer(ctx));
        let then = move || answer.map_or(Flow::Next, Flow::Answer);
        match &self.delay {
            Some((duration, when)) if when.holds(ctx) => Flow::Later(Box::pin(async move {
                rt::sleep(*duration).await;
                then()
            })),
            _ => then(),
        }
    }
}

impl Abort {
    fn answer(&self, ctx: &Ctx<'_>) -> Answer {
        let body = self.body.as_ref().map_or(AnswerBody::Page, |body| AnswerBody::Text(body.render(ctx)));
        let headers = self.headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.render(ctx))).collect();
        Answer { status: self.status, body, headers }
    }
}
