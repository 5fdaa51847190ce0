//! `proxy-rewrite`: changes what the upstream gets. APISIX plugins-transform.md §1.

use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field};
use super::headers::HeaderEdits;
use super::template::Template;
use super::{BuildContext, ConfFault, Ctx, Flow, Phases, Plugin};
use crate::proto::uri::encode_path;
use crate::route::regex::Regex;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("uri", Shape::Text(1, 4096), "", "New path, with `$variables` and a `?query`; wins over `regex_uri`."),
    field("regex_uri", Shape::Texts(2), "", "Pairs of pattern and replacement; the first that matches is applied."),
    field("method", Shape::Word(METHODS), "", "New method."),
    field("host", Shape::Text(1, 256), "", "New Host (with the upstream's `pass_host: pass`)."),
    field("headers", Shape::Any, "", "`{add: {…}, set: {…}, remove: […]}`, or a plain map that sets."),
    field("use_real_request_uri_unsafe", Shape::Bool, "false", "Starts from the target as the client wrote it, unnormalised."),
];

const METHODS: &[&str] =
    &["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK", "PATCH", "TRACE"];

struct ProxyRewrite {
    uri: Option<Template>,
    regex: Vec<(Regex, Template)>,
    method: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    headers: HeaderEdits,
    raw: bool,
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let mut faults = Vec::new();
    if conf.as_object().is_none_or(|object| object.keys().all(|key| key == "_meta")) {
        faults.push(ConfFault::at("", "at least one field is needed"));
    }
    let uri = conf.get("uri").and_then(Json::as_str);
    if uri.is_some_and(|uri| !uri.starts_with('/')) {
        faults.push(ConfFault::at("/uri", "a path begins with `/`"));
    }
    let host = conf.get("host").and_then(Json::as_str);
    let host_fits = |host: &str| crate::proto::uri::is_authority(host.as_bytes());
    if host.is_some_and(|host| !host_fits(host)) {
        faults.push(ConfFault::at("/host", "a host is a name with or without a port"));
    }
    let regex = conf.get("regex_uri").and_then(Json::as_array).map(|list| pairs(list, &mut faults)).unwrap_or_default();
    let mut headers = HeaderEdits::default();
    if let Some(edits) = conf.get("headers") {
        read_headers(edits, &mut headers, &mut faults);
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Arc::new(ProxyRewrite {
        uri: uri.map(Template::compile),
        regex,
        method: conf.get("method").and_then(Json::as_str).map(|method| method.as_bytes().to_vec()),
        host: host.map(|host| host.as_bytes().to_vec()),
        headers,
        raw: conf.get("use_real_request_uri_unsafe").and_then(Json::as_bool) == Some(true),
    }))
}

fn pairs(list: &[Json], faults: &mut Vec<ConfFault>) -> Vec<(Regex, Template)> {
    if !list.len().is_multiple_of(2) {
        faults.push(ConfFault::at("/regex_uri", "The length of regex_uri should be an even number"));
    }
    let mut compiled = Vec::new();
    for (at, pair) in list.chunks_exact(2).enumerate() {
        let [pattern, replacement] = pair else { continue };
        let (pattern, replacement) = (pattern.as_str().unwrap_or_default(), replacement.as_str().unwrap_or_default());
        match Regex::compile(pattern, false) {
            Ok(regex) => compiled.push((regex, Template::compile_with_captures(&replacement.replace("$$", "\u{0}")))),
            Err(error) => {
                let message = format!("invalid regex_uri({pattern}, {replacement}): {error}");
                faults.push(ConfFault::at(format!("/regex_uri/{}", at * 2), message));
            }
        }
    }
    compiled
}

/// The new form has only `add`, `set`, `remove`, with a table or list in one of them; anything else is the old form.
fn read_headers(edits: &Json, headers: &mut HeaderEdits, faults: &mut Vec<ConfFault>) {
    let Some(object) = edits.as_object().filter(|object| !object.is_empty()) else {
        return faults.push(ConfFault::at("/headers", "an object with at least one header is needed"));
    };
    let new_form = object
        .iter()
        .any(|(key, value)| matches!(key.as_str(), "add" | "set" | "remove") && (value.is_object() || value.is_array()));
    if !new_form {
        return headers.map(edits, false, "/headers", faults);
    }
    for (key, value) in object {
        match key.as_str() {
            "add" => headers.map(value, true, "/headers/add", faults),
            "set" => headers.map(value, false, "/headers/set", faults),
            "remove" => headers.names(value, "/headers/remove", faults),
            other => faults.push(ConfFault::at(format!("/headers/{other}"), "only `add`, `set` and `remove` go together")),
        }
    }
}

