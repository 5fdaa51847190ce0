//! JSON Schema for editors and the reference page, both out of the table of fields.

use serde_json::{Map, Value as Json, json};

use super::fields::{Field, ROOT, Schema, Ty};

/// JSON Schema (2020-12) of a configuration file. `plugins` are (name, schema of its configuration).
pub fn schema(plugins: &[(String, Json)]) -> Json {
    let known: Map<String, Json> = plugins.iter().cloned().collect();
    let mut root = object(&ROOT);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Ringway configuration");
    root["$defs"] = json!({ "plugins": { "type": ["object", "null"], "properties": known } });
    root
}

fn object(schema: &Schema) -> Json {
    let properties: Map<String, Json> = schema.fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if schema.closed {
        object["additionalProperties"] = json!(false);
    }
    if !schema.required.is_empty() {
        object["required"] = json!(schema.required);
    }
    object
}

fn property(field: &Field) -> Json {
    let mut property = of(&field.ty);
    let mut text = field.doc.to_owned();
    if !field.default.is_empty() {
        text.push_str(&format!(" Default: {}.", field.default));
    }
    property["description"] = json!(text);
    property
}

fn of(ty: &Ty) -> Json {
    match ty {
        Ty::Bool => json!({ "type": "boolean" }),
        Ty::Int(least, most) => bounds(*least, *most),
        Ty::IntOr(least, most, word) => json!({ "anyOf": [bounds(*least, *most), { "const": word }] }),
        Ty::Number(true) => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Ty::Number(false) => json!({ "type": "number", "minimum": 0 }),
        Ty::Text(least, most) => json!({ "type": "string", "minLength": least, "maxLength": most }),
        Ty::Enum(words) => json!({ "enum": words }),
        Ty::Id => {
            json!({ "anyOf": [{ "type": "string", "pattern": "^[a-zA-Z0-9-_.]{1,64}$" }, { "type": "integer", "minimum": 1 }] })
        }
        Ty::Host => json!({ "type": "string", "pattern": "^\\*?[0-9a-zA-Z-._\\[\\]:]*$" }),
        Ty::Ip | Ty::IpAddress | Ty::IpOrUnix | Ty::Duration | Ty::Address(_) => json!({ "type": "string" }),
        Ty::Size | Ty::SizeOr(_) => json!({ "type": ["string", "integer"] }),
        Ty::Object(schema) => object(schema),
        Ty::OneOrMany(schema) => json!({ "anyOf": [object(schema), { "type": "array", "items": object(schema) }] }),
        Ty::ObjectOrOff(schema) => json!({ "anyOf": [object(schema), { "enum": ["off", false] }] }),
        Ty::List(item, least) => json!({ "type": "array", "items": of(item), "minItems": least }),
        Ty::Labels => json!({ "type": "object", "additionalProperties": { "type": "string", "pattern": "^\\S+$" } }),
        Ty::Plugins => json!({ "$ref": "#/$defs/plugins" }),
        Ty::Nodes => json!({ "type": ["object", "array"] }),
        Ty::Vars => json!({ "type": "array" }),
        Ty::TextOrList => json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] }),
        Ty::Any => json!({}),
        Ty::NotYet(_, checked) => of(checked),
    }
}

fn bounds(least: i64, most: i64) -> Json {
    let mut number = json!({ "type": "integer" });
    if least != i64::MIN {
        number["minimum"] = json!(least);
    }
    if most != i64::MAX {
        number["maximum"] = json!(most);
    }
    number
}

/// The settings as a page: docs/reference/configuration.md.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Configuration reference\n\nMade by `ringway schema --markdown` out of the table that `ringway check`\n\
         checks with; do not edit.\n\
         Objects marked open take keys that are not listed; all others refuse them.\n",
    );
    let mut done: Vec<&str> = Vec::new();
    let mut waiting: Vec<(String, &'static Schema)> = vec![("The file".into(), &ROOT)];
    while !waiting.is_empty() {
        let (title, schema) = waiting.remove(0);
        if done.contains(&schema.name) {
            continue;
        }
        done.push(schema.name);
        let open = if schema.closed { "" } else { " (open)" };
        page.push_str(&format!("\n## {title}{open}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"));
        for field in schema.fields {
            let required = if schema.required.contains(&field.name) { "**required**" } else { field.default };
            page.push_str(&format!("| `{}` | {} | {} | {} |\n", field.name, type_text(&field.ty), required, cell(field.doc)));
            if let Some(inner) = inner(&field.ty) {
                waiting.push((format!("`{}`", inner.name), inner));
            }
        }
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn inner(ty: &Ty) -> Option<&'static Schema> {
    match ty {
        Ty::Object(schema) | Ty::OneOrMany(schema) | Ty::ObjectOrOff(schema) => Some(schema),
        Ty::List(item, _) | Ty::NotYet(_, item) => inner(item),
        _ => None,
    }
}

fn type_text(ty: &Ty) -> String {
    match ty {
        Ty::Bool => "boolean".into(),
        Ty::Int(..) => "whole number".into(),
        Ty::IntOr(_, _, word) => format!("whole number or `{word}`"),
        Ty::Number(_) => "number".into(),
        Ty::Text(..) => "string".into(),
        Ty::Enum(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Ty::Id => "id".into(),
        Ty::Host => "host".into(),
        Ty::Ip => "IP or CIDR".into(),
        Ty::IpAddress => "IP address".into(),
        Ty::IpOrUnix => "IP, CIDR or `unix:`".into(),
        Ty::Duration => "duration".into(),
        Ty::Size => "size".into(),
        Ty::SizeOr(words) => format!("size, or `{}`", words.join("`, `")),
        Ty::Address(_) => "address".into(),
        Ty::Object(schema) => format!("object `{}`", schema.name),
        Ty::OneOrMany(schema) => format!("object `{}`, or a list of them", schema.name),
        Ty::ObjectOrOff(schema) => format!("object `{}`, or `off`", schema.name),
        Ty::List(item, _) => format!("list of {}", type_text(item)),
        Ty::Labels => "map of string".into(),
        Ty::Plugins => "plugins".into(),
        Ty::Nodes => "nodes".into(),
        Ty::Vars => "expression".into(),
        Ty::Any => "any".into(),
        Ty::TextOrList => "string or list".into(),
        Ty::NotYet(_, checked) => format!("{}; not supported yet", type_text(checked)),
    }
}
