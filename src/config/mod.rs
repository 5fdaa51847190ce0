//! Floor 1: configuration. What the user wrote becomes what the program can use: text → tree with places (`raw`) → checked
//! against one table of fields (`fields`) → types (`model`, `gateway`). All errors of all files are collected in a
//! [`report::Report`] before anything is refused.

mod check;
mod checks;
mod discovery;
mod fields;
pub mod gateway;
mod gateway_read;
mod later;
pub mod load;
pub mod model;
mod policy;
pub mod raw;
mod read;
pub mod report;
mod resources;
mod schema;
mod suggest;
mod upstreams;

pub use load::{Input, LoadOptions, Loaded, load};
pub use report::{Report, Sources};
pub use schema::{reference_markdown, schema};
pub use suggest::nearest;
