//! Liveness, readiness and metrics over HTTP.
//!
//! Ready means: could work if it led. A replica that waits for the lease is ready, or a rolling update would never end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::Metrics;

/// What is missing before this process can work, by what it is. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    /// Nothing is missing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Something is missing until [`Readiness::found`] is called with the same word. `message` is what `/readyz` says.
    pub fn missing(&self, what: &str, message: impl Into<String>) {
        self.lock().insert(what.to_owned(), message.into());
    }

    /// Something is there.
    pub fn found(&self, what: &str) {
        self.lock().remove(what);
    }

    /// A watch, such as of `pods in team-a`, that has yet to see its first list.
    #[must_use]
    pub fn watch(&self, what: &str) -> WatchReadiness {
        let key = format!("watch of {what}");
        self.missing(&key, format!("{key} not synced"));
        WatchReadiness { readiness: self.clone(), key }
    }

    /// What `/readyz` says: a line for each thing that is missing, in order.
    #[must_use]
    pub fn report(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    /// A map is whole after every statement above, also if somebody panicked.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch that has yet to see its first list.
#[derive(Clone, Debug)]
pub struct WatchReadiness {
    readiness: Readiness,
    key: String,
}

impl WatchReadiness {
    /// The first list is complete. Later ones change nothing.
    pub fn done(&self) {
        self.readiness.found(&self.key);
    }
}

#[derive(Clone)]
struct Health {
    readiness: Readiness,
    metrics: Metrics,
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(encode))
        .with_state(Health { readiness, metrics })
}

async fn ready(State(health): State<Health>) -> Response {
    let missing = health.readiness.report();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn encode(State(health): State<Health>) -> Response {
    match health.metrics.encode() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let text = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(text.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_is_when_nothing_is_missing_and_says_what_is() {
        let readiness = Readiness::new();
        let router = router(readiness.clone(), Metrics::new());
        let pods = readiness.watch("pods in team-a");
        readiness.missing("crd", "crd pipelineruns.trainyard.dev not found");
        let expected = "crd pipelineruns.trainyard.dev not found\nwatch of pods in team-a not synced\n";
        assert_eq!(get(&router, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, expected.into()));
        assert_eq!(get(&router, "/livez").await, (StatusCode::OK, "ok\n".into()));

        readiness.found("crd");
        pods.done();
        pods.done();
        assert_eq!(get(&router, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    }

    #[tokio::test]
    async fn metrics_are_open_metrics() {
        let metrics = Metrics::new();
        metrics.pod_created();
        let (status, text) = get(&router(Readiness::new(), metrics), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("trainyard_pods_created_total 1\n") && text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        assert_eq!(get(&router(Readiness::new(), Metrics::new()), "/").await.0, StatusCode::NOT_FOUND);
    }
}
