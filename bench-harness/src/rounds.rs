//! The interleaved rounds of a comparison: in each, every load runs through all peers one after the other, in an order drawn
//! anew; so a ratio is always between figures a few seconds apart.
//!
//! There are two ways. Either each round starts every peer afresh, so that what differs from start to start is part of the
//! spread. Or the peers run on, each with its connections, and the loads take turns (`--steady`): rounds of a fraction of a
//! second are enough then, and a host that drifts from second to second has less time to do so.

use std::io;
use std::time::Duration;

use crate::args::CompareArgs;
use crate::audit;
use crate::compare::{Sample, Table, start_all};
use crate::inside::Inside;
use crate::load::{self, Load, Mark, Outcome, Spec};
use crate::meter::Meter;
use crate::peers::{Peer, Role, Running, Terms};
use crate::procfs::{self, Cpu};
use crate::workload::Workload;
use crate::{stats, sys};

/// Fills the tables, and says which peers do not keep the terms.
///
/// # Errors
/// Where a peer does not come up, or a signal says to stop.
pub fn run(found: &[Peer], tables: &mut [Table], terms: &Terms, backend: u32, args: &CompareArgs) -> io::Result<Vec<String>> {
    if args.steady && args.warmup <= 0.0 {
        return Err(io::Error::other("--steady needs a --warmup: in it the loads read what came while they waited"));
    }
    let mut rounds = Rounds { order: Shuffle(args.seed.unwrap_or_else(|| u64::from(std::process::id()))), backend, args };
    let mut running = start_all(found, terms)?;
    let faults = audit::audit(&running);
    faults.iter().for_each(|fault| eprintln!("not on the terms: {fault}"));
    if args.steady {
        tables.iter_mut().try_for_each(|table| rounds.steady(table, &running))?;
        return Ok(faults);
    }
    for round in 0..args.rounds {
        if round > 0 {
            drop(running); // the ports of what is started next are to be free
            running = start_all(found, terms)?;
        }
        tables.iter_mut().try_for_each(|table| rounds.afresh(round, table, &mut running))?;
    }
    Ok(faults)
}

struct Rounds<'a> {
    order: Shuffle,
    backend: u32,
    args: &'a CompareArgs,
}

impl Rounds<'_> {
    /// A load through all peers, each with connections of its own for the time of its window.
    fn afresh(&mut self, round: usize, table: &mut Table, running: &mut [Running]) -> io::Result<()> {
        self.order.shuffle(running);
        let workload = table.workload;
        for peer in running.iter().filter(|peer| runs(&workload, peer)) {
            let spec = self.spec(&workload, peer);
            self.sample(round, table, peer, |mark| load::run(&spec, mark))?;
        }
        Ok(())
    }

    /// All rounds of a load, with connections that stay.
    fn steady(&mut self, table: &mut Table, running: &[Running]) -> io::Result<()> {
        let peers = running.iter().filter(|peer| runs(&table.workload, peer));
        let open = |peer| Load::open(self.spec(&table.workload, peer)).map(|load| (peer, load));
        let mut loads = peers.map(open).collect::<io::Result<Vec<_>>>()?;
        for round in 0..self.args.rounds {
            self.order.shuffle(&mut loads);
            for (peer, load) in &mut loads {
                self.sample(round, table, peer, |mark| load.window(mark))?;
            }
        }
        Ok(())
    }

    fn spec(&self, workload: &Workload, peer: &Running) -> Spec {
        let spec = workload.spec(peer.address, Duration::from_secs_f64(self.args.seconds), self.args.routes);
        Spec { warmup: Duration::from_secs_f64(self.args.warmup), ..spec }
    }

    /// Measures one peer once and enters what came of it.
    fn sample(
        &self,
        round: usize,
        table: &mut Table,
        peer: &Running,
        drive: impl FnOnce(&mut dyn FnMut(Mark)) -> io::Result<Outcome>,
    ) -> io::Result<()> {
        peer.empty_logs();
        let sample = sample(&table.workload, peer, self.backend, drive);
        note(round, self.args.rounds, &table.workload, &peer.name, sample.as_ref());
        if let Some(row) = table.rows.iter_mut().find(|row| row.name == peer.name) {
            row.rounds.push(sample);
        }
        if sys::stopped() { Err(io::Error::other("stopped by a signal")) } else { Ok(()) }
    }
}

