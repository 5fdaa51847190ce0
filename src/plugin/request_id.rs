//! `request-id`: every request has an id, the client's or one made here. APISIX plugins-first.md, plugins-traffic.md §15.

use std::cell::Cell;
use std::sync::Arc;

use serde_json::Value as Json;

use super::conf::{Field, Shape, field, whole};
use super::{BuildContext, ConfFault, Ctx, Flow, Phases, Plugin, random};
use crate::base::clock;

/// Its fields.
pub const FIELDS: &[Field] = &[
    field("header_name", Shape::Text(1, 256), "X-Request-Id", "The field that carries the id."),
    field("include_in_response", Shape::Bool, "true", "The answer carries it too, unless the upstream set one."),
    field("algorithm", Shape::Word(&["uuid", "nanoid", "range_id", "ksuid", "uuidv7"]), "uuid", "How an id is made."),
    field("range_id", Shape::Object(RANGE), "", "For `range_id`."),
];

const RANGE: &[Field] = &[
    field("length", Shape::Int(6, 256), "16", "Characters of an id."),
    field("char_set", Shape::Text(6, 256), "letters and digits", "Characters to draw from."),
];

/// APISIX's default, letter for letter: it has `G` twice and no `J`.
const CHAR_SET: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIGKLMNOPQRSTUVWXYZ0123456789";

struct RequestId {
    header: Vec<u8>,
    in_response: bool,
    algorithm: Algorithm,
}

enum Algorithm {
    Uuid,
    UuidV7,
    Nanoid,
    Ksuid,
    Range(usize, Vec<u8>),
}

/// Builds an instance.
pub fn build(conf: &Json, _context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, Vec<ConfFault>> {
    let text = |name: &str| conf.get(name).and_then(Json::as_str);
    let range = |name: &str| conf.get("range_id").and_then(|range| range.get(name));
    let header = text("header_name").unwrap_or("X-Request-Id");
    if !header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err(vec![ConfFault::at("/header_name", "a field name is letters, digits, `-` and `_`")]);
    }
    let algorithm = match text("algorithm").unwrap_or("uuid") {
        "uuidv7" => Algorithm::UuidV7,
        "nanoid" => Algorithm::Nanoid,
        "ksuid" => Algorithm::Ksuid,
        "range_id" => {
            let length = range("length").and_then(whole).and_then(|length| usize::try_from(length).ok()).unwrap_or(16);
            let set = range("char_set").and_then(Json::as_str).unwrap_or(CHAR_SET).as_bytes().to_vec();
            if !set.iter().all(u8::is_ascii_graphic) {
                return Err(vec![ConfFault::at("/range_id/char_set", "only printable ASCII can stand in a field")]);
            }
            Algorithm::Range(length, set)
        }
        _ => Algorithm::Uuid,
    };
    let in_response = conf.get("include_in_response").and_then(Json::as_bool) != Some(false);
    Ok(Arc::new(RequestId { header: header.as_bytes().to_vec(), in_response, algorithm }))
}

impl Plugin for RequestId {
    fn phases(&self) -> Phases {
        if self.in_response { Phases::REWRITE.and(Phases::HEADER_FILTER) } else { Phases::REWRITE }
    }

    fn rewrite<'a>(&'a self, ctx: &'a mut Ctx<'_>) -> Flow<'a> {
        let sent = ctx.request.fields.first(&self.header).filter(|id| !id.is_empty()).map(<[u8]>::to_vec);
        let id = sent.unwrap_or_else(|| {
            let made = self.algorithm.make();
            ctx.request.fields.set(&self.header, &made);
            made
        });
        ctx.extras_mut().named_id = Some(id);
        Flow::Next
    }

    fn header_filter(&self, ctx: &mut Ctx<'_>) {
        if ctx.response.fields.first(&self.header).is_none_or(<[u8]>::is_empty)
            && let Some(id) = ctx.extras_if_any().and_then(|extras| extras.named_id.take())
        {
            ctx.response.fields.set(&self.header, &id);
            ctx.extras_mut().named_id = Some(id);
        }
    }
}

impl Algorithm {
    fn make(&self) -> Vec<u8> {
        match self {
            Self::Uuid => {
                let (mut high, mut low) = (random::next(), random::next());
                high = high & !0xf000 | 0x4000;
                low = low & !(0b11 << 62) | 0b10 << 62;
                dashed(high, low)
            }
            Self::UuidV7 => uuid_v7(),
            Self::Nanoid => drawn(21, b"-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            Self::Ksuid => ksuid(),
            Self::Range(length, set) => drawn(*length, set),
        }
    }
}

fn drawn(length: usize, set: &[u8]) -> Vec<u8> {
    (0..length).filter_map(|_| set.get(random::next() as usize % set.len().max(1)).copied()).collect()
}

fn dashed(high: u64, low: u64) -> Vec<u8> {
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
    .into_bytes()
}

/// RFC 9562 §5.7, ordered within a worker: a counter of 18 bits goes on within a millisecond.
fn uuid_v7() -> Vec<u8> {
    thread_local! {
        static LAST: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    }
    let now = clock::wall().as_millis() as u64 & 0xffff_ffff_ffff;
    let (last, counter) = LAST.get();
    let (millis, counter) = match (now > last, counter < 0x3_ffff) {
        (true, _) => (now, 0),
        (false, true) => (last, counter + 1), // the same millisecond, or a clock that went back
        (false, false) => (last + 1, 0),      // the counter is full: the next millisecond is lent
    };
    LAST.set((millis, counter));
    let high = millis << 16 | 0x7000 | u64::from(counter >> 6);
    let low = 0b10 << 62 | u64::from(counter & 0x3f) << 56 | random::next() >> 8;
    dashed(high, low)
}

/// 4 bytes of seconds since 1400000000 and 16 random ones, in 27 base62 characters.
fn ksuid() -> Vec<u8> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let seconds = clock::wall().as_secs().saturating_sub(1_400_000_000) as u32;
    let mut words = [u64::from(seconds), random::next() >> 32, random::next() >> 32, random::next() >> 32, random::next() >> 32];
    let mut id = vec![b'0'; 27];
    for place in id.iter_mut().rev() {
        let mut rest = 0;
        for word in &mut words {
            let value = rest << 32 | *word;
            (*word, rest) = (value / 62, value % 62);
        }
        *place = DIGITS[rest as usize];
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(algorithm: Algorithm) -> String {
        String::from_utf8(algorithm.make()).unwrap()
    }

    #[test]
    fn ids_have_the_form_of_their_algorithm_and_differ() {
        let uuid = made(Algorithm::Uuid);
        let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!((groups, &uuid[14..15]), (vec![8, 4, 4, 4, 12], "4"), "{uuid}");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        let range = made(Algorithm::Range(9, b"ab".to_vec()));
        assert!(range.len() == 9 && range.bytes().all(|byte| byte == b'a' || byte == b'b'), "{range}");
        assert_eq!(made(Algorithm::Nanoid).len(), 21);
        let ksuid = made(Algorithm::Ksuid);
        assert!(ksuid.len() == 27 && ksuid.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{ksuid}");
        assert!(ksuid < made(Algorithm::Ksuid)[..4].to_owned() + "zzzzzzzzzzzzzzzzzzzzzzz", "the time comes first");
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| made(Algorithm::Uuid)).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn version_seven_is_in_order() {
        let ids: Vec<String> = (0..2000).map(|_| made(Algorithm::UuidV7)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ids.iter().all(|id| &id[14..15] == "7" && "89ab".contains(&id[19..20])), "{}", ids[0]);
    }
}
