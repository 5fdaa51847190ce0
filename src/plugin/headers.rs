//! Header edits that several plugins share: add, set, remove, with variables.

use serde_json::Value as Json;

use super::ConfFault;
use super::template::Template;
use crate::proto::message::Fields;
use crate::proto::vars::Vars;

/// Compiled edits, applied in the order add, set, remove.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    /// Appended lines.
    pub add: Vec<(String, Template)>,
    /// Lines that replace; several templates for one name are several lines.
    pub set: Vec<(String, Vec<Template>)>,
    /// Names that go.
    pub remove: Vec<String>,
}

/// Checks a name.
pub fn name_fits(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b':')
}

/// A header's value: text or a number.
pub fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl HeaderEdits {
    /// Reads a map of name to value(s) into `set` (or, with `add`, into `add`).
    pub fn map(&mut self, map: &Json, add: bool, pointer: &str, faults: &mut Vec<ConfFault>) {
        let Some(map) = map.as_object() else {
            return faults.push(ConfFault::at(pointer, "expected an object"));
        };
        for (name, value) in map {
            let pointer = format!("{pointer}/{name}");
            if !name_fits(name) {
                faults.push(ConfFault::at(&pointer, "invalid field character in header"));
                continue;
            }
            let values: Option<Vec<String>> = match value {
                Json::Array(items) if !items.is_empty() => items.iter().map(scalar).collect(),
                one => scalar(one).map(|text| vec![text]),
            };
            let Some(values) = values else {
                faults.push(ConfFault::at(&pointer, "invalid type as header value"));
                continue;
            };
            if values.iter().any(|text| text.bytes().any(|byte| byte == b'\r' || byte == b'\n' || byte == 0)) {
                faults.push(ConfFault::at(&pointer, "invalid value character in header"));
                continue;
            }
            let templates = values.iter().map(|text| Template::compile_with_captures(text));
            if add {
                self.add.extend(templates.map(|template| (name.clone(), template)));
            } else {
                self.set.push((name.clone(), templates.collect()));
            }
        }
    }

    /// Reads a list of names into `remove`.
    pub fn names(&mut self, list: &Json, pointer: &str, faults: &mut Vec<ConfFault>) {
        for (at, name) in list.as_array().into_iter().flatten().enumerate() {
            match name.as_str().filter(|name| name_fits(name)) {
                Some(name) => self.remove.push(name.to_owned()),
                None => faults.push(ConfFault::at(format!("{pointer}/{at}"), "a header's name is needed")),
            }
        }
    }

    /// True if nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.set.is_empty() && self.remove.is_empty()
    }

    /// The values to apply, rendered while the exchange can be read.
    pub fn render(&self, vars: &dyn Vars, captures: &[Vec<u8>]) -> Rendered<'_> {
        let add = self.add.iter().map(|(name, value)| (name.as_str(), value.render_with(vars, captures))).collect();
        let set = self
            .set
            .iter()
            .map(|(name, values)| (name.as_str(), values.iter().map(|value| value.render_with(vars, captures)).collect()));
        Rendered { add, set: set.collect(), remove: &self.remove }
    }
}

/// Edits with their values.
pub struct Rendered<'p> {
    add: Vec<(&'p str, Vec<u8>)>,
    set: Vec<(&'p str, Vec<Vec<u8>>)>,
    remove: &'p [String],
}

impl Rendered<'_> {
    /// Applies them. A `set` to nothing removes.
    pub fn apply(&self, fields: &mut Fields) {
        for (name, value) in &self.add {
            fields.add(name.as_bytes(), value);
        }
        for (name, values) in &self.set {
            match values.as_slice() {
                [value] if value.is_empty() => drop(fields.remove(name.as_bytes())),
                [value] => fields.set(name.as_bytes(), value),
                values => {
                    fields.remove(name.as_bytes());
                    values.iter().for_each(|value| fields.add(name.as_bytes(), value));
                }
            }
        }
        for name in self.remove {
            fields.remove(name.as_bytes());
        }
    }
}
