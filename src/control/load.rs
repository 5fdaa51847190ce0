//! From the configuration's files to a snapshot that may become an epoch: read, check, compile. Blocks; runs on the helper
//! thread, and once at the start.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::config::gateway::Gateway;
use crate::config::{self, Input, LoadOptions, Report, Sources};
use crate::snapshot::{self, Snapshot};
use crate::upstream::names::Names;

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, watched and read again.
    File(PathBuf),
    /// Standard input, read once.
    Stdin(String),
}

/// Name of standard input in messages.
const STDIN_NAME: &str = "-";

impl Source {
    /// Its name in messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin(_) => STDIN_NAME.to_string(),
        }
    }

    fn input(&self) -> Input {
        match self {
            Self::File(path) => Input::File(path.clone()),
            Self::Stdin(text) => Input::Text { name: STDIN_NAME.to_string(), text: text.clone() },
        }
    }
}

/// A configuration ready to become an epoch.
pub struct Loaded {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// `gateway:`
    pub gateway: Arc<Gateway>,
    /// Files that were read, and what may bring in more.
    pub files: Files,
    /// Equal digests mean equal texts.
    pub digest: u64,
    /// Warnings.
    pub warnings: Text,
    /// The configuration in force, with what registries say now: it tells nothing of the files.
    pub refreshed: bool,
    /// Time it took.
    pub took: Duration,
}

/// A report in both its forms.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// For people, with snippets; empty if there is nothing to say.
    pub human: String,
    /// For programs.
    pub json: Json,
    /// Files that were read, broken ones included.
    pub files: Files,
}

/// What a configuration consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Patterns of `include:`.
    pub patterns: Vec<PathBuf>,
}

/// What came of reading.
pub enum Outcome {
    /// The same texts as before.
    Unchanged,
    /// A new epoch may begin.
    Ready(Box<Loaded>),
    /// Errors; with the files to watch for their mending.
    Broken(Text),
}

/// Reads, checks and compiles. `previous` is the snapshot to share unchanged parts with, and the digest of its texts.
pub fn load(source: &Source, epoch: u64, previous: Option<(&Arc<Snapshot>, u64)>, names: &Names) -> Outcome {
    let started = Instant::now();
    let loaded = match config::load(&LoadOptions { input: source.input(), strict: false, env: &environment }) {
        Ok(loaded) => loaded,
        Err(report) => return Outcome::Broken(Text::of(&report)),
    };
    let digest = digest(loaded.sources());
    if previous.is_some_and(|(snapshot, before)| before == digest && snapshot.services == names.services.version()) {
        return Outcome::Unchanged;
    }
    match compile(loaded, epoch, previous.map(|(snapshot, _)| snapshot), names) {
        Ok((snapshot, warnings)) => {
            let warnings = Text::of(&warnings);
            let (gateway, files) = (snapshot.gateway.clone(), warnings.files.clone());
            let (refreshed, took) = (false, started.elapsed());
            Outcome::Ready(Box::new(Loaded { snapshot, gateway, files, digest, warnings, refreshed, took }))
        }
        Err(report) => Outcome::Broken(Text::of(&report)),
    }
}

/// Compiles what is in force once more, with what registries say by now. The files are not looked at: they may be broken, or
/// half written.
pub fn refresh(current: &Arc<Snapshot>, digest: u64, names: &Names) -> Outcome {
    let started = Instant::now();
    if current.services == names.services.version() {
        return Outcome::Unchanged;
    }
    let (model, gateway) = (current.model.clone(), current.gateway.clone());
    let loaded = config::Loaded { model, gateway, report: Report::default() };
    match compile(loaded, current.epoch + 1, Some(current), names) {
        Ok((snapshot, _known_warnings)) => {
            let (gateway, files, warnings) = (snapshot.gateway.clone(), Files::default(), Text::default());
            let (refreshed, took) = (true, started.elapsed());
            Outcome::Ready(Box::new(Loaded { snapshot, gateway, files, digest, warnings, refreshed, took }))
        }
        Err(report) => {
            let faults: Vec<&str> = report.list.iter().map(|fault| fault.message.as_str()).collect();
            Outcome::Broken(Text { human: faults.join("\n"), json: faults.into(), files: Files::default() })
        }
    }
}

