//! Where the configuration comes from.

pub mod file;
