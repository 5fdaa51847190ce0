//! CPU per request as bars, in SVG: one group per closed-loop load, one bar per peer, the extremes as a whisker.

use std::fmt::Write;

use crate::compare::{Row, Run, Table};
use crate::peers::Role;
use crate::stats::Summary;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 120.0;
const BAR: f64 = 16.0;
const GAP: f64 = 34.0;
/// Room at the right for a bar's own figure.
const FIGURE: f64 = 90.0;

/// The chart.
pub fn svg(run: &Run) -> String {
    let tables: Vec<(&Table, Vec<(&Row, Summary)>)> = run
        .tables
        .iter()
        .filter(|t| t.workload.rate.is_none())
        .map(|t| (t, bars(t)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let height = 50.0 + tables.iter().map(|(_, bars)| GAP + BAR * bars.len() as f64).sum::<f64>();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
        font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\">CPU µs per request, median and extremes of the rounds; {}</text>\n",
        run.date
    );
    let mut y = 50.0;
    for (table, bars) in tables {
        let widest = bars.iter().map(|(_, s)| s.max).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LABEL - FIGURE) / widest;
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{}: {}</text>",
            table.workload.name, table.workload.title
        );
        y += 6.0;
        for (row, s) in bars {
            bar(&mut out, row, s, y, scale);
            y += BAR;
        }
        y += GAP - 6.0;
    }
    out.push_str("</svg>\n");
    out
}

fn bars(table: &Table) -> Vec<(&Row, Summary)> {
    let measured = table.rows.iter().filter(|row| row.role != Role::Direct);
    measured.filter_map(|row| Some((row, Summary::of(row.figures(|s| s.cpu[0]).into_iter().flatten())?))).collect()
}

fn bar(out: &mut String, row: &Row, s: Summary, y: f64, scale: f64) {
    let colour = match row.role {
        Role::Ringway => "#1b7f5c",
        Role::Floor | Role::Direct => "#b8b8b8",
        Role::Proxy => "#5b7db1",
    };
    let (middle, end) = (y + BAR / 2.0, LABEL + s.median * scale);
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LABEL}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
         <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#222\"/><text x=\"{:.1}\" y=\"{:.1}\">{:.1}</text>",
        LABEL - 6.0,
        middle + 4.0,
        row.name,
        y + 2.0,
        end - LABEL,
        BAR - 4.0,
        LABEL + s.min * scale,
        LABEL + s.max * scale,
        LABEL + s.max * scale + 6.0,
        middle + 4.0,
        s.median
    );
}
