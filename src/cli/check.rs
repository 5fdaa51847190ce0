//! `ringway check`, and nginx's `-t` and `-T`

use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::code;
use crate::config::gateway::Gateway;
use crate::control::load::{self, Checked};

/// Check the configuration: all errors at once, with file, line, column and what was expected.
///
/// Exit codes: 0 well (warnings allowed), 1 errors.
#[derive(Debug, Args)]
pub struct Check {
    /// How to show what was found
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
    /// Say nothing where there are no errors, not even warnings
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

impl Check {
    /// Checks and prints.
    pub fn run(&self, config: Option<&Path>) -> u8 {
        let checked = match check(config, self.strict) {
            Ok(checked) => checked,
            Err(why) => {
                eprintln!("{why}");
                return code::CONFIGURATION;
            }
        };
        match self.format {
            _ if checked.good && self.quiet => {}
            Format::Json => super::print(&format!("{:#}\n", checked.json)),
            Format::Human => {
                eprint!("{}", checked.human);
                if checked.good {
                    super::print(&format!("{}: the configuration is good\n", checked.name));
                }
            }
        }
        if checked.good { 0 } else { code::CONFIGURATION }
    }
}

/// `ringway -t` and `ringway -T`, with nginx's closing lines.
pub fn nginx_test(config: Option<&Path>, dump: bool) -> u8 {
    let checked = match check(config, false) {
        Ok(checked) => checked,
        Err(why) => {
            eprintln!("{why}");
            return code::CONFIGURATION;
        }
    };
    eprint!("{}", checked.human);
    let name = &checked.name;
    if !checked.good {
        eprintln!("ringway: configuration file {name} test failed");
        return code::CONFIGURATION;
    }
    eprintln!("ringway: the configuration file {name} syntax is ok");
    eprintln!("ringway: configuration file {name} test is successful");
    if dump {
        for (file, text) in &checked.sources {
            super::print(&format!("# configuration file {file}:\n{text}\n"));
        }
    }
    0
}

/// `gateway:` of the configuration, where it can be read.
pub fn gateway(config: Option<&Path>) -> Option<Arc<Gateway>> {
    check(config, false).ok()?.snapshot.map(|snapshot| snapshot.gateway.clone())
}

/// Reads and checks the configuration by `-c` or the default places.
///
/// # Errors
/// If there is none.
pub fn check(config: Option<&Path>, strict: bool) -> Result<Checked, String> {
    super::source(config).map(|source| load::check(&source, strict))
}
