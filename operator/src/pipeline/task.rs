//! Short Pods that work for a Pipeline in its store: begun once, asked for their word, and never left behind.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use step_protocol::{TaskReport, TaskSpec};
use trainyard_crds::v1alpha1::{Pipeline, Store};

use crate::apply::{Created, WriteError, Writer};
use crate::context::Context;
use crate::pod::{TASK_MARGIN_SECONDS, TaskPod, task_pod};

/// A Pod that works is asked this often whether it has ended.
pub(super) const GLANCE: Duration = Duration::from_secs(2);

/// A Pipeline whose store is worked in.
pub(super) struct Tasks<'a> {
    pub(super) context: &'a Context,
    pub(super) pipeline: &'a Pipeline,
    pub(super) store: &'a Store,
    pub(super) now: Timestamp,
}

/// How far a task is.
pub(super) enum Progress {
    /// Its Pod works, or nobody knows yet whether it is to be begun.
    Works,
    /// It has ended, as its Pod says, or could not be done, for this reason.
    Ended(Result<TaskReport, String>),
}

impl Tasks<'_> {
    fn writer(&self) -> Writer {
        Writer::new(self.context.client.clone())
    }

    fn namespace(&self) -> String {
        self.pipeline.namespace().unwrap_or_default()
    }

    fn uid(&self) -> String {
        self.pipeline.uid().unwrap_or_default()
    }

    /// How far the task is whose Pod has this name; `None` if there is no such Pod. One that has ended is put on `done`, to be deleted.
    pub(super) async fn find(
        &self,
        name: &str,
        limit_seconds: u64,
        done: &mut Vec<(String, String)>,
    ) -> Result<Option<Progress>, WriteError> {
        let pod = self.writer().read_pod(&self.namespace(), name).await?;
        Ok(pod.map(|pod| self.judge(&pod, limit_seconds, done)))
    }

    fn judge(&self, pod: &Pod, limit_seconds: u64, done: &mut Vec<(String, String)>) -> Progress {
        let progress = progress(pod, &self.uid(), limit_seconds, self.now);
        if matches!(progress, Progress::Ended(_)) && is_ours(pod, &self.uid()) {
            done.push((pod.name_any(), pod.uid().unwrap_or_default()));
        }
        progress
    }

    /// Begins a task, if it is due by the Pipeline as it is on the API server: what the watch shows may be old, and its Pod would be one
    /// that nobody asks for any more.
    pub(super) async fn begin(
        &self,
        name: &str,
        task: &TaskSpec,
        done: &mut Vec<(String, String)>,
        is_due: impl Fn(&Pipeline) -> bool,
    ) -> Result<Progress, WriteError> {
        let (writer, namespace) = (self.writer(), self.namespace());
        let live = writer.read_pipeline(&namespace, &self.pipeline.name_any()).await?;
        let live = live.filter(|live| live.uid() == self.pipeline.uid() && live.metadata.deletion_timestamp.is_none());
        if !live.is_some_and(|live| is_due(&live)) {
            return Ok(Progress::Works);
        }
        let mut owner = self.pipeline.controller_owner_ref(&()).unwrap_or_default();
        owner.block_owner_deletion = Some(false);
        let pod = task_pod(&TaskPod {
            name,
            namespace: &namespace,
            owner,
            pipeline: &self.pipeline.name_any(),
            pipeline_uid: &self.uid(),
            task,
            store: self.store,
            settings: &self.context.settings.pod,
        });
        let pod = match pod {
            Ok(pod) => pod,
            Err(error) => return Ok(Progress::Ended(Err(format!("the Pod {name} cannot be made: {error}")))),
        };
        Ok(match writer.create_pod(&pod).await? {
            Created::New(_) => Progress::Works,
            Created::Existing(pod) => self.judge(&pod, task.timeout_seconds, done),
            Created::Later(_, message) | Created::Refused(message) => {
                Progress::Ended(Err(format!("the API server does not take the Pod {name}: {message}")))
            }
        })
    }

    /// Deletes the Pods of tasks that nobody asks for any more, since the spec was edited while they worked.
    pub(super) async fn clean(&self, expected: &[String]) -> Result<(), WriteError> {
        let (writer, namespace) = (self.writer(), self.namespace());
        for (name, uid) in writer.list_task_pods(&namespace, &self.uid()).await? {
            if !expected.contains(&name) {
                writer.delete_pod(&namespace, &name, &uid).await?;
            }
        }
        Ok(())
    }
}

