//! nginx, plain and with Lua.

use super::install::Source;
use super::{Kind, Site, Terms};

/// Directory of Debian's nginx modules.
const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

/// nginx.
pub(super) static PLAIN: Kind = BASE;

/// nginx with a no-op Lua handler in each phase, the least APISIX can cost.
pub(super) static LUA: Kind = Kind {
    name: "nginx-lua",
    source: Source::Debian { program: "nginx", packages: &["nginx-light", "libnginx-mod-http-lua"], service: "nginx" },
    needs: Some("/usr/lib/nginx/modules/ngx_http_lua_module.so"),
    configure: |site, terms| text(site, terms, true),
    ..BASE
};

const BASE: Kind = Kind {
    name: super::REFERENCE,
    source: Source::Debian { program: "nginx", packages: &["nginx-light"], service: "nginx" },
    version: "-v",
    given: |programs| programs.nginx.as_deref(),
    configure: |site, terms| text(site, terms, false),
    command: |command, site, terms| {
        command.arg("-p").arg(&terms.directory).arg("-c").arg(&site.config);
    },
    death: libc::SIGTERM,
    routes: true,
    ..Kind::BASE
};

fn text(site: &Site, terms: &Terms, lua: bool) -> String {
    let dir = terms.directory.display();
    let sockets = 2 * terms.connections;
    let (name, listen) = (&site.name, site.listen);
    let log = site.log.as_ref().map_or("off".into(), |log| format!("{} combined buffer=64k flush=1s", log.display()));
    let (mut modules, mut upstream, mut phases) = (String::new(), format!("server {};", terms.upstream), "");
    if lua {
        modules =
            format!("load_module {NGINX_MODULES}/ndk_http_module.so;\nload_module {NGINX_MODULES}/ngx_http_lua_module.so;\n",);
        let (ip, port) = (terms.upstream.ip(), terms.upstream.port());
        upstream = format!(
            "server 0.0.0.1;\n    balancer_by_lua_block {{ require(\"ngx.balancer\").set_current_peer(\"{ip}\", {port}) }}",
        );
        phases = "      rewrite_by_lua_block { return }\n      access_by_lua_block { return }\n      \
            header_filter_by_lua_block { return }\n      log_by_lua_block { return }\n";
    }
    let package_path = if lua { "  lua_package_path \"/usr/share/lua/5.1/?.lua;;\";\n" } else { "" };
    let forwarded = if terms.forwarded {
        "      proxy_set_header Host $http_host;\n      proxy_set_header X-Real-IP $remote_addr;\n      \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n      proxy_set_header X-Forwarded-Proto $scheme;\n      \
         proxy_set_header X-Forwarded-Host $http_host;\n      proxy_set_header X-Forwarded-Port $server_port;\n"
    } else {
        ""
    };
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {dir}/{name}-{kind};\n"))
        .concat();
    let proxy = format!(
        "{phases}      proxy_pass http://bench;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n{forwarded}"
    );
    let many: String = (0..terms.routes).map(|n| format!("    location /many/{n:06}/ {{\n{proxy}    }}\n")).collect();
    format!(
        "{modules}daemon off;\nuser root;\nworker_processes 1;\npid {dir}/{name}.pid;\n\
         error_log {dir}/{name}.error.log warn;\nevents {{ worker_connections {sockets}; }}\nhttp {{\n  access_log \
         {log};\n{temp}{package_path}  \
         keepalive_requests 1000000;\n  keepalive_timeout 60s;\n  client_max_body_size 0;\n  upstream bench {{\n    \
         {upstream}\n    keepalive 512;\n    \
         keepalive_requests 1000000;\n  }}\n  server {{\n    listen {listen} backlog=4096;\n{many}    location / \
         {{\n{proxy}    }}\n  }}\n}}\n",
    )
}
