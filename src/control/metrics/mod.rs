//! Metrics as Prometheus reads them: the text format 0.0.4, APISIX's families and Ringway's own.

pub mod apisix;
pub mod own;
pub mod text;

pub use text::Exposition;
