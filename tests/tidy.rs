//! House rules as a test: floors, sizes, names. Each failure says where and which rule.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Modules and their floors (docs/concepts.md). A file uses its own floor and those below.
const FLOORS: &[(&str, u8)] = &[
    ("base", 0),
    ("proto", 1),
    ("route", 1),
    ("config", 1),
    ("convert", 1),
    ("net", 2),
    ("plugin", 3),
    ("upstream", 3),
    ("limit", 3),
    ("proxy", 4),
    ("snapshot", 4),
    ("worker", 5),
    ("control", 6),
    ("cli", 7),
];

/// Lines of a file before its tests.
const FILE_LINES: usize = 600;
/// Lines of a function.
const FUNCTION_LINES: usize = 70;
/// Columns of a line.
const COLUMNS: usize = 130;

/// Names that only some places may use: (text, where it is allowed, why).
const BANNED: &[(&str, &[&str], &str)] = &[
    ("monoio::", &["src/net/"], "the runtime is named in net alone, so that another can replace it"),
    ("libc::", &["src/net/"], "system calls belong to net"),
    ("socket2::", &["src/net/"], "sockets belong to net"),
    ("core_affinity::", &["src/net/"], "pinning belongs to net"),
    ("Instant::now", &["src/base/", "src/control/", "src/cli/"], "the data path reads base::clock"),
    ("SystemTime::now", &["src/base/", "src/control/", "src/cli/"], "the data path reads base::clock"),
    ("dbg!(", &[], "left from debugging"),
    ("println!(", &["src/cli/"], "output belongs to cli; the rest logs"),
    ("unsafe ", &["src/base/buf.rs", "src/net/"], "unsafe is confined to buffers and sockets"),
    ("unsafe{", &["src/base/buf.rs", "src/net/"], "unsafe is confined to buffers and sockets"),
];

/// Words that mark unfinished work, put together so that this file does not hold them.
fn unfinished() -> [String; 5] {
    let word = |a: &str, b: &str| format!("{a}{b}");
    [word("TO", "DO"), word("FIX", "ME"), word("XX", "X"), word("to", "do!("), word("unimple", "mented!(")]
}

/// Files that are tables: their rows may be as long as they must.
const TABLES: &[(&str, &str)] = &[("src/proto/message/reason.rs", "one reason, one row")];

struct Source {
    path: String,
    lines: Vec<String>,
    code: usize, // lines before `#[cfg(test)]`
}

#[test]
fn the_house_is_tidy() {
    let mut faults = String::new();
    for source in sources(&["src", "bench-harness/src", "loadtests/src"]) {
        sizes(&source, &mut faults);
        names(&source, &mut faults);
        floors(&source, &mut faults);
    }
    for source in sources(&["tests"]) {
        tests_poll(&source, &mut faults);
    }
    assert!(faults.is_empty(), "\n{faults}");
}

fn sources(roots: &[&str]) -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for root in roots {
        walk(&top.join(root), &mut files);
    }
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let is_test = file.to_string_lossy().ends_with("_tests.rs");
            let tests = lines.iter().position(|line| line.trim_start().starts_with("#[cfg(test)]"));
            let code = if is_test { 0 } else { tests.unwrap_or(lines.len()) };
            Source { path: file.strip_prefix(top).unwrap().to_string_lossy().into_owned(), lines, code }
        })
        .collect()
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

fn tell(faults: &mut String, source: &Source, line: usize, rule: &str) {
    writeln!(faults, "{}:{}: {rule}", source.path, line + 1).unwrap();
}

