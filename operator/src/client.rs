//! The connection to the API server.

use std::time::Duration;

use axum::http::header::{HeaderValue, USER_AGENT};
use kube::{Client, Config};

/// A connection on which nothing comes for so long is dead. Longer than a watch lasts (55 s), shorter than the default of never:
/// behind a network that swallows packets a request would otherwise hang for as long as the kernel tries.
const SILENCE: Duration = Duration::from_secs(75);

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a cluster around this process.
    #[error("failed to find a cluster: run in a Pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration makes no client.
    #[error("failed to make a client of the configuration")]
    Client(#[from] kube::Error),
}

/// A client of the cluster around this process, or of the kubeconfig. No request is sent.
///
/// # Errors
/// If there is neither, or it makes no client.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::infer().await?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let agent = concat!("trainyard-operator/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    Ok(Client::try_from(config)?)
}
