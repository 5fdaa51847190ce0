//! Pingora: a library, so its peer is the least proxy on it, in `bench-harness/pingora`.

use super::Kind;
use super::install::Source;

/// The proxy on Pingora, one thread.
pub(super) static KIND: Kind = Kind {
    name: "pingora",
    source: Source::Crate { directory: "pingora", program: "bench-pingora" },
    given: |programs| programs.pingora.as_deref(),
    command: |command, site, terms| {
        command.args([site.listen.to_string(), terms.upstream.to_string()]);
        if let Some(log) = &site.log {
            command.arg("--access-log").arg(log);
        }
        if terms.forwarded {
            command.arg("--forwarded");
        }
    },
    ..Kind::BASE
};
