//! The file source: looks at the files' stamps instead of waiting for inotify, so that editors that rename, ConfigMap symlink
//! swaps and network file systems are all seen the same way.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::raw::glob;
use crate::control::load::Files;

/// Time between two looks at files that rest.
pub const POLL: Duration = Duration::from_secs(1);
/// Time between two looks at files that just changed; two equal looks make a change settled.
pub const QUIET: Duration = Duration::from_millis(200);

/// The files of a configuration and how they looked when it was read.
#[derive(Debug)]
pub struct Watch {
    files: Files,
    applied: Vec<Stamp>,
    pending: Option<Vec<Stamp>>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As it was.
    Same,
    /// Different, and perhaps still being written: look again after [`QUIET`].
    Settling,
    /// Different, and the same in two looks.
    Changed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    /// Where the path leads to in the end (a ConfigMap swaps a symlink on the way) and the file found there.
    File {
        target: PathBuf,
        device: u64,
        inode: u64,
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    /// Files that a pattern of `include:` finds.
    Names(Vec<PathBuf>),
    Missing,
}

impl Watch {
    /// Watches files, and the patterns of `include:` for names that come and go. Take it *before* reading the files: what
    /// is written meanwhile is then seen as a change.
    pub fn new(files: Files) -> Self {
        let mut watch = Self { files, applied: Vec::new(), pending: None };
        watch.applied = watch.stamps();
        watch
    }

    /// What is watched.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Watches another set of files from now on. Stamps of files that stay are kept as they are, so that nothing written
    /// since they were read is missed.
    pub fn follow(&mut self, files: Files) {
        if self.files == files {
            return;
        }
        let old = std::mem::replace(&mut self.files, files);
        let paths = old.files.into_iter().chain(old.patterns);
        let before: Vec<(PathBuf, Stamp)> = paths.zip(self.applied.drain(..)).collect();
        let fresh = self.stamps();
        let kept = |path: &PathBuf| before.iter().find(|(old, _)| old == path).map(|(_, stamp)| stamp.clone());
        let paths = self.files.files.iter().chain(&self.files.patterns);
        self.applied = paths.zip(fresh).map(|(path, stamp)| kept(path).unwrap_or(stamp)).collect();
        self.pending = None;
    }

    /// Looks at all files once. After [`Look::Changed`] the new state counts as applied.
    pub fn look(&mut self) -> Look {
        let now = self.stamps();
        if now == self.applied {
            self.pending = None;
            return Look::Same;
        }
        if self.pending.as_ref() == Some(&now) {
            self.pending = None;
            self.applied = now;
            return Look::Changed;
        }
        self.pending = Some(now);
        Look::Settling
    }

    /// Takes the present state as applied: before a reload that was asked for by a signal.
    pub fn accept(&mut self) {
        self.pending = None;
        self.applied = self.stamps();
    }

    fn stamps(&self) -> Vec<Stamp> {
        let files = self.files.files.iter().map(|path| file_stamp(path));
        files.chain(self.files.patterns.iter().map(|path| pattern_stamp(path))).collect()
    }
}

fn file_stamp(path: &Path) -> Stamp {
    let Ok(target) = fs::canonicalize(path) else { return Stamp::Missing };
    let Ok(metadata) = fs::metadata(&target) else { return Stamp::Missing };
    Stamp::File {
        target,
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn pattern_stamp(pattern: &Path) -> Stamp {
    glob::expand(pattern).map_or(Stamp::Missing, Stamp::Names)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringway-watch-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn only(path: &Path) -> Files {
        Files { files: vec![path.to_path_buf()], patterns: Vec::new() }
    }

    fn settled(watch: &mut Watch) -> bool {
        assert_eq!(watch.look(), Look::Settling);
        watch.look() == Look::Changed && watch.look() == Look::Same
    }

    #[test]
    fn a_rewrite_of_the_same_size_is_seen() {
        let directory = Directory::new("rewrite");
        let file = directory.0.join("ringway.yaml");
        fs::write(&file, "a: 1").unwrap();
        let mut watch = Watch::new(only(&file));
        assert_eq!(watch.look(), Look::Same);
        // Within the same second; the clock of a file system may only tick every few milliseconds.
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        while fs::metadata(&file).unwrap().modified().unwrap() == before {
            fs::write(&file, "a: 2").unwrap();
        }
        assert!(settled(&mut watch));
    }

    #[test]
    fn a_file_that_is_still_written_settles_only_when_it_rests() {
        let directory = Directory::new("settle");
        let file = directory.0.join("ringway.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(only(&file));
        fs::write(&file, "ab").unwrap();
        assert_eq!(watch.look(), Look::Settling);
        fs::write(&file, "abc").unwrap();
        assert_eq!(watch.look(), Look::Settling);
        assert_eq!(watch.look(), Look::Changed);
    }

    #[test]
    fn a_rename_over_the_file_and_a_missing_file_are_seen() {
        let directory = Directory::new("rename");
        let file = directory.0.join("ringway.yaml");
        fs::write(&file, "a: 1").unwrap();
        let mut watch = Watch::new(only(&file));
        fs::write(directory.0.join("new"), "a: 1").unwrap();
        fs::rename(directory.0.join("new"), &file).unwrap();
        assert!(settled(&mut watch));
        fs::remove_file(&file).unwrap();
        assert!(settled(&mut watch));
    }

    #[test]
    fn a_configmap_swap_of_the_directory_symlink_is_seen() {
        use std::os::unix::fs::symlink;
        let directory = Directory::new("configmap");
        for version in ["..1", "..2"] {
            fs::create_dir(directory.0.join(version)).unwrap();
            fs::write(directory.0.join(version).join("ringway.yaml"), version).unwrap();
        }
        symlink("..1", directory.0.join("..data")).unwrap();
        symlink("..data/ringway.yaml", directory.0.join("ringway.yaml")).unwrap();
        let mut watch = Watch::new(only(&directory.0.join("ringway.yaml")));
        symlink("..2", directory.0.join("..data_tmp")).unwrap();
        fs::rename(directory.0.join("..data_tmp"), directory.0.join("..data")).unwrap();
        assert!(settled(&mut watch));
    }

    #[test]
    fn a_new_file_beside_an_included_one_is_seen_and_other_names_are_not() {
        let directory = Directory::new("include");
        fs::write(directory.0.join("a.yaml"), "").unwrap();
        let patterns = vec![directory.0.join("*.yaml")];
        let mut watch = Watch::new(Files { files: vec![directory.0.join("a.yaml")], patterns: patterns.clone() });
        fs::write(directory.0.join(".b.yaml.swp"), "").unwrap();
        assert_eq!(watch.look(), Look::Same);
        fs::write(directory.0.join("b.yaml"), "").unwrap();
        assert!(settled(&mut watch));
        watch.follow(Files { files: vec![directory.0.join("a.yaml"), directory.0.join("b.yaml")], patterns });
        assert_eq!(watch.look(), Look::Same);
        fs::write(directory.0.join("b.yaml"), "b: 1").unwrap();
        assert!(settled(&mut watch));
    }
}
