//! `response-rewrite`: changes the response. APISIX plugins-transform.md §2.

use std::io::Read;
use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::headers::{HeaderEdits, name_fits};
use super::template::Template;
use super::{BuildContext, ConfFault, Ctx, Phases, Plugin};
use crate::base::limits;
use crate::proto::message::{Known, Method};
use crate::route::expr::Expr;
use crate::route::regex::Regex;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("status_code", Shape::Int(200, 598), "", "New status."),
    field("body", Shape::Text(0, 64 << 20), "", "New body; not with `filters`."),
    field("body_base64", Shape::Bool, "false", "`body` is base64."),
    field("headers", Shape::Any, "", "`{add: [\"Name: value\"], set: {…}, remove: […]}`, or a plain map that sets."),
    field("vars", Shape::Any, "", "Expression under which anything is changed."),
    field("filters", Shape::Objects(FILTER), "", "Replacements in the body."),
    field("max_resp_body_size", Shape::Int(1, i64::MAX), "67108864", "With `filters`: longer bodies are cut."),
];

const FILTER: &[Field] = &[
    field("regex", Shape::Text(1, 65536), "**required**", "Pattern."),
    field("replace", Shape::Text(0, 65536), "**required**", "Replacement, with `$1`."),
    field("scope", Shape::Word(&["once", "global"]), "once", "First match or all."),
    field("options", Shape::Text(0, 16), "jo", "Flags of ngx.re; `i` is understood, `j` and `o` change nothing."),
];

struct ResponseRewrite {
    status: Option<u16>,
    body: Option<Vec<u8>>,
    headers: HeaderEdits,
    vars: Option<Expr>,
    filters: Vec<Filter>,
    limit: usize,
}

struct Filter {
    regex: Regex,
    replace: Template,
    global: bool,
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let mut faults = Vec::new();
    if conf.get("body").is_some() && conf.get("filters").is_some() {
        faults.push(ConfFault::at("", "`body` and `filters` exclude each other"));
    }
    let vars = conf.get("vars").and_then(|vars| match Expr::compile(vars) {
        Ok(expr) => Some(expr),
        Err(error) => {
            faults.push(ConfFault::at("/vars", format!("failed to validate the 'vars' expression: {error}")));
            None
        }
    });
    let body = body(conf, &mut faults);
    let mut headers = HeaderEdits::default();
    if let Some(edits) = conf.get("headers") {
        read_headers(edits, &mut headers, &mut faults);
    }
    let list = conf.get("filters").and_then(Json::as_array).into_iter().flatten().enumerate();
    let filters = list.filter_map(|(at, conf)| filter(conf, at, &mut faults)).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let limit = conf.get("max_resp_body_size").and_then(whole).and_then(|size| usize::try_from(size).ok());
    Ok(Arc::new(ResponseRewrite {
        status: conf.get("status_code").and_then(whole).and_then(|status| u16::try_from(status).ok()),
        body,
        headers,
        vars,
        filters,
        limit: limit.unwrap_or(limits::COLLECT_BYTES),
    }))
}

fn body(conf: &Json, faults: &mut Vec<ConfFault>) -> Option<Vec<u8>> {
    use base64::Engine;
    let coded = conf.get("body_base64").and_then(Json::as_bool) == Some(true);
    let text = conf.get("body").and_then(Json::as_str);
    if !coded {
        return text.map(|text| text.as_bytes().to_vec());
    }
    let decoded =
        text.filter(|text| !text.is_empty()).and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    if decoded.is_none() {
        faults.push(ConfFault::at("/body", "invalid base64 content"));
    }
    decoded
}

fn read_headers(edits: &Json, headers: &mut HeaderEdits, faults: &mut Vec<ConfFault>) {
    let Some(object) = edits.as_object() else {
        return faults.push(ConfFault::at("/headers", "expected an object"));
    };
    let new_form = object.get("add").is_some_and(Json::is_array)
        || object.get("set").is_some_and(Json::is_object)
        || object.get("remove").is_some_and(Json::is_array);
    if !new_form {
        return headers.map(edits, false, "/headers", faults);
    }
    for (at, line) in object.get("add").and_then(Json::as_array).into_iter().flatten().enumerate() {
        let parts = line.as_str().and_then(|line| line.split_once(':'));
        match parts.map(|(name, value)| (name.trim(), value.trim())).filter(|(name, _)| name_fits(name)) {
            Some((name, value)) => headers.add.push((name.to_owned(), Template::compile(value))),
            None => faults.push(ConfFault::at(format!("/headers/add/{at}"), "a line is written \"Name: value\"")),
        }
    }
    if let Some(set) = object.get("set") {
        headers.map(set, false, "/headers/set", faults);
    }
    if let Some(remove) = object.get("remove") {
        headers.names(remove, "/headers/remove", faults);
    }
}

