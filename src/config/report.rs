//! What is wrong with a configuration: every fault with its place, what was expected, and what was probably meant.

use std::path::PathBuf;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value as Json, json};

use super::model::Origin;
use super::raw::{Node, Place};

/// The files of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<File>,
    /// Directories and patterns of `include:` that may bring further files.
    pub globs: Vec<PathBuf>,
}

#[derive(Clone, Debug)]
struct File {
    name: String,
    path: Option<PathBuf>,
    text: Arc<str>,
    lines: Vec<usize>, // offsets of line starts
    root: Option<Arc<Node>>,
}

impl Sources {
    /// Adds a file; gives back its number.
    pub fn add(&mut self, name: String, path: Option<PathBuf>, text: &str) -> u16 {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        self.files.push(File { name, path, text: text.into(), lines, root: None });
        u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX)
    }

    /// Keeps a file's tree for [`Sources::locate`].
    pub(super) fn set_root(&mut self, file: u16, root: Arc<Node>) {
        if let Some(file) = self.files.get_mut(usize::from(file)) {
            file.root = Some(root);
        }
    }

    /// Forgets the trees, once nothing is to be located any more.
    pub fn forget_trees(&mut self) {
        self.files.iter_mut().for_each(|file| file.root = None);
    }

    /// Paths of the files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().filter_map(|file| file.path.clone()).collect()
    }

    /// Names and texts of the files.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|file| (file.name.as_str(), &*file.text))
    }

    /// Name of a file.
    pub fn name(&self, file: u16) -> &str {
        self.files.get(usize::from(file)).map_or("", |file| file.name.as_str())
    }

    /// Line and column of a place, from 1.
    pub fn line_column(&self, place: Place) -> (usize, usize) {
        let Some(file) = self.files.get(usize::from(place.file)) else { return (1, 1) };
        let at = place.start as usize;
        let line = file.lines.partition_point(|&start| start <= at).max(1);
        let start = file.lines.get(line - 1).copied().unwrap_or(0);
        let before = file.text.get(start..at.min(file.text.len())).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The place of the value that a JSON pointer names; the nearest one above it where it names none.
    pub fn locate(&self, file: u16, pointer: &str) -> Option<Place> {
        let mut node = self.files.get(usize::from(file))?.root.as_deref()?;
        let mut place = node.place;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            if let Some((key, child)) = node.entries().iter().find(|(key, _)| key.text == part) {
                // An object is pointed at by its key, anything else by its value.
                place = if child.entries().is_empty() && child.items().is_empty() { child.place } else { key.place };
                node = child;
            } else if let Some(item) = part.parse::<usize>().ok().and_then(|at| node.items().get(at)) {
                place = item.place;
                node = item;
            } else {
                break;
            }
        }
        Some(place)
    }
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, and probably not meant so.
    Warning,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// The field, for example `/routes/0/uri`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What was expected, or what to write instead.
    pub help: Option<String>,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

/// All faults of a configuration, with the texts they stand in.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The faults in the order they were found.
    pub list: Vec<Diagnostic>,
    /// The texts.
    pub sources: Sources,
}

/// Faults shown of a very broken file; the rest is counted.
const SHOWN: usize = 100;

