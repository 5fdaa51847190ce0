//! A run as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::compare::{Row, Run, Sample, Table};
use crate::peers::{FLOOR, REFERENCE, Role};
use crate::stats::{Summary, Verdict, judge, mean, paired};

/// Ringway at 64 connections to nginx, CPU per request (the first goal; design.md §6 says how it is judged).
const GOAL: f64 = 0.9;
/// The same for user time.
const USER_GOAL: f64 = 0.6;
/// To the floor, which settles it too.
const FLOOR_GOAL: f64 = 1.1;

/// The report to read.
pub fn markdown(run: &Run) -> String {
    let mut out = String::new();
    let host = |key: &str| run.host[key].as_str().unwrap_or_default().to_owned();
    let _ = write!(
        out,
        "# Side by side, {}\n\nLinux {}, {} x {}, TCP congestion control {}; {:.1} % of CPU time stolen by other guests. {}\n\n\
         One worker each, pinned to CPU {}; backend and load on CPU {}; loopback. Rounds of {} s, interleaved, order drawn \
         anew; {}. Access log {}, forwarded headers {}, {} route(s). CPU is that of the whole process tree. Medians, with the \
         extremes in brackets; ratios are medians of same-round ratios, behind their extremes the geometric mean with its \
         standard error; those of user time are ratios of sums.\n\n",
        run.date,
        host("kernel"),
        run.host["cpus"],
        host("cpu"),
        host("tcp_congestion_control"),
        run.stolen * 100.0,
        noise_note(run),
        run.terms.cpu,
        run.terms.load_cpu,
        run.seconds,
        if run.steady { "peers and their connections stay, loads take turns" } else { "peers started afresh each round" },
        if run.terms.access_log { "on for all (tmpfs)" } else { "off for all" },
        if run.terms.forwarded { "set by all" } else { "set by Ringway only" },
        run.terms.routes + 1,
    );
    for (peer, _) in run.peers.iter().filter(|(peer, _)| peer.is_attached()) {
        let _ = writeln!(out, "**{}** {}.\n", peer.name, peer.version);
    }
    for fault in &run.faults {
        let _ = writeln!(out, "**Not on these terms**: {fault}.\n");
    }
    for table in &run.tables {
        write_table(&mut out, table, run);
    }
    write_idle(&mut out, run);
    let _ = writeln!(out, "## Versions and command\n\n    {}\n", run.command);
    for (peer, _) in &run.peers {
        let _ = writeln!(out, "- {}: {}", peer.name, peer.version);
    }
    for why in &run.left_out {
        let _ = writeln!(out, "- left out: {why}");
    }
    out.push_str("\nThe configurations are in the JSON file beside this one.\n");
    out
}

fn write_idle(out: &mut String, run: &Run) {
    if run.idle.is_empty() {
        return;
    }
    out.push_str(
        "## Memory of idle keepalive connections\n\n\
        PSS of the process tree, one sample, a fresh process each. What a peer allocates ",
    );
    out.push_str(
        "ahead is in its total, not in its bytes per connection.\n\n| | connections | MB before | MB with them | bytes each |\n",
    );
    out.push_str("|---|--:|--:|--:|--:|\n");
    for (name, idle) in &run.idle {
        let mb = |kib: u64| kib as f64 / 1024.0;
        let each = idle.bytes_each();
        let _ = writeln!(
            out,
            "| {name} | {} | {:.1} | {:.1} | {each:.0} |",
            idle.connections,
            mb(idle.before_kib),
            mb(idle.after_kib)
        );
    }
    out.push('\n');
}

/// The floor's spread over its rounds, the worst of all loads in the closed loop.
pub fn floor_spread(run: &Run) -> Option<f64> {
    let closed = run.tables.iter().filter(|t| t.workload.rate.is_none());
    let spreads = closed.filter_map(|t| Some(Summary::of(cpu(row(t, FLOOR)?).into_iter().flatten())?.spread()));
    spreads.reduce(f64::max)
}

