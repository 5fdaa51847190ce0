//! From the configuration's files to a snapshot that may become an epoch: read, check, compile. Blocks; runs on the helper
//! thread.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::config::gateway::Gateway;
use crate::config::model::Model;
use crate::config::{self, Input, LoadOptions, Report};
use crate::plugin::registry;
use crate::snapshot::{self, Compiled, Snapshot};
use crate::upstream::names::Names;

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, watched and read again.
    File(PathBuf),
    /// Standard input, read once.
    Stdin(String),
}

/// A configuration ready to become an epoch.
pub struct Loaded {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// `gateway:`
    pub gateway: Arc<Gateway>,
    /// Resources, for the Control API.
    pub model: Arc<Model>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Directories whose names matter to `include:`.
    pub directories: Vec<PathBuf>,
    /// Equal digests mean equal texts.
    pub digest: u64,
    /// Warnings.
    pub warnings: Text,
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
    pub files: Vec<PathBuf>,
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

/// Reads, checks and compiles. `previous` is the snapshot to share unchanged parts with, `digest` that of its texts.
pub fn load(source: &Source, epoch: u64, previous: Option<(&Arc<Snapshot>, u64)>, names: &Names) -> Outcome {
    let started = Instant::now();
    let loaded = match read(source, false) {
        Ok(loaded) => loaded,
        Err(report) => return Outcome::Broken(Text::of(&report)),
    };
    let digest = digest(loaded.sources());
    if previous.is_some_and(|(_, before)| before == digest) {
        return Outcome::Unchanged;
    }
    match snapshot::compile(loaded, epoch, previous.map(|(snapshot, _)| snapshot), names) {
        Ok(Compiled { snapshot, report }) => Outcome::Ready(Box::new(Loaded {
            gateway: snapshot.gateway.clone(),
            model: snapshot.model.clone(),
            files: report.sources.files(),
            directories: directories(&report),
            snapshot,
            digest,
            warnings: Text::of(&report),
            took: started.elapsed(),
        })),
        Err(report) => Outcome::Broken(Text::of(&report)),
    }
}

fn read(source: &Source, strict: bool) -> Result<config::Loaded, Report> {
    let input = match source {
        Source::File(path) => Input::File(path.clone()),
        Source::Stdin(text) => Input::Text { name: "-".into(), text: text.clone() },
    };
    config::load(&LoadOptions { input, strict, env: &|name| std::env::var(name).ok() })
}

/// Equal texts under equal names, environment included, give equal digests: what was substituted is part of the tree.
fn digest(sources: &config::Sources) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, text) in sources.texts() {
        (name, text).hash(&mut hasher);
    }
    hasher.finish()
}

/// Directories whose names an `include:` pattern looks at.
fn directories(report: &Report) -> Vec<PathBuf> {
    let parents = report.sources.globs.iter().filter_map(|glob| glob.parent());
    parents.map(|parent| if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_path_buf() }).collect()
}

impl Text {
    fn of(report: &Report) -> Self {
        if report.list.is_empty() {
            return Self { files: report.sources.files(), json: Json::Array(Vec::new()), ..Self::default() };
        }
        Self { human: report.human(false), json: report.json(), files: report.sources.files() }
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
    /// Errors and warnings.
    pub text: Text,
    /// Files that were read, with their contents.
    pub sources: Vec<(String, String)>,
    /// The snapshot, where there are no errors.
    pub snapshot: Option<Arc<Snapshot>>,
    /// `gateway:`, where it could be read.
    pub gateway: Option<Gateway>,
}

/// Reads, checks and compiles without serving.
pub fn check(source: &Source, strict: bool) -> Checked {
    let name = match source {
        Source::File(path) => path.display().to_string(),
        Source::Stdin(_) => "-".to_string(),
    };
    let texts = |report: &Report| report.sources.texts().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let bad = |report: Report, name| Checked {
        name,
        good: false,
        text: Text::of(&report),
        sources: texts(&report),
        snapshot: None,
        gateway: None,
    };
    match read(source, strict) {
        Err(report) => bad(report, name),
        Ok(loaded) => match snapshot::compile(loaded, 1, None, &Names::default()) {
            Err(report) => bad(report, name),
            Ok(Compiled { report, .. }) if strict && !report.list.is_empty() => {
                let mut report = report;
                report.harden();
                bad(report, name)
            }
            Ok(Compiled { snapshot, report }) => {
                let gateway = Some((*snapshot.gateway).clone());
                Checked { name, good: true, text: Text::of(&report), sources: texts(&report), snapshot: Some(snapshot), gateway }
            }
        },
    }
}

/// JSON Schema of the configuration.
pub fn schema() -> Json {
    config::schema(&registry::schemas())
}

/// Settings as Markdown.
pub fn schema_markdown() -> String {
    config::reference_markdown()
}

/// Plugins as Markdown.
pub fn plugins_markdown() -> String {
    registry::reference_markdown()
}
