//! Figures and checks of one scenario.

use std::fmt::{Display, Write};

/// What a scenario found.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<(String, String, Option<bool>)>,
}

impl Report {
    /// Notes a figure that decides nothing.
    pub fn figure(&mut self, what: impl Into<String>, value: impl Display) {
        self.lines.push((what.into(), value.to_string(), None));
    }

    /// Notes a figure that decides.
    pub fn check(&mut self, what: impl Into<String>, value: impl Display, holds: bool) {
        self.lines.push((what.into(), value.to_string(), Some(holds)));
    }

    /// Adds all of another report, each line under `prefix`.
    pub fn extend(&mut self, prefix: &str, other: Self) {
        self.lines.extend(other.lines.into_iter().map(|(what, value, holds)| (format!("{prefix}: {what}"), value, holds)));
    }

    /// True if every check holds and there was at least one.
    pub fn passed(&self) -> bool {
        let mut checks = self.lines.iter().filter_map(|(.., holds)| *holds).peekable();
        checks.peek().is_some() && checks.all(|holds| holds)
    }

    /// The lines, for a terminal.
    pub fn text(&self, name: &str) -> String {
        let width = self.lines.iter().map(|(what, ..)| what.chars().count()).max().unwrap_or(0);
        let mut out = format!("{name}: {}\n", if self.passed() { "pass" } else { "FAIL" });
        for (what, value, holds) in &self.lines {
            let mark = match holds {
                Some(true) => "ok  ",
                Some(false) => "FAIL",
                None => "    ",
            };
            let _ = writeln!(out, "  {mark} {what:<width$}  {value}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_passes_only_with_checks_that_hold() {
        let mut report = Report::default();
        report.figure("a", 1);
        assert!(!report.passed());
        report.check("b", 2, true);
        assert!(report.passed());
        let mut all = Report::default();
        all.check("c", 3, false);
        all.extend("x", report);
        assert!(!all.passed() && all.text("n").contains("FAIL c"), "{}", all.text("n"));
    }
}