impl Report {
    /// Adds an error.
    pub fn error(&mut self, place: Place, path: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Error, place, path, message.into())
    }

    /// Adds a warning.
    pub fn warning(&mut self, place: Place, path: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Warning, place, path, message.into())
    }

    /// Adds an error or warning inside an item, located by a pointer below it.
    pub fn inside(&mut self, severity: Severity, origin: &Origin, below: &str, message: impl Into<String>) -> &mut Diagnostic {
        let path = format!("{}{below}", origin.pointer);
        let place = self.sources.locate(origin.file, &path).unwrap_or(Place { file: origin.file, start: 0, end: 0 });
        self.add(severity, place, &path, message.into())
    }

    fn add(&mut self, severity: Severity, place: Place, path: &str, message: String) -> &mut Diagnostic {
        let path = path.to_owned();
        self.list.push(Diagnostic { severity, place, path, message, help: None, suggestion: None });
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// True if something keeps the configuration from being taken.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|fault| fault.severity == Severity::Error)
    }

    /// Takes warnings for errors.
    pub fn harden(&mut self) {
        self.list.iter_mut().for_each(|fault| fault.severity = Severity::Error);
    }

    /// For people: every fault with its line, marked.
    pub fn human(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for fault in self.list.iter().take(SHOWN) {
            out.push_str(&renderer.render(&[self.group(fault)]));
            out.push('\n');
        }
        if self.list.len() > SHOWN {
            out.push_str(&format!("and {} more\n", self.list.len() - SHOWN));
        }
        out
    }

    fn group<'r>(&'r self, fault: &'r Diagnostic) -> Group<'r> {
        let level = match fault.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = if fault.path.is_empty() { fault.message.clone() } else { format!("{}: {}", fault.path, fault.message) };
        let file = self.sources.files.get(usize::from(fault.place.file));
        let (line, _) = self.sources.line_column(fault.place);
        let start = file.and_then(|file| file.lines.get(line - 1)).copied().unwrap_or(0);
        let end = file.map_or(0, |file| file.lines.get(line).copied().unwrap_or(file.text.len()));
        let text = file.and_then(|file| file.text.get(start..end)).unwrap_or_default().trim_end_matches('\n');
        let from = (fault.place.start as usize).saturating_sub(start).min(text.len());
        let to = (fault.place.end as usize).saturating_sub(start).clamp(from, text.len());
        let to = if to == from { (from + 1).min(text.len()) } else { to };
        let shown = mask(text);
        let snippet = Snippet::source(shown)
            .line_start(line)
            .path(self.sources.name(fault.place.file))
            .fold(false)
            .annotation(AnnotationKind::Primary.span(floor(text, from)..floor(text, to)));
        let mut group = Group::with_title(level.primary_title(title)).element(snippet);
        if let Some(help) = &fault.help {
            group = group.element(Level::NOTE.message(help.clone()));
        }
        if let Some(suggestion) = &fault.suggestion {
            group = group.element(Level::HELP.message(format!("did you mean `{suggestion}`?")));
        }
        group
    }

    /// For programs.
    pub fn json(&self) -> Json {
        let one = |fault: &Diagnostic| {
            let (line, column) = self.sources.line_column(fault.place);
            json!({
                "severity": match fault.severity { Severity::Error => "error", Severity::Warning => "warning" },
                "file": self.sources.name(fault.place.file), "line": line, "column": column, "path": fault.path,
                "message": fault.message, "expected": fault.help, "suggestion": fault.suggestion,
            })
        };
        Json::Array(self.list.iter().map(one).collect())
    }
}

impl Diagnostic {
    /// Says what was expected or what to write instead.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Says what was probably meant.
    pub fn suggest(&mut self, suggestion: Option<impl Into<String>>) -> &mut Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    at.min(text.len())
}

/// Words in a key that make its value a secret.
const SECRET: [&str; 7] = ["key", "secret", "password", "token", "authorization", "apikey", "credential"];

/// Hides the value on a line whose key names a secret; the length stays, so that marks stay right.
fn mask(line: &str) -> String {
    let Some((key, value)) = line.split_once(':') else { return line.to_owned() };
    let name = key.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').to_ascii_lowercase();
    let names_secret =
        SECRET.iter().any(|word| name == *word || name.ends_with(&format!("_{word}")) || name.ends_with(&format!("-{word}")));
    if !names_secret || value.trim().is_empty() || value.trim_start().starts_with(['{', '[']) {
        return line.to_owned();
    }
    let hidden: String = value.chars().flat_map(|c| if c == ' ' { vec![' '] } else { vec!['*'; c.len_utf8()] }).collect();
    format!("{key}:{hidden}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        assert_eq!(mask("  key: abc def"), "  key: *** ***");
        assert_eq!(mask("  client_secret: 'x'"), "  client_secret: ***");
        assert_eq!(mask("  keyword: x"), "  keyword: x");
        assert_eq!(mask("  key-auth: {}"), "  key-auth: {}");
    }
}