fn noise_note(run: &Run) -> String {
    match floor_spread(run) {
        None => "The floor was not measured, so nothing says how noisy the machine was.".into(),
        Some(spread) if spread > run.noise_bound && !run.steady => format!(
            "**Too noisy for a close verdict**: the floor itself wandered by {:.0} % (bound {:.0} %).",
            spread * 100.0,
            run.noise_bound * 100.0
        ),
        Some(spread) => format!("The floor wandered by {:.0} % over the rounds.", spread * 100.0),
    }
}

fn write_table(out: &mut String, table: &Table, run: &Run) {
    let _ = write!(out, "## {}: {}\n\n", table.workload.name, table.workload.title);
    out.push_str(
        "| | n | CPU µs/request | user | kernel | to nginx | user to nginx | to floor | busy | requests/s | mean µs | p50 µs | \
         p99 µs |",
    );
    if table.workload.rate.is_some() {
        out.push_str(" scheduled p50 | scheduled p99 |");
    }
    out.push_str(" RSS MB | syscalls/request |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    out.push_str(if table.workload.rate.is_some() { "--:|--:|\n" } else { "\n" });
    for row in &table.rows {
        write_row(out, row, table);
    }
    out.push('\n');
    for row in table.rows.iter().filter(|r| r.role == Role::Ringway) {
        if let Some(text) = verdict(row, table, run) {
            let _ = writeln!(out, "{text}\n");
        }
    }
    write_before(out, table);
    write_added(out, table);
    for row in &table.rows {
        let inside = |i: usize| Summary::of(row.rounds.iter().flatten().filter_map(|s| s.inside).map(|inside| inside[i]));
        if let Some((half, most)) = inside(0).zip(inside(1)) {
            let (name, half, most, worst) = (&row.name, half.median, most.median, most.max);
            let _ = writeln!(
                out,
                "- {name} inside the worker, one request in 64: p50 {half:.0} µs, p99 {most:.0} µs (at most {worst:.0})"
            );
        }
        if let Some((counts, requests)) = &row.syscalls {
            let per = |n: u64| n as f64 / (*requests).max(1) as f64;
            let mut kinds: Vec<(&String, &u64)> = counts.kinds.iter().filter(|(_, n)| per(**n) >= 0.005).collect();
            kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{kind} {:.2}", per(*n))).collect();
            let sqes = counts.sqes.filter(|n| *n > 0).map_or(String::new(), |n| format!("; ring operations {:.2}", per(n)));
            let _ = writeln!(out, "- {} per request ({}): {}{sqes}", row.name, counts.tool, kinds.join(", "));
        }
    }
    out.push('\n');
}

/// Ringway beside what it was.
fn write_before(out: &mut String, table: &Table) {
    for (now, before) in [("ringway", "before"), ("ringway-epoll", "before-epoll")] {
        let Some((now, before)) = self::row(table, now).zip(self::row(table, before)) else { continue };
        let user = user_to(now, before).map_or("–".into(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(out, "- {} to {}: {}, user {user}", now.name, before.name, ratio(&cpu(now), &cpu(before)));
    }
}

/// User time, of the sums of all rounds that both have: the kernel tells it in ticks, of which a short round has few.
fn user_to(ours: &Row, theirs: &Row) -> Option<f64> {
    let both = ours.rounds.iter().zip(&theirs.rounds).filter_map(|(a, b)| Some((a.as_ref()?.cpu[1], b.as_ref()?.cpu[1])));
    let (ours, theirs) = both.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    (theirs > 0.0).then(|| ours / theirs)
}

/// The median of same-round ratios; in brackets their extremes, and their geometric mean with its error.
fn ratio(ours: &[Option<f64>], theirs: &[Option<f64>]) -> String {
    let Some(all) = paired(ours, theirs) else { return "–".into() };
    let mean = mean(ours, theirs).map_or(String::new(), |(mean, error)| format!("; {mean:.3} ± {error:.3}"));
    format!("{:.2} ({:.2}–{:.2}{mean})", all.median, all.min, all.max)
}

/// What each proxy adds to the direct path's mean latency, in the open loop.
fn write_added(out: &mut String, table: &Table) {
    let mean = |row: &Row| Some(Summary::of(row.figures(|s| s.mean).into_iter().flatten())?.median);
    let direct = table.rows.iter().find(|row| row.role == Role::Direct).and_then(mean);
    let (Some(direct), Some(_)) = (direct, table.workload.rate) else { return };
    for row in table.rows.iter().filter(|row| row.role != Role::Direct) {
        if let Some(mean) = mean(row) {
            let (name, added) = (&row.name, mean - direct);
            let _ =
                writeln!(out, "- {name} adds {added:.0} µs to the direct path's mean of {direct:.0} µs, from the intended time");
        }
    }
}

fn write_row(out: &mut String, row: &Row, table: &Table) {
    let measured = row.rounds.iter().flatten().count();
    if measured == 0 {
        let _ = writeln!(out, "| {} | 0 | not measured |", row.name);
        return;
    }
    let name = if row.role == Role::Direct { "direct (the backend's own)" } else { &row.name };
    let wide = |figure: &dyn Fn(&Sample) -> f64| Summary::of(row.figures(figure).into_iter().flatten());
    let median =
        |figure: &dyn Fn(&Sample) -> f64, digits: usize| wide(figure).map_or("–".into(), |s| format!("{:.digits$}", s.median));
    let cpu_to = |name: &str| {
        let other = self::row(table, name).filter(|_| row.role != Role::Direct);
        other.map_or("–".into(), |other| ratio(&cpu(row), &cpu(other)))
    };
    let user = self::row(table, REFERENCE).filter(|_| row.role != Role::Direct).and_then(|nginx| user_to(row, nginx));
    let all = wide(&|s| s.cpu[0]).map_or("–".into(), |s| format!("**{:.1}** ({:.1}–{:.1})", s.median, s.min, s.max));
    let _ = write!(
        out,
        "| {name} | {measured} | {all} | {} | {} | {} | {} | {} | {} % | {} | {} | {} | {} |",
        median(&|s| s.cpu[1], 2),
        median(&|s| s.cpu[2], 1),
        cpu_to(REFERENCE),
        user.map_or("–".into(), |ratio| format!("{ratio:.2}")),
        cpu_to(FLOOR),
        median(&|s| s.busy * 100.0, 0),
        median(&|s| s.rate, 0),
        median(&|s| s.mean, 0),
        median(&|s| s.service[0], 0),
        median(&|s| s.service[2], 0),
    );
    if table.workload.rate.is_some() {
        let scheduled = |i: usize| median(&move |s: &Sample| s.scheduled.map_or(f64::NAN, |q| q[i]), 0);
        let _ = write!(out, " {} | {} |", scheduled(0), scheduled(2));
    }
    let calls = row.syscalls.as_ref().map_or("–".into(), |(c, n)| format!("{:.2}", c.total() as f64 / (*n).max(1) as f64));
    let _ = writeln!(out, " {} | {calls} |", median(&|s| s.resident_kib as f64 / 1024.0, 0));
}

fn verdict(row: &Row, table: &Table, run: &Run) -> Option<String> {
    if table.workload.name != "c64" || run.steady {
        return None; // the bound of the floor's spread is one for long rounds
    }
    let (nginx, floor) = (self::row(table, REFERENCE)?, self::row(table, FLOOR));
    let noisy = floor_spread(run).is_none_or(|spread| spread > run.noise_bound);
    let to_floor = floor.and_then(|floor| paired(&cpu(row), &cpu(floor)));
    let all = judge(paired(&cpu(row), &cpu(nginx))?, GOAL, to_floor, FLOOR_GOAL, noisy);
    let user = |row: &Row| row.figures(|s| s.cpu[1]);
    let user = judge(paired(&user(row), &user(nginx))?, USER_GOAL, None, FLOOR_GOAL, noisy);
    let word = |verdict| match verdict {
        Verdict::Met => "met",
        Verdict::Missed => "missed",
        Verdict::Unsettled => "unsettled",
    };
    Some(format!(
        "{}: at most {GOAL} of nginx's CPU per request (or {FLOOR_GOAL} of the floor's): **{}**; \
         at most {USER_GOAL} of nginx's user time: **{}**.",
        row.name,
        word(all),
        word(user)
    ))
}

fn row<'a>(table: &'a Table, name: &str) -> Option<&'a Row> {
    table.rows.iter().find(|row| row.name == name && row.rounds.iter().any(Option::is_some))
}

fn cpu(row: &Row) -> Vec<Option<f64>> {
    row.figures(|s| s.cpu[0])
}

/// Bytes of a configuration that a report repeats.
const CONFIGURATION_BYTES: usize = 16 * 1024;

/// Its beginning and how much more there is: that of 100,000 routes is six megabytes of the same.
fn shortened(config: &str) -> String {
    match config.get(..config.floor_char_boundary(CONFIGURATION_BYTES)) {
        Some(begin) if begin.len() < config.len() => format!("{begin}\n(and {} bytes more)\n", config.len() - begin.len()),
        _ => config.to_owned(),
    }
}

/// Everything, for machines.
pub fn json(run: &Run) -> Value {
    let peers: Vec<Value> = run
        .peers
        .iter()
        .map(|(p, config)| {
            json!({"name": p.name, "program": p.program, "version": p.version, "configuration": shortened(config),
                "configured_by_harness": !p.is_attached()})
        })
        .collect();
    json!({
        "date": run.date,
        "command": run.command,
        "host": run.host,
        "stolen_share": run.stolen,
        "floor_spread": floor_spread(run),
        "noise_bound": run.noise_bound,
        "access_log": run.terms.access_log,
        "routes": run.terms.routes,
        "forwarded_headers": run.terms.forwarded,
        "proxy_cpu": run.terms.cpu,
        "load_cpu": run.terms.load_cpu,
        "seconds": run.seconds,
        "steady": run.steady,
        "peers": peers,
        "left_out": run.left_out,
        "not_on_these_terms": run.faults,
        "idle": run.idle.iter().map(|(name, i)| json!({"peer": name, "connections": i.connections,
            "before_kib": i.before_kib,            "after_kib": i.after_kib, "bytes_each": i.bytes_each()})).collect::<Vec<_>>(),
        "workloads": run.tables.iter().map(table_json).collect::<Vec<_>>(),
    })
}

fn table_json(table: &Table) -> Value {
    let rows: Vec<Value> = table
        .rows
        .iter()
        .map(|r| {
            let ratio = |name| {
                let (ours, theirs) = (cpu(r), cpu(row(table, name)?));
                let (ratio, mean) = (paired(&ours, &theirs)?, mean(&ours, &theirs));
                Some(json!({"median": ratio.median, "min": ratio.min, "max": ratio.max, "rounds": ratio.rounds,
                    "mean": mean.map(|m| m.0), "error": mean.map(|m| m.1)}))
            };
            let syscalls = r
                .syscalls
                .as_ref()
                .map(|(c, requests)| json!({"tool": c.tool, "requests": requests, "calls": c.kinds, "ring_operations": c.sqes}));
            json!({
                "peer": r.name,
                "cpu_to_nginx": ratio(REFERENCE),
                "user_to_nginx": row(table, REFERENCE).and_then(|nginx| user_to(r, nginx)),
                "cpu_to_floor": ratio(FLOOR),
                "rounds": r.rounds.iter().map(|s| s.as_ref().map(sample_json)).collect::<Vec<_>>(),
                "syscalls": syscalls,
            })
        })
        .collect();
    json!({"name": table.workload.name, "title": table.workload.title, "rows": rows})
}

fn sample_json(s: &Sample) -> Value {
    let quantiles = |q: [f64; 4]| json!({"p50": q[0], "p90": q[1], "p99": q[2], "p99.9": q[3]});
    json!({
        "cpu_us": s.cpu[0], "user_us": s.cpu[1], "kernel_us": s.cpu[2], "busy": s.busy,
        "requests_per_second": s.rate, "requests": s.requests,
        "mean_us": s.mean, "service_us": quantiles(s.service), "scheduled_us": s.scheduled.map(quantiles),
        "inside_us": s.inside.map(|[half, most]| json!({"p50": half, "p99": most})), "resident_kib": s.resident_kib,
        "errors": s.errors.total(), "reopened": s.reopened,
    })
}
