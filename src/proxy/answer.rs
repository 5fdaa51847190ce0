//! Ringway's own responses: plugins' answers, error pages, 404. They go through the response phases like any other.

use crate::base::buf::Chunk;
use crate::plugin::{Answer, AnswerBody, Ctx};
use crate::proto::message::BodyShape;

/// Puts an answer into `ctx.response` and gives back its body.
pub fn prepare(ctx: &mut Ctx<'_>, answer: Answer) -> Vec<u8> {
    if let Some(extras) = ctx.extras_if_any() {
        extras.coder = None; // of an answer that this one replaces
    }
    let response = &mut *ctx.response;
    response.clear();
    drop(response.fields.take_received());
    response.status = answer.status;
    response.keep_alive = true;
    let typed = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"content-type"));
    let (body, content_type) = match answer.body {
        AnswerBody::Page if answer.status >= 300 => (page(answer.status), "text/html; charset=utf-8"),
        AnswerBody::Page => (Vec::new(), ""),
        AnswerBody::Text(text) => (text, type_of(&ctx.request.path)),
        AnswerBody::Json(json) => {
            let mut text = serde_json::to_vec(&json).unwrap_or_default();
            text.push(b'\n');
            (text, type_of(&ctx.request.path))
        }
    };
    if !typed && !content_type.is_empty() && !body.is_empty() {
        response.fields.add(b"Content-Type", content_type.as_bytes());
    }
    for (name, value) in answer.headers {
        response.fields.add(&name, &value);
    }
    response.body = BodyShape::Length(body.len() as u64);
    body
}

/// The type APISIX gives to a text it prints: by the extension of the path. APISIX request.md §1.8, trap.
fn type_of(path: &[u8]) -> &'static str {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let extension = name.iter().rposition(|&byte| byte == b'.').and_then(|dot| name.get(dot + 1..)).unwrap_or_default();
    match extension {
        b"html" | b"htm" | b"shtml" => "text/html; charset=utf-8",
        b"css" => "text/css",
        b"xml" => "text/xml; charset=utf-8",
        b"js" => "application/javascript; charset=utf-8",
        b"json" => "application/json",
        b"gif" => "image/gif",
        b"jpeg" | b"jpg" => "image/jpeg",
        b"png" => "image/png",
        b"svg" | b"svgz" => "image/svg+xml",
        b"ico" => "image/x-icon",
        b"pdf" => "application/pdf",
        b"zip" => "application/zip",
        _ => "text/plain; charset=utf-8",
    }
}

/// The page of a status, as nginx's users know it.
fn page(status: u16) -> Vec<u8> {
    let title = title(status);
    format!(
        "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}</h1></center>\r\n\
         <hr><center>ringway</center>\r\n</body>\r\n</html>\r\n"
    )
    .into_bytes()
}

/// Titles as nginx writes them.
fn title(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Authorization Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        408 => "Request Time-out",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// A whole response for a request that never became one: malformed, too large, too late. The connection closes after it.
pub fn bare(status: u16, server: &[u8], date: &[u8]) -> Chunk {
    let body = page(status);
    let mut out = Chunk::small();
    crate::proto::h1::emit::status_line(&mut out, status, b"");
    crate::proto::h1::emit::field(&mut out, b"Server", server);
    crate::proto::h1::emit::field(&mut out, b"Date", date);
    crate::proto::h1::emit::put(
        &mut out,
        format!("Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
            .as_bytes(),
    );
    crate::proto::h1::emit::put(&mut out, &body);
    out
}
