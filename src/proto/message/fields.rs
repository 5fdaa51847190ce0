//! Fields as slices into the received bytes, with edits in an arena beside them.

use super::{Known, KnownSet};
use crate::base::buf::Chunk;

/// A run of bytes of a head: in the received buffer, or in the arena of edits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    at: u32,
    len: u32,
}

const ARENA: u32 = 1 << 31;

impl Span {
    /// A span of the received buffer, relative to the start of the chunk's window. Heads are at most
    /// `limits::HEADER_BYTES_MAX` long, so 31 bits hold every offset.
    pub fn received(at: usize, len: usize) -> Self {
        debug_assert!(at < ARENA as usize && len < ARENA as usize);
        Self { at: at as u32, len: len as u32 }
    }

    fn in_arena(at: usize, len: usize) -> Self {
        Self { at: at as u32 | ARENA, len: len as u32 }
    }

    /// Offset in its buffer.
    pub fn start(self) -> usize {
        (self.at & !ARENA) as usize
    }

    /// True if it lies in the received bytes: nobody has edited it.
    pub fn is_received(self) -> bool {
        self.at & ARENA == 0
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// True if it holds no byte.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, case kept.
    pub name: Span,
    /// Its value, without surrounding whitespace.
    pub value: Span,
    /// Which well-known field it is.
    pub known: Known,
    /// The line came as `Name: value` and CRLF, no other space around: it can go on as it lies in the received buffer.
    pub verbatim: bool,
}

/// The field lines of a head in order, the buffer they lie in, and the arena their edits lie in.
#[derive(Debug, Default)]
pub struct Fields {
    received: Chunk,
    arena: Vec<u8>,
    list: Vec<Field>,
    seen: KnownSet, // every well-known field of the list, and perhaps some that were removed
}

impl Fields {
    /// The received buffer: the head at the front of its window, and whatever came behind it.
    pub fn received(&self) -> &Chunk {
        &self.received
    }

    /// The received buffer, to append to. Consuming from its front while a head is parsed in it breaks every span.
    pub fn received_mut(&mut self) -> &mut Chunk {
        &mut self.received
    }

    /// Takes the received buffer out; spans into it read as empty afterwards.
    pub fn take_received(&mut self) -> Chunk {
        std::mem::take(&mut self.received)
    }

    /// Takes what came behind a head out, where it lies. The head is copied, so that its spans read as before.
    pub fn take_behind(&mut self, head_bytes: usize) -> Chunk {
        let mut chunk = self.take_received();
        let head = chunk.filled().get(..head_bytes).unwrap_or_default();
        let mut copy = Chunk::with_capacity(head.len());
        let _fits = copy.append(head);
        self.received = copy;
        chunk.consume(head_bytes);
        chunk
    }

