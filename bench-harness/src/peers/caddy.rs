//! Caddy.

use super::install::Source;
use super::{Kind, Site, Terms};

/// Caddy on one processor.
pub(super) static KIND: Kind = Kind {
    name: "caddy",
    source: Source::Debian { program: "caddy", packages: &["caddy"], service: "caddy" },
    version: "version",
    given: |programs| programs.caddy.as_deref(),
    configure,
    command: |command, site, terms| {
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&site.config);
        // One worker; and what it keeps for itself stays in the run's directory.
        command.env("GOMAXPROCS", "1").envs(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, &terms.directory)));
    },
    ..Kind::BASE
};

fn configure(site: &Site, terms: &Terms) -> String {
    // Its encoders write no combined lines; JSON is its own format, with all headers in it, so it writes more than the others.
    let log = site.log.as_ref().map_or(String::new(), |log| {
        format!("\tlog {{\n\t\toutput file {} {{\n\t\t\troll_disabled\n\t\t}}\n\t\tformat json\n\t}}\n", log.display())
    });
    // It sets X-Forwarded-For, -Proto and -Host by itself.
    let forwarded = if terms.forwarded {
        format!("\t\theader_up X-Real-IP {{remote_host}}\n\t\theader_up X-Forwarded-Port {}\n", site.listen.port())
    } else {
        ["For", "Proto", "Host"].map(|name| format!("\t\theader_up -X-Forwarded-{name}\n")).concat()
    };
    format!(
        "{{\n\tadmin off\n\tauto_https off\n\tservers {{\n\t\tprotocols h1\n\t}}\n\tlog {{\n\t\tlevel ERROR\n\t}}\n}}\n\
         http://:{port} {{\n\tbind {ip}\n{log}\treverse_proxy {upstream} {{\n{forwarded}\t\ttransport http {{\n\t\t\t\
         compression off\n\t\t\tkeepalive 60s\n\t\t\tkeepalive_idle_conns 512\n\t\t\tkeepalive_idle_conns_per_host 512\n\
         \t\t}}\n\t}}\n}}\n",
        port = site.listen.port(),
        ip = site.listen.ip(),
        upstream = terms.upstream,
    )
}
