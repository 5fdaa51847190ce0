//! `traffic-split`: divides a route's requests between upstreams, by conditions and weights. APISIX plugins-first.md.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::{Answer, AnswerBody, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::base::limits;
use crate::config::model::{Plugins, split_identity};
use crate::route::expr::Expr;
use crate::upstream::pick::round_robin::{self, Share};

/// Its fields.
pub const FIELDS: &[Field] = &[field("rules", Shape::Objects(RULE), "", "Rules in order; the first that matches counts.")];

const RULE: &[Field] = &[
    field("match", Shape::Any, "", "A list of `{vars: [...]}`, of which one must hold; absent: always."),
    field("weighted_upstreams", Shape::Objects(ENTRY), "the route's own", "Between which its requests are divided."),
];

const ENTRY: &[Field] = &[
    field("upstream_id", Shape::Any, "", "An upstream by its id."),
    field("upstream", Shape::Any, "", "An upstream written in place. Without either it is the route's own."),
    field("weight", Shape::Int(0, i64::MAX), "1", "Its share."),
];

/// Entries of one rule.
const ENTRIES: usize = 20;

struct TrafficSplit {
    number: u64,
    rules: Vec<Rule>,
}

struct Rule {
    conditions: Vec<Expr>,
    ways: Vec<Way>,
}

struct Way {
    weight: u32,
    leads: Leads,
}

enum Leads {
    Own,
    To(u32),
    Missing(String),
}

thread_local! {
    /// Whose turn it is, per instance and rule.
    static TURNS: RefCell<HashMap<(u64, usize), Vec<Share>>> = RefCell::default();
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Builds an instance.
pub fn build(conf: &Json, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let mut faults = Vec::new();
    let mut rules = Vec::new();
    for (at, rule) in list(conf, "rules").iter().enumerate() {
        let conditions = conditions(rule, &format!("/rules/{at}/match"), &mut faults);
        let entries = list(rule, "weighted_upstreams");
        if entries.len() > ENTRIES {
            faults.push(ConfFault::at(format!("/rules/{at}/weighted_upstreams"), format!("at most {ENTRIES} are allowed")));
        }
        let pointer = |entry: usize| format!("/rules/{at}/weighted_upstreams/{entry}");
        let mut ways: Vec<Way> =
            entries.iter().enumerate().map(|(entry, conf)| way(conf, at, entry, context, &pointer(entry), &mut faults)).collect();
        if ways.is_empty() {
            ways.push(Way { weight: 1, leads: Leads::Own });
        }
        rules.push(Rule { conditions, ways });
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Arc::new(TrafficSplit { number: NUMBERS.fetch_add(1, Ordering::Relaxed), rules }))
}

fn conditions(rule: &Json, pointer: &str, faults: &mut Vec<ConfFault>) -> Vec<Expr> {
    let mut conditions = Vec::new();
    if rule.get("match").is_some_and(|given| !given.is_array()) {
        faults.push(ConfFault::at(pointer, "expected a list of objects with `vars`"));
    }
    for (at, one) in list(rule, "match").iter().enumerate() {
        match one.get("vars").map(Expr::compile) {
            Some(Ok(expr)) => conditions.push(expr),
            Some(Err(why)) => {
                let message = format!("failed to validate the expression: {why}");
                faults.push(ConfFault::at(format!("{pointer}/{at}/vars"), message));
            }
            None => faults.push(ConfFault::at(format!("{pointer}/{at}"), "`vars` is required")),
        }
    }
    conditions
}

fn way(conf: &Json, rule: usize, entry: usize, context: &BuildContext<'_>, pointer: &str, faults: &mut Vec<ConfFault>) -> Way {
    let weight = conf.get("weight").and_then(whole).map_or(1, |weight| u32::try_from(weight).unwrap_or(u32::MAX));
    if conf.get("upstream_id").is_some_and(|id| !id.is_string() && !id.is_number()) {
        faults.push(ConfFault::at(format!("{pointer}/upstream_id"), "expected the id of an upstream, a text or a number"));
    }
    let leads = match target(conf, rule, entry, context.item) {
        None => Leads::Own,
        Some(identity) => match (context.upstream)(&identity) {
            Some(slot) => Leads::To(slot),
            None => Leads::Missing(identity.strip_prefix("upstreams/").unwrap_or(&identity).to_owned()),
        },
    };
    Way { weight, leads }
}

/// Identity of the upstream that an entry leads to; `None` for the route's own.
fn target(conf: &Json, rule: usize, entry: usize, item: &str) -> Option<String> {
    match conf.get("upstream_id") {
        Some(Json::String(id)) => Some(format!("upstreams/{id}")),
        Some(id @ Json::Number(_)) => Some(format!("upstreams/{id}")),
        _ => conf.get("upstream").filter(|upstream| upstream.is_object()).map(|_| split_identity(item, rule, entry)),
    }
}

/// Identities of the upstreams that the plugin leads to where it is configured in `item`.
pub fn references(plugins: &Plugins, item: &str) -> Vec<String> {
    let Some(conf) = plugins.get("traffic-split") else { return Vec::new() };
    let rules = list(conf, "rules").iter().enumerate();
    let entries = rules.flat_map(|(rule, conf)| {
        let entries = list(conf, "weighted_upstreams").iter().enumerate();
        entries.filter_map(move |(entry, conf)| target(conf, rule, entry, item))
    });
    entries.collect()
}

fn list<'j>(conf: &'j Json, name: &str) -> &'j [Json] {
    conf.get(name).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl TrafficSplit {
    /// Smooth weighted turns; each worker takes its own.
    fn turn<'r>(&self, at: usize, rule: &'r Rule) -> Option<&'r Way> {
        if let [only] = rule.ways.as_slice() {
            return Some(only);
        }
        let chosen = TURNS.with_borrow_mut(|turns| {
            if turns.len() >= limits::SPLITS && !turns.contains_key(&(self.number, at)) {
                turns.clear(); // instances of epochs long gone
            }
            let shares = turns
                .entry((self.number, at))
                .or_insert_with(|| rule.ways.iter().map(|way| Share { weight: way.weight, balance: 0 }).collect());
            round_robin::turn(shares, |_| true)
        });
        rule.ways.get(chosen?)
    }
}

impl Plugin for TrafficSplit {
    fn phases(&self) -> Phases {
        if self.rules.is_empty() { Phases::default() } else { Phases::ACCESS }
    }

    fn access<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        for (at, rule) in self.rules.iter().enumerate() {
            let missing = rule.ways.iter().find_map(|way| match &way.leads {
                Leads::Missing(id) => Some(id),
                _ => None,
            });
            if let Some(id) = missing {
                let text = format!("failed to fetch upstream info by upstream id: {id}");
                return Flow::Answer(Answer { status: 500, body: AnswerBody::Text(text.into_bytes()), headers: Vec::new() });
            }
            if !rule.conditions.is_empty() && !rule.conditions.iter().any(|condition| condition.holds(&*ctx)) {
                continue;
            }
            if let Some(Way { leads: Leads::To(slot), .. }) = self.turn(at, rule) {
                ctx.upstream = Some(*slot);
            }
            return Flow::Next;
        }
        Flow::Next
    }
}
