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
    client(Config::infer().await?)
}

fn client(mut config: Config) -> Result<Client, ConnectError> {
    // What is repeated here and when is for a new look to say: a Pod whose create was answered with 504 may be there, and may have been
    // deleted before the second create.
    config.default_retry = false;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let agent = concat!("trainyard-operator/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    Ok(Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::PostParams;

    use super::*;

    #[tokio::test]
    async fn a_request_is_sent_once_whatever_the_answer_is() {
        for code in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT] {
            let asked = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&asked);
            let server = Router::new().fallback(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(code)
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, server).await });
            let client = client(Config::new(url.parse().unwrap())).unwrap();
            let api: Api<Pod> = Api::namespaced(client, "team");
            let error = api.create(&PostParams::default(), &Pod::default()).await.unwrap_err();
            assert!(matches!(&error, kube::Error::Api(status) if status.code == code.as_u16()), "{error:?}");
            assert_eq!(asked.load(Ordering::Relaxed), 1, "{code}");
        }
    }
}
