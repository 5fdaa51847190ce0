//! What plugins add to an exchange beside the edits of its heads. Most exchanges have none of it, so it lies with the
//! connection's reusable parts and costs nothing until it is asked for.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use super::compress::Coder;
use super::ctx::Ctx;
use crate::config::model::Timeout;
use crate::proto::message::{Fields, Known};

/// See the module.
#[derive(Default)]
pub struct Extras {
    /// What the upstream gets instead of what the client sent.
    pub outgoing: Outgoing,
    /// The id that `request-id` gave the request or found in it.
    pub named_id: Option<Vec<u8>>,
    /// Fields that plugins of the request phases want in the answer: set before its `header_filter`.
    pub answer_fields: Fields,
    /// What codes the response's body, behind every `body_filter`.
    pub coder: Option<Box<dyn Coder>>,
    /// Whether the request's body is gathered first, where a plugin has a say.
    pub buffer_request: Option<bool>,
    /// Whether the response is taken as fast as its node gives it, where a plugin has a say.
    pub buffer_response: Option<bool>,
    /// Where a copy of the request goes.
    pub mirror: Option<Box<Mirror>>,
    /// Longest body that a plugin allows here, in place of the gateway's limit; 0 is no limit.
    pub body_limit: Option<u64>,
    /// 32 hex digits, made on first use.
    pub(super) request_id: OnceCell<[u8; 32]>,
    /// Results of `_meta.filter`, by plugin instance; made once per request.
    filters: RefCell<Vec<(usize, bool)>>,
    /// Content-Encoding of a collected body, as it came.
    coding: String,
}

/// Edits to what the upstream gets.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Path and query, sent as it is (APISIX `upstream_uri`).
    pub uri: Option<Vec<u8>>,
    /// Host (applies with `pass_host: pass`).
    pub host: Option<Vec<u8>>,
    /// Method text.
    pub method: Option<Vec<u8>>,
    /// Values of `$0`, `$1`... of proxy-rewrite's `regex_uri`.
    pub regex_captures: Vec<Vec<u8>>,
}

/// A copy of the request: to which upstream, with which target.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Slot of the upstream.
    pub upstream: u32,
    /// Path in place of the request's, or in front of it.
    pub path: Option<Arc<str>>,
    /// It goes in front.
    pub prefix: bool,
    /// Deadlines.
    pub timeout: Timeout,
}

impl Extras {
    /// Forgets what is in it and keeps what plugins ask for with every request.
    pub(super) fn clear(&mut self) {
        let (mut answer_fields, filters) = (std::mem::take(&mut self.answer_fields), self.filters.take());
        answer_fields.clear();
        *self = Self { answer_fields, filters: RefCell::new(filters), ..Self::default() };
        self.filters.get_mut().clear();
    }
}

impl Ctx<'_> {
    /// The result of `_meta.filter` for an instance: evaluated once, then remembered. APISIX resources.md §2.3.
    pub fn filtered(&self, instance: usize, evaluate: impl FnOnce() -> bool) -> bool {
        let filters = &self.extras_cell().filters;
        if let Some((_, passes)) = filters.borrow().iter().find(|(have, _)| *have == instance) {
            return *passes;
        }
        let passes = evaluate();
        filters.borrow_mut().push((instance, passes));
        passes
    }

    /// Notes that an instance does nothing for this response.
    pub fn note_skipped(&self, instance: usize) {
        self.extras_cell().filters.borrow_mut().push((instance, false));
    }

    /// True if [`Ctx::note_skipped`] was called for the instance.
    pub fn was_skipped(&self, instance: usize) -> bool {
        let skipped = |extras: &Extras| extras.filters.borrow().iter().any(|(have, passes)| *have == instance && !passes);
        self.extras().is_some_and(skipped)
    }

    /// What the upstream gets instead of what the client sent, where a plugin says so.
    #[inline]
    pub fn outgoing(&self) -> Option<&Outgoing> {
        self.extras().map(|extras| &extras.outgoing)
    }

    /// Remembers the response's Content-Encoding before it is removed.
    pub fn remember_coding(&mut self) {
        if let Some(value) = self.response.fields.known(Known::ContentEncoding) {
            self.extras_mut().coding = String::from_utf8_lossy(value).trim().to_ascii_lowercase();
        }
    }

    /// The remembered Content-Encoding; empty for none.
    pub fn coding(&self) -> &str {
        self.extras().map_or("", |extras| &extras.coding)
    }

    /// The body is decoded now.
    pub fn take_coding(&mut self) {
        if let Some(extras) = self.extras_if_any() {
            extras.coding.clear();
        }
    }

    /// Codes a piece of the response's body, where a plugin set a coder.
    pub fn code_body(&mut self, data: &mut Vec<u8>, last: bool) {
        if let Some(coder) = self.extras_if_any().and_then(|extras| extras.coder.as_mut()) {
            coder.code(data, last);
        }
    }
}