    /// The bytes of a span; empty if it does not fit its buffer.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let (buffer, at) = if span.at & ARENA == 0 {
            (self.received.filled(), span.at as usize)
        } else {
            (self.arena.as_slice(), (span.at & !ARENA) as usize)
        };
        buffer.get(at..at + span.len as usize).unwrap_or_default()
    }

    /// Copies bytes into the arena.
    pub fn keep(&mut self, data: &[u8]) -> Span {
        let at = self.arena.len();
        self.arena.extend_from_slice(data);
        Span::in_arena(at, data.len())
    }

    /// Empties the list and the arena; the received buffer stays.
    pub fn clear(&mut self) {
        self.list.clear();
        self.arena.clear();
        self.seen = KnownSet::default();
    }

    /// Appends a line as parsed.
    pub fn push(&mut self, field: Field) {
        self.seen = self.seen.with(field.known);
        self.list.push(field);
    }

    /// True if one of these fields may be there; false if none is. Costs one comparison.
    pub fn may_have(&self, any: KnownSet) -> bool {
        self.seen.meets(any)
    }

    /// All lines in order.
    pub fn list(&self) -> &[Field] {
        &self.list
    }

    /// All lines in order as (name, value, known).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Known)> {
        self.list.iter().map(|field| (self.bytes(field.name), self.bytes(field.value), field.known))
    }

    /// The first value of a well-known field.
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        if !self.seen.contains(known) {
            return None;
        }
        self.list.iter().find(|field| field.known == known).map(|field| self.bytes(field.value))
    }

    /// All values of a well-known field.
    pub fn all_known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let lines = if self.seen.contains(known) { self.list.as_slice() } else { &[] };
        lines.iter().filter(move |field| field.known == known).map(|field| self.bytes(field.value))
    }

    /// The first value of a field, its name compared without case.
    pub fn first<'a>(&'a self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// All values of a field, its name compared without case.
    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let known = Known::of(name);
        let lines = if self.may_name(known) { self.list.as_slice() } else { &[] };
        lines.iter().filter(move |field| self.is(field, known, name)).map(|field| self.bytes(field.value))
    }

    /// Appends a line.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        self.add_known(Known::of(name), name, value);
    }

    /// The same for a field whose kind is known already.
    pub fn add_known(&mut self, known: Known, name: &[u8], value: &[u8]) {
        let field = Field { known, name: self.keep(name), value: self.keep(value), verbatim: false };
        self.push(field);
    }

    /// Makes the field have exactly this value: its first line keeps its place, further ones go.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.set_known(Known::of(name), name, value);
    }

    /// The same for a field whose kind is known already. `name` is its name as it is to be written.
    pub fn set_known(&mut self, known: Known, name: &[u8], value: &[u8]) {
        debug_assert_eq!(known, Known::of(name));
        let first = if self.may_name(known) { self.position(0, known, name) } else { None };
        match first {
            Some(first) => {
                let value = self.keep(value);
                if let Some(field) = self.list.get_mut(first) {
                    (field.value, field.verbatim) = (value, false);
                }
                self.remove_from(first + 1, known, name);
            }
            None => self.add_known(known, name, value),
        }
    }

    /// Removes every line of the field; says whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let known = Known::of(name);
        self.may_name(known) && self.remove_from(0, known, name)
    }

    /// Removes every line of a well-known field; says whether there was one.
    pub fn remove_known(&mut self, known: Known) -> bool {
        let before = self.list.len();
        self.list.retain(|field| field.known != known);
        before != self.list.len()
    }

    fn remove_from(&mut self, from: usize, known: Known, name: &[u8]) -> bool {
        let mut at = from;
        let mut removed = false;
        while let Some(found) = self.position(at, known, name) {
            self.list.remove(found);
            (at, removed) = (found, true);
        }
        removed
    }

    fn position(&self, from: usize, known: Known, name: &[u8]) -> Option<usize> {
        let found = self.list.get(from..)?.iter().position(|field| self.is(field, known, name))?;
        Some(from + found)
    }

    /// False if no line can be the field's.
    fn may_name(&self, known: Known) -> bool {
        known == Known::Other || self.seen.contains(known)
    }

    fn is(&self, field: &Field, known: Known, name: &[u8]) -> bool {
        field.known == known && (known != Known::Other || self.bytes(field.name).eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_keep_order_and_case() {
        let mut fields = Fields::default();
        fields.add(b"X-One", b"1");
        fields.add(b"Host", b"a");
        fields.add(b"x-one", b"2");
        fields.set(b"X-ONE", b"3");
        let seen: Vec<_> = fields.iter().map(|(n, v, _)| (n.to_vec(), v.to_vec())).collect();
        assert_eq!(seen, [(b"X-One".to_vec(), b"3".to_vec()), (b"Host".to_vec(), b"a".to_vec())]);
        assert_eq!(fields.known(Known::Host), Some(&b"a"[..]));
        assert!(fields.remove(b"host") && !fields.remove(b"host"));
    }
}
