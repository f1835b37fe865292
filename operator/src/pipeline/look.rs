//! Looks at the data that triggers watch, by short Pods: the operator holds no keys.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;
use step_protocol::{FingerprintSpec, Outcome, Task, TaskReport, TaskSpec};
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{Pipeline, PipelineStatus, Store};
use trainyard_planner::retrain::{FoundData, Look, SeenData, looks};
use trainyard_planner::store_spec;

use super::task::{GLANCE, Progress, Tasks};
use crate::apply::WriteError;

/// Seconds that a look may take.
const LIMIT_SECONDS: u64 = 300;

/// What looks have shown that have ended now, and when there is something to do again.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) seen: BTreeMap<String, SeenData>,
    /// Pods that have had their word, by name and UID: they go, and then the status says what they said.
    pub(super) done: Vec<(String, String)>,
    pub(super) wait: Option<Duration>,
}

impl Looked {
    pub(super) fn again(&mut self, wait: Duration) {
        self.wait = Some(self.wait.map_or(wait, |before| before.min(wait)));
    }
}

/// Names of the Pods that look, now or when it is due.
pub(super) fn pods(pipeline: &Pipeline, status: &PipelineStatus) -> Vec<String> {
    looks(&pipeline.spec, status).iter().map(|look| name_of(pipeline, look)).collect()
}

/// Looks at what is due: begins, waits, or has seen.
pub(super) async fn look(tasks: &Tasks<'_>, status: &PipelineStatus) -> Result<Looked, WriteError> {
    let mut looked = Looked::default();
    let now = tasks.now;
    for look in looks(&tasks.pipeline.spec, status) {
        if look.at > now {
            looked.again(Duration::try_from(look.at.duration_since(now)).unwrap_or_default());
            continue;
        }
        let name = name_of(tasks.pipeline, &look);
        let progress = match tasks.find(&name, LIMIT_SECONDS, &mut looked.done).await? {
            Some(progress) => progress,
            None => {
                let due = |live: &Pipeline| pods(live, &live.status.clone().unwrap_or_default()).contains(&name);
                tasks.begin(&name, &task(tasks.store, &look), &mut looked.done, due).await?
            }
        };
        match progress {
            Progress::Works => looked.again(GLANCE),
            Progress::Ended(said) => {
                looked.seen.insert(look.trigger.to_owned(), SeenData { checked: now, found: said.and_then(found) });
            }
        }
    }
    Ok(looked)
}

fn task(store: &Store, look: &Look<'_>) -> TaskSpec {
    TaskSpec {
        version: step_protocol::VERSION,
        store: store_spec(store),
        task: Task::Fingerprint(FingerprintSpec { uri: look.data.uri.clone(), marker: look.data.marker.clone() }),
        timeout_seconds: LIMIT_SECONDS,
    }
}

fn name_of(pipeline: &Pipeline, look: &Look<'_>) -> String {
    let uid = pipeline.uid().unwrap_or_default();
    names::look_pod(&pipeline.name_any(), &uid, look.trigger, &look.data.uri, &look.since)
}

/// What a look has found.
fn found(report: TaskReport) -> Result<FoundData, String> {
    match (report.outcome, report.fingerprint) {
        (Outcome::Succeeded, Some(found)) => Ok(FoundData {
            digest: found.digest,
            objects: found.objects,
            bytes: found.bytes,
            age_seconds: found.age_seconds,
            marker: found.marker,
        }),
        (outcome, _) => Err(format!("{}: {}", outcome.as_str(), report.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_look_finds_a_fingerprint_or_says_why_not() {
        let good = json!({"version": 1, "outcome": "Succeeded", "fingerprint": {"digest": "sha256:a", "objects": 2, "bytes": 9, "ageSeconds": 4}});
        let found_it = found(serde_json::from_value(good).unwrap()).unwrap();
        assert_eq!((found_it.digest.as_str(), found_it.objects, found_it.age_seconds), ("sha256:a", 2, Some(4)));
        let bad = TaskReport::new(Outcome::StoreAccessDenied, "the store refused the credentials");
        assert_eq!(found(bad).unwrap_err(), "StoreAccessDenied: the store refused the credentials");
    }

    #[test]
    fn each_look_has_a_pod_of_its_own_and_none_while_it_is_suspended() {
        let pipeline = |suspend: bool| -> Pipeline {
            let data = json!({"uri": "s3://bucket/raw/"});
            serde_json::from_value(json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": "iris", "uid": "u"},
                "spec": {"stages": [], "suspend": suspend, "triggers": [{"name": "drops", "data": data}]}}))
            .unwrap()
        };
        let after = |checked: &str| -> PipelineStatus {
            let data = json!({"uri": "s3://bucket/raw/", "checked": checked});
            serde_json::from_value(json!({"observedGeneration": 1, "triggers": [{"name": "drops", "data": data}]}))
                .unwrap()
        };
        let first = pods(&pipeline(false), &PipelineStatus::default());
        let second = pods(&pipeline(false), &after("2026-01-01T00:00:00Z"));
        let third = pods(&pipeline(false), &after("2026-01-01T00:05:00Z"));
        assert!(first.len() == 1 && first != second && second != third, "{first:?} {second:?} {third:?}");
        assert_eq!(pods(&pipeline(true), &PipelineStatus::default()), [""; 0]);
    }
}
