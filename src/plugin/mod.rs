//! Floor 3: plugins. One trait, one registry table, one file per plugin; docs/adding-a-plugin.md shows the way.

pub mod api_breaker;
pub mod buffering;
pub mod chain;
pub mod client_control;
pub mod compress;
pub mod conf;
pub mod consumers;
pub mod cors;
pub mod ctx;
pub mod extras;
pub mod fault_injection;
pub mod headers;
pub mod ip_restriction;
pub mod key_auth;
mod known;
pub mod limit_count;
pub mod prometheus;
pub mod proxy_mirror;
pub mod proxy_rewrite;
pub mod random;
pub mod real_ip;
pub mod redirect;
pub mod registry;
pub mod request_id;
pub mod response_rewrite;
pub mod template;
pub mod traffic_split;
mod vars;

pub use vars::{cookie, time_iso8601, time_local};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value as Json;

pub use ctx::{Answer, AnswerBody, BodyPlan, Ctx};

/// The phases a plugin takes part in, as bits. A phase with nobody in it costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases(pub u8);

impl Phases {
    /// First look at the request; authentication happens here.
    pub const REWRITE: Self = Self(1);
    /// Admission.
    pub const ACCESS: Self = Self(2);
    /// Once per upstream try, before the request goes out.
    pub const BEFORE_PROXY: Self = Self(4);
    /// The response's head, once, before it is sent.
    pub const HEADER_FILTER: Self = Self(8);
    /// The response's body.
    pub const BODY_FILTER: Self = Self(16);
    /// After the exchange.
    pub const LOG: Self = Self(32);
    /// The response's content coding, when all else about it is settled.
    pub const CODING: Self = Self(64);

    /// Both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if all of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a request phase decided.
pub enum Flow<'a> {
    /// On to the next plugin.
    Next,
    /// The request ends here with this answer.
    Answer(Answer),
    /// The plugin waits for I/O or time; the future is polled by the connection's task and never dropped on a live one.
    Later(Pin<Box<dyn Future<Output = Flow<'a>> + 'a>>),
}

/// A plugin instance: one configuration, compiled. Shared by all workers; keep state in thread-locals or in `limit`.
pub trait Plugin: Send + Sync {
    /// The phases this instance takes part in (it may leave out one its configuration does not need).
    fn phases(&self) -> Phases;

    /// It may look at the request's forwarded fields, or change them: they are written into the request before it runs then,
    /// else with the head for the upstream, which costs less.
    fn reads_forwarded(&self) -> bool {
        true
    }

    /// Phase `rewrite`.
    fn rewrite<'a>(&'a self, _ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        Flow::Next
    }

    /// Phase `access`.
    fn access<'a>(&'a self, _ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        Flow::Next
    }

    /// Phase `before_proxy`: again on every retry.
    fn before_proxy<'a>(&'a self, _ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        Flow::Next
    }

    /// Phase `header_filter`: `ctx.response` is the head that will be sent.
    fn header_filter(&self, _ctx: &mut Ctx<'_>) {}

    /// Phase `body_filter`, which takes place if the plugin called [`Ctx::filter_body`] or [`Ctx::collect_body`]: may change
    /// `data` in place. Called per piece, `last` with the final one (which may be empty); once with a collected body.
    fn body_filter(&self, _ctx: &mut Ctx<'_>, _data: &mut Vec<u8>, _last: bool) {}

    /// The head's part of a content coding, after every `header_filter`: whether it shall be (`extras.coder` codes the body then,
    /// after every `body_filter`), and its fields.
    fn code_head(&self, _ctx: &mut Ctx<'_>) {}

    /// Phase `log`.
    fn log(&self, _ctx: &Ctx<'_>) {}
}

/// A fault in a plugin's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfFault {
    /// JSON pointer inside the plugin's configuration, for example `/headers/set`; empty for the whole.
    pub pointer: String,
    /// What is wrong, in APISIX's words where it has some.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// Builds an instance out of a checked configuration.
pub type Build = fn(&Json, &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>>;

/// What an instance may need besides its own configuration.
pub struct BuildContext<'a> {
    /// `gateway.plugin_attr.NAME`
    pub attr: Option<&'a Json>,
    /// `plugin_metadata` of this plugin.
    pub metadata: Option<&'a Json>,
    /// The item it is written in, for example `routes/7`.
    pub item: &'a str,
    /// The slot of an upstream by identity.
    pub upstream: &'a dyn Fn(&str) -> Option<u32>,
}

/// One sample of a metric that plugins gather, as a worker reports it; the coordinator adds up and renders.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Family without prefix, for example `http_status`.
    pub family: &'static str,
    /// Labels in the family's order.
    pub labels: Vec<(String, String)>,
    /// Value.
    pub value: SampleValue,
    /// It has changed within the time after which its metric forgets a series; true where there is none.
    pub fresh: bool,
}

/// Value of a [`Sample`].
#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    /// A counter.
    Counter(u64),
    /// A histogram: count per bucket (the last is +Inf), sum.
    Histogram(Vec<u64>, f64),
}
