//! Path patterns: exact texts, prefixes, and prefixes with parameters. APISIX request.md §1.3; the text between marks is
//! text and never a regular expression.

use crate::config::gateway::RouterMode;

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// The whole path, byte by byte.
    Exact(Box<[u8]>),
    /// Everything that begins with this; the name of the unnamed rest is `:ext`.
    Prefix(Box<[u8]>),
    /// Everything that begins with the first and then goes as the parts say.
    Parts(Box<[u8]>, Box<[Part]>),
}

/// A part of a pattern behind its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// This text.
    Text(Box<[u8]>),
    /// A whole segment, at least one byte (`:name`).
    Segment(Box<str>),
    /// Anything, slashes too (`*` or `*name` at the start of a segment).
    Rest(Box<str>),
    /// Anything within a segment (`*` inside one).
    Within,
    /// Anything to the end (a final `*` inside a segment).
    Tail,
}

/// Steps that matching one path may take before it counts as no match: patterns with several `*` could otherwise be made
/// to work for long.
const STEPS: usize = 100_000;

impl Pattern {
    pub(super) fn compile(uri: &str, mode: RouterMode) -> Self {
        let parameters = matches!(mode, RouterMode::Ringway | RouterMode::UriWithParameter);
        let mut parts: Vec<Part> = Vec::new();
        let mut text = Vec::new();
        let mut segments = uri.split('/').peekable();
        let mut first = true;
        while let Some(segment) = segments.next() {
            if !first {
                text.push(b'/');
            }
            first = false;
            let last = segments.peek().is_none();
            let named = match segment.split_at_checked(1) {
                Some((":", name)) if parameters && !name.is_empty() => Some(Part::Segment(name.into())),
                Some(("*", "")) => Some(Part::Rest(":ext".into())),
                Some(("*", name)) if !name.contains('*') => Some(Part::Rest(name.into())),
                _ => None,
            };
            match named {
                Some(part) => {
                    flush(&mut text, &mut parts);
                    parts.push(part);
                }
                None => inner(segment, last, &mut text, &mut parts),
            }
        }
        flush(&mut text, &mut parts);
        Self::from_parts(parts)
    }

    fn from_parts(mut parts: Vec<Part>) -> Self {
        let prefix = match parts.first() {
            Some(Part::Text(text)) => {
                let prefix = text.clone();
                parts.remove(0);
                prefix
            }
            _ => Box::default(),
        };
        match parts.as_slice() {
            [] => Self::Exact(prefix),
            [Part::Tail] => Self::Prefix(prefix),
            [Part::Rest(name)] if &**name == ":ext" => Self::Prefix(prefix),
            _ => Self::Parts(prefix, parts.into()),
        }
    }

    /// True if the path, which begins with the prefix (or equals the exact text), goes on as the pattern says.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == &**text,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Parts(prefix, parts) => {
                let Some(rest) = path.strip_prefix(&**prefix) else { return false };
                run(parts, rest, &mut |_, _| {}, &mut STEPS.clone())
            }
        }
    }

    /// Appends the captures of a path that matches.
    pub(super) fn captures(&self, path: &[u8], out: &mut Vec<(Box<str>, Vec<u8>)>) {
        match self {
            Self::Exact(_) => {}
            Self::Prefix(prefix) => {
                out.push((":ext".into(), path.strip_prefix(&**prefix).unwrap_or_default().to_vec()));
            }
            Self::Parts(prefix, parts) => {
                let Some(rest) = path.strip_prefix(&**prefix) else { return };
                let mut found = Vec::new();
                run(parts, rest, &mut |name, value| found.push((name.into(), value.to_vec())), &mut STEPS.clone());
                found.reverse(); // the innermost part reports first
                out.append(&mut found);
            }
        }
    }
}

fn flush(text: &mut Vec<u8>, parts: &mut Vec<Part>) {
    if !text.is_empty() {
        parts.push(Part::Text(std::mem::take(text).into()));
    }
}

/// A segment with no name: text, with `*` for anything within it, or to the end where it is the pattern's last byte.
fn inner(segment: &str, last: bool, text: &mut Vec<u8>, parts: &mut Vec<Part>) {
    let mut pieces = segment.split('*').peekable();
    while let Some(piece) = pieces.next() {
        text.extend_from_slice(piece.as_bytes());
        let Some(next) = pieces.peek() else { break };
        let tail = last && next.is_empty() && pieces.clone().count() == 1;
        flush(text, parts);
        parts.push(if tail { Part::Tail } else { Part::Within });
    }
}

