//! `api-breaker`: answers in an upstream's place while it fails. APISIX plugins-traffic.md §14. Each worker has its own state per
//! host and path, where APISIX's workers share theirs (docs/migrating-from-apisix.md).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::template::Template;
use super::{Answer, AnswerBody, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::base::clock::{self, Tick};
use crate::base::limits;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("break_response_code", Shape::Int(200, 599), "**required**", "Status while it is open."),
    field("break_response_body", Shape::Text(0, 1 << 20), "", "Body of that answer."),
    field("break_response_headers", Shape::Objects(HEADER), "", "Fields of that answer; only sent with a body."),
    field("max_breaker_sec", Shape::Int(3, i64::MAX), "300", "Longest time it stays open."),
    field("unhealthy", Shape::Object(UNHEALTHY), "", "When it opens."),
    field("healthy", Shape::Object(HEALTHY), "", "When it closes."),
];

const HEADER: &[Field] = &[
    field("key", Shape::Text(1, 256), "**required**", "Name."),
    field("value", Shape::Text(1, 4096), "**required**", "Value, with `$variables`."),
];
const UNHEALTHY: &[Field] = &[
    field("http_statuses", Shape::Any, "[500]", "Statuses from 500 that count."),
    field("failures", Shape::Int(1, u32::MAX as i64), "3", "So many of them open it."),
];
const HEALTHY: &[Field] = &[
    field("http_statuses", Shape::Any, "[200]", "Statuses below 500 that count."),
    field("successes", Shape::Int(1, u32::MAX as i64), "3", "So many of them in a row close it."),
];

struct ApiBreaker {
    status: u16,
    body: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Template)>,
    longest_secs: u64,
    unhealthy: (Vec<u16>, u32),
    healthy: (Vec<u16>, u32),
}

/// What is known of a host and path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State {
    failures: u32,
    successes: u32,
    tripped: Option<Tick>,
}

thread_local! {
    static STATES: RefCell<HashMap<Vec<u8>, State>> = RefCell::default();
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let Some(status) = conf.get("break_response_code").and_then(whole).and_then(|code| u16::try_from(code).ok()) else {
        return Err(vec![ConfFault::at("", "`break_response_code` is required")]);
    };
    let mut headers = Vec::new();
    for (at, item) in conf.get("break_response_headers").and_then(Json::as_array).into_iter().flatten().enumerate() {
        let part = |name: &str| item.get(name).and_then(Json::as_str);
        match (part("key"), part("value")) {
            (Some(key), Some(value)) => headers.push((key.as_bytes().to_vec(), Template::compile(value))),
            _ => return Err(vec![ConfFault::at(format!("/break_response_headers/{at}"), "`key` and `value` are required")]),
        }
    }
    let count = |side: &str, name: &str| {
        let count = conf.get(side).and_then(|side| side.get(name)).and_then(whole);
        count.and_then(|count| u32::try_from(count).ok()).unwrap_or(3)
    };
    Ok(Arc::new(ApiBreaker {
        status,
        body: conf.get("break_response_body").and_then(Json::as_str).map(|body| body.as_bytes().to_vec()),
        headers,
        longest_secs: conf.get("max_breaker_sec").and_then(whole).and_then(|secs| u64::try_from(secs).ok()).unwrap_or(300),
        unhealthy: (statuses(conf, "unhealthy", 500, 599, 500)?, count("unhealthy", "failures")),
        healthy: (statuses(conf, "healthy", 200, 499, 200)?, count("healthy", "successes")),
    }))
}

fn statuses(conf: &Json, side: &str, least: i64, most: i64, default: u16) -> Result<Vec<u16>, Vec<ConfFault>> {
    let Some(list) = conf.get(side).and_then(|side| side.get("http_statuses")) else { return Ok(vec![default]) };
    let items = list.as_array().filter(|items| !items.is_empty());
    let all: Option<Vec<u16>> = items.and_then(|items| {
        let status = |item: &Json| whole(item).filter(|status| (least..=most).contains(status)).map(|status| status as u16);
        items.iter().map(status).collect()
    });
    all.ok_or_else(|| vec![ConfFault::at(format!("/{side}/http_statuses"), format!("expected a list of {least} to {most}"))])
}

