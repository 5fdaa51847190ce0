//! `gzip` and `brotli`: responses coded for clients that take them so. APISIX plugins-transform.md §7, §8. Both act when all
//! else about a response is settled, where APISIX's `brotli` hides bodies from plugins behind it; every piece is flushed, so
//! that streams stay streams.

use std::io::Write;
use std::sync::Arc;

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::{BuildContext, ConfFault, Ctx, Phases, Plugin};
use crate::proto::message::{BodyShape, Known, Method, Version};

/// Fields of `gzip`.
pub const GZIP_FIELDS: &[Field] = &[
    field("types", Shape::Any, "[text/html]", "Media types, or `*` for all."),
    field("min_length", Shape::Int(1, i64::MAX), "20", "Least Content-Length; unknown ones pass."),
    field("comp_level", Shape::Int(1, 9), "1", "Effort."),
    field("http_version", Shape::Number, "1.1", "Least version of the request: 1.1 or 1.0."),
    field("buffers", Shape::Object(BUFFERS), "", "Taken, without effect: pieces go out as they are coded."),
    field("vary", Shape::Bool, "false", "`Vary: Accept-Encoding` on every response that would be coded for some client."),
];

const BUFFERS: &[Field] = &[
    field("number", Shape::Int(1, i64::MAX), "32", "Number of buffers."),
    field("size", Shape::Int(1, i64::MAX), "4096", "Their size."),
];

/// Fields of `brotli`.
pub const BROTLI_FIELDS: &[Field] = &[
    field("types", Shape::Any, "[text/html]", "Media types, or `*` for all."),
    field("min_length", Shape::Int(1, i64::MAX), "20", "Least Content-Length; unknown ones pass."),
    field("mode", Shape::Int(0, 2), "0", "0 anything, 1 text, 2 fonts."),
    field("comp_level", Shape::Int(0, 11), "6", "Effort."),
    field("lgwin", Shape::Int(0, 24), "19", "Size of the window as a power of two: 0, or 10 to 24."),
    field("lgblock", Shape::Int(0, 24), "0", "Size of a block likewise: 0, or 16 to 24."),
    field("http_version", Shape::Number, "1.1", "Least version of the request: 1.1 or 1.0."),
    field("vary", Shape::Bool, "false", "`Vary: Accept-Encoding` on coded responses."),
];

/// Something that codes a body.
pub trait Coder {
    /// Replaces a piece by what is ready of its code; all of it with the last piece.
    fn code(&mut self, data: &mut Vec<u8>, last: bool);
}

struct Compress {
    rule: Rule,
    coding: Coding,
}

/// What is coded.
struct Rule {
    types: Option<Vec<String>>, // None: all
    least: u64,
    oldest: Version,
    vary: bool,
}

enum Coding {
    Gzip(u32),
    Brotli(Box<BrotliEncoderParams>),
}

/// Builds a `gzip`.
pub fn build_gzip(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let level = number(conf, "comp_level", 1);
    Ok(Arc::new(Compress { rule: rule(conf)?, coding: Coding::Gzip(level) }))
}

