//! When to stop: on SIGTERM (Kubernetes) and SIGINT (a person).

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals cannot be heard.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen to signals")]
pub struct ShutdownError(#[from] std::io::Error);

/// A token that is cancelled by the first signal. A second signal ends the process at once: somebody is in a hurry.
///
/// # Errors
/// If the process may not listen to signals.
pub fn on_signal() -> Result<CancellationToken, ShutdownError> {
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    tokio::spawn(listen(terminate, interrupt, token.clone()));
    Ok(token)
}

async fn listen(mut terminate: Signal, mut interrupt: Signal, token: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let signal = next().await;
    tracing::info!(signal, "stopping: what is being done is finished first");
    token.cancel();
    let signal = next().await;
    tracing::warn!(signal, "stopping at once");
    std::process::exit(1);
}
