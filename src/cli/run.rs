//! `ringway run`

use std::path::Path;

use super::code;
use crate::control::run;

/// Runs the gateway in the foreground.
pub fn run(config: Option<&Path>) -> u8 {
    let source = match super::source(config) {
        Ok(source) => source,
        Err(why) => {
            eprintln!("{why}");
            return code::CONFIGURATION;
        }
    };
    match run::run(source) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{}", failure.message.trim_end());
            failure.code
        }
    }
}
