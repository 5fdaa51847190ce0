//! What the user wrote: a tree of values with their places. Scalars are read as APISIX's YAML parser reads them.

pub mod env;
pub mod glob;
mod parse;
pub mod scalar;

pub use parse::{Parsed, Remark, parse};

/// Where something stands: bytes of a file, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the file in `report::Sources`.
    pub file: u16,
    /// First byte.
    pub start: u32,
    /// Byte behind the last.
    pub end: u32,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub kind: Kind,
    /// Its place.
    pub place: Place,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Empty, `~`, `null`.
    Null,
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its text.
    pub text: String,
    /// Its place.
    pub place: Place,
}

impl Node {
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(have, _)| have.text == key).map(|(_, node)| node)
    }

    /// Entries of a mapping; none for anything else (null counts as an empty mapping, as in APISIX).
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Items of a sequence; none for anything else.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// Text of a text.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number (`1.0` counts).
    pub fn int(&self) -> Option<i64> {
        match self.kind {
            Kind::Int(value) => Some(value),
            Kind::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(value as i64),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self) -> Option<f64> {
        match self.kind {
            Kind::Int(value) => Some(value as f64),
            Kind::Float(value) => Some(value),
            _ => None,
        }
    }

    /// True or false.
    pub fn bool(&self) -> Option<bool> {
        match self.kind {
            Kind::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "boolean",
            Kind::Int(_) | Kind::Float(_) => "number",
            Kind::Text(_) => "string",
            Kind::List(_) => "array",
            Kind::Map(_) => "object",
        }
    }

    /// The value as JSON; null stays null inside plugin configurations but where an object is due it is `{}`.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.kind {
            Kind::Null => Json::Null,
            Kind::Bool(value) => Json::Bool(*value),
            Kind::Int(value) => Json::from(*value),
            Kind::Float(value) => Json::from(*value),
            Kind::Text(text) => Json::String(text.clone()),
            Kind::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => Json::Object(entries.iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect()),
        }
    }

    /// Feeds the value (not its places) to a hash.
    pub fn digest(&self, hasher: &mut impl std::hash::Hasher) {
        match &self.kind {
            Kind::Null => hasher.write_u8(0),
            Kind::Bool(value) => hasher.write(&[1, u8::from(*value)]),
            Kind::Int(value) => {
                hasher.write_u8(2);
                hasher.write_i64(*value);
            }
            Kind::Float(value) => {
                hasher.write_u8(3);
                hasher.write_u64(value.to_bits());
            }
            Kind::Text(text) => {
                hasher.write_u8(4);
                hasher.write_usize(text.len());
                hasher.write(text.as_bytes());
            }
            Kind::List(items) => {
                hasher.write_u8(5);
                hasher.write_usize(items.len());
                items.iter().for_each(|item| item.digest(hasher));
            }
            Kind::Map(entries) => {
                hasher.write_u8(6);
                hasher.write_usize(entries.len());
                for (key, node) in entries {
                    hasher.write(key.text.as_bytes());
                    node.digest(hasher);
                }
            }
        }
    }
}
