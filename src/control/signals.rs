//! Signals and what they ask for.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals, caught from the moment this is made.
pub struct Signals {
    reload: Signal,
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    reopen: Signal,
}

/// What a signal asks for.
pub enum Ask {
    /// HUP
    Reload,
    /// TERM, QUIT
    Drain,
    /// INT
    Stop,
    /// USR1
    Reopen,
}

impl Signals {
    /// Catches them. Inside the runtime only.
    ///
    /// # Errors
    /// If the handlers cannot be set.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::Stop,
            _ = self.terminate.recv() => Ask::Drain,
            _ = self.quit.recv() => Ask::Drain,
            _ = self.reload.recv() => Ask::Reload,
            _ = self.reopen.recv() => Ask::Reopen,
        }
    }
}

/// The second signal to stop; others do not matter any more.
pub async fn second(signals: &mut Signals) {
    while matches!(signals.next().await, Ask::Reload | Ask::Reopen) {}
}