fn sizes(source: &Source, faults: &mut String) {
    if source.code > FILE_LINES {
        tell(
            faults,
            source,
            source.code,
            &format!("{} lines; the ceiling is {FILE_LINES}: the design wants a new name", source.code),
        );
    }
    for (at, line) in source.lines.iter().enumerate() {
        let table = TABLES.iter().any(|(path, _)| source.path == *path);
        if line.chars().count() > COLUMNS && !table {
            tell(faults, source, at, &format!("longer than {COLUMNS} columns"));
        }
    }
    let mut at = 0;
    while at < source.code {
        if !begins_function(&source.lines[at]) {
            at += 1;
            continue;
        }
        let end = function_end(source, at);
        if end - at + 1 > FUNCTION_LINES {
            tell(faults, source, at, &format!("a function of {} lines; the ceiling is {FUNCTION_LINES}", end - at + 1));
        }
        at = end + 1;
    }
}

fn begins_function(line: &str) -> bool {
    let mut rest = line.trim_start();
    loop {
        rest = match rest.split_once(' ') {
            Some(("fn", _)) => return true,
            Some(("pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"", rest)) => rest,
            Some((word, rest)) if word.starts_with("pub(") => rest,
            _ => return false,
        };
    }
}

fn function_end(source: &Source, start: usize) -> usize {
    let (mut depth, mut opened) = (0_i64, false);
    for at in start..source.code {
        let line = bare(&source.lines[at]);
        depth += line.matches('{').count() as i64 - line.matches('}').count() as i64;
        opened |= line.contains('{');
        if (opened && depth <= 0) || (!opened && line.trim_end().ends_with(';')) {
            return at;
        }
    }
    source.code.saturating_sub(1)
}

/// A line without comments, strings and character literals.
fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            '"' => in_string = !in_string,
            _ if in_string => {}
            '/' if chars.peek() == Some(&'/') => break,
            '\'' => {
                // A character literal, or a lifetime.
                let rest: Vec<char> = chars.clone().take(3).collect();
                match rest.as_slice() {
                    ['\\', _, '\''] => drop((chars.next(), chars.next(), chars.next())),
                    [_, '\'', ..] => drop((chars.next(), chars.next())),
                    _ => out.push(c),
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn names(source: &Source, faults: &mut String) {
    let product = source.path.starts_with("src/");
    for (at, line) in source.lines.iter().take(source.code).enumerate() {
        let code = bare(line);
        if unfinished()
            .iter()
            .any(|word| line.split(|c: char| !(c.is_alphanumeric() || c == '!' || c == '(')).any(|part| part == word))
        {
            tell(faults, source, at, "unfinished work is not committed");
        }
        if line.contains("#[ignore") {
            tell(faults, source, at, "an ignored test proves nothing");
        }
        if !product {
            continue;
        }
        if code.contains(".unwrap()") || code.contains(".expect(") {
            tell(faults, source, at, "no panic that the network or a configuration could reach");
        }
        for (name, allowed, why) in BANNED {
            if code.contains(name) && !allowed.iter().any(|place| source.path.starts_with(place)) {
                tell(faults, source, at, &format!("`{name}`: {why}"));
            }
        }
    }
}

fn floors(source: &Source, faults: &mut String) {
    let Some(own) = source.path.strip_prefix("src/").and_then(|path| floor(path.split(['/', '.']).next()?)) else { return };
    for (at, line) in source.lines.iter().take(source.code).enumerate() {
        for used in bare(line).split("crate::").skip(1) {
            let module: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some(floor) = floor(&module).filter(|floor| *floor > own) {
                tell(faults, source, at, &format!("floor {own} uses `{module}` of floor {floor}"));
            }
        }
    }
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// Tests wait for a condition with a deadline. The one helper that does may sleep between two looks.
fn tests_poll(source: &Source, faults: &mut String) {
    for (at, line) in source.lines.iter().enumerate() {
        let poll = line.contains("// between two looks");
        if bare(line).contains("sleep(") && !poll {
            tell(faults, source, at, "a test polls a condition with a deadline instead of sleeping");
        }
        if line.contains("#[ignore") && !source.path.ends_with("tidy.rs") {
            tell(faults, source, at, "an ignored test proves nothing");
        }
    }
}
