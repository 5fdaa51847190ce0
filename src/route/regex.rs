//! Regular expressions over bytes: linear time where the expression allows it, else backtracking under a step limit.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Steps of the backtracking engine; past them there is no match.
const BACKTRACK_LIMIT: usize = 100_000;

/// A compiled expression (APISIX's are PCRE: look-around and back-references are understood).
#[derive(Clone, Debug)]
pub struct Regex {
    text: String,
    number: u64,
    engine: Engine,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's copies by number. An expression keeps what a search needs in a pool, and threads that search with the same
    /// one would write that pool's lines by turns; a copy has a pool of its own and shares the program.
    static OWN: RefCell<HashMap<u64, Own>> = RefCell::default();
}

struct Own {
    regex: regex::bytes::Regex,
    groups: regex::bytes::CaptureLocations, // made anew by every search, they would count their owners in the shared program
}

/// Lets go this thread's copies. A worker calls it when it takes an epoch, so that expressions that are gone don't stay.
pub fn forget() {
    OWN.with_borrow_mut(|own| *own = HashMap::new());
}

#[derive(Clone, Debug)]
enum Engine {
    Linear(regex::bytes::Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(text: &str, case_insensitive: bool) -> Result<Self, String> {
        let text = if case_insensitive { format!("(?i){text}") } else { text.to_owned() };
        if let Ok(linear) = regex::bytes::Regex::new(&text) {
            return Ok(Self::new(text, Engine::Linear(linear)));
        }
        let built = fancy_regex::RegexBuilder::new(&text).backtrack_limit(BACKTRACK_LIMIT).build();
        match built {
            Ok(backtracking) => Ok(Self::new(text, Engine::Backtracking(Box::new(backtracking)))),
            Err(error) => Err(error.to_string()),
        }
    }

    fn new(text: String, engine: Engine) -> Self {
        Self { text, number: NUMBERS.fetch_add(1, Ordering::Relaxed), engine }
    }

    fn with_own<T>(&self, linear: &regex::bytes::Regex, search: impl FnOnce(&mut Own) -> T) -> T {
        let own = || Own { regex: linear.clone(), groups: linear.capture_locations() };
        OWN.with_borrow_mut(|all| search(all.entry(self.number).or_insert_with(own)))
    }

    /// True if it is found anywhere in `bytes`. An exceeded step limit, or bytes that the backtracking engine can't read, is
    /// no match.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        match &self.engine {
            Engine::Linear(linear) => self.with_own(linear, |own| own.regex.is_match(bytes)),
            Engine::Backtracking(regex) => std::str::from_utf8(bytes).is_ok_and(|text| regex.is_match(text).unwrap_or(false)),
        }
    }

    /// The groups of the first match, the whole match first.
    pub fn captures(&self, bytes: &[u8]) -> Option<Vec<Option<Range<usize>>>> {
        match &self.engine {
            Engine::Linear(linear) => self.with_own(linear, |own| {
                own.regex.captures_read(&mut own.groups, bytes)?;
                let group = |at| own.groups.get(at).map(|(begin, end)| begin..end);
                Some((0..own.groups.len()).map(group).collect())
            }),
            Engine::Backtracking(regex) => {
                let captures = regex.captures(std::str::from_utf8(bytes).ok()?).ok()??;
                Some(captures.iter().map(|group| group.map(|group| group.range())).collect())
            }
        }
    }

    /// The expression's text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines() {
        let plain = Regex::compile("^/a/(x)?(\\d+)", false).unwrap();
        assert_eq!(plain.captures(b"/a/12\xff"), Some(vec![Some(0..5), None, Some(3..5)]));
        let fancy = Regex::compile("^/(?!admin)(\\w+)$", false).unwrap();
        assert!(fancy.is_match(b"/user") && !fancy.is_match(b"/admin") && !fancy.is_match(b"/\xff"));
        assert!(Regex::compile("ABC", true).unwrap().is_match(b"xabcx"));
        assert!(Regex::compile("(", false).is_err());
        let slow = Regex::compile("^(a+)+\\1$", false).unwrap();
        assert!(!slow.is_match(format!("{}b", "a".repeat(60)).as_bytes()));
    }
}