/// Compiles; all warnings end up in one report.
fn compile(
    loaded: config::Loaded,
    epoch: u64,
    previous: Option<&Arc<Snapshot>>,
    names: &Names,
) -> Result<(Arc<Snapshot>, Report), Report> {
    let compiled = snapshot::compile(loaded, epoch, previous, names)?;
    Ok((compiled.snapshot, compiled.report))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Hash over names and texts of all files.
fn digest(sources: &Sources) -> u64 {
    let mut hasher = DefaultHasher::new();
    sources.texts().for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

impl Text {
    /// Renders a report; in colour where standard error is a terminal and the report is shown, not logged.
    fn of(report: &Report) -> Self {
        let files = Files { files: report.sources.files(), patterns: report.sources.globs.clone() };
        Self { human: report.human(false), json: report.json(), files }
    }

    /// Nothing to say.
    pub fn is_empty(&self) -> bool {
        self.human.is_empty()
    }
}

/// What `ringway check` shows.
pub struct Checked {
    /// The file's name.
    pub name: String,
    /// No errors.
    pub good: bool,
    /// Errors and warnings for people, in colour where standard error is a terminal.
    pub human: String,
    /// Errors and warnings for programs.
    pub json: Json,
    /// Files that were read, with their contents.
    pub sources: Vec<(String, String)>,
    /// The snapshot, where there are no errors.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// Reads, checks and compiles without serving. With `strict`, warnings are errors.
pub fn check(source: &Source, strict: bool) -> Checked {
    let checked = config::load(&LoadOptions { input: source.input(), strict, env: &environment })
        .and_then(|loaded| compile(loaded, 1, None, &Names::default()));
    let (snapshot, mut report) = match checked {
        Ok((snapshot, report)) => (Some(snapshot), report),
        Err(report) => (None, report),
    };
    if strict {
        report.harden();
    }
    Checked {
        name: source.name(),
        good: snapshot.is_some() && !report.has_errors(),
        human: report.human(std::io::stderr().is_terminal()),
        json: report.json(),
        sources: report.sources.texts().map(|(name, text)| (name.to_string(), text.to_string())).collect(),
        snapshot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "routes:\n  - id: r1\n    uri: /a\n    upstream: {nodes: {\"127.0.0.1:80\": 1}}\n";

    #[test]
    fn equal_texts_make_no_epoch_and_broken_ones_a_report() {
        let names = Names::default();
        let Outcome::Ready(first) = load(&Source::Stdin(GOOD.into()), 1, None, &names) else { panic!("refused") };
        let again = load(&Source::Stdin(GOOD.into()), 2, Some((&first.snapshot, first.digest)), &names);
        assert!(matches!(again, Outcome::Unchanged));
        let broken = GOOD.replace("uri:", "urii:");
        let Outcome::Broken(text) = load(&Source::Stdin(broken), 2, Some((&first.snapshot, first.digest)), &names) else {
            panic!("taken")
        };
        assert!(text.human.contains("urii") && text.json[0]["line"] == 3, "{}", text.human);
    }

    #[test]
    fn an_included_pattern_is_watched() {
        let directory = std::env::temp_dir().join(format!("ringway-load-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("ringway.yaml"), "include: [\"routes-*.yaml\"]\n").unwrap();
        std::fs::write(directory.join("routes-a.yaml"), GOOD).unwrap();
        let source = Source::File(directory.join("ringway.yaml"));
        let Outcome::Ready(loaded) = load(&source, 1, None, &Names::default()) else { panic!("refused") };
        assert_eq!(loaded.files.files.len(), 2);
        assert_eq!(loaded.files.patterns, [directory.join("routes-*.yaml")]);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
