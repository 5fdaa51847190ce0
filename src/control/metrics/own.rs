//! Ringway's own families: per worker, per reason, the epochs and the process.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;

use super::text::{Exposition, Kind};
use crate::base::address::Address;
use crate::base::count::{Bound, Counters, Times};
use crate::control::fleet::Seat;
use crate::control::status::Reloads;
use crate::proto::message::Reason;
use crate::snapshot::published::Pressure;
use crate::worker::Report;

/// Families read off a worker's counters: name, kind, help, reading.
type Column = (&'static str, Kind, &'static str, fn(&Counters) -> u64);

const COLUMNS: &[Column] = &[
    ("ringway_connections_accepted_total", Kind::Counter, "Client connections accepted.", |c| c.accepted.get()),
    ("ringway_connections", Kind::Gauge, "Client connections open now.", |c| c.connections.get()),
    ("ringway_connections_idle", Kind::Gauge, "Client connections waiting for a request.", |c| c.idle.get()),
    ("ringway_tunnels", Kind::Gauge, "WebSocket tunnels open now.", |c| c.tunnels.get()),
    ("ringway_connections_refused_total", Kind::Counter, "Client connections refused at the limit.", |c| c.refused.get()),
    ("ringway_requests_total", Kind::Counter, "Requests begun.", |c| c.requests.get()),
    ("ringway_upstream_connects_total", Kind::Counter, "Upstream connections opened.", |c| c.upstream_connects.get()),
    ("ringway_upstream_connections", Kind::Gauge, "Upstream connections that the worker holds now, idle ones included.", |c| {
        c.upstream_connections.get()
    }),
    ("ringway_pool_hits_total", Kind::Counter, "Requests that found a pooled upstream connection.", |c| c.pool_hits.get()),
    (
        "ringway_pool_borrowed_total",
        Kind::Counter,
        "Pooled connections that were taken from those that lie between the workers.",
        |c| c.pool_borrowed.get(),
    ),
    ("ringway_pool_misses_total", Kind::Counter, "Requests that found no pooled upstream connection.", |c| c.pool_misses.get()),
    ("ringway_retries_total", Kind::Counter, "Upstream tries after the first.", |c| c.retries.get()),
    ("ringway_ejections_total", Kind::Counter, "Nodes put out for their failures.", |c| c.ejections.get()),
    ("ringway_panics_total", Kind::Counter, "Tasks that panicked; each cost one connection.", |c| c.panics.get()),
    ("ringway_access_log_lines_total", Kind::Counter, "Access log lines written.", |c| c.log_lines.get()),
    ("ringway_access_log_dropped_total", Kind::Counter, "Access log lines dropped because the writer was behind.", |c| {
        c.log_dropped.get()
    }),
    ("ringway_received_bytes_total", Kind::Counter, "Bytes received from clients.", |c| c.bytes_in.get()),
    ("ringway_sent_bytes_total", Kind::Counter, "Bytes sent to clients.", |c| c.bytes_out.get()),
];

/// Series of one worker.
pub fn worker(page: &mut Exposition, seat: &Seat) {
    let index = seat.index.to_string();
    let labels = [("worker", index.as_str())];
    for (name, kind, help, read) in COLUMNS {
        page.number(name, *kind, help, &labels, read(&seat.counters) as f64);
    }
    let lag = seat.counters.loop_lag_us_max.get() as f64 / 1e6;
    let help = "Longest delay of the worker's sweeper behind its schedule since the last scrape.";
    page.number("ringway_loop_lag_seconds_max", Kind::Gauge, help, &labels, lag);
    let switch = seat.counters.epoch_us_max.get() as f64 / 1e6;
    let help = "Longest time that taking a new epoch held the worker up since the last scrape.";
    page.number("ringway_epoch_switch_seconds_max", Kind::Gauge, help, &labels, switch);
    let (counts, sum) = seat.counters.inside.read();
    let help = "Time that sampled requests spent inside the worker: head read to upstream send, and answer read to client send.";
    page.histogram("ringway_request_inside_seconds", help, &labels, &Times::BOUNDS, &counts, sum);
    page.number("ringway_worker_epoch", Kind::Gauge, "Epoch that the worker has acknowledged.", &labels, seat.acked() as f64);
    for (bound, count) in Bound::ALL.iter().zip(&seat.counters.bounds) {
        let labels = [("worker", index.as_str()), ("limit", bound.name())];
        page.number("ringway_limits_hit_total", Kind::Counter, "Limits that were met.", &labels, count.get() as f64);
    }
    for (reason, count) in Reason::ALL.iter().zip(&seat.counters.reasons) {
        let labels = [("worker", index.as_str()), ("reason", reason.name())];
        let help = "Exchanges by the reason they ended for; ringway explain --reason NAME defines it.";
        page.number("ringway_exchanges_total", Kind::Counter, help, &labels, count.get() as f64);
    }
}

