//! The end of a gateway: readiness fails, listeners are emptied and closed, what is begun is finished, logs are written out.

use std::time::{Duration, Instant};

use super::notify::notify;
use super::serve::Coordinator;
use super::signals::{Ask, Signals, second};
use super::status::Phase;
use crate::worker::Message;

/// Longest wait for the listeners to be emptied and closed, and for workers told to end at once.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// What a worker gets beyond the drain's deadline to say that it has ended.
const END_SLACK: Duration = Duration::from_secs(2);

impl Coordinator {
    /// The end: by draining, or at once; a second signal turns the first into the second.
    pub(super) async fn finish(mut self, signals: &mut Signals, how: Ask) {
        let shared = self.shared.clone();
        shared.enter(Phase::Draining);
        notify("STOPPING=1");
        if matches!(how, Ask::Drain) {
            let drained = tokio::select! {
                () = self.drain() => true,
                () = second(signals) => false,
            };
            if !drained {
                tracing::warn!("a second signal: stopping at once");
            }
        }
        if shared.fleet.running().next().is_some() {
            shared.fleet.broadcast(|| Message::Stop);
            self.wait(CLOSE_WAIT, |this| this.shared.fleet.running().next().is_none()).await;
        }
        self.listeners.abandon();
        for (thread, seat) in self.threads.drain(..).zip(&shared.fleet.seats) {
            if seat.ended() && !thread.is_finished() {
                tokio::task::yield_now().await;
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        self.log.stop();
        tracing::info!("stopped");
    }

    /// Readiness fails first, for the balancer in front to notice; then nobody accepts any more; then what is begun is finished.
    async fn drain(&mut self) {
        let timeouts = self.shared.gateway().timeouts;
        if !timeouts.drain_delay.is_zero() {
            tracing::info!("stopping: not ready any more, draining in {:?}", timeouts.drain_delay);
            self.wait(timeouts.drain_delay, |_| false).await;
        }
        let started = Instant::now();
        tracing::info!("draining for at most {:?}", timeouts.drain);
        let shared = self.shared.clone();
        self.listeners.stop_all(&shared.fleet);
        self.wait(CLOSE_WAIT.min(timeouts.drain), |this| this.listeners.all_closed()).await;
        let left = timeouts.drain.saturating_sub(started.elapsed());
        let tunnels = timeouts.drain_websocket.unwrap_or(timeouts.drain).saturating_sub(started.elapsed());
        shared.fleet.broadcast(|| Message::Drain { deadline: left, tunnels });
        self.wait(left.max(tunnels) + END_SLACK, |this| this.shared.fleet.running().next().is_none()).await;
    }

    /// Handles events until something holds, or for so long.
    async fn wait(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + limit;
        while !holds(self) {
            tokio::select! {
                event = self.events.recv_async() => match event {
                    Ok(event) => self.on_event(event, &mut None),
                    // Every worker's thread has ended, so nothing more will come.
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }
}
