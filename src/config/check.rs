//! Checks a tree against the table of fields. Everything wrong is reported; nothing is changed.

use super::fields::{Field, META, Rule, Schema, Ty, UPSTREAM};
use super::raw::{Kind, Node};
use super::report::{Report, Severity};
use super::suggest::nearest;
use super::upstreams::split_entries;
use super::{read, suggest};
use crate::route::expr::Expr;

/// What checking writes to.
pub(super) struct Checker<'r> {
    pub(super) report: &'r mut Report,
    /// Unknown keys of open objects are errors.
    pub(super) strict: bool,
}

impl Checker<'_> {
    /// An object against its schema.
    pub(super) fn object(&mut self, node: &Node, schema: &Schema, path: &str) {
        let entries = match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Null => &Vec::new(), // APISIX: nothing is an empty object
            _ => return self.wrong_type(node, path, "an object"),
        };
        for (key, value) in entries {
            let path = format!("{path}/{}", key.text);
            match schema.fields.iter().find(|field| field.name == key.text) {
                Some(field) => self.value(value, &field.ty, &path),
                None => self.unknown(schema, key, &path),
            }
        }
        for required in schema.required {
            if !entries.iter().any(|(key, _)| key.text == *required) {
                self.report.error(node.place, path, format!("`{required}` is required"));
            }
        }
        self.rules(node, schema, path);
    }

    fn rules(&mut self, node: &Node, schema: &Schema, path: &str) {
        for rule in schema.rules {
            let (first, others, needs) = match *rule {
                Rule::Needs(first, others) => (first, others, true),
                Rule::NotWith(first, others) => (first, others, false),
                Rule::OneOf(names, unless, value) => {
                    let excused = node.get(unless).and_then(Node::text) == Some(value);
                    if !excused && !names.iter().any(|name| node.get(name).is_some()) {
                        self.report.error(node.place, path, format!("one of `{}` is required", names.join("`, `")));
                    }
                    continue;
                }
            };
            let Some(place) = node.get(first).map(|value| value.place) else { continue };
            for other in others.iter().filter(|other| node.get(other).is_some() != needs) {
                let message = match needs {
                    true => format!("`{first}` needs `{other}` beside it"),
                    false => format!("only one of `{first}` and `{other}` is allowed"),
                };
                self.report.error(place, path, message);
            }
        }
    }

    fn unknown(&mut self, schema: &Schema, key: &super::raw::Key, path: &str) {
        let names = || schema.fields.iter().map(|field: &Field| field.name);
        let suggestion = nearest(&key.text, names());
        let severity = if schema.closed || self.strict { Severity::Error } else { Severity::Warning };
        if severity == Severity::Warning && suggestion.is_none() {
            return; // an open object may carry what it likes; only likely slips are worth a word
        }
        let message = format!("unknown key `{}` in {}", key.text, schema.name);
        let fault = match severity {
            Severity::Error => self.report.error(key.place, path, message),
            Severity::Warning => self.report.warning(key.place, path, message),
        };
        fault.suggest(suggestion);
        if suggestion.is_none() {
            let known: Vec<&str> = names().collect();
            fault.help(format!("known keys are {}", known.join(", ")));
        }
    }

    fn wrong_type(&mut self, node: &Node, path: &str, expected: &str) {
        let mut help = None;
        if matches!(node.kind, Kind::Int(_) | Kind::Float(_) | Kind::Bool(_)) && expected.contains("string") {
            help = Some("quote the value to make it text");
        }
        let fault = self.report.error(node.place, path, format!("expected {expected}, got {}", node.type_name()));
        if let Some(help) = help {
            fault.help(help);
        }
    }

    fn value(&mut self, node: &Node, ty: &Ty, path: &str) {
        match ty {
            Ty::Any => {}
            Ty::Bool if node.bool().is_some() => {}
            Ty::Bool => self.wrong_type(node, path, "true or false"),
            Ty::Int(least, most) => self.int(node, *least, *most, path),
            Ty::IntOr(_, _, word) if node.text() == Some(word) => {}
            Ty::IntOr(least, most, _) => self.int(node, *least, *most, path),
            Ty::Number(positive) => self.number(node, *positive, path),
            Ty::Text(least, most) => self.text(node, *least, *most, path),
            Ty::Enum(words) => self.word(node, words, path),
            Ty::Object(schema) => self.object(node, schema, path),
            Ty::OneOrMany(schema) => match &node.kind {
                Kind::List(items) => {
                    items.iter().enumerate().for_each(|(at, item)| self.object(item, schema, &format!("{path}/{at}")));
                }
                _ => self.object(node, schema, path),
            },
            Ty::ObjectOrOff(_) if is_off(node) => {}
            Ty::ObjectOrOff(schema) => self.object(node, schema, path),
            Ty::List(item, least) => self.list(node, item, *least, path),
            Ty::Labels => self.labels(node, path),
            Ty::Plugins => self.plugins(node, path),
            Ty::Vars => {
                if let Err(text) = Expr::compile(&node.to_json()) {
                    self.report.error(node.place, path, format!("failed to validate the expression: {text}"));
                }
            }
            Ty::TextOrList => match &node.kind {
                Kind::Text(_) => {}
                Kind::List(items) => items.iter().for_each(|item| self.text(item, 1, 4096, path)),
                _ => self.wrong_type(node, path, "a string or an array of strings"),
            },
            Ty::NotYet(what, checked) => {
                self.value(node, checked, path);
                self.report.error(node.place, path, format!("{what} not supported yet"));
            }
            other => self.parsed(node, other, path),
        }
    }

    /// Types whose text has a form of its own.
    fn parsed(&mut self, node: &Node, ty: &Ty, path: &str) {
        let result = match ty {
            Ty::Id => read::id(node).map(drop),
            Ty::Host => read::host(node).map(drop),
            Ty::Ip => read::net(node).map(drop),
            Ty::IpAddress => match node.text().map(str::parse::<std::net::IpAddr>) {
                Some(Ok(_)) => Ok(()),
                _ => Err("expected an IP address".to_owned()),
            },
            Ty::IpOrUnix if node.text() == Some("unix:") => Ok(()),
            Ty::IpOrUnix => read::net(node).map(drop),
            Ty::Duration => read::duration(node).map(drop),
            Ty::SizeOr(words) if node.text().is_some_and(|text| words.contains(&text)) || is_off(node) => Ok(()),
            Ty::Size | Ty::SizeOr(_) => read::size(node).map(drop),
            Ty::Address(unix) => read::address(node, *unix).map(drop),
            Ty::Nodes => read::nodes(node, 80).map(drop).or_else(|faults| {
                for (place, text) in faults {
                    self.report.error(place, path, text);
                }
                Ok(())
            }),
            _ => Ok(()),
        };
        if let Err(text) = result {
            self.report.error(node.place, path, text);
        }
    }

    fn int(&mut self, node: &Node, least: i64, most: i64, path: &str) {
        match node.int() {
            None => self.wrong_type(node, path, "a whole number"),
            Some(value) if value < least || value > most => {
                let most = if most == i64::MAX { String::new() } else { format!(" and at most {most}") };
                self.report.error(node.place, path, format!("{value} is out of bounds")).help(format!("at least {least}{most}"));
            }
            Some(_) => {}
        }
    }

    fn number(&mut self, node: &Node, positive: bool, path: &str) {
        match node.number() {
            None => self.wrong_type(node, path, "a number"),
            Some(value) if !value.is_finite() || value < 0.0 || (positive && value == 0.0) => {
                let help = if positive { "a number above 0" } else { "a number from 0" };
                self.report.error(node.place, path, format!("{value} is out of bounds")).help(help);
            }
            Some(_) => {}
        }
    }

    fn text(&mut self, node: &Node, least: usize, most: usize, path: &str) {
        let Some(text) = node.text() else { return self.wrong_type(node, path, "a string") };
        let length = text.chars().count();
        if length < least || length > most {
            let message = format!("{length} characters are out of bounds");
            self.report.error(node.place, path, message).help(format!("{least} to {most} characters"));
        }
    }

    fn word(&mut self, node: &Node, words: &[&'static str], path: &str) {
        let text = match &node.kind {
            Kind::Text(text) => text.clone(),
            Kind::Bool(value) => value.to_string(),
            _ => return self.wrong_type(node, path, "a string"),
        };
        if !words.contains(&text.as_str()) {
            let suggestion = suggest::nearest(&text, words.iter().copied());
            let fault = self.report.error(node.place, path, format!("`{text}` is not one of its values"));
            fault.suggest(suggestion).help(format!("one of {}", words.join(", ")));
        }
    }

    fn list(&mut self, node: &Node, item: &Ty, least: usize, path: &str) {
        let items = match &node.kind {
            Kind::List(items) => items.as_slice(),
            Kind::Null => &[],
            Kind::Map(entries) if entries.is_empty() => &[],
            _ => return self.wrong_type(node, path, "an array"),
        };
        if items.len() < least {
            self.report.error(node.place, path, format!("at least {least} item is needed"));
        }
        for (at, value) in items.iter().enumerate() {
            self.value(value, item, &format!("{path}/{at}"));
        }
    }

    fn labels(&mut self, node: &Node, path: &str) {
        if !matches!(node.kind, Kind::Map(_) | Kind::Null) {
            return self.wrong_type(node, path, "an object");
        }
        for (key, value) in node.entries() {
            let path = format!("{path}/{}", key.text);
            self.text(value, 1, 256, &path);
            if value.text().is_some_and(|text| text.contains(char::is_whitespace)) {
                self.report.error(value.place, &path, "a label's value has no blanks");
            }
        }
    }

    /// Plugin configurations are objects with a `_meta` that is known; the plugin floor checks the rest.
    fn plugins(&mut self, node: &Node, path: &str) {
        if !matches!(node.kind, Kind::Map(_) | Kind::Null) {
            return self.wrong_type(node, path, "an object");
        }
        for (key, conf) in node.entries() {
            let path = format!("{path}/{}", key.text);
            match &conf.kind {
                Kind::Map(_) => {
                    if let Some(meta) = conf.get("_meta") {
                        self.object(meta, &META, &format!("{path}/_meta"));
                    }
                    if key.text == "traffic-split" {
                        self.splits(conf, &path);
                    }
                }
                Kind::Null => {}
                _ => self.wrong_type(conf, &path, "an object"),
            }
        }
    }

    /// Upstreams written in place inside a plugin's configuration.
    fn splits(&mut self, conf: &Node, path: &str) {
        for (rule, entry, node) in split_entries(conf) {
            if let Some(upstream) = node.get("upstream") {
                self.object(upstream, &UPSTREAM, &format!("{path}/rules/{rule}/weighted_upstreams/{entry}/upstream"));
            }
        }
    }
}

/// `off`, which YAML reads as false.
pub(super) fn is_off(node: &Node) -> bool {
    node.bool() == Some(false) || node.text() == Some("off")
}
