//! Looks at the data that triggers watch: the operator holds no keys, so a short Pod looks, and says what it saw by its termination message.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use step_protocol::{FingerprintSpec, Outcome, Task, TaskReport, TaskSpec};
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{Pipeline, PipelineStatus, Store};
use trainyard_planner::retrain::{FoundData, Look, SeenData, looks};
use trainyard_planner::{Note, NoteKind, store_spec};

use crate::apply::{Created, WriteError, Writer};
use crate::context::Context;
use crate::pod::{TaskPod, task_pod};

/// Seconds that a look may take.
const LIMIT_SECONDS: u64 = 300;
/// A Pod that looks is asked this often whether it has ended.
pub(super) const GLANCE: Duration = Duration::from_secs(2);

/// What looks have shown that have ended now, and when there is something to do again.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) seen: BTreeMap<String, SeenData>,
    /// Pods whose word is in `seen`: they go when it is on record.
    pub(super) done: Vec<(String, String)>,
    pub(super) wait: Option<Duration>,
}

impl Looked {
    pub(super) fn again(&mut self, wait: Duration) {
        self.wait = Some(self.wait.map_or(wait, |before| before.min(wait)));
    }
}

/// Looks at what is due: begins, waits, or has seen.
pub(super) async fn look(
    context: &Context,
    pipeline: &Pipeline,
    store: Option<&Store>,
    status: &PipelineStatus,
    now: Timestamp,
) -> Result<Looked, WriteError> {
    let mut looked = Looked::default();
    let Some(store) = store else { return Ok(looked) };
    let writer = Writer::new(context.client.clone());
    let namespace = pipeline.namespace().unwrap_or_default();
    for look in looks(&pipeline.spec, status) {
        if look.at > now {
            looked.again(Duration::try_from(look.at.duration_since(now)).unwrap_or_default());
            continue;
        }
        let name = name_of(pipeline, &look);
        let pod = match writer.read_pod(&namespace, &name).await? {
            Some(pod) => pod,
            None => match create(context, &writer, pipeline, store, &task(store, &look), &name, look.trigger).await? {
                Some(pod) => pod,
                None => {
                    looked.again(Duration::from_secs(15));
                    continue;
                }
            },
        };
        match ended(&pod) {
            None => looked.again(GLANCE),
            Some(found) => {
                looked.seen.insert(look.trigger.to_owned(), SeenData { checked: now, found });
                looked.done.push((name, pod.uid().unwrap_or_default()));
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

/// Creates the Pod of a task; `None` if the API server does not take it now. `what` is whose task it is.
pub(super) async fn create(
    context: &Context,
    writer: &Writer,
    pipeline: &Pipeline,
    store: &Store,
    task: &TaskSpec,
    name: &str,
    what: &str,
) -> Result<Option<Pod>, WriteError> {
    let mut owner = pipeline.controller_owner_ref(&()).unwrap_or_default();
    owner.block_owner_deletion = Some(false);
    let pod = task_pod(&TaskPod {
        name,
        namespace: &pipeline.namespace().unwrap_or_default(),
        owner,
        pipeline: &pipeline.name_any(),
        pipeline_uid: &pipeline.uid().unwrap_or_default(),
        task,
        store,
        settings: &context.settings.pod,
    });
    let warn = |message: String| {
        context.events.note(pipeline, Note { kind: NoteKind::Warning, reason: "TaskFailed", message });
    };
    let pod = match pod {
        Ok(pod) => pod,
        Err(error) => {
            warn(format!("{what} has no Pod: {error}"));
            return Ok(None);
        }
    };
    Ok(match writer.create_pod(&pod).await? {
        Created::New(pod) | Created::Existing(pod) => Some(*pod),
        Created::Later(_, message) | Created::Refused(message) => {
            warn(format!("{what} has no Pod, the API server does not take it: {message}"));
            None
        }
    })
}

/// What a Pod has to say of its task, if it has ended.
pub(super) fn report(pod: &Pod) -> Option<Result<TaskReport, String>> {
    let status = pod.status.as_ref()?;
    let over =
        matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
    let containers = status.container_statuses.iter().flatten();
    let terminated = containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref()).next();
    if !over && terminated.is_none() {
        return None;
    }
    let said = terminated.and_then(|state| serde_json::from_str::<TaskReport>(state.message.as_deref()?).ok());
    let reason = || status.reason.clone().or_else(|| terminated?.reason.clone()).unwrap_or_else(|| "no reason".into());
    Some(said.ok_or_else(|| format!("Pod {} ended without a word ({})", pod.name_any(), reason())))
}

/// What a Pod that looked has seen, if it has ended.
fn ended(pod: &Pod) -> Option<Result<FoundData, String>> {
    Some(report(pod)?.and_then(|report| match (report.outcome, report.fingerprint) {
        (Outcome::Succeeded, Some(found)) => Ok(FoundData {
            digest: found.digest,
            objects: found.objects,
            bytes: found.bytes,
            age_seconds: found.age_seconds,
            marker: found.marker,
        }),
        (outcome, _) => Err(format!("{}: {}", outcome.as_str(), report.message)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(phase: &str, message: Option<&str>) -> Pod {
        let state =
            message.map(|message| json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": message}}));
        let containers: Vec<_> = state.into_iter().map(|state| json!({"name": "task", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})).collect();
        serde_json::from_value(
            json!({"metadata": {"name": "look"}, "status": {"phase": phase, "containerStatuses": containers}}),
        )
        .unwrap()
    }

    #[test]
    fn what_a_pod_has_seen_is_its_termination_message() {
        assert_eq!(ended(&pod("Pending", None)), None);
        assert_eq!(ended(&pod("Running", None)), None);
        let good = r#"{"version":1,"outcome":"Succeeded","fingerprint":{"digest":"sha256:a","objects":2,"bytes":9,"ageSeconds":4}}"#;
        let found = ended(&pod("Succeeded", Some(good))).unwrap().unwrap();
        assert_eq!(
            (found.digest.as_str(), found.objects, found.age_seconds, found.marker),
            ("sha256:a", 2, Some(4), None)
        );
        let bad = r#"{"version":1,"outcome":"StoreAccessDenied","message":"the store refused the credentials"}"#;
        let why = ended(&pod("Failed", Some(bad))).unwrap().unwrap_err();
        assert_eq!(why, "StoreAccessDenied: the store refused the credentials");
        for garbled in [None, Some("{"), Some("OOM")] {
            let why = ended(&pod("Failed", garbled)).unwrap().unwrap_err();
            assert!(why.starts_with("Pod look ended without a word"), "{why}");
        }
    }
}
