//! `redirect`. APISIX plugins-first.md.

use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::template::Template;
use super::{Answer, BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::proto::message::{Known, Method};
use crate::proto::uri::encode_path;
use crate::route::regex::Regex;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("http_to_https", Shape::Bool, "", "Redirects to the same URL under https; exactly one of this, `uri`, `regex_uri`."),
    field("uri", Shape::Text(2, 4096), "", "Target, with `$variables`."),
    field("regex_uri", Shape::Texts(2), "", "Pattern on the path, and the target with `$1`."),
    field("ret_code", Shape::Int(200, 599), "302", "Status; with `http_to_https` 301 for GET and HEAD, else 308."),
    field("encode_uri", Shape::Bool, "false", "The path part of the target is percent-encoded."),
    field("append_query_string", Shape::Bool, "false", "The request's query is appended."),
];

struct Redirect {
    target: Target,
    status: u16,
    encode: bool,
    append_query: bool,
}

enum Target {
    Https { port: Option<u16> },
    Uri(Template),
    Regex(Regex, Template),
}

/// Builds an instance.
pub fn build(conf: &Json, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let https = conf.get("http_to_https").and_then(Json::as_bool) == Some(true);
    let flag = |name: &str| conf.get(name).and_then(Json::as_bool) == Some(true);
    let given = ["http_to_https", "uri", "regex_uri"].iter().filter(|name| conf.get(**name).is_some()).count();
    if given != 1 {
        return Err(vec![ConfFault::at("", "exactly one of `http_to_https`, `uri` and `regex_uri` is needed")]);
    }
    if https && flag("append_query_string") {
        let message = "only one of `http_to_https` and `append_query_string` can be configured.";
        return Err(vec![ConfFault::at("", message)]);
    }
    let target = if let Some(uri) = conf.get("uri").and_then(Json::as_str) {
        Target::Uri(Template::compile(&uri.replace("\\$", "\u{0}")))
    } else if let Some(pair) = conf.get("regex_uri").and_then(Json::as_array) {
        regex_target(pair)?
    } else if https {
        let port = context.attr.and_then(|attr| attr.get("https_port")).and_then(whole);
        Target::Https { port: port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 443 && *port != 0) }
    } else {
        Target::Uri(Template::compile("")) // `http_to_https: false` does nothing
    };
    let status = conf.get("ret_code").and_then(whole).and_then(|code| u16::try_from(code).ok()).unwrap_or(302);
    Ok(Arc::new(Redirect { target, status, encode: flag("encode_uri"), append_query: flag("append_query_string") }))
}

fn regex_target(pair: &[Json]) -> Result<Target, Vec<ConfFault>> {
    let [pattern, template] = pair else {
        return Err(vec![ConfFault::at("/regex_uri", "exactly two items are needed: a pattern and a target")]);
    };
    let (pattern, template) = (pattern.as_str().unwrap_or_default(), template.as_str().unwrap_or_default());
    match Regex::compile(pattern, false) {
        Ok(regex) => Ok(Target::Regex(regex, Template::compile_with_captures(template))),
        Err(error) => Err(vec![ConfFault::at("/regex_uri/0", format!("invalid regex_uri ({pattern}, {template}), err:{error}"))]),
    }
}

impl Plugin for Redirect {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        let location = match &self.target {
            Target::Https { port } => return https(ctx, *port),
            Target::Uri(template) => template.render(ctx).into_iter().map(|byte| if byte == 0 { b'$' } else { byte }).collect(),
            Target::Regex(regex, template) => {
                let path = &ctx.request.path;
                let Some(groups) = regex.captures(path) else { return Flow::Next };
                let captures: Vec<Vec<u8>> = groups
                    .into_iter()
                    .map(|group| group.and_then(|range| path.get(range)).unwrap_or_default().to_vec())
                    .collect();
                template.render_with(ctx, &captures)
            }
        };
        if location.is_empty() {
            return Flow::Next;
        }
        let mut location = if self.encode { encoded(&location) } else { location };
        if self.append_query && !ctx.request.query_text().is_empty() {
            location.push(if location.contains(&b'?') { b'&' } else { b'?' });
            location.extend_from_slice(ctx.request.query_text());
        }
        Flow::Answer(Answer::page(self.status).with("Location", clean(location)))
    }
}

/// The same URL under https, unless that is what the client used (as far as trusted fields say).
fn https<'a>(ctx: &Ctx<'_>, port: Option<u16>) -> Flow<'a> {
    let scheme = ctx.request.fields.known(Known::XForwardedProto).unwrap_or(ctx.conn.scheme.as_bytes());
    if scheme.eq_ignore_ascii_case(b"https") {
        return Flow::Next;
    }
    let mut location = b"https://".to_vec();
    location.extend_from_slice(&ctx.request.host);
    if let Some(port) = port {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    encode_path(&ctx.request.path, &mut location);
    if !ctx.request.query_text().is_empty() {
        location.push(b'?');
        location.extend_from_slice(ctx.request.query_text());
    }
    let status = if matches!(ctx.request.method, Method::Get | Method::Head) { 301 } else { 308 };
    Flow::Answer(Answer::page(status).with("Location", clean(location)))
}

/// Percent-encodes what stands before `?`.
fn encoded(location: &[u8]) -> Vec<u8> {
    let end = memchr::memchr(b'?', location).unwrap_or(location.len());
    let mut out = Vec::new();
    encode_path(location.get(..end).unwrap_or_default(), &mut out);
    out.extend_from_slice(location.get(end..).unwrap_or_default());
    out
}

/// A variable may hold decoded line ends; in a Location they are encoded, never sent.
fn clean(location: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(location.len());
    for byte in location {
        if byte < 0x20 || byte == 0x7f {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}
