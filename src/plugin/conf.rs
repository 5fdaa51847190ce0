//! Configurations of plugins: one table of fields per plugin, from which come the checks, the JSON Schema and the reference.

use serde_json::{Map, Value as Json, json};

use super::ConfFault;
use crate::config::nearest;

/// A field of a plugin's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Default as written; empty for none.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// True or false.
    Bool,
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number from 0.
    Number,
    /// Text of so many characters.
    Text(usize, usize),
    /// One of these.
    Word(&'static [&'static str]),
    /// An object.
    Object(&'static [Field]),
    /// A list of text, at least so many.
    Texts(usize),
    /// A list of objects.
    Objects(&'static [Field]),
    /// Anything; the plugin checks it.
    Any,
}

/// A field.
pub const fn field(name: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Field {
    Field { name, shape, default, doc }
}

impl ConfFault {
    /// A fault at a pointer.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), help: None }
    }
}

/// Checks a configuration against its fields. Unknown keys are let through by APISIX: they become warnings.
pub fn check(conf: &Json, fields: &[Field], pointer: &str, faults: &mut Vec<ConfFault>, warnings: &mut Vec<ConfFault>) {
    let Some(object) = conf.as_object() else {
        return faults.push(ConfFault::at(pointer, format!("expected an object, got {}", kind(conf))));
    };
    for (key, value) in object {
        if key == "_meta" && pointer.is_empty() {
            continue;
        }
        let pointer = format!("{pointer}/{key}");
        match fields.iter().find(|field| field.name == key) {
            Some(field) => value_fits(value, field.shape, &pointer, faults, warnings),
            None => {
                let mut warning = ConfFault::at(pointer, format!("unknown key `{key}`"));
                warning.help = nearest(key, fields.iter().map(|field| field.name)).map(|name| format!("did you mean `{name}`?"));
                warnings.push(warning);
            }
        }
    }
}

fn value_fits(value: &Json, shape: Shape, pointer: &str, faults: &mut Vec<ConfFault>, warnings: &mut Vec<ConfFault>) {
    let mut wrong = |expected: &str| faults.push(ConfFault::at(pointer, format!("expected {expected}, got {}", kind(value))));
    match shape {
        Shape::Any => {}
        Shape::Bool if value.is_boolean() => {}
        Shape::Bool => wrong("true or false"),
        Shape::Int(least, most) => match whole(value) {
            None => wrong("a whole number"),
            Some(number) if number < least || number > most => {
                let mut fault = ConfFault::at(pointer, format!("{number} is out of bounds"));
                fault.help = Some(format!("from {least} to {most}"));
                faults.push(fault);
            }
            Some(_) => {}
        },
        Shape::Number => match value.as_f64() {
            Some(number) if number >= 0.0 => {}
            Some(_) => faults.push(ConfFault::at(pointer, "a number from 0 is needed")),
            None => wrong("a number"),
        },
        Shape::Text(least, most) => match value.as_str() {
            None => wrong("a string"),
            Some(text) if !(least..=most).contains(&text.chars().count()) => {
                faults.push(ConfFault::at(pointer, format!("{least} to {most} characters are needed")));
            }
            Some(_) => {}
        },
        Shape::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => {}
            Some(word) => {
                let mut fault = ConfFault::at(pointer, format!("`{word}` is not one of its values"));
                fault.help = Some(format!("one of {}", words.join(", ")));
                faults.push(fault);
            }
            None => wrong("a string"),
        },
        Shape::Object(fields) => check(value, fields, pointer, faults, warnings),
        Shape::Texts(least) => match value.as_array() {
            Some(items) if items.len() >= least && items.iter().all(Json::is_string) => {}
            _ => wrong(&format!("a list of at least {least} strings")),
        },
        Shape::Objects(fields) => match value.as_array() {
            Some(items) if !items.is_empty() => {
                for (at, item) in items.iter().enumerate() {
                    check(item, fields, &format!("{pointer}/{at}"), faults, warnings);
                }
            }
            _ => wrong("a list of at least 1 object"),
        },
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "nothing",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// A whole number; `1.0` counts.
pub fn whole(value: &Json) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9e15).map(|number| number as i64))
}

/// JSON Schema of the fields.
pub fn schema(fields: &[Field]) -> Json {
    let properties: Map<String, Json> = fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    json!({ "type": ["object", "null"], "properties": properties })
}

fn property(field: &Field) -> Json {
    let mut property = match field.shape {
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Int(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Number => json!({ "type": "number", "minimum": 0 }),
        Shape::Text(least, most) => json!({ "type": "string", "minLength": least, "maxLength": most }),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Object(fields) => schema(fields),
        Shape::Texts(least) => json!({ "type": "array", "items": { "type": "string" }, "minItems": least }),
        Shape::Objects(fields) => json!({ "type": "array", "items": schema(fields), "minItems": 1 }),
        Shape::Any => json!({}),
    };
    property["description"] = json!(field.doc);
    property
}

/// Rows of the reference table, nested fields below their object.
pub fn rows(fields: &[Field], above: &str, out: &mut String) {
    for field in fields {
        let shape = match field.shape {
            Shape::Bool => "boolean".to_owned(),
            Shape::Int(least, most) if most == i64::MAX => format!("whole number from {least}"),
            Shape::Int(least, most) => format!("whole number {least} to {most}"),
            Shape::Number => "number from 0".to_owned(),
            Shape::Text(..) => "string".to_owned(),
            Shape::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Shape::Object(_) => "object".to_owned(),
            Shape::Texts(_) => "list of string".to_owned(),
            Shape::Objects(_) => "list of object".to_owned(),
            Shape::Any => "see text".to_owned(),
        };
        out.push_str(&format!("| `{above}{}` | {shape} | {} | {} |\n", field.name, field.default, field.doc.replace('|', "\\|")));
        match field.shape {
            Shape::Object(inner) => rows(inner, &format!("{above}{}.", field.name), out),
            Shape::Objects(inner) => rows(inner, &format!("{above}{}[].", field.name), out),
            _ => {}
        }
    }
}