fn is_ours(pod: &Pod, uid: &str) -> bool {
    pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// How far the task of a Pod is. One of somebody else is not listened to, and one that does not come to an end is given up.
fn progress(pod: &Pod, pipeline_uid: &str, limit_seconds: u64, now: Timestamp) -> Progress {
    let name = pod.name_any();
    if !is_ours(pod, pipeline_uid) {
        let message = format!("Pod {name} exists and is not this Pipeline's: it is left alone; delete or rename it");
        return Progress::Ended(Err(message));
    }
    if let Some(said) = report(pod) {
        return Progress::Ended(said);
    }
    let limit = limit_seconds.saturating_add(TASK_MARGIN_SECONDS);
    let age = pod.metadata.creation_timestamp.as_ref().map(|created| now.duration_since(created.0));
    let late = SignedDuration::from_secs(i64::try_from(limit).unwrap_or(i64::MAX));
    if age.is_some_and(|age| age > late) {
        return Progress::Ended(Err(format!("Pod {name} has not ended within {limit}s{}", why(pod))));
    }
    Progress::Works
}

/// What a Pod has to say of its task, if it has ended.
fn report(pod: &Pod) -> Option<Result<TaskReport, String>> {
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
    Some(said.ok_or_else(|| format!("Pod {} ended without a word ({}){}", pod.name_any(), reason(), why(pod))))
}

/// Why a Pod waits, as far as it says so.
fn why(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return String::new() };
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.message.clone());
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let words = [waiting.reason.clone(), waiting.message.clone()];
        Some(words.into_iter().flatten().collect::<Vec<_>>().join(": "))
    });
    unscheduled.or(waiting).map(|why| format!(": {why}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(owner: &str, phase: &str, state: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "look", "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [
                {"apiVersion": "trainyard.dev/v1alpha1", "kind": "Pipeline", "name": "iris", "uid": owner, "controller": true}]},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "task", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
        }))
        .unwrap()
    }

    fn ended(message: &str) -> Value {
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": message}})
    }

    /// What is known of it after so many seconds.
    fn word(pod: &Pod, seconds: i64) -> Option<Result<TaskReport, String>> {
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds);
        match progress(pod, "u", 300, now) {
            Progress::Works => None,
            Progress::Ended(said) => Some(said),
        }
    }

    const GOOD: &str = r#"{"version":1,"outcome":"Succeeded","collected":{"runs":2,"objects":9,"bytes":4,"kept":1}}"#;

    #[test]
    fn what_a_pod_has_to_say_is_its_termination_message() {
        assert_eq!(word(&pod("u", "Pending", json!({})), 600), None);
        assert_eq!(word(&pod("u", "Running", json!({"running": {}})), 5), None);
        let said = word(&pod("u", "Succeeded", ended(GOOD)), 5).unwrap().unwrap();
        assert_eq!(said.collected.unwrap().runs, 2);
        for garbled in ["", "{", "OOM"] {
            let why = word(&pod("u", "Failed", ended(garbled)), 5).unwrap().unwrap_err();
            assert_eq!(why, "Pod look ended without a word (Completed)");
        }
    }

    #[test]
    fn a_pod_of_somebody_else_is_not_listened_to() {
        let why = word(&pod("other", "Succeeded", ended(GOOD)), 5).unwrap().unwrap_err();
        assert!(why.contains("is not this Pipeline's: it is left alone"), "{why}");
    }

    #[test]
    fn a_pod_that_does_not_start_is_given_up_with_its_reason() {
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let why = word(&pod("u", "Pending", waiting), 601).unwrap().unwrap_err();
        assert_eq!(why, "Pod look has not ended within 600s: ImagePullBackOff: no such image");
    }
}
