//! `limit-count`: so many requests in a window of time. APISIX plugins-traffic.md §1, with its local policy: counters are the
//! process's, kept over reloads as long as the plugin's configuration stays.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value as Json, json};

use super::conf::{Field, Shape, field, whole};
use super::template::Template;
use super::{Answer, AnswerBody, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::base::clock;
use crate::base::limits;
use crate::limit::window::{self, Verdict};
use crate::proto::message::Known;
use crate::proto::vars::{Var, Vars};

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("count", Shape::Any, "**required**, or `rules`", "Requests per window: a number from 1, or a text with variables."),
    field("time_window", Shape::Any, "**required**, or `rules`", "Seconds, likewise."),
    field("window_type", Shape::Word(&["fixed", "sliding"]), "fixed", "`fixed` begins with a first request."),
    field("rules", Shape::Objects(RULE), "", "Several limits at once."),
    field("key", Shape::Text(1, 4096), "remote_addr", "What is counted by."),
    field("key_type", Shape::Word(&["var", "var_combination", "constant"]), "var", "How `key` is read."),
    field("group", Shape::Text(1, 256), "", "Counts together with every other of this group."),
    field(
        "policy",
        Shape::Word(&["local", "redis", "redis-cluster", "redis-sentinel"]),
        "local",
        "Where it is counted; `local` alone so far.",
    ),
    field("rejected_code", Shape::Int(200, 599), "503", "Status over the limit."),
    field("rejected_msg", Shape::Text(1, 4096), "", "`error_msg` over the limit."),
    field("allow_degradation", Shape::Bool, "false", "Requests pass where the limit itself fails."),
    field("show_limit_quota_header", Shape::Bool, "true", "Answers say what is left."),
    field("sync_interval", Shape::Any, "-1", "For the Redis policies."),
];

const RULE: &[Field] = &[
    field("count", Shape::Any, "**required**", "Requests per window."),
    field("time_window", Shape::Any, "**required**", "Seconds."),
    field("key", Shape::Text(1, 4096), "**required**", "A text with variables; the rule is left out where none has a value."),
    field("header_prefix", Shape::Text(1, 128), "the rule's number", "Goes into the names of its headers."),
];

struct LimitCount {
    rules: Vec<Rule>,
    /// `rules` were given: one whose key finds nothing is left out.
    many: bool,
    sliding: bool,
    code: u16,
    message: Option<String>,
    degrades: bool,
    shows: bool,
}

struct Rule {
    count: Number,
    window: Number,
    key: Key,
    /// What its counters' keys begin with.
    scope: Vec<u8>,
    headers: [(Known, Vec<u8>); 3],
}

enum Number {
    Fixed(u64),
    Template(Template),
}

enum Key {
    Var(Var),
    Template(Template),
    Constant(Vec<u8>),
}

/// Builds an instance.
pub fn build(conf: &Json, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let has = |name: &str| conf.get(name).is_some();
    let mut faults = Vec::new();
    if let Some(policy) = conf.get("policy").and_then(Json::as_str).filter(|policy| *policy != "local") {
        faults.push(ConfFault::at("/policy", format!("policy `{policy}` is not supported yet")));
    }
    match (has("count") || has("time_window"), has("rules")) {
        (true, true) => faults.push(ConfFault::at("", "count/time_window and rules cannot be specified at the same time")),
        (false, false) => faults.push(ConfFault::at("", "`count` and `time_window`, or `rules`, are required")),
        _ => {}
    }
    if has("group") && has("rules") {
        faults.push(ConfFault::at("/group", "group and rules cannot be specified at the same time"));
    }
    let names = header_names(context.metadata);
    let rules = match conf.get("rules").and_then(Json::as_array) {
        Some(rules) => {
            let built = rules.iter().enumerate().map(|(at, rule)| one_of_many(rule, at, conf, context, &names, &mut faults));
            built.collect()
        }
        None => vec![single(conf, context, &names, &mut faults)],
    };
    let mut keys: Vec<&str> =
        conf.get("rules").and_then(Json::as_array).into_iter().flatten().filter_map(|rule| rule.get("key")?.as_str()).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        faults.push(ConfFault::at("/rules", format!("duplicate key '{}' in rules", twice[0])));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let flag = |name: &str, default: bool| conf.get(name).and_then(Json::as_bool).unwrap_or(default);
    Ok(Arc::new(LimitCount {
        rules,
        many: has("rules"),
        sliding: conf.get("window_type").and_then(Json::as_str) == Some("sliding"),
        code: conf.get("rejected_code").and_then(whole).and_then(|code| u16::try_from(code).ok()).unwrap_or(503),
        message: conf.get("rejected_msg").and_then(Json::as_str).map(str::to_owned),
        degrades: flag("allow_degradation", false),
        shows: flag("show_limit_quota_header", true),
    }))
}

fn header_names(metadata: Option<&Json>) -> [String; 3] {
    [("limit_header", "X-RateLimit-Limit"), ("remaining_header", "X-RateLimit-Remaining"), ("reset_header", "X-RateLimit-Reset")]
        .map(|(name, default)| metadata.and_then(|metadata| metadata.get(name)?.as_str()).unwrap_or(default).to_owned())
}

