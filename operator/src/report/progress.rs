//! The endpoint of progress: what rank 0 of a training says of itself while it runs.
//!
//! It is signed with the key that rank 0's Pod carries, as an early report is. The operator knows that key from the Pod itself, which
//! it watches: so progress is accepted also by a process that did not make the Pod, and no Pod needs a token. It decides nothing but
//! whether failures before a checkpoint are forgiven, and a checkpoint's record in the store is what the next attempt reads.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use step_protocol::{MESSAGE_LIMIT, ProgressReport};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Refusal, SIGNATURE_HEADER, key};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// The runner itself gives up after a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// Values of metrics in a report; status has room for no more.
const METRICS: usize = 32;

/// Progress that was accepted: the rank 0 that has this key signed it.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyProgress {
    /// Namespace of the job, as the path says it.
    pub namespace: String,
    /// The key that it was signed with.
    pub key: String,
    /// The attempt.
    pub execution: u32,
    /// What rank 0 says.
    pub report: ProgressReport,
}

type Find = Arc<dyn Fn(&str, u32) -> Vec<String> + Send + Sync>;

struct Endpoint {
    find: Find,
    leadership: Leadership,
    metrics: Metrics,
    accepted: mpsc::Sender<EarlyProgress>,
}

/// The endpoint: what it accepts goes to `accepted`. `find` gives the keys of the jobs that work for this UID in this execution.
pub fn router(
    find: impl Fn(&str, u32) -> Vec<String> + Send + Sync + 'static,
    leadership: Leadership,
    metrics: Metrics,
    accepted: mpsc::Sender<EarlyProgress>,
) -> Router {
    Router::new()
        .route("/v1/progress/{namespace}/{job}/{uid}/{execution}", post(receive))
        .with_state(Arc::new(Endpoint { find: Arc::new(find), leadership, metrics, accepted }))
}

async fn receive(
    State(endpoint): State<Arc<Endpoint>>,
    Path(attempt): Path<(String, String, String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    match accept(&endpoint, attempt, &headers, request).await {
        Ok(()) => {
            endpoint.metrics.progress_report("accepted");
            StatusCode::ACCEPTED.into_response()
        }
        Err(refusal) => {
            endpoint.metrics.progress_report(refusal.as_str());
            tracing::debug!(reason = refusal.as_str(), "refused progress");
            (refusal.status(), format!("{refusal}\n")).into_response()
        }
    }
}

/// Cheap checks first, and nothing of the body is parsed before its signature is right.
async fn accept(
    endpoint: &Endpoint,
    (namespace, _job, uid, execution): (String, String, String, String),
    headers: &HeaderMap,
    request: Request,
) -> Result<(), Refusal> {
    if !endpoint.leadership.is_leader() {
        return Err(Refusal::NotLeader);
    }
    let execution = execution.parse().map_err(|_| Refusal::Path)?;
    let signature = headers.get(SIGNATURE_HEADER).and_then(|value| value.to_str().ok()).ok_or(Refusal::Signature)?;
    let keys = (endpoint.find)(&uid, execution);
    if keys.is_empty() {
        return Err(Refusal::Signature);
    }
    let body = timeout(PATIENCE, to_bytes(request.into_body(), MESSAGE_LIMIT))
        .await
        .map_err(|_| Refusal::TooSlow)?
        .map_err(|_| Refusal::TooLarge)?;
    let key = keys.into_iter().find(|key| key::is_signed_with(key, &body, signature)).ok_or(Refusal::Signature)?;
    let report: ProgressReport = serde_json::from_slice(&body).map_err(|_| Refusal::Garbled)?;
    if report.version != step_protocol::VERSION || report.metrics.len() > METRICS {
        return Err(Refusal::Garbled);
    }
    endpoint.accepted.try_send(EarlyProgress { namespace, key, execution, report }).map_err(|_| Refusal::Busy)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::super::ReportKeys;
    use super::super::key::tests::sign;
    use super::*;

    struct World {
        router: Router,
        key: String,
        accepted: mpsc::Receiver<EarlyProgress>,
    }

    fn world(leadership: Leadership) -> World {
        let key = ReportKeys::from_master(&[7; 32]).derive("u-1", "train", 3);
        let (sender, accepted) = mpsc::channel(1);
        let known = key.clone();
        let find = move |uid: &str, execution: u32| {
            if (uid, execution) == ("u-1", 3) { vec!["00".repeat(32), known.clone()] } else { Vec::new() }
        };
        World { router: router(find, leadership, Metrics::new(), sender), key, accepted }
    }

    fn report() -> ProgressReport {
        ProgressReport { version: step_protocol::VERSION, progress: Some(0.4), ..ProgressReport::default() }
    }

    impl World {
        async fn send(&self, path: &str, body: &[u8]) -> StatusCode {
            let request = axum::http::Request::post(path).header(SIGNATURE_HEADER, sign(&self.key, body));
            let request = request.body(Body::from(body.to_vec())).unwrap();
            self.router.clone().oneshot(request).await.unwrap().status()
        }
    }

    const PATH: &str = "/v1/progress/team/iris/u-1/3";

    #[tokio::test]
    async fn what_rank_0_signed_is_handed_over_with_its_key() {
        let mut world = world(Leadership::always());
        let body = serde_json::to_vec(&report()).unwrap();
        assert_eq!(world.send(PATH, &body).await, StatusCode::ACCEPTED);
        let expected =
            EarlyProgress { namespace: "team".into(), key: world.key.clone(), execution: 3, report: report() };
        assert_eq!(world.accepted.try_recv().unwrap(), expected);
        assert!(world.accepted.try_recv().is_err());
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let mut world = world(Leadership::always());
        let body = serde_json::to_vec(&report()).unwrap();
        for (path, body, expected) in [
            ("/v1/progress/team/iris/u-1/2", body.clone(), StatusCode::UNAUTHORIZED),
            ("/v1/progress/team/iris/u-2/3", body.clone(), StatusCode::UNAUTHORIZED),
            ("/v1/progress/team/iris/u-1/x", body.clone(), StatusCode::BAD_REQUEST),
            (PATH, b"{".to_vec(), StatusCode::BAD_REQUEST),
            (PATH, serde_json::to_vec(&ProgressReport::default()).unwrap(), StatusCode::BAD_REQUEST),
            (PATH, vec![b' '; MESSAGE_LIMIT + 1], StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            assert_eq!(world.send(path, &body).await, expected, "{path}");
        }
        world.key = "11".repeat(32);
        assert_eq!(world.send(PATH, &body).await, StatusCode::UNAUTHORIZED);
        assert!(world.accepted.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_the_leader_accepts_and_a_full_queue_refuses() {
        let follower = world(Leadership::never());
        let body = serde_json::to_vec(&report()).unwrap();
        assert_eq!(follower.send(PATH, &body).await, StatusCode::SERVICE_UNAVAILABLE);
        let leader = world(Leadership::always());
        assert_eq!(leader.send(PATH, &body).await, StatusCode::ACCEPTED);
        assert_eq!(leader.send(PATH, &body).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
