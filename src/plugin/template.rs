//! Texts with variables: `$name`, `${name}`, `${name ?? default}`. APISIX request.md §2.6.

use crate::proto::vars::{Var, Vars};

/// A compiled text.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(Box<[u8]>),
    Var {
        var: Var,
        default: Option<Box<str>>,
    },
    /// `$1`: a capture of a regular expression.
    Capture(usize),
}

impl Template {
    /// Compiles a text; `$1` is a variable that nobody serves.
    pub fn compile(text: &str) -> Self {
        Self::build(text, false)
    }

    /// Compiles a text in which `$0`, `$1`, `${1}` stand for captures.
    pub fn compile_with_captures(text: &str) -> Self {
        Self::build(text, true)
    }

    fn build(text: &str, captures: bool) -> Self {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            plain.extend_from_slice(before.as_bytes());
            let escaped = before.ends_with('\\');
            match name(from).filter(|_| !escaped) {
                Some((piece, len)) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
                    }
                    pieces.push(piece_of(piece, captures));
                    rest = &from[len..];
                }
                None => {
                    plain.push(b'$');
                    rest = &from[1..];
                }
            }
        }
        plain.extend_from_slice(rest.as_bytes());
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Self(pieces)
    }

    /// True if it is plain text.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// True if one of its variables has a value, or it has none.
    pub fn resolves(&self, vars: &dyn Vars) -> bool {
        let mut variables = self.0.iter().filter_map(|piece| match piece {
            Piece::Var { var, .. } => Some(var),
            _ => None,
        });
        self.is_plain() || variables.any(|var| vars.var(var).is_some())
    }

    /// True if some variable satisfies `which`.
    pub fn reads(&self, which: impl Fn(&Var) -> bool) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Var { var, .. } if which(var)))
    }

    /// Appends the text with its variables. `edit` may change each variable's value before it goes in.
    pub fn write_edited(&self, vars: &dyn Vars, captures: &[Vec<u8>], edit: impl Fn(&[u8], &mut Vec<u8>), out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Var { var, default } => match vars.var(var) {
                    Some(value) => edit(&value.to_text(), out),
                    None => out.extend_from_slice(default.as_deref().unwrap_or_default().as_bytes()),
                },
                Piece::Capture(at) => out.extend_from_slice(captures.get(*at).map(Vec::as_slice).unwrap_or_default()),
            }
        }
    }

    /// The text with its variables.
    pub fn render(&self, vars: &dyn Vars) -> Vec<u8> {
        self.render_with(vars, &[])
    }

    /// The same with captures.
    pub fn render_with(&self, vars: &dyn Vars, captures: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_edited(vars, captures, |value, out| out.extend_from_slice(value), &mut out);
        out
    }
}

/// The name behind a `$`, braces included, and how long it is.
fn name(from: &str) -> Option<(&str, usize)> {
    let rest = from.strip_prefix('$')?;
    if let Some(inner) = rest.strip_prefix('{') {
        let end = inner.find('}')?;
        let inner = inner.get(..end)?.trim();
        return (!inner.is_empty()).then_some((inner, end + 3));
    }
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
    (end > 0).then(|| (rest.get(..end).unwrap_or_default(), end + 1))
}

fn piece_of(name: &str, captures: bool) -> Piece {
    if captures && let Ok(number) = name.parse() {
        return Piece::Capture(number);
    }
    match name.split_once("??") {
        Some((name, default)) => Piece::Var { var: Var::parse(name.trim()), default: Some(default.trim().into()) },
        None => Piece::Var { var: Var::parse(name), default: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::vars::Value;

    struct Args;

    impl Vars for Args {
        fn var(&self, var: &Var) -> Option<Value<'_>> {
            match var {
                Var::Arg(name) if &**name == "a" => Some(Value::text(b"1")),
                Var::Arg(name) if &**name == "a-b" => Some(Value::text(b"2")),
                _ => None,
            }
        }
    }

    #[test]
    fn the_table_of_templates() {
        for (text, expected) in [
            ("x", "x"),
            ("$arg_a", "1"),
            ("/${arg_a}/y", "/1/y"),
            ("${ arg_a ?? z }", "1"),
            ("${arg_x ?? z}", "z"),
            ("$arg_x.", ""),
            ("$arg_x!", "!"),
            ("\\$arg_a", "\\$arg_a"),
            ("$arg_a-b", "1-b"),
            ("${arg_a-b}", "2"),
            ("$", "$"),
            ("$$arg_a", "$1"),
            ("${", "${"),
            ("$1", ""),
        ] {
            assert_eq!(String::from_utf8(Template::compile(text).render(&Args)).unwrap(), expected, "{text}");
        }
        let captures = [b"whole".to_vec(), b"one".to_vec()];
        let text = Template::compile_with_captures("/$1/${1}-$0$2/$arg_a");
        assert_eq!(text.render_with(&Args, &captures), b"/one/one-whole/1");
    }
}
