//! From files to a checked configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::Checker;
use super::fields::ROOT;
use super::gateway::Gateway;
use super::gateway_read;
use super::model::Model;
use super::raw::{self, Kind, Node, Place, env, glob};
use super::report::{Report, Sources};
use super::resources::Builder;

/// What to read, and how.
pub struct LoadOptions<'a> {
    /// The file.
    pub input: Input,
    /// Warnings are errors, and open objects are closed.
    pub strict: bool,
    /// Looks up environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// A text that was read already (standard input).
    Text {
        /// Its name for messages.
        name: String,
        /// The text.
        text: String,
    },
}

/// A checked configuration.
pub struct Loaded {
    /// Resources.
    pub model: Arc<Model>,
    /// `gateway:`
    pub gateway: Arc<Gateway>,
    /// Warnings, with the texts.
    pub report: Report,
}

/// Files an `include:` may bring in, all in all.
const FILES: usize = 1000;
/// Includes within includes.
const INCLUDE_DEPTH: usize = 8;

/// Reads and checks.
///
/// # Errors
/// Everything that is wrong, in all files.
pub fn load(options: &LoadOptions<'_>) -> Result<Loaded, Report> {
    let mut loader = Loader { options, report: Report::default(), roots: Vec::new() };
    match &options.input {
        Input::File(path) => loader.file(path, None, 0),
        Input::Text { name, text } => loader.text(name.clone(), None, text, 0),
    }
    let Loader { mut report, roots, .. } = loader;
    let mut checker = Checker { report: &mut report, strict: options.strict };
    for (_, root) in &roots {
        checker.object(root, &ROOT, "");
    }
    let mut builder = Builder::new(&mut report);
    for (file, root) in &roots {
        builder.file(root, *file);
    }
    builder.references();
    builder.enabled_plugins(&roots);
    let mut model = std::mem::take(&mut builder.model);
    let gateway = gateway(&roots, &mut model, &mut report);
    if options.strict {
        report.harden();
    }
    if report.has_errors() { Err(report) } else { Ok(Loaded { model: Arc::new(model), gateway: Arc::new(gateway), report }) }
}

fn gateway(roots: &[(u16, Arc<Node>)], model: &mut Model, report: &mut Report) -> Gateway {
    let mut sections = roots.iter().filter_map(|(_, root)| {
        root.entries().iter().find(|(key, _)| key.text == "gateway").map(|(key, node)| (key.place, node))
    });
    let first = sections.next();
    for (place, _) in sections {
        report.error(place, "/gateway", "`gateway` is written in another file already");
    }
    let Some((_, section)) = first else { return Gateway::default() };
    for (key, attr) in section.get("plugin_attr").map(Node::entries).unwrap_or_default() {
        model.plugin_attr.insert(key.text.clone(), attr.to_json());
    }
    gateway_read::read(section, report)
}

struct Loader<'a> {
    options: &'a LoadOptions<'a>,
    report: Report,
    roots: Vec<(u16, Arc<Node>)>,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, from: Option<Place>, depth: usize) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path.display().to_string(), Some(path.to_path_buf()), &text, depth),
            Err(error) => {
                let place = from.unwrap_or_else(|| {
                    let file = self.report.sources.add(path.display().to_string(), Some(path.to_path_buf()), "");
                    Place { file, start: 0, end: 0 }
                });
                self.report.error(place, "", format!("cannot read {}: {error}", path.display()));
            }
        }
    }

    fn text(&mut self, name: String, path: Option<PathBuf>, text: &str, depth: usize) {
        let directory = path.as_deref().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        let file = self.report.sources.add(name, path, text);
        let expanded = match env::expand(text, self.options.env) {
            Ok(expanded) => expanded,
            Err(missing) => {
                for variable in missing {
                    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                    let place = Place { file, start: offset(variable.start), end: offset(variable.end) };
                    let message = format!("can't find environment variable {}", variable.name);
                    self.report
                        .error(place, "", message)
                        .help(format!("set it, or give a default: ${{{{{}:=value}}}}", variable.name));
                }
                return;
            }
        };
        let parsed = match raw::parse(&expanded, file) {
            Ok(parsed) => parsed,
            Err(fault) => {
                self.report.error(fault.place, "", fault.text);
                return;
            }
        };
        for remark in parsed.remarks {
            self.report.warning(remark.place, "", remark.text);
        }
        if !matches!(parsed.root.kind, Kind::Map(_) | Kind::Null) {
            let kind = parsed.root.type_name();
            self.report.error(parsed.root.place, "", format!("a configuration is an object, got {kind}"));
            return;
        }
        let root = Arc::new(parsed.root);
        self.report.sources.set_root(file, root.clone());
        self.roots.push((file, root.clone()));
        self.includes(&root, &directory, depth);
    }

    fn includes(&mut self, root: &Node, directory: &Path, depth: usize) {
        let Some(include) = root.get("include") else { return };
        let texts = match &include.kind {
            Kind::List(items) => items.iter().collect(),
            _ => vec![include],
        };
        for node in texts {
            let Some(text) = node.text() else { continue };
            if depth >= INCLUDE_DEPTH || self.roots.len() >= FILES {
                self.report.error(node.place, "/include", "too many includes, or includes within includes");
                return;
            }
            let pattern = directory.join(text);
            if text.contains(['*', '?']) {
                self.report.sources.globs.push(pattern.clone());
            }
            match glob::expand(&pattern) {
                Ok(files) => files.iter().for_each(|file| self.file(file, Some(node.place), depth + 1)),
                Err(error) => {
                    self.report.error(node.place, "/include", format!("cannot read {text}: {error}"));
                }
            }
        }
    }
}

impl Loaded {
    /// The texts.
    pub fn sources(&self) -> &Sources {
        &self.report.sources
    }
}
