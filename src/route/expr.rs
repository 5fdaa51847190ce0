//! `vars` expressions (lua-resty-expr). APISIX request.md §1.6.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::regex::Regex;
use crate::proto::vars::{Value, Var, Vars};

/// A compiled expression. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr(Arc<Node>);

#[derive(Debug, PartialEq)]
enum Node {
    /// All hold (a plain list, AND).
    All(Vec<Node>),
    /// Any holds (OR).
    Any(Vec<Node>),
    /// !AND and !OR.
    Not(Box<Node>),
    /// One comparison.
    Test { name: String, var: Var, negated: bool, test: Test },
}

#[derive(Debug, PartialEq)]
enum Test {
    Equal(Literal),
    Unequal(Literal),
    Greater(f64),
    GreaterOrEqual(f64),
    Less(f64),
    LessOrEqual(f64),
    Matches(Regex),
    In(Vec<Literal>),
    Has,
    IpMatch(Vec<IpNet>),
    /// A comparison that can't hold, whatever comes (a number wanted, none configured).
    Never,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Null,
    Text(Box<[u8]>),
    Number(f64),
    Bool(bool),
    Other,
}

/// Nested groups of an expression.
const DEPTH: usize = 32;

impl Expr {
    /// Compiles the array of a `vars` or `filter` field.
    ///
    /// # Errors
    /// The text that APISIX gives, for example `invalid operator 'OP'`.
    pub fn compile(json: &Json) -> Result<Self, String> {
        let Json::Array(items) = json else { return Err("rule should be wrapped inside brackets".into()) };
        Ok(Self(Arc::new(group(items, 0)?)))
    }

    /// True if the request satisfies it.
    pub fn holds(&self, vars: &dyn Vars) -> bool {
        self.0.holds(vars)
    }

    /// The first comparison that keeps it from holding, for people.
    pub fn first_failure(&self, vars: &dyn Vars) -> Option<String> {
        self.0.first_failure(vars)
    }

    /// True if some variable's name satisfies `which`.
    pub fn reads(&self, which: &dyn Fn(&Var) -> bool) -> bool {
        self.0.reads(which)
    }
}

/// A list of expressions, or an operator and its operands.
fn group(items: &[Json], depth: usize) -> Result<Node, String> {
    if depth > DEPTH {
        return Err("expression nested too deeply".into());
    }
    match items.first() {
        None => Ok(Node::All(Vec::new())),
        Some(Json::Array(_)) => operands(items, depth).map(Node::All),
        Some(Json::String(word)) => {
            let operator = word.to_ascii_uppercase();
            if !matches!(operator.as_str(), "AND" | "OR" | "!AND" | "!OR") {
                return Err("rule should be wrapped inside brackets".into());
            }
            let rest = items.get(1..).unwrap_or_default();
            if rest.len() < 2 {
                return Err("rule too short".into());
            }
            let rest = operands(rest, depth)?;
            Ok(match operator.as_str() {
                "AND" => Node::All(rest),
                "OR" => Node::Any(rest),
                "!AND" => Node::Not(Box::new(Node::All(rest))),
                _ => Node::Not(Box::new(Node::Any(rest))),
            })
        }
        Some(_) => Err("rule should be wrapped inside brackets".into()),
    }
}

fn operands(items: &[Json], depth: usize) -> Result<Vec<Node>, String> {
    items.iter().map(|item| operand(item, depth + 1)).collect()
}

fn operand(item: &Json, depth: usize) -> Result<Node, String> {
    let Json::Array(items) = item else { return Err("rule should be wrapped inside brackets".into()) };
    let is_group = match items.first() {
        Some(Json::Array(_)) | None => true,
        Some(Json::String(word)) => matches!(word.to_ascii_uppercase().as_str(), "AND" | "OR" | "!AND" | "!OR"),
        Some(_) => false,
    };
    if is_group {
        return group(items, depth);
    }
    let Some(name) = items.first().and_then(Json::as_str) else { return Err("missing argument rule".into()) };
    if name.starts_with("post_arg") || name.starts_with("graphql_") {
        return Err(format!("variable '{name}' is not supported yet"));
    }
    let (negated, test) = match items.get(1..).unwrap_or_default() {
        [value] => (false, Test::Equal(literal(&lowered(value)))),
        [Json::String(not), operator, value] if not == "!" => (true, test(operator, value)?),
        [operator, value] => (false, test(operator, value)?),
        [_, _, _] => return Err("bad 'not' expression".into()),
        [] => return Err("rule too short".into()),
        _ => return Err("invalid expression".into()),
    };
    Ok(Node::Test { name: name.to_owned(), var: Var::parse(name), negated, test })
}

/// The legacy form of two items compares with the lower-cased text.
fn lowered(value: &Json) -> Json {
    match value {
        Json::String(text) => Json::String(text.to_ascii_lowercase()),
        other => other.clone(),
    }
}

