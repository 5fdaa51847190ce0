//! Chains: the plugins of a route in order, and running them. APISIX resources.md §2.

use std::sync::Arc;

use serde_json::Value as Json;

use super::ctx::{Answer, AnswerBody, Ctx};
use super::registry::{self, Registered};
use super::{BuildContext, ConfFault, Flow, Phases, Plugin};
use crate::config::model::{Origin, Plugins};
use crate::proto::vars::Var;
use crate::route::expr::Expr;

/// Where a plugin's configuration was written. The later in this order wins whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// A global rule.
    Global,
    /// The route's service.
    Service,
    /// The route's plugin config.
    PluginConfig,
    /// The route.
    Route,
    /// The consumer's group.
    ConsumerGroup,
    /// The consumer.
    Consumer,
}

impl Layer {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global rule",
            Self::Service => "service",
            Self::PluginConfig => "plugin config",
            Self::Route => "route",
            Self::ConsumerGroup => "consumer group",
            Self::Consumer => "consumer",
        }
    }
}

/// One layer's plugins.
#[derive(Clone, Copy)]
pub struct Source<'m> {
    /// Which layer.
    pub layer: Layer,
    /// Place, for faults.
    pub origin: &'m Origin,
    /// The plugins.
    pub plugins: &'m Plugins,
}

/// A plugin in a chain.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Where it was configured.
    pub layer: Layer,
    /// Its place in the order.
    pub priority: i64,
    instance: Arc<dyn Plugin>,
    phases: Phases,
    filter: Option<Expr>,
    error_response: Option<Json>,
}

/// Plugins in the order in which they run.
#[derive(Default)]
pub struct Chain {
    entries: Vec<Entry>,
    phases: Phases,
    reads_forwarded: bool,
}

/// A route's chain with a consumer's plugins merged in.
pub struct Merged {
    /// The merged chain: what runs from `access` on.
    pub chain: Chain,
    /// Plugins that only the consumer or its group brings: their `rewrite` runs after the route's.
    pub newcomers: Chain,
}

/// A fault with the place of the item it is in.
pub struct PlacedFault {
    /// The item.
    pub origin: Origin,
    /// The fault; its pointer begins at the item.
    pub fault: ConfFault,
    /// It is only to be warned of.
    pub warning: bool,
}

/// What building needs besides the layers.
pub struct Environment<'m> {
    /// `plugin_attr` and `plugin_metadata` by plugin.
    pub model: &'m crate::config::model::Model,
    /// The slot of an upstream by identity.
    pub upstream: &'m dyn Fn(&str) -> Option<u32>,
}

impl Chain {
    /// Builds a chain out of layers, weakest first. Faults are collected; a plugin with faults is left out.
    pub fn build(sources: &[Source<'_>], environment: &Environment<'_>, faults: &mut Vec<PlacedFault>) -> Self {
        let mut chosen: Vec<(&str, &Json, Source<'_>)> = Vec::new();
        for source in sources {
            for (name, conf) in &source.plugins.0 {
                match chosen.iter_mut().find(|(have, ..)| have == name) {
                    Some(slot) => *slot = (name, conf, *source),
                    None => chosen.push((name, conf, *source)),
                }
            }
        }
        let mut entries: Vec<Entry> =
            chosen.into_iter().filter_map(|(name, conf, source)| entry(name, conf, source, environment, faults)).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.priority));
        Self::of(entries)
    }

    fn of(entries: Vec<Entry>) -> Self {
        let phases = entries.iter().fold(Phases::default(), |all, entry| all.and(entry.phases));
        let reads_forwarded = entries.iter().any(Entry::reads_forwarded);
        Self { entries, phases, reads_forwarded }
    }

    /// Splits off the entries of some layers, for [`Merged::newcomers`].
    pub fn only(self, keep: impl Fn(&Entry) -> bool) -> Self {
        Self::of(self.entries.into_iter().filter(keep).collect())
    }

    /// True if no plugin is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if some plugin takes part in the phase.
    pub fn has(&self, phase: Phases) -> bool {
        self.phases.has(phase)
    }

    /// True if some plugin, or the condition it runs under, may look at the forwarded fields.
    pub fn reads_forwarded(&self) -> bool {
        self.reads_forwarded
    }

    /// True if the plugin is in it.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// Its plugins in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Runs a request phase; the first answer ends it. Ask [`Chain::has`] first where speed counts: even an empty run costs.
    pub async fn run(&self, phase: Phases, ctx: &mut Ctx<'_>) -> Option<Answer> {
        for entry in self.entries.iter().filter(|entry| entry.phases.has(phase)) {
            if !entry.passes(ctx) {
                continue;
            }
            if let Some(answer) = entry.run(phase, ctx).await {
                return Some(entry.replaced(answer));
            }
        }
        None
    }

    /// Runs `header_filter`.
    pub fn run_header_filter(&self, ctx: &mut Ctx<'_>) {
        if self.phases.has(Phases::HEADER_FILTER) {
            let entries = self.entries.iter().filter(|entry| entry.phases.has(Phases::HEADER_FILTER));
            for entry in entries {
                if entry.passes(ctx) {
                    entry.instance.header_filter(ctx);
                }
            }
        }
    }

