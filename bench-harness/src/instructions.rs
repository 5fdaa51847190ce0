//! Instructions that a request costs the worker in user space, counted by callgrind: the same on every host and at any load.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::children::{eventually, find_program};
use crate::load;
use crate::peers::{Peer, Terms, kind};
use crate::sys;
use crate::workload::Workload;

/// Connections of the load: few, so that opening them weighs little in what a request costs.
const CONNECTIONS: usize = 8;
/// How long requests pass before counting, and while. The emulated worker answers somewhat over a thousand a second.
const WARM: Duration = Duration::from_secs(1);
const COUNTED: Duration = Duration::from_secs(6);
/// How long callgrind may take to write what it counted.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Instructions of the thread that ran most of them: the worker.
    pub instructions: u64,
    /// Requests answered meanwhile.
    pub requests: u64,
}

/// True where callgrind is installed.
pub fn can_count() -> bool {
    find_program(Path::new("valgrind")).is_some() && find_program(Path::new("callgrind_control")).is_some()
}

/// Counts while `program`, on epoll (valgrind knows no ring), answers the load.
///
/// # Errors
/// Where it can't be run, or a request fails.
pub fn count(program: &Path, load: &Workload, terms: &Terms) -> io::Result<Counted> {
    let counts = terms.directory.join("callgrind");
    let under = under_callgrind(program, &counts, &terms.directory)?;
    let epoll = kind("ringway-epoll").ok_or_else(|| io::Error::other("no such peer"))?;
    let running = Peer::new(epoll, &under).map_err(io::Error::other)?.start(terms)?;
    let pid = running.pid().ok_or_else(|| io::Error::other("no process"))?;
    let spec = load::Spec { connections: CONNECTIONS, ..load.spec(running.address, WARM, 0) };
    load::answered(&spec)?;
    control(pid, "on")?;
    let requests = load::answered(&load::Spec { duration: COUNTED, ..spec })?;
    control(pid, "off")?;
    sys::signal(pid, libc::SIGINT)?;
    let mut instructions = None;
    eventually(PATIENCE, || {
        instructions = busiest(&counts);
        instructions.is_some()
    });
    let instructions = instructions.ok_or_else(|| io::Error::other("callgrind wrote no counts"))?;
    Ok(Counted { instructions, requests })
}

/// A program that runs the other one under callgrind, in the same process.
fn under_callgrind(program: &Path, counts: &Path, directory: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let program = fs::canonicalize(program)?;
    let path = directory.join("under-callgrind");
    let text = format!(
        "#!/bin/sh\nexec valgrind --tool=callgrind --instr-atstart=no --separate-threads=yes \
         --callgrind-out-file='{}' '{}' \"$@\"\n",
        counts.display(),
        program.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

fn control(pid: u32, switch: &str) -> io::Result<()> {
    let mut command = Command::new("callgrind_control");
    command.args(["-i", switch, &pid.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("callgrind_control could not reach the gateway")),
    }
}

/// The largest total of a thread, once every file is whole: each thread has one, `callgrind-NN`.
fn busiest(counts: &Path) -> Option<u64> {
    let name = counts.file_name()?.to_str()?;
    let files = fs::read_dir(counts.parent()?).ok()?.filter_map(Result::ok);
    let threads = files.filter(|file| file.file_name().to_str().is_some_and(|file| is_thread(file, name)));
    let totals: Vec<Option<u64>> = threads.map(|file| total(&fs::read_to_string(file.path()).ok()?)).collect();
    totals.into_iter().collect::<Option<Vec<u64>>>()?.into_iter().max().filter(|most| *most > 0)
}

fn is_thread(file: &str, name: &str) -> bool {
    file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).is_some_and(|number| number.parse::<u32>().is_ok())
}

fn total(text: &str) -> Option<u64> {
    text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_the_thread_that_ran_most() {
        let scratch = crate::children::Scratch::new("instructions").unwrap();
        let counts = scratch.path().join("callgrind");
        fs::write(scratch.path().join("callgrind-01"), "events: Ir\ntotals: 12\n").unwrap();
        fs::write(scratch.path().join("callgrind-03"), "events: Ir\nfn=(1)\n").unwrap();
        assert_eq!(busiest(&counts), None, "one is not whole yet");
        fs::write(scratch.path().join("callgrind-03"), "events: Ir\nfn=(1)\ntotals: 4711\n").unwrap();
        fs::write(scratch.path().join("callgrind.log"), "totals: 9999\n").unwrap();
        assert_eq!(busiest(&counts), Some(4711));
    }
}