fn test(operator: &Json, value: &Json) -> Result<Test, String> {
    let Some(operator) = operator.as_str() else { return Err("invalid expression".into()) };
    let number = |make: fn(f64) -> Test| literal(value).number().map_or(Test::Never, make);
    Ok(match operator.to_ascii_lowercase().as_str() {
        "==" => Test::Equal(literal(value)),
        "~=" => Test::Unequal(literal(value)),
        ">" => number(Test::Greater),
        ">=" => number(Test::GreaterOrEqual),
        "<" => number(Test::Less),
        "<=" => number(Test::LessOrEqual),
        "~~" | "~*" => {
            let Some(pattern) = value.as_str() else { return Err("invalid expression".into()) };
            Test::Matches(Regex::compile(pattern, operator == "~*")?)
        }
        "in" => match value {
            Json::Array(items) => Test::In(items.iter().map(literal).collect()),
            _ => return Err("invalid expression".into()),
        },
        "has" => Test::Has,
        "ipmatch" => Test::IpMatch(nets(value)?),
        _ => return Err(format!("invalid operator '{operator}'")),
    })
}

fn nets(value: &Json) -> Result<Vec<IpNet>, String> {
    let texts: Vec<&Json> = match value {
        Json::String(_) => vec![value],
        Json::Array(items) if !items.is_empty() => items.iter().collect(),
        _ => return Err("invalid ip address".into()),
    };
    let net = |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    texts
        .into_iter()
        .map(|text| {
            let text = text.as_str().ok_or_else(|| "invalid ip address".to_owned())?;
            net(text).ok_or_else(|| format!("invalid ip address: {text}"))
        })
        .collect()
}

fn literal(value: &Json) -> Literal {
    match value {
        Json::Null => Literal::Null,
        Json::String(text) => Literal::Text(text.as_bytes().into()),
        Json::Number(number) => Literal::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::Bool(value) => Literal::Bool(*value),
        Json::Array(_) | Json::Object(_) => Literal::Other,
    }
}

impl Literal {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => lua_number(text),
            _ => None,
        }
    }

    /// Same type and equal.
    fn equals(&self, value: Option<&Value<'_>>) -> bool {
        match (self, value) {
            (Self::Null, None) => true,
            (Self::Number(wanted), Some(value)) => number_of(value) == Some(*wanted),
            (Self::Text(wanted), Some(value)) => text_of(value).is_some_and(|text| *text == **wanted),
            (Self::Bool(wanted), Some(Value::Bool(value))) => wanted == value,
            _ => false,
        }
    }

    /// As [`Literal::equals`], but without turning text into numbers (`in`).
    fn is(&self, value: &Value<'_>) -> bool {
        match self {
            Self::Number(wanted) => match value {
                Value::Int(value) => *value as f64 == *wanted,
                Value::Float(value) => value == wanted,
                _ => false,
            },
            _ => self.equals(Some(value)),
        }
    }
}

/// Text and addresses are text to Lua; numbers and booleans are not.
fn text_of<'v>(value: &'v Value<'_>) -> Option<Cow<'v, [u8]>> {
    match value {
        Value::Text(text) => Some(Cow::Borrowed(text)),
        Value::Ip(ip) => Some(Cow::Owned(ip.to_string().into_bytes())),
        _ => None,
    }
}

fn number_of(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::Text(text) => lua_number(text),
        _ => None,
    }
}

/// Lua's `tonumber`: surrounding space, decimal with exponent, hexadecimal.
fn lua_number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim_matches(|c: char| c.is_ascii_whitespace());
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let value = u64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))? as f64;
        return Some(if negative { -value } else { value });
    }
    let plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.len() < 64;
    text.parse().ok().filter(|_| plain)
}

impl Node {
    fn holds(&self, vars: &dyn Vars) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(vars)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(vars)),
            Self::Not(node) => !node.holds(vars),
            Self::Test { var, negated, test, .. } => test.holds(vars.var(var).as_ref()) != *negated,
        }
    }

    fn first_failure(&self, vars: &dyn Vars) -> Option<String> {
        match self {
            _ if self.holds(vars) => None,
            Self::All(nodes) => nodes.iter().find_map(|node| node.first_failure(vars)),
            Self::Any(_) => Some("none of the OR's operands holds".into()),
            Self::Not(_) => Some("the negated group holds".into()),
            Self::Test { name, var, .. } => Some(match vars.var(var) {
                Some(value) => format!("{name} is {:?}", String::from_utf8_lossy(&value.to_text())),
                None => format!("{name} is missing"),
            }),
        }
    }

    fn reads(&self, which: &dyn Fn(&Var) -> bool) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(|node| node.reads(which)),
            Self::Not(node) => node.reads(which),
            Self::Test { var, .. } => which(var),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Value<'_>>) -> bool {
        let number =
            |compare: fn(f64, f64) -> bool, wanted: &f64| value.and_then(number_of).is_some_and(|value| compare(value, *wanted));
        match self {
            Self::Equal(wanted) => wanted.equals(value),
            Self::Unequal(wanted) => !wanted.equals(value),
            Self::Greater(wanted) => number(|a, b| a > b, wanted),
            Self::GreaterOrEqual(wanted) => number(|a, b| a >= b, wanted),
            Self::Less(wanted) => number(|a, b| a < b, wanted),
            Self::LessOrEqual(wanted) => number(|a, b| a <= b, wanted),
            Self::Matches(regex) => value.is_some_and(|value| regex.is_match(&value.to_text())),
            Self::In(wanted) => value.is_some_and(|value| wanted.iter().any(|wanted| wanted.is(value))),
            Self::IpMatch(nets) => value.and_then(ip_of).is_some_and(|ip| nets.iter().any(|net| net.contains(&ip))),
            Self::Has | Self::Never => false, // no variable served here is an array
        }
    }
}

