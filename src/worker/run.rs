//! A worker's thread from its first to its last instruction.

use std::rc::Rc;
use std::sync::Arc;

use super::accept::Listeners;
use super::{Event, Message, Seed, guard, inbox, sweep};
use crate::base::limits;
use crate::net::rt;
use crate::proxy::core::Judged;
use crate::proxy::{Core, Home};
use crate::snapshot::Snapshot;

/// The worker's side of `proxy::Home`: tells the coordinator.
struct Report {
    worker: u16,
    events: flume::Sender<Event>,
}

impl Home for Report {
    fn took(&self, epoch: u64) {
        let _gone = self.events.send(Event::Acked { worker: self.worker, epoch });
    }

    fn returned(&self, snapshot: Arc<Snapshot>) {
        let _gone = self.events.send(Event::Returned(snapshot));
    }

    fn judged(&self, judged: Judged) {
        if self.events.len() < limits::INBOX_MESSAGES {
            let _gone = self.events.send(Event::Judged(judged)); // else the coordinator is behind, and has heard of it
        }
    }
}

/// Pins the thread, builds its runtime on it, and serves until told to end.
pub fn run(seed: Seed, messages: flume::Receiver<Message>) {
    if let Some(cpu) = seed.cpu {
        rt::pin(cpu); // before anything is allocated, so that memory lies on the CPU's node
    }
    guard::name_panics();
    let (worker, driver, events) = (seed.index, seed.driver, seed.events.clone());
    let ended = rt::run(driver, |taken| async move {
        let home: Rc<dyn Home> = Rc::new(Report { worker, events: seed.events.clone() });
        let core = Rc::new(Core::new(worker, seed.counters, seed.spares, seed.published, home, seed.log));
        let listeners = Rc::new(Listeners::new(core.clone(), seed.events.clone()));
        rt::spawn(sweep::run(core.clone()));
        let _gone = seed.events.send(Event::Ready { worker, driver: driver_text(&taken) });
        let cut = inbox::run(&core, &listeners, &messages).await;
        core.flush_log();
        let _gone = seed.events.send(Event::Ended { worker, cut });
    });
    if let Err(error) = ended {
        let _gone = events.send(Event::Failed { worker, error });
    }
}

fn driver_text(taken: &rt::Taken) -> String {
    match taken.refused.as_slice() {
        [] => taken.name.clone(),
        refused => format!("{}; refused: {}", taken.name, refused.join("; ")),
    }
}
