//! Arguments to a command; nothing else.

fn main() -> std::process::ExitCode {
    ringway::cli::main()
}