    /// Runs `code_head`, after `header_filter` of all chains.
    pub fn run_header_coding(&self, ctx: &mut Ctx<'_>) {
        if self.phases.has(Phases::CODING) {
            for entry in self.entries.iter().filter(|entry| entry.phases.has(Phases::CODING)) {
                if entry.passes(ctx) {
                    entry.instance.code_head(ctx);
                }
            }
        }
    }

    /// Runs `body_filter`.
    pub fn run_body_filter(&self, ctx: &mut Ctx<'_>, data: &mut Vec<u8>, last: bool) {
        if self.phases.has(Phases::BODY_FILTER) {
            let entries = self.entries.iter().filter(|entry| entry.phases.has(Phases::BODY_FILTER));
            for entry in entries {
                if entry.passes(ctx) {
                    entry.instance.body_filter(ctx, data, last);
                }
            }
        }
    }

    /// Runs `log`. `preferred` is the route's chain when this is the global one: a plugin whose run policy is "prefer route"
    /// (prometheus) leaves the request to it.
    pub fn run_log(&self, ctx: &Ctx<'_>, preferred: Option<&Chain>) {
        if self.phases.has(Phases::LOG) {
            let entries = self.entries.iter().filter(|entry| entry.phases.has(Phases::LOG));
            for entry in entries {
                let left = entry.name == "prometheus" && preferred.is_some_and(|chain| chain.contains(entry.name));
                if !left && entry.passes(ctx) {
                    entry.instance.log(ctx);
                }
            }
        }
    }
}

impl Entry {
    fn reads_forwarded(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.reads(&Var::is_forwarded)) || self.instance.reads_forwarded()
    }

    /// `_meta.filter`: evaluated once per request and plugin, at its first phase.
    fn passes(&self, ctx: &Ctx<'_>) -> bool {
        let Some(filter) = &self.filter else { return true };
        let key = Arc::as_ptr(&self.instance) as *const () as usize;
        ctx.filtered(key, || filter.holds(ctx))
    }

    async fn run(&self, phase: Phases, ctx: &mut Ctx<'_>) -> Option<Answer> {
        let flow = match phase {
            Phases::REWRITE => self.instance.rewrite(ctx),
            Phases::ACCESS => self.instance.access(ctx),
            Phases::BEFORE_PROXY => self.instance.before_proxy(ctx),
            _ => Flow::Next,
        };
        let mut flow = flow;
        loop {
            match flow {
                Flow::Next => return None,
                Flow::Answer(answer) => return Some(answer),
                Flow::Later(later) => flow = later.await,
            }
        }
    }

    /// `_meta.error_response` replaces the body of an answer from 400.
    fn replaced(&self, mut answer: Answer) -> Answer {
        if answer.status >= 400 {
            tracing::debug!(plugin = self.name, status = answer.status, "a plugin ended the request");
            match &self.error_response {
                Some(Json::String(text)) => answer.body = AnswerBody::Text(text.clone().into_bytes()),
                Some(object) => answer.body = AnswerBody::Json(object.clone()),
                None => {}
            }
        }
        answer
    }
}

fn entry(
    name: &str,
    conf: &Json,
    source: Source<'_>,
    environment: &Environment<'_>,
    faults: &mut Vec<PlacedFault>,
) -> Option<Entry> {
    let meta = conf.get("_meta");
    let disabled = meta.and_then(|meta| meta.get("disable")).and_then(Json::as_bool) == Some(true);
    let mut tell = |mut fault: ConfFault, warning: bool| {
        fault.pointer = format!("/plugins/{name}{}", fault.pointer);
        faults.push(PlacedFault { origin: source.origin.clone(), fault, warning });
    };
    let Some(registered) = registry::lookup(name) else {
        tell(registry::unknown(name), false);
        return None;
    };
    if matches!(source.layer, Layer::Consumer | Layer::ConsumerGroup) && registered.auth {
        return None; // credentials, not a plugin to run
    }
    let built = build(registered, conf, environment, &source.origin.item, &mut tell);
    match built {
        Ok(instance) if !disabled => {
            let filter = meta.and_then(|meta| meta.get("filter")).and_then(|filter| Expr::compile(filter).ok());
            let priority = meta.and_then(|meta| meta.get("priority")).and_then(Json::as_i64).unwrap_or(registered.priority);
            Some(Entry {
                name: registered.name,
                layer: source.layer,
                priority,
                phases: instance.phases(),
                instance,
                filter,
                error_response: meta.and_then(|meta| meta.get("error_response")).cloned(),
            })
        }
        Ok(_) => None,
        Err(list) => {
            list.into_iter().for_each(|fault| tell(fault, disabled)); // APISIX accepts a disabled plugin's faults
            None
        }
    }
}

fn build(
    registered: &Registered,
    conf: &Json,
    environment: &Environment<'_>,
    item: &str,
    tell: &mut impl FnMut(ConfFault, bool),
) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let context = BuildContext {
        attr: environment.model.plugin_attr.get(registered.name),
        metadata: environment.model.plugin_metadata.get(registered.name),
        item,
        upstream: environment.upstream,
    };
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    super::conf::check(conf, registered.fields, "", &mut faults, &mut warnings);
    warnings.into_iter().for_each(|warning| tell(warning, true));
    if !faults.is_empty() {
        return Err(faults);
    }
    (registered.build)(conf, &context)
}
