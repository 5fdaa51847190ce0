//! Which peers were asked for, and which of them are there.

use std::io;

use super::{KINDS, Kind, Peer, Role, install, kind};
use crate::args::CompareArgs;

/// The kinds that `--peers` names.
struct Wanted {
    kinds: Vec<&'static Kind>,
    /// By name, or all: what is missing is installed.
    by_name: bool,
}

/// The peers asked for that can be measured, and in words those that can't.
///
/// # Errors
/// Where a word is no peer, two have the same name, or Ringway can't be built.
pub fn find(args: &CompareArgs) -> io::Result<(Vec<Peer>, Vec<String>)> {
    let wanted = wanted(&args.peers, args.programs.before.is_some()).map_err(io::Error::other)?;
    let mut programs = args.programs.clone();
    let is_built = |kind: &&Kind| kind.role == Role::Ringway && !kind.has_to_be_given();
    if !args.no_install && programs.ringway.is_none() && wanted.kinds.iter().any(is_built) {
        programs.ringway = Some(install::ringway_program(None)?);
    }
    let started = wanted.kinds.into_iter().map(|kind| {
        let program = install::program(kind, &programs, wanted.by_name && !args.no_install)?;
        Peer::new(kind, &program)
    });
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for peer in started.chain(args.running.iter().map(Peer::attach)) {
        match peer {
            Ok(peer) if found.iter().any(|other: &Peer| other.name == peer.name) => {
                return Err(io::Error::other(format!("{} stands twice", peer.name)));
            }
            Ok(peer) => found.push(peer),
            Err(why) => left_out.push(why),
        }
    }
    Ok((found, left_out))
}

/// Names separated by commas; `default` and `all` are the field: an earlier Ringway only where its program is given, and
/// nobody who is on demand.
fn wanted(words: &str, before: bool) -> Result<Wanted, String> {
    if words == "default" || words == "all" {
        let kinds = KINDS.into_iter().filter(|kind| (before || !kind.has_to_be_given()) && !kind.on_demand).collect();
        return Ok(Wanted { kinds, by_name: words == "all" });
    }
    let known = || KINDS.map(|kind| kind.name).join(", ");
    let word = |word: &str| kind(word).ok_or_else(|| format!("no peer {word}; there are {}", known()));
    let kinds = words.split(',').map(str::trim).filter(|w| !w.is_empty()).map(word).collect::<Result<_, _>>()?;
    Ok(Wanted { kinds, by_name: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str, before: bool) -> Vec<&'static str> {
        wanted(words, before).unwrap().kinds.into_iter().map(|kind| kind.name).collect()
    }

    #[test]
    fn only_what_is_named_is_installed() {
        assert!(!wanted("default", false).unwrap().by_name);
        assert!(wanted("all", false).unwrap().by_name && wanted("envoy", false).unwrap().by_name);
        assert_eq!(names("envoy, floor-ring", false), ["envoy", "floor-ring"]);
        assert!(wanted("enovy", false).err().unwrap().contains("envoy"));
        assert!(wanted("", false).unwrap().kinds.is_empty());
    }

    #[test]
    fn an_earlier_ringway_is_among_all_where_it_is_given() {
        assert!(!names("all", false).contains(&"before") && names("all", true).contains(&"before-epoll"));
        assert_eq!(names("default", true).len(), KINDS.iter().filter(|kind| !kind.on_demand).count());
        assert!(!names("all", true).contains(&"ringway-limit") && names("ringway-limit", false) == ["ringway-limit"]);
    }
}
