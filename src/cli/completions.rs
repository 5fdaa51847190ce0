//! `ringway completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Arguments;

/// Print a completion script.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(&self) -> u8 {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "ringway", &mut script);
        super::print(&String::from_utf8_lossy(&script));
        0
    }
}