/// Builds a `brotli`.
pub fn build_brotli(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let (window, block) = (number(conf, "lgwin", 19), number(conf, "lgblock", 0));
    let mut faults = Vec::new();
    for (name, value, least) in [("lgwin", window, 10), ("lgblock", block, 16)] {
        if value != 0 && value < least {
            faults.push(ConfFault::at(format!("/{name}"), format!("0, or {least} to 24")));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let params = BrotliEncoderParams {
        quality: number(conf, "comp_level", 6) as i32,
        lgwin: if window == 0 { 22 } else { window as i32 },
        lgblock: block as i32,
        mode: match number(conf, "mode", 0) {
            1 => BrotliEncoderMode::BROTLI_MODE_TEXT,
            2 => BrotliEncoderMode::BROTLI_MODE_FONT,
            _ => BrotliEncoderMode::BROTLI_MODE_GENERIC,
        },
        ..BrotliEncoderParams::default()
    };
    Ok(Arc::new(Compress { rule: rule(conf)?, coding: Coding::Brotli(Box::new(params)) }))
}

fn number(conf: &Json, name: &str, default: u32) -> u32 {
    conf.get(name).and_then(whole).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}

fn rule(conf: &Json) -> Result<Rule, Vec<ConfFault>> {
    let fault = |pointer: &str, message: &str| Err(vec![ConfFault::at(pointer, message)]);
    let types = match conf.get("types") {
        None => Some(vec!["text/html".to_owned()]),
        Some(Json::String(all)) if all == "*" => None,
        Some(Json::Array(list)) if !list.is_empty() => {
            let texts: Option<Vec<String>> = list.iter().map(|one| Some(one.as_str()?.to_owned())).collect();
            match texts {
                Some(texts) if texts.iter().all(|text| !text.is_empty()) => Some(texts),
                _ => return fault("/types", "expected media types"),
            }
        }
        Some(_) => return fault("/types", "expected a list of media types, or `*`"),
    };
    let oldest = match conf.get("http_version").and_then(Json::as_f64) {
        None => Version::Http11,
        Some(1.1) => Version::Http11,
        Some(1.0) => Version::Http10,
        Some(_) => return fault("/http_version", "1.1 or 1.0"),
    };
    let least = conf.get("min_length").and_then(whole).and_then(|length| u64::try_from(length).ok()).unwrap_or(20);
    Ok(Rule { types, least, oldest, vary: conf.get("vary").and_then(Json::as_bool).unwrap_or(false) })
}

impl Rule {
    /// The response is one to code, whoever asks.
    fn holds(&self, ctx: &Ctx<'_>) -> bool {
        let fields = &ctx.response.fields;
        let Some(kind) = fields.first(b"content-type") else { return false };
        let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let listed = self.types.as_ref().is_none_or(|types| types.iter().any(|one| one.as_bytes() == kind));
        let length = match &ctx.body_plan {
            super::BodyPlan::Replace(body) => Some(body.len() as u64),
            super::BodyPlan::Collect(_) => None,
            _ => match ctx.response.body {
                BodyShape::Length(length) => Some(length),
                _ => None,
            },
        };
        let no_transform = fields.all(b"cache-control").any(|line| lists(line, b"no-transform")); // RFC 9110 §7.7
        listed
            && length.is_none_or(|length| length >= self.least)
            && (ctx.request.version == Version::Http11 || self.oldest == Version::Http10)
            && fields.known(Known::ContentEncoding).is_none()
            && matches!(ctx.response.status, 200 | 403 | 404)
            && ctx.request.method != Method::Head
            && !no_transform
    }
}

impl Compress {
    fn name(&self) -> &'static [u8] {
        match self.coding {
            Coding::Gzip(_) => b"gzip",
            Coding::Brotli(_) => b"br",
        }
    }

    fn coder(&self) -> Box<dyn Coder> {
        match &self.coding {
            Coding::Gzip(level) => Box::new(Gzip(Some(GzEncoder::new(Vec::new(), Compression::new(*level))))),
            Coding::Brotli(params) => Box::new(Brotli(Some(CompressorWriter::with_params(Vec::new(), BLOCK, params)))),
        }
    }

    fn is_accepted(&self, ctx: &Ctx<'_>) -> bool {
        let any = matches!(self.coding, Coding::Brotli(_)); // nginx's gzip takes no `*`
        ctx.request.fields.all(b"accept-encoding").any(|line| accepts(line, self.name(), any))
    }
}

/// Bytes that the brotli encoder hands on at once.
const BLOCK: usize = 16 * 1024;

impl Plugin for Compress {
    fn phases(&self) -> Phases {
        Phases::CODING
    }

    fn code_head(&self, ctx: &mut Ctx<'_>) {
        if ctx.extras().is_some_and(|extras| extras.coder.is_some()) || !self.rule.holds(ctx) {
            return;
        }
        let accepted = self.is_accepted(ctx);
        if self.rule.vary && (accepted || matches!(self.coding, Coding::Gzip(_))) {
            ctx.response.fields.add(b"Vary", b"Accept-Encoding");
        }
        if !accepted {
            return;
        }
        let fields = &mut ctx.response.fields;
        let etag = fields.known(Known::Etag).map(<[u8]>::to_vec);
        match etag {
            Some(strong) if strong.starts_with(b"\"") => fields.set(b"ETag", &[b"W/", strong.as_slice()].concat()),
            Some(weak) if weak.starts_with(b"W/") => {}
            Some(_) => drop(fields.remove_known(Known::Etag)),
            None => {}
        }
        fields.remove_known(Known::ContentLength);
        fields.remove(b"accept-ranges");
        fields.set(b"Content-Encoding", self.name());
        ctx.extras_mut().coder = Some(self.coder());
        ctx.filter_body();
    }
}

struct Gzip(Option<GzEncoder<Vec<u8>>>);

impl Coder for Gzip {
    fn code(&mut self, data: &mut Vec<u8>, last: bool) {
        let Some(encoder) = &mut self.0 else { return };
        let written = encoder.write_all(data).and_then(|()| if last || data.is_empty() { Ok(()) } else { encoder.flush() });
        debug_assert!(written.is_ok(), "a Vec takes everything");
        *data = std::mem::take(encoder.get_mut());
        if last && let Some(encoder) = self.0.take() {
            data.extend(encoder.finish().unwrap_or_default());
        }
    }
}

struct Brotli(Option<CompressorWriter<Vec<u8>>>);

impl Coder for Brotli {
    fn code(&mut self, data: &mut Vec<u8>, last: bool) {
        let Some(encoder) = &mut self.0 else { return };
        let written = encoder.write_all(data).and_then(|()| if last || data.is_empty() { Ok(()) } else { encoder.flush() });
        debug_assert!(written.is_ok(), "a Vec takes everything");
        *data = std::mem::take(encoder.get_mut());
        if last && let Some(encoder) = self.0.take() {
            data.extend(encoder.into_inner());
        }
    }
}

/// A comma-separated list names this, whatever parameters it has.
fn lists(line: &[u8], name: &[u8]) -> bool {
    line.split(|&byte| byte == b',').any(|one| {
        let token = one.split(|&byte| byte == b';' || byte == b'=').next().unwrap_or_default();
        token.trim_ascii().eq_ignore_ascii_case(name)
    })
}

/// A line of Accept-Encoding takes a coding: it is listed (or `*` is, where `any` counts) and not with `q=0`. RFC 9110 §12.5.3.
fn accepts(line: &[u8], name: &[u8], any: bool) -> bool {
    let mut star = false;
    for one in line.split(|&byte| byte == b',') {
        let mut parts = one.split(|&byte| byte == b';');
        let token = parts.next().unwrap_or_default().trim_ascii();
        let refused = parts.any(|part| {
            let part = part.trim_ascii();
            let weight = part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="));
            weight.is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
        });
        if token.eq_ignore_ascii_case(name) {
            return !refused;
        }
        star |= any && token == b"*" && !refused;
    }
    star
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_are_taken_as_clients_say() {
        for (line, taken) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;q=0.001", true),
            ("*", false),
            ("x-gzip", false),
            ("", false),
        ] {
            assert_eq!(accepts(line.as_bytes(), b"gzip", false), taken, "{line}");
        }
        assert!(accepts(b"*", b"br", true) && !accepts(b"br;q=0, *", b"br", true) && !accepts(b"*;q=0", b"br", true));
    }

    #[test]
    fn pieces_come_out_at_once_and_make_up_the_whole() {
        use std::io::Read;
        let pieces: Vec<Vec<u8>> = (0..20_usize).map(|at| vec![b'a' + (at % 7) as u8; at * 997]).collect();
        let whole = pieces.concat();
        let mut gzip = Gzip(Some(GzEncoder::new(Vec::new(), Compression::new(1))));
        let params = BrotliEncoderParams { quality: 4, ..BrotliEncoderParams::default() };
        let mut brotli = Brotli(Some(CompressorWriter::with_params(Vec::new(), BLOCK, &params)));
        let coders: [&mut dyn Coder; 2] = [&mut gzip, &mut brotli];
        for (nth, coder) in coders.into_iter().enumerate() {
            let mut coded = Vec::new();
            for piece in &pieces {
                let mut data = piece.clone();
                coder.code(&mut data, false);
                assert!(piece.is_empty() || !data.is_empty(), "flushed");
                coded.extend(data);
            }
            let mut end = Vec::new();
            coder.code(&mut end, true);
            coded.extend(end);
            let mut plain = Vec::new();
            match nth {
                0 => flate2::read::GzDecoder::new(&*coded).read_to_end(&mut plain).unwrap(),
                _ => brotli::Decompressor::new(&*coded, 4096).read_to_end(&mut plain).unwrap(),
            };
            assert!(plain == whole && coded.len() < whole.len() / 20);
        }
    }
}