impl ApiBreaker {
    /// True while answers are given in the upstream's place: 2, 4, 8... seconds from the trip, one step per `failures`.
    fn is_open(&self, state: &State, now: Tick) -> bool {
        let Some(tripped) = state.tripped.filter(|_| state.failures > 0) else { return false };
        let step = (state.failures / self.unhealthy.1).clamp(1, 62);
        now.since(tripped).as_secs() <= (1_u64 << step).min(self.longest_secs)
    }

    fn note(&self, state: &mut State, status: u16, now: Tick) {
        if self.unhealthy.0.contains(&status) {
            state.failures = state.failures.saturating_add(1);
            state.successes = 0;
            if state.failures.is_multiple_of(self.unhealthy.1) {
                state.tripped = Some(now);
            }
        } else if self.healthy.0.contains(&status) && state.failures > 0 {
            state.successes += 1;
            if state.successes >= self.healthy.1 {
                *state = State::default();
            }
        }
    }

    fn answer(&self, ctx: &Ctx<'_>) -> Answer {
        let Some(body) = &self.body else { return Answer::page(self.status) };
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.render(ctx))).collect();
        Answer { status: self.status, body: AnswerBody::Text(body.clone()), headers }
    }
}

impl Plugin for ApiBreaker {
    fn phases(&self) -> Phases {
        Phases::ACCESS.and(Phases::LOG)
    }

    fn access<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        let state = STATES.with_borrow(|all| if all.is_empty() { None } else { all.get(&key(ctx)).copied() });
        match state {
            Some(state) if self.is_open(&state, clock::now()) => Flow::Answer(self.answer(ctx)),
            _ => Flow::Next,
        }
    }

    fn log(&self, ctx: &Ctx<'_>) {
        let Some(status) = ctx.tries.last().map(|last| last.status) else { return };
        STATES.with_borrow_mut(|all| {
            if all.is_empty() && !self.unhealthy.0.contains(&status) {
                return; // nothing failed yet: nothing is kept
            }
            let (key, full) = (key(ctx), all.len() >= limits::BREAKERS);
            match all.get_mut(&key) {
                Some(state) => {
                    self.note(state, status, clock::now());
                    if *state == State::default() {
                        all.remove(&key);
                    }
                }
                None if full => {
                    crate::limited!(warn, "api-breaker: more than {} hosts and paths fail", limits::BREAKERS);
                }
                None if self.unhealthy.0.contains(&status) => self.note(all.entry(key).or_default(), status, clock::now()),
                None => {}
            }
        });
    }
}

/// Host and path, without port and query.
fn key(ctx: &Ctx<'_>) -> Vec<u8> {
    [ctx.request.host.as_slice(), &ctx.request.path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_for_longer_each_time_and_closes_after_successes() {
        let breaker = ApiBreaker {
            status: 503,
            body: None,
            headers: Vec::new(),
            longest_secs: 10,
            unhealthy: (vec![500], 1),
            healthy: (vec![200], 2),
        };
        // APISIX's own case: failures 1, at most 10 s, always 500, one request a second for 20 s: 4 pass.
        let (mut state, mut passed) = (State::default(), Vec::new());
        for second in 0..20_u64 {
            let now = Tick((100 + second) * 1_000_000_000);
            if !breaker.is_open(&state, now) {
                passed.push(second);
                breaker.note(&mut state, 500, now);
            }
        }
        assert_eq!(passed, [0, 3, 8, 17]);
        let later = Tick(200 * 1_000_000_000);
        breaker.note(&mut state, 404, later);
        assert_eq!(state.failures, 4, "other statuses say nothing");
        breaker.note(&mut state, 200, later);
        breaker.note(&mut state, 500, later);
        breaker.note(&mut state, 200, later);
        assert_eq!((state.failures, state.successes), (5, 1), "a failure clears the successes");
        breaker.note(&mut state, 200, later);
        assert_eq!(state, State::default());
    }
}