/// Idle pooled connections, added up over the workers and with what lies between them.
pub fn pools<'a>(page: &mut Exposition, reports: impl Iterator<Item = &'a Report>, spares: &[(Address, usize)]) {
    let mut sums = BTreeMap::<Cow<'_, str>, u64>::new();
    for (node, idle) in reports.flat_map(|report| &report.pools) {
        *sums.entry(node.into()).or_default() += idle;
    }
    for (address, idle) in spares {
        *sums.entry(address.to_string().into()).or_default() += *idle as u64;
    }
    for (node, idle) in sums {
        page.number("ringway_pool_idle", Kind::Gauge, "Idle pooled connections per node.", &[("node", &node)], idle as f64);
    }
    let help = "Idle connections that no worker holds and each may take.";
    page.number("ringway_pool_spare", Kind::Gauge, help, &[], spares.iter().map(|(_, idle)| idle).sum::<usize>() as f64);
}

/// Epochs and reloads.
pub fn reloads(page: &mut Exposition, epoch: u64, reloads: &Reloads) {
    page.number("ringway_epoch", Kind::Gauge, "Epoch published last.", &[], epoch as f64);
    let help = "1 if the configuration read last became (or already was) an epoch, 0 while it is broken.";
    page.number("ringway_config_reload_success", Kind::Gauge, help, &[], f64::from(u8::from(reloads.good)));
    let help = "When a configuration was last read well, as seconds since 1970.";
    page.number("ringway_config_reload_success_timestamp_seconds", Kind::Gauge, help, &[], reloads.last_good.as_secs_f64());
    page.number(
        "ringway_config_reloads_total",
        Kind::Counter,
        "Reloads that brought a new epoch.",
        &[],
        reloads.published as f64,
    );
    page.number("ringway_config_reload_failures_total", Kind::Counter, "Reloads refused.", &[], reloads.failed as f64);
    let help = "Time from publishing the last epoch to the last worker's acknowledgement.";
    page.number("ringway_epoch_ack_seconds", Kind::Gauge, help, &[], reloads.ack.as_secs_f64());
    let help = "Time that reading and compiling the last epoch took.";
    page.number("ringway_epoch_compile_seconds", Kind::Gauge, help, &[], reloads.compile.as_secs_f64());
}

/// The process.
pub fn process(page: &mut Exposition, log_failures: u64, memory: (Option<u64>, Pressure)) {
    let (limit, pressure) = memory;
    if let Some(limit) = limit {
        page.number("ringway_memory_limit_bytes", Kind::Gauge, "Memory the process may use.", &[], limit as f64);
    }
    let help = "How near the process is to its memory limit: 0 far, 1 near, 2 at it.";
    page.number("ringway_memory_pressure", Kind::Gauge, help, &[], f64::from(pressure as u8));
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        page.number("ringway_open_fds", Kind::Gauge, "Open descriptors.", &[], descriptors.count() as f64);
    }
    let limit = crate::net::host::descriptors().soft;
    page.number("ringway_max_fds", Kind::Gauge, "Limit of open descriptors.", &[], limit as f64);
    if let Some(bytes) = crate::net::host::resident_bytes() {
        page.number("ringway_resident_memory_bytes", Kind::Gauge, "Resident memory.", &[], bytes as f64);
    }
    let help = "Batches of access log that could not be written.";
    page.number("ringway_access_log_write_failures_total", Kind::Counter, help, &[], log_failures as f64);
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    page.number("ringway_build_info", Kind::Gauge, "The running build.", &labels, 1.0);
}