impl Plugin for ProxyRewrite {
    fn phases(&self) -> Phases {
        Phases::REWRITE
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        if let Some(host) = &self.host {
            ctx.extras_mut().outgoing.host = Some(host.clone());
        }
        let uri = if self.raw { self.raw_uri(ctx) } else { self.normal_uri(ctx) };
        ctx.extras_mut().outgoing.uri = Some(uri);
        if !self.headers.is_empty() {
            let rendered = self.headers.render(ctx, ctx.extras().map_or(&[], |extras| &extras.outgoing.regex_captures));
            rendered.apply(&mut ctx.request.fields);
        }
        if let Some(method) = &self.method {
            ctx.extras_mut().outgoing.method = Some(method.clone());
        }
        Flow::Next
    }
}

impl ProxyRewrite {
    /// From the canonical path: rewritten, encoded, the client's query behind the configuration's.
    fn normal_uri(&self, ctx: &mut Ctx<'_>) -> Vec<u8> {
        let (rewritten, has_query) = match self.rewritten(ctx, &ctx.request.path.clone()) {
            // A `?` of the configuration begins a query; one that was decoded out of the client's path is data.
            Some((uri, from_template)) => {
                let data = !from_template && ctx.request.path.contains(&b'?');
                (uri, !data)
            }
            None => (ctx.request.path.clone(), false),
        };
        let split = if has_query { memchr::memchr(b'?', &rewritten) } else { None };
        let mut out = Vec::with_capacity(rewritten.len() + 16);
        encode_path(rewritten.get(..split.unwrap_or(rewritten.len())).unwrap_or_default(), &mut out);
        if let Some(at) = split {
            for &byte in rewritten.get(at..).unwrap_or_default() {
                if byte < 0x20 || byte == 0x7f {
                    out.extend_from_slice(format!("%{byte:02X}").as_bytes());
                } else if byte == b' ' {
                    out.extend_from_slice(b"%20"); // a raw space would end the target
                } else {
                    out.push(byte);
                }
            }
        }
        append_query(&mut out, ctx.request.query_text(), split.is_some());
        out
    }

    /// From the target as written.
    fn raw_uri(&self, ctx: &mut Ctx<'_>) -> Vec<u8> {
        let raw = ctx.request.fields.bytes(ctx.request.origin).to_vec();
        let mut uri = match self.rewritten(ctx, &raw) {
            Some((mut uri, from_template)) => {
                if from_template {
                    let has_query = uri.contains(&b'?');
                    append_query(&mut uri, ctx.request.query_text(), has_query);
                }
                uri
            }
            None => raw,
        };
        uri.retain(|&byte| byte > 0x20 && byte != 0x7f); // nothing may end the request line early
        uri
    }

    /// The new path, and whether it came from `uri`.
    fn rewritten(&self, ctx: &mut Ctx<'_>, subject: &[u8]) -> Option<(Vec<u8>, bool)> {
        if let Some(template) = &self.uri {
            let mut out = Vec::new();
            template.write_edited(ctx, &[], protect_question_mark, &mut out);
            return Some((out, true));
        }
        for (regex, replacement) in &self.regex {
            let Some(groups) = regex.captures(subject) else { continue };
            let group = |range: &Option<std::ops::Range<usize>>| {
                range.clone().and_then(|range| subject.get(range)).unwrap_or_default().to_vec()
            };
            let captures: Vec<Vec<u8>> = groups.iter().map(group).collect();
            let whole = groups.first().cloned().flatten().unwrap_or(0..0);
            let mut out = subject.get(..whole.start).unwrap_or_default().to_vec();
            let replaced = replacement.render_with(&NoVars, &captures);
            out.extend(replaced.into_iter().map(|byte| if byte == 0 { b'$' } else { byte }));
            out.extend_from_slice(subject.get(whole.end..).unwrap_or_default());
            ctx.extras_mut().outgoing.regex_captures = captures;
            return Some((out, false));
        }
        None
    }
}

/// The first `?` of a variable's value is data, not the begin of a query.
fn protect_question_mark(value: &[u8], out: &mut Vec<u8>) {
    match memchr::memchr(b'?', value) {
        Some(at) => {
            out.extend_from_slice(value.get(..at).unwrap_or_default());
            out.extend_from_slice(b"%3F");
            out.extend_from_slice(value.get(at + 1..).unwrap_or_default());
        }
        None => out.extend_from_slice(value),
    }
}

fn append_query(out: &mut Vec<u8>, query: &[u8], has_query: bool) {
    if !query.is_empty() {
        out.push(if has_query { b'&' } else { b'?' });
        out.extend_from_slice(query);
    }
}

/// Replacements of `regex_uri` know captures only.
struct NoVars;

impl crate::proto::vars::Vars for NoVars {
    fn var(&self, _var: &crate::proto::vars::Var) -> Option<crate::proto::vars::Value<'_>> {
        None
    }
}