fn single(conf: &Json, context: &BuildContext<'_>, names: &[String; 3], faults: &mut Vec<ConfFault>) -> Rule {
    let key = conf.get("key").and_then(Json::as_str).unwrap_or("remote_addr");
    let key = match conf.get("key_type").and_then(Json::as_str) {
        Some("var_combination") => Key::Template(Template::compile(key)),
        Some("constant") => Key::Constant(key.as_bytes().to_vec()),
        _ => Key::Var(Var::parse(key)),
    };
    let scope = match conf.get("group").and_then(Json::as_str) {
        Some(group) => format!("group:{group}:").into_bytes(),
        None => scope(conf, context, 0),
    };
    let headers = names.clone().map(named);
    Rule { count: number(conf, "count", "", faults), window: number(conf, "time_window", "", faults), key, scope, headers }
}

fn one_of_many(
    rule: &Json,
    at: usize,
    conf: &Json,
    context: &BuildContext<'_>,
    names: &[String; 3],
    faults: &mut Vec<ConfFault>,
) -> Rule {
    let pointer = format!("/rules/{at}");
    let key = rule.get("key").and_then(Json::as_str).unwrap_or_else(|| {
        faults.push(ConfFault::at(&pointer, "`key` is required"));
        ""
    });
    let prefix = rule.get("header_prefix").and_then(Json::as_str).map_or_else(|| (at + 1).to_string(), str::to_owned);
    Rule {
        count: number(rule, "count", &pointer, faults),
        window: number(rule, "time_window", &pointer, faults),
        key: Key::Template(Template::compile(key)),
        scope: scope(conf, context, at),
        headers: names.clone().map(|name| named(name.replacen("RateLimit-", &format!("{prefix}-RateLimit-"), 1))),
    }
}

fn named(name: String) -> (Known, Vec<u8>) {
    (Known::of(name.as_bytes()), name.into_bytes())
}

/// Item, rule, and a digest of the configuration: another configuration counts anew.
fn scope(conf: &Json, context: &BuildContext<'_>, rule: usize) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    conf.to_string().hash(&mut hasher);
    format!("{}:{rule}:{:x}:", context.item, hasher.finish()).into_bytes()
}

fn number(conf: &Json, name: &str, pointer: &str, faults: &mut Vec<ConfFault>) -> Number {
    match conf.get(name) {
        Some(Json::String(text)) => Number::Template(Template::compile(text)),
        Some(given) => match whole(given).filter(|number| *number > 0) {
            Some(number) => Number::Fixed(number as u64),
            None => {
                faults
                    .push(ConfFault::at(format!("{pointer}/{name}"), "expected a whole number from 1, or a text with variables"));
                Number::Fixed(1)
            }
        },
        None => {
            if !pointer.is_empty() || conf.get("rules").is_none() {
                faults.push(ConfFault::at(pointer, format!("`{name}` is required")));
            }
            Number::Fixed(1)
        }
    }
}

thread_local! {
    /// For a key, and the text of a number.
    static SCRATCH: Cell<Vec<u8>> = Cell::default();
}

/// Largest number that a template may give (2^53 - 1).
const NUMBER_MAX: u64 = 9_007_199_254_740_991;

impl Number {
    fn resolve(&self, ctx: &Ctx<'_>) -> Result<u64, String> {
        match self {
            Self::Fixed(number) => Ok(*number),
            Self::Template(template) => {
                let text = template.render(ctx);
                let number: f64 = std::str::from_utf8(&text)
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .ok_or("resolved value is not a number")?;
                match number {
                    number if number <= 0.0 || number.is_nan() => {
                        Err(format!("resolved value must be a positive number, got: {number}"))
                    }
                    number if number.fract() != 0.0 => Err(format!("resolved value must be an integer, got: {number}")),
                    number if number > NUMBER_MAX as f64 => {
                        Err(format!("resolved value exceeds safe integer range (2^53-1), got: {number}"))
                    }
                    number => Ok(number as u64),
                }
            }
        }
    }
}

impl Rule {
    fn reads_forwarded(&self) -> bool {
        let by_key = match &self.key {
            Key::Constant(_) => false,
            Key::Var(var) => var.is_forwarded(),
            Key::Template(template) => template.reads(Var::is_forwarded),
        };
        let in_number = |number: &Number| matches!(number, Number::Template(template) if template.reads(Var::is_forwarded));
        by_key || in_number(&self.count) || in_number(&self.window)
    }

    /// Puts the counter's key in place of what `key` held; false where the rule is left out.
    fn write_key(&self, ctx: &Ctx<'_>, many: bool, key: &mut Vec<u8>) -> bool {
        key.clear();
        key.extend_from_slice(&self.scope);
        match &self.key {
            Key::Constant(text) => key.extend_from_slice(text),
            Key::Var(var) => match ctx.var(var) {
                Some(value) => value.write(key),
                None => key.extend_from_slice(ctx.remote_text().as_bytes()),
            },
            Key::Template(template) if !template.is_plain() && template.resolves(ctx) => {
                template.write_edited(ctx, &[], |value, out| out.extend_from_slice(value), key);
            }
            Key::Template(_) if many => return false,
            Key::Template(_) => key.extend_from_slice(ctx.remote_text().as_bytes()),
        }
        // Clients may make it long: what is kept of it must not be.
        if key.len() > limits::LIMIT_KEY_BYTES {
            let digest = digest(&SHA256, key);
            key.clear();
            key.extend_from_slice(digest.as_ref());
        }
        true
    }
}

