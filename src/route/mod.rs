//! Floor 1: matching a request to a route. APISIX request.md §1, its order and its traps; where APISIX is plainly defective
//! the sane thing is done and listed in docs/migrating-from-apisix.md.

mod build;
pub mod expr;
mod index;
pub mod pattern;
pub mod regex;
pub mod table;

use crate::proto::message::Method;
use crate::proto::vars::Vars;

pub use table::{BuildFault, Considered, Found, Outcome, Spec, Table};

/// What matching looks at. All of it is canonical: the path decoded once, the host lower-cased without port.
pub struct Ask<'a> {
    /// Canonical path.
    pub path: &'a [u8],
    /// Canonical host; `_` if there was none.
    pub host: &'a [u8],
    /// The `Host` text as sent, port and case kept (for configured hosts that contain `:` in the uri modes).
    pub authority: &'a [u8],
    /// Method.
    pub method: Method,
    /// Everything else, the client's address among it.
    pub vars: &'a dyn Vars,
}