/// Matches greedily; on success reports the captures from the innermost outwards.
fn run<'p>(parts: &'p [Part], path: &'p [u8], report: &mut dyn FnMut(&'p str, &'p [u8]), steps: &mut usize) -> bool {
    if *steps == 0 {
        return false;
    }
    *steps -= 1;
    let Some((part, others)) = parts.split_first() else { return path.is_empty() };
    match part {
        Part::Text(text) => path.strip_prefix(&**text).is_some_and(|rest| run(others, rest, report, steps)),
        Part::Segment(name) => {
            let len = memchr::memchr(b'/', path).unwrap_or(path.len());
            let (value, rest) = path.split_at(len);
            let matched = len > 0 && run(others, rest, report, steps);
            if matched {
                report(name, value);
            }
            matched
        }
        Part::Tail => true,
        Part::Rest(name) => greedy(others, path, path.len(), Some(name), report, steps),
        Part::Within => {
            let len = memchr::memchr(b'/', path).unwrap_or(path.len());
            greedy(others, path, len, None, report, steps)
        }
    }
}

fn greedy<'p>(
    others: &'p [Part],
    path: &'p [u8],
    longest: usize,
    name: Option<&'p str>,
    report: &mut dyn FnMut(&'p str, &'p [u8]),
    steps: &mut usize,
) -> bool {
    for len in (0..=longest).rev() {
        let (value, rest) = path.split_at(len);
        if run(others, rest, report, steps) {
            if let Some(name) = name {
                report(name, value);
            }
            return true;
        }
        if *steps == 0 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(uri: &str, path: &str) -> Option<Vec<(String, String)>> {
        let pattern = Pattern::compile(uri, RouterMode::UriWithParameter);
        pattern.matches(path.as_bytes()).then(|| {
            let mut out = Vec::new();
            pattern.captures(path.as_bytes(), &mut out);
            out.into_iter().map(|(name, value)| (name.into(), String::from_utf8(value).unwrap())).collect()
        })
    }

    #[test]
    fn the_table_of_patterns() {
        for (uri, yes, no) in [
            ("/a", vec!["/a"], vec!["/a/", "/A", "/ab"]),
            ("/a*", vec!["/a", "/ab", "/a/b/c"], vec!["/b"]),
            ("/a/*", vec!["/a/", "/a/b/c"], vec!["/a"]),
            ("/*", vec!["/", "/x"], vec![""]),
            ("*", vec!["", "/", "x"], vec![]),
            ("/a/*/b", vec!["/a/x/b", "/a/x/y/b"], vec!["/a/b", "/a/x/c"]),
            ("/user/:id", vec!["/user/7", "/user/a b"], vec!["/user/", "/user", "/user/7/"]),
            ("/user/:id/", vec!["/user/7/"], vec!["/user/7"]),
            ("/user/:id/*rest", vec!["/user/7/", "/user/7/a/b"], vec!["/user/7"]),
            ("/file:x", vec!["/file:x"], vec!["/file", "/file/y"]),
            ("/v1.0+x/*", vec!["/v1.0+x/y"], vec!["/v100x/y"]),
            ("/a/b*/c", vec!["/a/b/c", "/a/bxx/c"], vec!["/a/b", "/a/bx/y/c", "/a/bxx"]),
            ("/a/*/b*", vec!["/a/x/b", "/a/x/bcd"], vec!["/a/x/c"]),
        ] {
            let pattern = Pattern::compile(uri, RouterMode::UriWithParameter);
            yes.iter().for_each(|path| assert!(pattern.matches(path.as_bytes()), "{uri} {path}"));
            no.iter().for_each(|path| assert!(!pattern.matches(path.as_bytes()), "{uri} {path}"));
        }
    }

    #[test]
    fn names_are_captured() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(captured("/user/:id/*rest", "/user/7/a/b"), Some(vec![pair("id", "7"), pair("rest", "a/b")]));
        assert_eq!(captured("/a/*", "/a/b/c"), Some(vec![pair(":ext", "b/c")]));
        assert_eq!(captured("/:x/y/:z", "/1/y/2"), Some(vec![pair("x", "1"), pair("z", "2")]));
        assert_eq!(captured("/:x", "/1/2"), None);
        assert_eq!(Pattern::compile("/:x", RouterMode::HostUri), Pattern::Exact((*b"/:x").into()));
    }

    #[test]
    fn no_pattern_works_for_long() {
        let pattern = Pattern::compile("/*/*/*/*/*/x", RouterMode::Ringway);
        assert!(!pattern.matches("/".repeat(8000).as_bytes()));
    }
}
