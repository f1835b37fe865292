//! The connection to the API server.

use std::time::Duration;

use axum::http::header::{HeaderValue, USER_AGENT};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::limit::ConcurrencyLimitLayer;

/// A connection on which nothing comes for so long is dead. Longer than a watch lasts (55 s), shorter than the default of never:
/// behind a network that swallows packets a request would otherwise hang for as long as the kernel tries.
const SILENCE: Duration = Duration::from_secs(75);

/// Requests that wait for an answer at the same time, of all kinds; a watch that has begun is none. Each has a connection of its own, whose
/// buffers were a large part of what an operator with hundreds of wide runs had in memory: `docs/performance.md`, a5.
const AT_ONCE: usize = 64;

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
    Ok(ClientBuilder::try_from(config)?.with_layer(&ConcurrencyLimitLayer::new(AT_ONCE)).build())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::PostParams;
    use tokio::sync::watch;

    use super::*;

    async fn client_of(server: Router) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, server).await });
        client(Config::new(url.parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn so_many_requests_wait_for_an_answer_at_once_and_no_more() {
        let (entered, inside, most) = (watch::Sender::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let seen = Arc::new((entered, inside, most));
        let shared = Arc::clone(&seen);
        let server = Router::new().fallback(move || {
            let seen = Arc::clone(&shared);
            async move {
                let (entered, inside, most) = &*seen;
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                entered.send_modify(|count| *count += 1);
                // Nobody is answered before all have come that may.
                entered.subscribe().wait_for(|count| *count >= AT_ONCE).await.unwrap();
                inside.fetch_sub(1, Ordering::SeqCst);
                StatusCode::NOT_FOUND
            }
        });
        let api: Api<Pod> = Api::namespaced(client_of(server).await, "team");
        let asked = (0..3 * AT_ONCE).map(|_| api.get("a"));
        assert!(futures::future::join_all(asked).await.iter().all(Result::is_err));
        let (entered, _, most) = &*seen;
        assert_eq!((*entered.borrow(), most.load(Ordering::SeqCst)), (3 * AT_ONCE, AT_ONCE));
    }

    #[tokio::test]
    async fn a_request_is_sent_once_whatever_the_answer_is() {
        for code in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT] {
            let asked = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&asked);
            let server = Router::new().fallback(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(code)
            });
            let api: Api<Pod> = Api::namespaced(client_of(server).await, "team");
            let error = api.create(&PostParams::default(), &Pod::default()).await.unwrap_err();
            assert!(matches!(&error, kube::Error::Api(status) if status.code == code.as_u16()), "{error:?}");
            assert_eq!(asked.load(Ordering::Relaxed), 1, "{code}");
        }
    }
}