fn ip_of(value: &Value<'_>) -> Option<IpAddr> {
    match value {
        Value::Ip(ip) => Some(*ip),
        Value::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Fixed(&'static [(&'static str, &'static str)]);

    impl Vars for Fixed {
        fn var(&self, var: &Var) -> Option<Value<'_>> {
            let Var::Arg(name) = var else { return None };
            let (_, value) = self.0.iter().find(|(have, _)| *have == &**name)?;
            Some(if *value == "<flag>" { Value::Bool(true) } else { Value::text(value.as_bytes()) })
        }
    }

    const VARS: Fixed = Fixed(&[("n", "12"), ("s", "Foo"), ("hex", "0x10"), ("ip", "10.1.2.3"), ("e", ""), ("f", "<flag>")]);

    #[test]
    fn operators() {
        for (rule, expected) in [
            (json!([]), true),
            (json!([["arg_n", "==", "12"]]), true),
            (json!([["arg_n", "==", 12]]), true),
            (json!([["arg_n", "~=", 12]]), false),
            (json!([["arg_s", "==", 1]]), false),
            (json!([["arg_s", "~=", 1]]), true),
            (json!([["arg_x", "==", null]]), true),
            (json!([["arg_x", "~=", "a"]]), true),
            (json!([["arg_x", "==", "a"]]), false),
            (json!([["arg_n", ">", 11]]), true),
            (json!([["arg_n", ">", "11"]]), true),
            (json!([["arg_n", ">=", 12]]), true),
            (json!([["arg_n", "<", 12]]), false),
            (json!([["arg_hex", "==", 16]]), true),
            (json!([["arg_s", ">", 1]]), false),
            (json!([["arg_s", "~~", "^F"]]), true),
            (json!([["arg_s", "~~", "^f"]]), false),
            (json!([["arg_s", "~*", "^f"]]), true),
            (json!([["arg_x", "!", "~~", "a"]]), true),
            (json!([["arg_n", "in", ["11", "12"]]]), true),
            (json!([["arg_n", "in", [11, 12]]]), false),
            (json!([["arg_n", "!", "in", ["11"]]]), true),
            (json!([["arg_ip", "ipmatch", "10.0.0.0/8"]]), true),
            (json!([["arg_ip", "ipmatch", ["::1", "10.1.2.3"]]]), true),
            (json!([["arg_s", "ipmatch", "10.0.0.0/8"]]), false),
            (json!([["arg_s", "FOO"]]), false),
            (json!([["arg_f", "==", true]]), true),
            (json!([["arg_e", "==", ""]]), true),
            (json!(["OR", ["arg_n", "==", "1"], ["arg_s", "==", "Foo"]]), true),
            (json!(["and", ["arg_n", "==", "1"], ["arg_s", "==", "Foo"]]), false),
            (json!(["!OR", ["arg_n", "==", "1"], ["arg_s", "==", "x"]]), true),
            (json!(["!AND", ["arg_n", "==", "12"], ["arg_s", "==", "Foo"]]), false),
            (json!([["OR", ["arg_n", "==", "1"], ["arg_n", "==", "12"]], ["arg_s", "has", "x"]]), false),
            (json!([["arg_nobody", "==", "x"]]), false),
        ] {
            assert_eq!(Expr::compile(&rule).unwrap().holds(&VARS), expected, "{rule}");
        }
    }

    #[test]
    fn faults_are_named_as_in_apisix() {
        for (rule, fault) in [
            (json!(["arg_n", "==", "1"]), "rule should be wrapped inside brackets"),
            (json!(["OR", ["arg_n", "1"]]), "rule too short"),
            (json!([["arg_n", "=", "1"]]), "invalid operator '='"),
            (json!([["arg_n", "?", "==", "1"]]), "bad 'not' expression"),
            (json!([["arg_n", "ipmatch", "x"]]), "invalid ip address: x"),
            (json!([["arg_n"]]), "rule too short"),
            (json!([["post_arg_x", "==", "1"]]), "variable 'post_arg_x' is not supported yet"),
        ] {
            assert_eq!(Expr::compile(&rule).unwrap_err(), fault, "{rule}");
        }
        assert!(Expr::compile(&json!([["arg_n", "~~", "("]])).is_err());
    }
}