impl LimitCount {
    fn count(&self, ctx: &mut Ctx<'_>) -> Result<Option<Answer>, String> {
        let mut scratch = SCRATCH.take();
        let counted = self.count_with(ctx, &mut scratch);
        SCRATCH.set(scratch);
        counted
    }

    fn count_with(&self, ctx: &mut Ctx<'_>, scratch: &mut Vec<u8>) -> Result<Option<Answer>, String> {
        let mut applied = 0;
        let now = clock::now();
        for rule in &self.rules {
            if !rule.write_key(ctx, self.many, scratch) {
                continue;
            }
            applied += 1;
            let (limit, seconds) = (rule.count.resolve(ctx)?, rule.window.resolve(ctx)?);
            let span = Duration::from_secs(seconds);
            let verdict = match self.sliding {
                true => window::sliding(scratch, limit, span, now),
                false => window::fixed(scratch, limit, span, now),
            };
            if self.shows {
                show(ctx, rule, limit, &verdict, scratch);
            }
            if !verdict.passes {
                return Ok(Some(self.refusal()));
            }
        }
        if applied == 0 { Err("no rule applies".to_owned()) } else { Ok(None) }
    }

    fn refusal(&self) -> Answer {
        match &self.message {
            Some(message) => {
                Answer { status: self.code, body: AnswerBody::Json(json!({ "error_msg": message })), headers: Vec::new() }
            }
            None => Answer::page(self.code),
        }
    }
}

/// Notes the headers of the answer; a later limit's win.
fn show(ctx: &mut Ctx<'_>, rule: &Rule, limit: u64, verdict: &Verdict, scratch: &mut Vec<u8>) {
    let fields = &mut ctx.extras_mut().answer_fields;
    let [most, remaining, reset] = &rule.headers;
    let mut digits = itoa::Buffer::new();
    fields.set_known(most.0, &most.1, digits.format(limit).as_bytes());
    fields.set_known(remaining.0, &remaining.1, digits.format(verdict.remaining).as_bytes());
    write_seconds(verdict.reset, scratch);
    fields.set_known(reset.0, &reset.1, scratch);
}

/// Puts seconds with the hundredths that are there in place of what `text` held.
fn write_seconds(time: Duration, text: &mut Vec<u8>) {
    text.clear();
    text.extend_from_slice(itoa::Buffer::new().format(time.as_secs()).as_bytes());
    let hundredths = time.subsec_millis() / 10;
    let part = [b'.', b'0' + (hundredths / 10) as u8, b'0' + (hundredths % 10) as u8];
    let shown = match hundredths {
        0 => 0,
        even if even % 10 == 0 => 2,
        _ => 3,
    };
    text.extend_from_slice(part.get(..shown).unwrap_or_default());
}

impl Plugin for LimitCount {
    fn phases(&self) -> Phases {
        Phases::ACCESS
    }

    fn reads_forwarded(&self) -> bool {
        self.rules.iter().any(Rule::reads_forwarded)
    }

    fn access<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        match self.count(ctx) {
            Ok(None) => Flow::Next,
            Ok(Some(answer)) => Flow::Answer(answer),
            Err(why) => {
                crate::limited!(error, "limit-count: failed to get rate limit rules: {why}");
                if self.degrades { Flow::Next } else { Flow::Answer(Answer::page(500)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_show_the_hundredths_that_are_there() {
        for (millis, text) in
            [(0, "0"), (9, "0"), (60_000, "60"), (1_250, "1.25"), (59_500, "59.5"), (1_070, "1.07"), (10_999, "10.99")]
        {
            let mut written = b"before".to_vec();
            write_seconds(Duration::from_millis(millis), &mut written);
            assert_eq!(written, text.as_bytes());
        }
    }

    #[test]
    fn a_limit_by_the_clients_address_leaves_the_forwarded_fields_alone() {
        let context = BuildContext { attr: None, metadata: None, item: "routes/1", upstream: &|_| None };
        let reads = |conf: Json| build(&conf, &context).ok().unwrap().reads_forwarded();
        assert!(!reads(json!({"count": 1, "time_window": 1})));
        assert!(!reads(json!({"count": 1, "time_window": 1, "key": "x", "key_type": "constant"})));
        assert!(!reads(json!({"count": "$http_x_quota", "time_window": 1, "key": "$host$uri", "key_type": "var_combination"})));
        assert!(reads(json!({"count": 1, "time_window": 1, "key": "http_x_forwarded_host"})));
        assert!(reads(json!({"count": "$http_x_forwarded_port", "time_window": 1})));
        assert!(reads(json!({"rules": [{"count": 1, "time_window": 1, "key": "$http_x_forwarded_host"}]})));
    }
}
