//! YAML (and with it JSON) into the tree, by the events of granit-parser.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::env::Expanded;
use super::{Key, Kind, Node, Place, scalar};

/// Nodes that aliases may bring in all; a small file must not unfold into a large one.
const ALIASED_NODES: usize = 100_000;
/// Nesting.
const DEPTH: usize = 64;

/// Something to tell beside the tree.
#[derive(Clone, Debug)]
pub struct Remark {
    /// Where.
    pub place: Place,
    /// What.
    pub text: String,
}

/// What parsing gives.
pub struct Parsed {
    /// The first document; `Null` for an empty one.
    pub root: Node,
    /// Surprising readings and duplicate keys.
    pub remarks: Vec<Remark>,
}

/// Parses the first document of a text.
///
/// # Errors
/// The place and cause of the first syntax error.
pub fn parse(expanded: &Expanded, file: u16) -> Result<Parsed, Remark> {
    let mut builder = Builder { expanded, file, anchors: HashMap::new(), remarks: Vec::new(), aliased: 0 };
    let mut events = Events { parser: Parser::new_from_str(&expanded.text), ended: false };
    let root = loop {
        match events.next(&builder)? {
            None => break Node { kind: Kind::Null, place: builder.place(0, 0) },
            Some((Event::StreamStart | Event::DocumentStart(..), _)) => {}
            Some((Event::StreamEnd | Event::DocumentEnd, _)) => break Node { kind: Kind::Null, place: builder.place(0, 0) },
            Some((event, span)) => break builder.node(event, span, &mut events, 0)?,
        }
    };
    Ok(Parsed { root, remarks: builder.remarks })
}

struct Events<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    ended: bool,
}

impl<'t> Events<'t> {
    fn next(&mut self, builder: &Builder<'_>) -> Result<Option<(Event<'t>, Span)>, Remark> {
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.parser.next_event() {
                None => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(Some(event)),
                Some(Err(error)) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    return Err(Remark { place: builder.place(at, at + 1), text: error.info().to_owned() });
                }
            }
        }
    }
}

struct Builder<'t> {
    expanded: &'t Expanded,
    file: u16,
    anchors: HashMap<usize, Node>,
    remarks: Vec<Remark>,
    aliased: usize,
}

impl Builder<'_> {
    fn place(&self, start: usize, end: usize) -> Place {
        let original = |at: usize| u32::try_from(self.expanded.original(at)).unwrap_or(u32::MAX);
        Place { file: self.file, start: original(start), end: original(end).max(original(start)) }
    }

    fn span(&self, span: Span) -> Place {
        let range = span.byte_range().unwrap_or(0..0);
        self.place(range.start, range.end)
    }

    fn fault(&self, span: Span, text: &str) -> Remark {
        Remark { place: self.span(span), text: text.to_owned() }
    }

    fn node<'t>(&mut self, event: Event<'t>, span: Span, events: &mut Events<'t>, depth: usize) -> Result<Node, Remark> {
        if depth > DEPTH {
            return Err(self.fault(span, "nested too deeply"));
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| tag.suffix().to_owned());
                (self.scalar(&text, style, tag.as_deref(), span), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let (items, end) = self.items(span, events, depth)?;
                let place = Place { end: self.span(end).end, ..self.span(span) };
                (Node { kind: Kind::List(items), place }, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let (entries, end) = self.entries(span, events, depth)?;
                let place = Place { end: self.span(end).end, ..self.span(span) };
                (Node { kind: Kind::Map(entries), place }, anchor)
            }
            Event::Alias(id) => return self.alias(id, span),
            _ => return Err(self.fault(span, "unexpected end of the document")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&str>, span: Span) -> Node {
        let place = self.span(span);
        let kind = match (tag, style) {
            (Some("str"), _) => Kind::Text(text.to_owned()),
            (None, ScalarStyle::Plain) | (Some("int" | "float" | "bool" | "null"), _) => {
                let (kind, surprise) = scalar::resolve(text);
                if let Some(surprise) = surprise {
                    self.remarks.push(Remark { place, text: format!("`{text}` {surprise}") });
                }
                kind
            }
            _ => Kind::Text(text.to_owned()),
        };
        Node { kind, place }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Node, Remark> {
        let Some(node) = self.anchors.get(&id) else { return Err(self.fault(span, "alias of an unknown anchor")) };
        let node = Node { kind: node.kind.clone(), place: self.span(span) };
        self.aliased += count(&node);
        if self.aliased > ALIASED_NODES {
            return Err(self.fault(span, "aliases unfold into too much"));
        }
        Ok(node)
    }

    fn items<'t>(&mut self, start: Span, events: &mut Events<'t>, depth: usize) -> Result<(Vec<Node>, Span), Remark> {
        let mut items = Vec::new();
        loop {
            match events.next(self)? {
                Some((Event::SequenceEnd, span)) => return Ok((items, span)),
                Some((event, span)) => items.push(self.node(event, span, events, depth + 1)?),
                None => return Err(self.fault(start, "the sequence does not end")),
            }
        }
    }

    fn entries<'t>(&mut self, start: Span, events: &mut Events<'t>, depth: usize) -> Result<(Vec<(Key, Node)>, Span), Remark> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = match events.next(self)? {
                Some((Event::MappingEnd, span)) => {
                    merged.retain(|(key, _)| !seen.contains_key(&key.text));
                    entries.append(&mut merged);
                    return Ok((entries, span));
                }
                Some(found) => found,
                None => return Err(self.fault(start, "the mapping does not end")),
            };
            let key = self.node(event, span, events, depth + 1)?;
            let Some((event, value_span)) = events.next(self)? else { return Err(self.fault(span, "the mapping does not end")) };
            let value = self.node(event, value_span, events, depth + 1)?;
            let Some(text) = key_text(&key) else { return Err(self.fault(span, "a key must be a scalar")) };
            if text == "<<" {
                merge(&mut merged, &value);
                continue;
            }
            let key = Key { text, place: key.place };
            match seen.get(&key.text) {
                Some(&at) => {
                    let text = format!("`{}` is written twice; the last one counts", key.text);
                    self.remarks.push(Remark { place: key.place, text });
                    if let Some(entry) = entries.get_mut(at) {
                        *entry = (key, value);
                    }
                }
                None => {
                    seen.insert(key.text.clone(), entries.len());
                    entries.push((key, value));
                }
            }
        }
    }
}

/// Keys of `<<` that are not there already come in.
fn merge(into: &mut Vec<(Key, Node)>, value: &Node) {
    let maps: Vec<&Node> = match &value.kind {
        Kind::List(items) => items.iter().collect(),
        _ => vec![value],
    };
    for (key, node) in maps.into_iter().flat_map(Node::entries) {
        if !into.iter().any(|(have, _)| have.text == key.text) {
            into.push((key.clone(), node.clone()));
        }
    }
}

fn key_text(key: &Node) -> Option<String> {
    match &key.kind {
        Kind::Text(text) => Some(text.clone()),
        Kind::Int(value) => Some(value.to_string()),
        Kind::Float(value) => Some(value.to_string()),
        Kind::Bool(value) => Some(value.to_string()),
        Kind::Null => Some(String::new()),
        Kind::List(_) | Kind::Map(_) => None,
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|(_, node)| count(node)).sum(),
        _ => 0,
    }
}
