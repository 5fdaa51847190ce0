//! Floor 7: arguments to a command; one file per command.

mod check;
mod completions;
mod explain;
mod http;
mod man;
mod run;
mod schema;
mod status;
mod version;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::control::load::Source;

/// Exit codes: design of the command line.
pub mod code {
    /// A fault of the configuration, or not ready.
    pub const CONFIGURATION: u8 = 1;
    /// Wrong arguments.
    pub const USAGE: u8 = 2;
    /// Nothing answers at the control address.
    pub const NOT_RUNNING: u8 = 4;
}

/// Where the configuration is looked for without `-c`.
const DEFAULT_FILES: [&str; 2] = ["ringway.yaml", "/etc/ringway/ringway.yaml"];
/// Longest configuration read from standard input.
const STDIN_BYTES_MAX: u64 = 1 << 30;

/// An API gateway for Linux: pinned io_uring workers, one YAML file, the data model of Apache APISIX.
///
/// Exit codes: 0 well, 1 configuration, 2 usage, 3 can't bind, 4 not running.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, max_term_width = 120, disable_help_subcommand = true)]
pub struct Arguments {
    /// Configuration file; `-` reads standard input. Default: ./ringway.yaml, then /etc/ringway/ringway.yaml
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit, as nginx does (= check)
    #[arg(short = 't', conflicts_with = "dump")]
    pub test: bool,
    /// Like -t, and show the files that were read
    #[arg(short = 'T')]
    pub dump: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground
    ///
    /// Signals: HUP reads the configuration again; TERM and QUIT drain and stop, a second one or INT stops at once; USR1 opens
    /// the log files again. The file is also read again when it changes.
    Run,
    /// Check the configuration: all errors at once, with file, line, column and what was expected
    Check(check::Check),
    /// Say which route a request would take and why, with its plugins and its upstream
    Explain(explain::Explain),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::Schema),
    /// Print the version, the driver this kernel allows, and what is missing for a better one
    Version(version::Version),
    /// Ask a running gateway for its epoch, workers and readiness, over the control address
    Status(status::Status),
    /// Print a completion script
    Completions(completions::Completions),
    /// Print the man page
    Man,
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    ExitCode::from(dispatch(Arguments::parse()))
}

fn dispatch(arguments: Arguments) -> u8 {
    let config = arguments.config.as_deref();
    let Some(command) = arguments.command else {
        if arguments.test || arguments.dump {
            return check::nginx_test(config, arguments.dump);
        }
        eprintln!("{}", Arguments::command().render_long_help());
        return code::USAGE;
    };
    match command {
        Command::Run => run::run(config),
        Command::Check(check) => check.run(config),
        Command::Explain(explain) => explain.run(config),
        Command::Schema(schema) => schema.run(),
        Command::Version(version) => version.run(),
        Command::Status(status) => status.run(config),
        Command::Completions(completions) => completions.run(),
        Command::Man => man::run(),
    }
}

/// The configuration's source by `-c` or the default places.
///
/// # Errors
/// A sentence that says where was looked.
pub fn source(config: Option<&Path>) -> Result<Source, String> {
    match config {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            let read = std::io::stdin().take(STDIN_BYTES_MAX).read_to_string(&mut text);
            read.map(|_| Source::Stdin(text)).map_err(|error| format!("error: cannot read standard input: {error}"))
        }
        Some(path) => Ok(Source::File(path.to_path_buf())),
        None => {
            let found = DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists());
            found.map(|path| Source::File(path.to_path_buf())).ok_or_else(|| {
                format!("error: no configuration: neither {} exists; name one with -c FILE", DEFAULT_FILES.join(" nor "))
            })
        }
    }
}

/// Prints to standard output; a reader that went away (`ringway schema | head`) is no error.
pub fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nginx_spellings_are_understood() {
        let arguments = Arguments::try_parse_from(["ringway", "-t", "-c", "x.yaml"]).unwrap();
        assert!(arguments.test && arguments.command.is_none());
        let arguments = Arguments::try_parse_from(["ringway", "run", "-c", "x.yaml"]).unwrap();
        assert_eq!(arguments.config.as_deref(), Some(Path::new("x.yaml")));
        assert!(Arguments::try_parse_from(["ringway", "walk"]).is_err_and(|error| error.exit_code() == 2));
    }
}
