//! From the configuration's files to a snapshot that may become an epoch: read, check, compile. Blocks; runs on the helper
//! thread.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::config::gateway::Gateway;
use crate::config::model::Model;
use crate::snapshot::Snapshot;
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
pub fn load(source: &Source, epoch: u64, previous: Option<(&Arc<Snapshot>, u64)>, _names: &Names) -> Outcome {
    let started = Instant::now();
    let text = match source {
        Source::Stdin(text) => text.clone(),
        Source::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let human = format!("error: cannot read {}: {error}\n", path.display());
                return Outcome::Broken(Text { json: Json::String(human.clone()), human, files: vec![path.clone()] });
            }
        },
    };
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let digest = hasher.finish();
    if previous.is_some_and(|(_, before)| before == digest) {
        return Outcome::Unchanged;
    }
    let gateway = Arc::new(Gateway::default());
    let files = match source {
        Source::File(path) => vec![path.clone()],
        Source::Stdin(_) => Vec::new(),
    };
    Outcome::Ready(Box::new(Loaded {
        snapshot: Arc::new(Snapshot { epoch, gateway: gateway.clone() }),
        gateway,
        model: Arc::default(),
        files,
        directories: Vec::new(),
        digest,
        warnings: Text::default(),
        took: started.elapsed(),
    }))
}

impl Text {
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
    /// `gateway:`, where it could be read.
    pub gateway: Option<Gateway>,
}

/// Reads, checks and compiles without serving.
pub fn check(source: &Source, _strict: bool) -> Checked {
    let name = match source {
        Source::File(path) => path.display().to_string(),
        Source::Stdin(_) => "-".to_string(),
    };
    match load(source, 1, None, &Names::default()) {
        Outcome::Ready(loaded) => {
            let gateway = Some((*loaded.gateway).clone());
            Checked { name, good: true, text: loaded.warnings, sources: Vec::new(), gateway }
        }
        Outcome::Broken(text) => Checked { name, good: false, text, sources: Vec::new(), gateway: None },
        Outcome::Unchanged => Checked { name, good: true, text: Text::default(), sources: Vec::new(), gateway: None },
    }
}

/// JSON Schema of the configuration.
pub fn schema() -> Json {
    Json::Null
}

/// Settings as Markdown.
pub fn schema_markdown() -> String {
    String::new()
}

/// Plugins as Markdown.
pub fn plugins_markdown() -> String {
    String::new()
}
