//! What ends an attempt from outside: a signal to the runner, the stage's timeout, a store that cannot be used.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Why the attempt is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The Pod was asked to stop.
    Signal,
    /// The stage's `timeout` passed.
    Timeout,
    /// The runner found out that the attempt cannot be committed.
    Abandoned,
    /// The program of a rank showed no sign of progress.
    Stalled,
    /// The program of rank 0 does not take connections.
    NotListening,
}

/// Since when, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped {
    pub(crate) reason: Reason,
    pub(crate) at: Instant,
}

/// A handle to ask whether the attempt is to end. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    sender: watch::Sender<Option<Stopped>>,
}

impl Stop {
    /// Listens to signals and to the clock from now on.
    ///
    /// # Errors
    /// When a signal handler cannot be installed.
    pub(crate) fn listen(timeout: Option<Duration>, since: Instant) -> std::io::Result<Self> {
        let stop = Self::quiet();
        // An image may name its own stop signal, and the kubelet sends that one.
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()] {
            let mut signals = signal(kind)?;
            let stop = stop.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    stop.set(Reason::Signal);
                }
            });
        }
        if let Some(deadline) = timeout.and_then(|timeout| since.checked_add(timeout)) {
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(deadline).await;
                stop.set(Reason::Timeout);
            });
        }
        Ok(stop)
    }

    /// Listens to nothing: for what is stopped by ourselves alone.
    pub(crate) fn quiet() -> Self {
        Self { sender: watch::Sender::new(None) }
    }

    /// Ends the attempt because its program hangs.
    pub(crate) fn stalled(&self) {
        self.set(Reason::Stalled);
    }

    /// Ends the attempt because its program does not do what the other ranks wait for.
    pub(crate) fn not_listening(&self) {
        self.set(Reason::NotListening);
    }

    /// Ends the attempt because it cannot be committed.
    pub(crate) fn abandon(&self) {
        self.set(Reason::Abandoned);
    }

    /// The first reason stands.
    fn set(&self, reason: Reason) {
        self.sender.send_if_modified(|stopped| {
            let first = stopped.is_none();
            if first {
                *stopped = Some(Stopped { reason, at: Instant::now() });
            }
            first
        });
    }

    pub(crate) fn now(&self) -> Option<Stopped> {
        *self.sender.borrow()
    }

    /// Waits until the attempt is to end.
    pub(crate) async fn wait(&self) -> Stopped {
        let mut receiver = self.sender.subscribe();
        let stopped = match receiver.wait_for(Option::is_some).await {
            Ok(stopped) => *stopped,
            Err(_) => None,
        };
        match stopped {
            Some(stopped) => stopped,
            // Not reached: `self` holds the sender.
            None => std::future::pending().await,
        }
    }

    /// Waits until what was begun after the child's end must be given up: at once after a timeout, `grace` after a signal.
    pub(crate) async fn give_up(&self, grace: Duration) -> Stopped {
        let stopped = self.wait().await;
        if stopped.reason == Reason::Signal {
            tokio::time::sleep_until(stopped.at + grace).await;
        }
        stopped
    }
}
