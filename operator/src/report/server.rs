//! The endpoint of early reports.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use step_protocol::{MESSAGE_LIMIT, Outcome, StepReport};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{ReportKeys, SIGNATURE_HEADER};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// The runner itself gives up after a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// A report that was accepted: its attempt signed it and says that its stage has committed.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyReport {
    /// Namespace of the run, as the path says it.
    pub namespace: String,
    /// Name of the run, as the path says it.
    pub run: String,
    /// UID of the run, which is signed. The run of that name may be another one by now.
    pub run_uid: String,
    /// Name of the stage, which is signed.
    pub stage: String,
    /// The attempt, which is signed.
    pub attempt: u32,
    /// What the runner says: `Succeeded`, with a commit.
    pub report: StepReport,
}

/// Why a report was refused. The runner tries once more after a 5xx and never after a 4xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The path does not name an attempt.
    #[error("the path is not /v1/report/NAMESPACE/RUN/RUN-UID/STAGE/ATTEMPT")]
    Path,
    /// Not a report.
    #[error("the body is not a report of protocol version {}", step_protocol::VERSION)]
    Garbled,
    /// No signature, or not this attempt's.
    #[error("the signature is not this attempt's")]
    Signature,
    /// Anything but a commit: failures need the kubelet's word.
    #[error("only success with a commit is reported early")]
    NotACommit,
    /// Longer than a termination message.
    #[error("the body is over {MESSAGE_LIMIT} bytes")]
    TooLarge,
    /// A body that does not come to its end.
    #[error("the body did not arrive within {} s", PATIENCE.as_secs())]
    TooSlow,
    /// Another process leads.
    #[error("this process is not the leader")]
    NotLeader,
    /// The controllers are behind, or gone.
    #[error("the operator is busy")]
    Busy,
}

impl Refusal {
    /// The word in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Garbled => "garbled",
            Self::Signature => "signature",
            Self::NotACommit => "not-a-commit",
            Self::TooLarge => "too-large",
            Self::TooSlow => "too-slow",
            Self::NotLeader => "not-leader",
            Self::Busy => "busy",
        }
    }

    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Path | Self::Garbled => StatusCode::BAD_REQUEST,
            Self::Signature => StatusCode::UNAUTHORIZED,
            Self::NotACommit => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NotLeader | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Path of an attempt's report.
#[must_use]
pub fn path(namespace: &str, run: &str, run_uid: &str, stage: &str, attempt: u32) -> String {
    format!("/v1/report/{namespace}/{run}/{run_uid}/{stage}/{attempt}")
}

/// URL of an attempt's report, below the installation's `--report-url`. All parts are names of Kubernetes objects, which need no
/// escaping.
#[must_use]
pub fn url(base: &str, namespace: &str, run: &str, run_uid: &str, stage: &str, attempt: u32) -> String {
    format!("{}{}", base.trim_end_matches('/'), path(namespace, run, run_uid, stage, attempt))
}

struct Endpoint {
    keys: ReportKeys,
    leadership: Leadership,
    metrics: Metrics,
    accepted: mpsc::Sender<EarlyReport>,
}

/// The endpoint: what it accepts goes to `accepted`.
pub fn router(
    keys: ReportKeys,
    leadership: Leadership,
    metrics: Metrics,
    accepted: mpsc::Sender<EarlyReport>,
) -> Router {
    Router::new()
        .route("/v1/report/{namespace}/{run}/{run_uid}/{stage}/{attempt}", post(receive))
        .with_state(Arc::new(Endpoint { keys, leadership, metrics, accepted }))
}

