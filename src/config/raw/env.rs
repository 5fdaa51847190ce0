//! `${{VAR}}` and `${{VAR:=default}}` in the raw text, before it is parsed. APISIX resources.md §4.2.

/// Text with its variables replaced, and how to find an offset of it in the text as written.
#[derive(Clone, Debug, Default)]
pub struct Expanded {
    /// The text to parse.
    pub text: String,
    edits: Vec<Edit>,
}

#[derive(Clone, Copy, Debug)]
struct Edit {
    at: usize,      // in the expanded text
    new_len: usize, // there
    old_at: usize,  // in the text as written
    old_len: usize,
}

/// A variable that is not set and has no default: its name and its place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// First byte of `${{`.
    pub start: usize,
    /// Byte behind `}}`.
    pub end: usize,
}

impl Expanded {
    /// Offset in the text as written.
    pub fn original(&self, at: usize) -> usize {
        let before = self.edits.partition_point(|edit| edit.at <= at);
        let Some(last) = before.checked_sub(1).and_then(|last| self.edits.get(last)) else { return at };
        if at < last.at + last.new_len {
            return last.old_at;
        }
        at - (last.at + last.new_len) + last.old_at + last.old_len
    }
}

/// Replaces the variables.
///
/// # Errors
/// All variables that are missing.
pub fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, Vec<Missing>> {
    let mut out = Expanded { text: String::with_capacity(text.len()), edits: Vec::new() };
    let mut missing = Vec::new();
    let mut at = 0;
    while let Some(start) = text.get(at..).and_then(|rest| rest.find("${{")).map(|found| at + found) {
        let Some((name, default, len)) = variable(text.get(start..).unwrap_or_default()) else {
            out.text.push_str(text.get(at..start + 3).unwrap_or_default());
            at = start + 3;
            continue;
        };
        out.text.push_str(text.get(at..start).unwrap_or_default());
        let value = env(name).or_else(|| default.map(str::to_owned));
        match value {
            Some(value) => {
                out.edits.push(Edit { at: out.text.len(), new_len: value.len(), old_at: start, old_len: len });
                out.text.push_str(&value);
            }
            None => missing.push(Missing { name: name.to_owned(), start, end: start + len }),
        }
        at = start + len;
    }
    out.text.push_str(text.get(at..).unwrap_or_default());
    if missing.is_empty() { Ok(out) } else { Err(missing) }
}

/// Name, default and length of a variable at the front of `text`.
fn variable(text: &str) -> Option<(&str, Option<&str>, usize)> {
    let inner = text.strip_prefix("${{")?;
    let end = inner.find("}}")?;
    let body = inner.get(..end)?;
    let (name, default) = match body.split_once(":=") {
        // White space before `:=` belongs to the name in APISIX, so that the default always wins: kept.
        Some((name, default)) => (name.trim_start(), Some(default.trim())),
        None => (body.trim(), None),
    };
    let plain = !name.is_empty() && name.trim_end().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then_some((name, default, end + 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_offsets() {
        let env = |name: &str| (name == "A").then(|| "longer value".to_owned());
        let text = "a: ${{A}}\nb: ${{ B:= x:y }}\nc: $A ${A} end\n";
        let expanded = expand(text, &env).unwrap();
        assert_eq!(expanded.text, "a: longer value\nb: x:y\nc: $A ${A} end\n");
        let at = |needle: &str| expanded.original(expanded.text.find(needle).unwrap());
        assert_eq!(at("end"), text.find("end").unwrap());
        assert_eq!(at("b:"), text.find("b:").unwrap());
        assert_eq!(at("value"), text.find("${{A").unwrap());
        let missing = expand("x: ${{NO}} ${{NEITHER}}", &env).unwrap_err();
        assert_eq!((missing.len(), missing[0].name.as_str(), missing[0].start), (2, "NO", 3));
    }
}