fn runs(workload: &Workload, peer: &Running) -> bool {
    peer.role != Role::Floor || workload.has_floor()
}

/// `None` where more than one request in a thousand failed, or no CPU time was seen.
fn sample(
    workload: &Workload,
    peer: &Running,
    backend: u32,
    drive: impl FnOnce(&mut dyn FnMut(Mark)) -> io::Result<Outcome>,
) -> Option<Sample> {
    // The direct path has no process of its own: its row says what the backend costs.
    let meter = peer.meter.clone().unwrap_or(Meter::Tree(backend));
    let (mut pids, mut edges, mut resident_kib) = (Vec::new(), [Cpu::default(); 2], 0);
    let inside = || {
        let read = Inside::read(peer.metrics?);
        read.inspect_err(|e| eprintln!("time inside the worker of {}: {e}", peer.name)).ok()
    };
    let before = inside();
    let outcome = drive(&mut |mark| {
        if mark == Mark::Begin {
            pids = meter.pids();
        }
        edges[usize::from(mark == Mark::End)] = meter.cpu(&pids);
        resident_kib = procfs::resident_kib(&pids);
    });
    let outcome = outcome.inspect_err(|e| eprintln!("{}: {e}", peer.name)).ok()?;
    let inside = inside().zip(before).map(|(now, before)| now.since(&before));
    let used = edges[1].since(&edges[0]);
    let requests = outcome.requests.max(1) as f64;
    let quantiles = |h: &_| [0.5, 0.9, 0.99, 0.999].map(|q| stats::micros(h, q));
    let sample = Sample {
        cpu: [used.nanos, used.user_nanos, used.system_nanos].map(|nanos| nanos / requests / 1e3),
        busy: used.nanos / outcome.elapsed.as_nanos().max(1) as f64,
        rate: outcome.rate(),
        mean: outcome.scheduled.as_ref().unwrap_or(&outcome.service).mean() / 1e3,
        service: quantiles(&outcome.service),
        scheduled: outcome.scheduled.as_ref().map(quantiles),
        inside: inside.and_then(|inside| Some([inside.micros(0.5)?, inside.micros(0.99)?])),
        resident_kib,
        requests: outcome.requests,
        errors: outcome.errors,
        reopened: outcome.reopened,
    };
    let sound = outcome.requests > 0 && used.nanos > 0.0 && outcome.errors.total() * 1_000 <= outcome.requests;
    if !sound {
        eprintln!("{} under {}: dropped, {:?} in {} requests", peer.name, workload.name, outcome.errors, outcome.requests);
    }
    sound.then_some(sample)
}

fn note(round: usize, rounds: usize, workload: &Workload, name: &str, sample: Option<&Sample>) {
    let (load, round) = (workload.name, round + 1);
    match sample {
        Some(s) => eprintln!(
            "round {round}/{rounds} {load:>8} {name:<13} {:7.2} µs ({:.2} user) {:9.0}/s p50 {:.0} µs p99 {:.0} µs",
            s.cpu[0], s.cpu[1], s.rate, s.service[0], s.service[2]
        ),
        None => eprintln!("round {round}/{rounds} {load:>8} {name:<13} not measured"),
    }
}

/// A small generator for the order of peers (xorshift64*): no statistics hang on it.
struct Shuffle(u64);

impl Shuffle {
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            self.0 = self.0.max(1);
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
            items.swap(i, drawn as usize % (i + 1));
        }
    }
}