fn filter(conf: &Json, at: usize, faults: &mut Vec<ConfFault>) -> Option<Filter> {
    let text = |name: &str| conf.get(name).and_then(Json::as_str);
    let (Some(pattern), Some(replace)) = (text("regex"), text("replace")) else {
        faults.push(ConfFault::at(format!("/filters/{at}"), "`regex` and `replace` are required"));
        return None;
    };
    let options = text("options").unwrap_or("jo");
    if let Some(unknown) = options.chars().find(|flag| !"adDijJmosuxU".contains(*flag)) {
        let message = format!("regex \"{pattern}\" validation failed: unknown flag \"{unknown}\" (flags \"{options}\")");
        faults.push(ConfFault::at(format!("/filters/{at}/options"), message));
        return None;
    }
    let flags: String = options.chars().filter(|flag| "msxU".contains(*flag)).collect();
    let pattern = if flags.is_empty() { pattern.to_owned() } else { format!("(?{flags}){pattern}") };
    match Regex::compile(&pattern, options.contains('i')) {
        Ok(regex) => {
            Some(Filter { regex, replace: Template::compile_with_captures(replace), global: text("scope") == Some("global") })
        }
        Err(error) => {
            faults.push(ConfFault::at(format!("/filters/{at}/regex"), format!("regex \"{pattern}\" validation failed: {error}")));
            None
        }
    }
}

impl Plugin for ResponseRewrite {
    fn phases(&self) -> Phases {
        if self.filters.is_empty() { Phases::HEADER_FILTER } else { Phases::HEADER_FILTER.and(Phases::BODY_FILTER) }
    }

    fn header_filter(&self, ctx: &mut Ctx<'_>) {
        if self.vars.as_ref().is_some_and(|vars| !vars.holds(ctx)) {
            return ctx.note_skipped(self.key());
        }
        if let Some(status) = self.status {
            ctx.response.status = status;
            ctx.response.phrase = crate::proto::message::Span::default();
        }
        let bodyless = ctx.request.method == Method::Head || matches!(ctx.response.status, 204 | 304);
        if self.body.is_some() || !self.filters.is_empty() {
            if !self.filters.is_empty() && !bodyless {
                ctx.remember_coding();
                ctx.collect_body(self.limit);
            }
            for known in [Known::ContentEncoding, Known::LastModified, Known::Etag] {
                ctx.response.fields.remove_known(known);
            }
            if !bodyless {
                ctx.response.fields.remove_known(Known::ContentLength);
            }
        }
        if let Some(body) = self.body.as_ref().filter(|_| !bodyless) {
            ctx.replace_body(body.clone());
        }
        if !self.headers.is_empty() {
            let rendered = self.headers.render(ctx, &[]);
            rendered.apply(&mut ctx.response.fields);
        }
    }

    fn body_filter(&self, ctx: &mut Ctx<'_>, data: &mut Vec<u8>, last: bool) {
        if !last || ctx.was_skipped(self.key()) {
            return;
        }
        match ctx.coding() {
            "" | "identity" => {}
            "gzip" | "x-gzip" => decode(flate2::read::MultiGzDecoder::new(&*data.clone()), data, self.limit),
            "br" => decode(brotli::Decompressor::new(&*data.clone(), 4096), data, self.limit),
            other => {
                tracing::warn!(coding = other, "filters can't read this Content-Encoding; the body is passed as it is");
                return;
            }
        }
        ctx.take_coding();
        for filter in &self.filters {
            filter.apply(data);
        }
    }
}

impl ResponseRewrite {
    /// Names this instance among those of an exchange.
    fn key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// Replaces coded data by what it stands for, up to the limit; broken data stays as it is.
fn decode(reader: impl Read, data: &mut Vec<u8>, limit: usize) {
    let mut plain = Vec::new();
    match reader.take(limit as u64).read_to_end(&mut plain) {
        Ok(_) => *data = plain,
        Err(error) => tracing::warn!(%error, "a coded body could not be decoded"),
    }
}

impl Filter {
    fn apply(&self, data: &mut Vec<u8>) {
        let mut out = Vec::new();
        let mut from = 0;
        while let Some(rest) = data.get(from..) {
            let Some(groups) = self.regex.captures(rest) else { break };
            let Some(whole) = groups.first().cloned().flatten() else { break };
            let captures: Vec<Vec<u8>> =
                groups.iter().map(|group| group.clone().and_then(|range| rest.get(range)).unwrap_or_default().to_vec()).collect();
            out.extend_from_slice(rest.get(..whole.start).unwrap_or_default());
            out.extend_from_slice(&self.replace.render_with(&Nobody, &captures));
            from += whole.end;
            if whole.is_empty() {
                out.extend(data.get(from));
                from += 1;
            }
            if !self.global {
                break;
            }
        }
        out.extend_from_slice(data.get(from..).unwrap_or_default());
        *data = out;
    }
}

struct Nobody;

impl crate::proto::vars::Vars for Nobody {
    fn var(&self, _var: &crate::proto::vars::Var) -> Option<crate::proto::vars::Value<'_>> {
        None
    }
}