async fn receive(
    State(endpoint): State<Arc<Endpoint>>,
    Path(attempt): Path<(String, String, String, String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    match accept(&endpoint, attempt, &headers, request).await {
        Ok(()) => {
            endpoint.metrics.early_report("accepted");
            StatusCode::ACCEPTED.into_response()
        }
        Err(refusal) => {
            endpoint.metrics.early_report(refusal.as_str());
            tracing::debug!(reason = refusal.as_str(), "refused an early report");
            (refusal.status(), format!("{refusal}\n")).into_response()
        }
    }
}

/// Cheap checks first, and nothing of the body is parsed before its signature is right.
async fn accept(
    endpoint: &Endpoint,
    (namespace, run, run_uid, stage, attempt): (String, String, String, String, String),
    headers: &HeaderMap,
    request: Request,
) -> Result<(), Refusal> {
    if !endpoint.leadership.is_leader() {
        return Err(Refusal::NotLeader);
    }
    let attempt = attempt.parse().map_err(|_| Refusal::Path)?;
    let signature = headers.get(SIGNATURE_HEADER).and_then(|value| value.to_str().ok()).ok_or(Refusal::Signature)?;
    let body = timeout(PATIENCE, to_bytes(request.into_body(), MESSAGE_LIMIT))
        .await
        .map_err(|_| Refusal::TooSlow)?
        .map_err(|_| Refusal::TooLarge)?;
    if !endpoint.keys.verify(&run_uid, &stage, attempt, &body, signature) {
        return Err(Refusal::Signature);
    }
    let report: StepReport = serde_json::from_slice(&body).map_err(|_| Refusal::Garbled)?;
    if report.version != step_protocol::VERSION {
        return Err(Refusal::Garbled);
    }
    if report.outcome != Outcome::Succeeded || report.commit.is_none() {
        return Err(Refusal::NotACommit);
    }
    tracing::debug!(%namespace, %run, %stage, attempt, "accepted an early report");
    let report = EarlyReport { namespace, run, run_uid, stage, attempt, report };
    endpoint.accepted.try_send(report).map_err(|_| Refusal::Busy)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::super::key::tests::sign;
    use super::*;

    struct World {
        router: Router,
        keys: ReportKeys,
        metrics: Metrics,
        accepted: mpsc::Receiver<EarlyReport>,
    }

    fn world(leadership: Leadership, room: usize) -> World {
        let keys = ReportKeys::from_master(&[7; 32]);
        let metrics = Metrics::new();
        let (sender, accepted) = mpsc::channel(room);
        World { router: router(keys.clone(), leadership, metrics.clone(), sender), keys, metrics, accepted }
    }

    fn success() -> StepReport {
        let mut report = StepReport::new(Outcome::Succeeded, "");
        report.commit = Some(format!("sha256:{}", "a".repeat(64)));
        report
    }

    impl World {
        async fn send(&self, path: &str, body: Vec<u8>, signature: Option<String>) -> (StatusCode, String) {
            let mut request = axum::http::Request::post(path);
            if let Some(signature) = signature {
                request = request.header(SIGNATURE_HEADER, signature);
            }
            let response = self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
            let status = response.status();
            let text = to_bytes(response.into_body(), 10_000).await.unwrap();
            (status, String::from_utf8(text.to_vec()).unwrap())
        }

        /// Signed by attempt 1 of stage `train` of the run with UID `u-1`, and sent there.
        async fn report(&self, body: &[u8]) -> StatusCode {
            let signature = sign(&self.keys.derive("u-1", "train", 1), body);
            self.send("/v1/report/team/iris-1/u-1/train/1", body.to_vec(), Some(signature)).await.0
        }

        /// That exactly this was counted, and nothing handed over.
        fn refused(&mut self, reason: &str) {
            let text = self.metrics.encode().unwrap();
            assert!(text.contains(&format!("early_reports_total{{result=\"{reason}\"}} 1\n")), "{text}");
            assert!(self.accepted.try_recv().is_err());
        }
    }

    #[tokio::test]
    async fn a_signed_success_is_handed_over_once() {
        let mut world = world(Leadership::always(), 1);
        let body = serde_json::to_vec(&success()).unwrap();
        assert_eq!(world.report(&body).await, StatusCode::ACCEPTED);
        let expected = EarlyReport {
            namespace: "team".into(),
            run: "iris-1".into(),
            run_uid: "u-1".into(),
            stage: "train".into(),
            attempt: 1,
            report: success(),
        };
        assert_eq!(world.accepted.try_recv().unwrap(), expected);
        assert!(world.accepted.try_recv().is_err());
        assert!(world.metrics.encode().unwrap().contains("early_reports_total{result=\"accepted\"} 1\n"));
    }

    #[tokio::test]
    async fn another_attempts_signature_is_refused() {
        let mut world = world(Leadership::always(), 1);
        let body = serde_json::to_vec(&success()).unwrap();
        let signature = sign(&world.keys.derive("u-1", "train", 1), &body);
        let (status, text) = world.send("/v1/report/team/iris-1/u-1/train/2", body, Some(signature)).await;
        assert_eq!((status, text.as_str()), (StatusCode::UNAUTHORIZED, "the signature is not this attempt's\n"));
        world.refused("signature");
    }

    #[tokio::test]
    async fn an_unsigned_report_is_refused() {
        let mut world = world(Leadership::always(), 1);
        let body = serde_json::to_vec(&success()).unwrap();
        assert_eq!(world.send("/v1/report/team/iris-1/u-1/train/1", body, None).await.0, StatusCode::UNAUTHORIZED);
        world.refused("signature");
    }

    #[tokio::test]
    async fn a_failure_is_not_reported_early() {
        let mut world = world(Leadership::always(), 1);
        let body = serde_json::to_vec(&StepReport::new(Outcome::UserError, "exit code 3")).unwrap();
        assert_eq!(world.report(&body).await, StatusCode::CONFLICT);
        world.refused("not-a-commit");
    }

    #[tokio::test]
    async fn a_success_without_commit_is_none() {
        let mut world = world(Leadership::always(), 1);
        let body = serde_json::to_vec(&StepReport::new(Outcome::Succeeded, "")).unwrap();
        assert_eq!(world.report(&body).await, StatusCode::CONFLICT);
        world.refused("not-a-commit");
    }

    #[tokio::test]
    async fn what_is_no_report_of_this_version_is_refused() {
        let mut one = world(Leadership::always(), 1);
        assert_eq!(one.report(b"{").await, StatusCode::BAD_REQUEST);
        one.refused("garbled");
        let mut other = world(Leadership::always(), 1);
        let report = StepReport { version: 99, ..success() };
        assert_eq!(other.report(&serde_json::to_vec(&report).unwrap()).await, StatusCode::BAD_REQUEST);
        other.refused("garbled");
    }

    #[tokio::test]
    async fn a_path_without_a_number_is_refused() {
        let mut world = world(Leadership::always(), 1);
        let (status, _) = world.send("/v1/report/team/iris-1/u-1/train/first", vec![], Some("00".into())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        world.refused("path");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read_to_its_end() {
        let mut world = world(Leadership::always(), 1);
        assert_eq!(world.report(&vec![b' '; MESSAGE_LIMIT + 1]).await, StatusCode::PAYLOAD_TOO_LARGE);
        world.refused("too-large");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let mut world = world(Leadership::always(), 1);
        let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = axum::http::Request::post("/v1/report/team/iris-1/u-1/train/1").header(SIGNATURE_HEADER, "00");
        let response = world.router.clone().oneshot(request.body(Body::from_stream(never)).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        world.refused("too-slow");
    }

    #[tokio::test]
    async fn only_the_leader_accepts() {
        let mut world = world(Leadership::never(), 1);
        let body = serde_json::to_vec(&success()).unwrap();
        assert_eq!(world.report(&body).await, StatusCode::SERVICE_UNAVAILABLE);
        world.refused("not-leader");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_instead_of_waiting() {
        let mut world = world(Leadership::always(), 1);
        let body = serde_json::to_vec(&success()).unwrap();
        assert_eq!(world.report(&body).await, StatusCode::ACCEPTED);
        assert_eq!(world.report(&body).await, StatusCode::SERVICE_UNAVAILABLE);
        assert!(world.accepted.try_recv().is_ok());
        world.refused("busy");
    }

    #[test]
    fn the_url_is_below_the_base() {
        let at = "http://report.trainyard.svc:8090/v1/report/team/iris-1/u-1/train/1";
        assert_eq!(url("http://report.trainyard.svc:8090", "team", "iris-1", "u-1", "train", 1), at);
        assert_eq!(url("http://report.trainyard.svc:8090/", "team", "iris-1", "u-1", "train", 1), at);
    }
}
