//! What the coordinator asks, one message after the other.

use std::rc::Rc;
use std::time::Duration;

use super::accept::Listeners;
use super::{Message, Report};
use crate::base::clock;
use crate::net::{Wait, rt, watch};
use crate::plugin::prometheus;
use crate::proxy::Core;

/// Time between two looks at the connections left while draining.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Serves the inbox until the worker shall end; gives back the connections that were cut.
pub async fn run(core: &Rc<Core>, listeners: &Rc<Listeners>, messages: &flume::Receiver<Message>) -> u64 {
    loop {
        match messages.recv_async().await {
            Ok(Message::Listen { id, socket, conf }) => listeners.listen(id, socket, conf),
            Ok(Message::StopAccepting { id }) => listeners.stop(id),
            Ok(Message::CloseListener { id }) => listeners.close(id),
            Ok(Message::Epoch) => take_epoch(core),
            Ok(Message::Drain { deadline, tunnels }) => return drain(core, listeners, messages, (deadline, tunnels)).await,
            Ok(Message::Scrape { reply }) => scrape(core, &reply),
            Ok(Message::Stop) | Err(_) => return end_now(core, listeners),
        }
    }
}

/// Takes the newest epoch, and lets go what only older ones needed.
fn take_epoch(core: &Core) {
    let begun = clock::refresh();
    let view = core.view();
    let upstreams = &view.snapshot.upstreams;
    let mut pools = core.pools.borrow_mut();
    let addresses = core.upstreams.borrow_mut().follow(upstreams, &mut pools);
    pools.retain(|address| addresses.contains(address));
    let took_us = u64::try_from(clock::refresh().since(begun).as_micros()).unwrap_or(u64::MAX);
    core.counters.epoch_us_max.set(core.counters.epoch_us_max.get().max(took_us));
}

fn scrape(core: &Core, reply: &flume::Sender<Report>) {
    let pools = core.pools.borrow().idle().map(|(address, idle)| (address.to_string(), idle as u64)).collect();
    let _gone = reply.send(Report { series: prometheus::collect(), pools });
    core.counters.loop_lag_us_max.set(0);
    core.counters.epoch_us_max.set(0);
}

/// Finishes what is begun. Idle connections go at once, busy ones after their answer or at the deadline, tunnels at their own.
async fn drain(
    core: &Rc<Core>,
    listeners: &Rc<Listeners>,
    messages: &flume::Receiver<Message>,
    (deadline, tunnels): (Duration, Duration),
) -> u64 {
    core.draining.set(true);
    let begun = clock::refresh();
    let (until, tunnels_until) = (begun.after(deadline), begun.after(tunnels));
    let mut cut = 0;
    while core.open.get() > 0 {
        let now = clock::now();
        let (late, tunnels_late) = (now >= until, now >= tunnels_until);
        if late && tunnels_late {
            break;
        }
        watch::fire_all(|wait| wait == Wait::Keepalive);
        cut += match (late, tunnels_late) {
            (false, true) => watch::fire_all(|wait| wait == Wait::Tunnel) / 2, // both sides of each
            (true, false) => cut_exchanges(core),
            _ => 0,
        };
        rt::sleep(DRAIN_LOOK).await;
        while let Ok(message) = messages.try_recv() {
            match message {
                Message::StopAccepting { id } => listeners.stop(id),
                Message::CloseListener { id } => listeners.close(id),
                Message::Scrape { reply } => scrape(core, &reply),
                Message::Epoch => take_epoch(core),
                Message::Stop => return end_now(core, listeners),
                Message::Listen { .. } | Message::Drain { .. } => {}
            }
        }
    }
    cut + end_now(core, listeners)
}

/// Cuts what is under way besides tunnels; idle upstream connections have nobody to wait for them.
fn cut_exchanges(core: &Core) -> u64 {
    let before = core.open.get();
    let fired = watch::fire_all(|wait| !matches!(wait, Wait::Tunnel | Wait::Nothing));
    fired.min(before as u64)
}

fn end_now(core: &Core, listeners: &Listeners) -> u64 {
    listeners.stop_all();
    watch::fire_all(|_| true);
    core.open.get() as u64
}
