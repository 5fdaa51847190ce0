//! `vars` expressions (lua-resty-expr). APISIX request.md §1.6.

use serde_json::Value as Json;

use crate::proto::vars::Vars;

/// A compiled expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    _todo: (),
}

impl Expr {
    /// Compiles the array of a `vars` or `filter` field.
    ///
    /// # Errors
    /// The text that APISIX gives, for example `invalid operator 'OP'`.
    pub fn compile(_json: &Json) -> Result<Self, String> {
        Ok(Self { _todo: () })
    }

    /// True if the request satisfies it.
    pub fn holds(&self, _vars: &dyn Vars) -> bool {
        true
    }
}
