//! Floor 1: configuration. What the user wrote becomes what the program can use: text → tree with places (`raw`) → checked
//! types (`model`, `gateway`). All errors of all files are collected in a [`report::Report`] before anything is refused.

pub mod gateway;
pub mod model;
