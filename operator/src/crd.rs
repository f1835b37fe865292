//! Whether the cluster has our kinds. Asked of the discovery endpoint, which needs no permission of its own.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{Client, Resource};
use tokio::time::{Instant, sleep};
use trainyard_crds::v1alpha1::{Pipeline, PipelineRun, TrainingJob};

use crate::health::Readiness;
use crate::telemetry;

/// The word for readiness.
const WHAT: &str = "crd";
/// While something is missing.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// While nothing is missing.
const WATCH_OUT: Duration = Duration::from_secs(30);
/// A wait is worth a line of the log this often.
const REMIND: Duration = Duration::from_secs(60);

/// Waits until the cluster serves our kinds. Until then `/readyz` names what is missing.
pub async fn wait(client: &Client, readiness: &Readiness) {
    let mut told: Option<Instant> = None;
    loop {
        let message = match missing(client).await {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => missing.join(", "),
            Err(error) => format!("the API server does not say which kinds it serves: {}", telemetry::chain(&error)),
        };
        if told.is_none_or(|told| told.elapsed() >= REMIND) {
            tracing::warn!(missing = %message, "waiting for the custom resource definitions: are those of this release installed?");
            told = Some(Instant::now());
        }
        readiness.missing(WHAT, message);
        sleep(LOOK_AGAIN).await;
    }
    readiness.found(WHAT);
    if told.is_some() {
        tracing::info!("the custom resource definitions are there");
    }
}

/// Keeps readiness up to date for as long as it is polled. No answer is no news: whether the API server can be reached is the
/// watches' business.
pub async fn watch(client: &Client, readiness: &Readiness) {
    loop {
        sleep(WATCH_OUT).await;
        match missing(client).await {
            Ok(missing) if missing.is_empty() => readiness.found(WHAT),
            Ok(missing) => {
                let message = missing.join(", ");
                tracing::error!(missing = %message, "custom resource definitions are gone");
                readiness.missing(WHAT, message);
            }
            Err(error) => tracing::debug!(%error, "failed to ask which kinds are served"),
        }
    }
}

async fn missing(client: &Client) -> Result<Vec<String>, kube::Error> {
    let version = format!("{}/{}", PipelineRun::group(&()), PipelineRun::version(&()));
    match client.list_api_group_resources(&version).await {
        Ok(list) => Ok(missing_of(&list)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(missing_of(&APIResourceList::default())),
        Err(error) => Err(error),
    }
}

/// What a list of the group's resources lacks: a kind, or its status.
fn missing_of(list: &APIResourceList) -> Vec<String> {
    let served = |name: &str| list.resources.iter().any(|resource| resource.name == name);
    let mut missing = Vec::new();
    for plural in [Pipeline::plural(&()), PipelineRun::plural(&()), TrainingJob::plural(&())] {
        let (group, version) = (PipelineRun::group(&()), PipelineRun::version(&()));
        if !served(&plural) {
            missing.push(format!("crd {plural}.{group} not found in version {version}"));
        } else if !served(&format!("{plural}/status")) {
            missing.push(format!("crd {plural}.{group} has no status in version {version}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::http::{Request, Response, StatusCode};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn list(names: &[&str]) -> APIResourceList {
        let resource = |name: &&str| APIResource { name: (*name).to_owned(), ..APIResource::default() };
        APIResourceList {
            group_version: "trainyard.dev/v1alpha1".into(),
            resources: names.iter().map(resource).collect(),
        }
    }

    const ALL: [&str; 6] =
        ["pipelines", "pipelines/status", "pipelineruns", "pipelineruns/status", "trainingjobs", "trainingjobs/status"];

    #[test]
    fn what_is_not_served_is_named() {
        assert_eq!(missing_of(&list(&ALL)), Vec::<String>::new());
        let missing = missing_of(&list(&["pipelines"]));
        let expected = [
            "crd pipelines.trainyard.dev has no status in version v1alpha1",
            "crd pipelineruns.trainyard.dev not found in version v1alpha1",
            "crd trainingjobs.trainyard.dev not found in version v1alpha1",
        ];
        assert_eq!(missing, expected);
        assert_eq!(missing_of(&list(&[])).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_they_are_installed_and_says_so_meanwhile() {
        let asked = Arc::new(AtomicU32::new(0));
        let readiness = Readiness::new();
        let (counter, seen) = (Arc::clone(&asked), readiness.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/apis/trainyard.dev/v1alpha1");
            let (status, body) = match counter.fetch_add(1, Ordering::Relaxed) {
                0 => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    json!({"status": "Failure", "code": 500, "reason": "InternalError", "message": "etcd is away"}),
                ),
                1 => (
                    StatusCode::NOT_FOUND,
                    json!({"status": "Failure", "code": 404, "reason": "NotFound", "message": "no"}),
                ),
                _ => {
                    let missing = seen.report();
                    assert_eq!(missing.len(), 1);
                    assert!(missing[0].starts_with("crd pipelines.trainyard.dev not found"), "{missing:?}");
                    (StatusCode::OK, json!(list(&ALL)))
                }
            };
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            async { Ok::<_, std::convert::Infallible>(response.unwrap()) }
        });
        wait(&Client::new(service, "default"), &readiness).await;
        assert_eq!((asked.load(Ordering::Relaxed), readiness.report()), (3, vec![]));
    }
}
