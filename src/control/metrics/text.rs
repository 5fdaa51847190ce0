//! The text format: families sorted by name, labels escaped, numbers as APISIX writes them (plugins-observability.md §3.3).

use std::collections::BTreeMap;
use std::fmt::Write;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, count and sum.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: &'static str,
    lines: Vec<String>,
}

impl Exposition {
    /// Adds a series of a counter or gauge.
    pub fn number(&mut self, name: &str, kind: Kind, help: &'static str, labels: &[(&str, &str)], value: f64) {
        let line = format!("{name}{} {}", braces(labels, None), number(value));
        self.family(name, kind, help).lines.push(line);
    }

    /// Adds a series of a histogram: `counts` per bucket, not yet added up, the last one for what is above all bounds.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut lines = Vec::with_capacity(counts.len() + 2);
        let mut total: u64 = 0;
        for (index, count) in counts.iter().enumerate() {
            total = total.saturating_add(*count);
            let bound = match bounds.get(index) {
                Some(bound) if index + 1 < counts.len() => number(*bound),
                _ => "+Inf".to_string(),
            };
            lines.push(format!("{name}_bucket{} {total}", braces(labels, Some(&bound))));
        }
        lines.push(format!("{name}_count{} {total}", braces(labels, None)));
        lines.push(format!("{name}_sum{} {}", braces(labels, None), number(sum)));
        self.family(name, Kind::Histogram, help).lines.extend(lines);
    }

    fn family(&mut self, name: &str, kind: Kind, help: &'static str) -> &mut Family {
        self.families.entry(name.to_string()).or_insert(Family { kind, help, lines: Vec::new() })
    }

    /// The page.
    pub fn render(&self) -> String {
        let mut page = String::new();
        for (name, family) in &self.families {
            let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind.name());
            for line in &family.lines {
                page.push_str(line);
                page.push('\n');
            }
        }
        page
    }
}

fn braces(labels: &[(&str, &str)], bound: Option<&str>) -> String {
    let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
    let mut text = String::new();
    for (name, value) in labels {
        text.push(if text.is_empty() { '{' } else { ',' });
        let _ = write!(text, "{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// Whole numbers without a point, others as short as they read back.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_sorted_and_labels_escaped() {
        let mut page = Exposition::default();
        page.number("b_total", Kind::Counter, "B.", &[("uri", "/a\"b\\c\nd"), ("empty", "")], 3.0);
        page.number("a", Kind::Gauge, "A.", &[], 0.25);
        page.number("b_total", Kind::Counter, "B.", &[("uri", "/x"), ("empty", "")], 1e6);
        let expected = "# HELP a A.\n# TYPE a gauge\na 0.25\n# HELP b_total B.\n# TYPE b_total counter\n\
            b_total{uri=\"/a\\\"b\\\\c\\nd\",empty=\"\"} 3\nb_total{uri=\"/x\",empty=\"\"} 1000000\n";
        assert_eq!(page.render(), expected);
    }

    #[test]
    fn a_histogram_adds_its_buckets_up() {
        let mut page = Exposition::default();
        page.histogram("h", "H.", &[("type", "request")], &[1.0, 2.5], &[2, 1, 4], 99.5);
        let expected = "# HELP h H.\n# TYPE h histogram\nh_bucket{type=\"request\",le=\"1\"} 2\n\
            h_bucket{type=\"request\",le=\"2.5\"} 3\n\
            h_bucket{type=\"request\",le=\"+Inf\"} 7\nh_count{type=\"request\"} 7\nh_sum{type=\"request\"} 99.5\n";
        assert_eq!(page.render(), expected);
    }
}
