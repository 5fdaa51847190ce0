//! HAProxy.

use super::install::Source;
use super::{Kind, Site, Terms};

/// HAProxy in one thread.
pub(super) static KIND: Kind = Kind {
    name: "haproxy",
    source: Source::Debian { program: "haproxy", packages: &["haproxy"], service: "haproxy" },
    version: "-v",
    given: |programs| programs.haproxy.as_deref(),
    configure,
    command: |command, site, _| {
        command.arg("-db").arg("-f").arg(&site.config);
    },
    logs_to_output: true,
    ..Kind::BASE
};

fn configure(site: &Site, terms: &Terms) -> String {
    // HAProxy writes no files: its standard output is one, which is as near as it comes to the others.
    let (global_log, default_log) =
        if site.log.is_some() { ("  log stdout format raw local0\n", "  log global\n  option httplog\n") } else { ("", "") };
    let forwarded = if terms.forwarded {
        "  option forwardfor\n  http-request set-header X-Real-IP %[src]\n  http-request set-header X-Forwarded-Proto http\n  \
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  http-request set-header X-Forwarded-Port %[dst_port]\n"
    } else {
        ""
    };
    format!(
        "global\n  nbthread 1\n  maxconn {}\n{global_log}defaults\n  mode http\n{default_log}  timeout connect 5s\n  \
        timeout client 60s\n  \
         timeout server 60s\n  http-reuse always\nfrontend front\n  bind {} backlog 4096\n{forwarded}  \
         default_backend bench\n\
         backend bench\n  server one {}\n",
        terms.connections, site.listen, terms.upstream
    )
}
