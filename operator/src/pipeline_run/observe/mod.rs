//! A Pod as an attempt, in the planner's words. Pure: no client.

mod ended;
mod job;
mod taken;
mod waiting;

pub(crate) use ended::committed;
pub(crate) use job::{observe_job, observe_named_job};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::runtime::reflector::ObjectRef;
use step_protocol::Outcome;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::PipelineRun;
use trainyard_planner::{Attempt, AttemptState, Class, Ended};

pub(crate) use taken::disruption;

use crate::mutant;
use crate::pod::{RUNNER_CONTAINER, STAGE_CONTAINER};

/// A Pod, or a TrainingJob, that belongs to a stage of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observation {
    pub(crate) run: ObjectRef<PipelineRun>,
    pub(crate) run_uid: String,
    pub(crate) stage: String,
    pub(crate) spec_hash: String,
    /// Its resource version.
    pub(crate) version: u64,
    pub(crate) attempt: Attempt,
}

/// What a Pod says, if it is one of ours: its labels and its controller's UID agree.
pub(crate) fn observe(pod: &Pod) -> Option<Observation> {
    let meta = &pod.metadata;
    let label = |key: &str| meta.labels.as_ref()?.get(key).cloned();
    let run_uid = label(labels::RUN_UID)?;
    let by_label = mutant::is("adopt-by-label").then(|| OwnerReference {
        uid: run_uid.clone(),
        name: label(labels::RUN).unwrap_or_default(),
        ..OwnerReference::default()
    });
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let owner = owner.or(by_label.as_ref())?;
    if owner.uid != run_uid {
        return None;
    }
    Some(Observation {
        run: ObjectRef::new(&owner.name).within(meta.namespace.as_deref().unwrap_or_default()),
        stage: label(labels::STAGE)?,
        spec_hash: meta.annotations.as_ref().and_then(|map| map.get(labels::SPEC_HASH)).cloned().unwrap_or_default(),
        version: version(pod),
        attempt: attempt(pod, label(labels::ATTEMPT)?.parse().ok()?),
        run_uid,
    })
}

/// What a Pod says that was read by the name of this attempt, whatever its labels have become. One that the run does not control
/// is not ours.
pub(crate) fn observe_named(pod: &Pod, run_uid: &str, number: u32) -> Option<Attempt> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    (owner.uid == run_uid).then(|| attempt(pod, number))
}

/// A Pod's own labels of run, stage and attempt, if it has them.
pub(crate) fn labelled(pod: &Pod) -> Option<(String, String, u32)> {
    let labels = pod.metadata.labels.as_ref()?;
    let label = |key: &str| labels.get(key).cloned();
    Some((label(labels::RUN_UID)?, label(labels::STAGE)?, label(labels::ATTEMPT)?.parse().ok()?))
}

/// The resource version of a Pod: the greater, the later.
pub(crate) fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// A Pod as an attempt of this number.
pub(crate) fn attempt(pod: &Pod, number: u32) -> Attempt {
    let meta = &pod.metadata;
    let created = meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Attempt {
        number,
        pod: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        created,
        deleting: meta.deletion_timestamp.is_some(),
        lost_node: taken::lost_node(pod),
        state: state(pod, created),
        child: None,
    }
}

fn state(pod: &Pod, created: Timestamp) -> AttemptState {
    let status = pod.status.as_ref();
    let stage = container(status.and_then(|status| status.container_statuses.as_ref()), STAGE_CONTAINER);
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if mutant::is("retry-while-terminating") && pod.metadata.deletion_timestamp.is_some() {
        return AttemptState::Ended(Ended::failure(
            Class::Infra,
            Reason::Disrupted.as_str(),
            "the Pod is being deleted",
        ));
    }
    if let Some(terminated) = stage.and_then(|status| status.state.as_ref()?.terminated.as_ref()) {
        return AttemptState::Ended(ended(pod, terminated));
    }
    if phase == "Failed" || phase == "Succeeded" {
        return AttemptState::Ended(ended_without_container(pod, phase));
    }
    if let Some(running) = stage.and_then(|status| status.state.as_ref()?.running.as_ref()) {
        return AttemptState::Running(running.started_at.as_ref().map_or(created, |time| time.0));
    }
    AttemptState::Pending(waiting::waiting(pod, stage))
}

fn container<'a>(statuses: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}

/// How a terminated container ended.
fn ended(pod: &Pod, terminated: &ContainerStateTerminated) -> Ended {
    let pod_reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    let message = terminated.message.as_deref();
    let mut ended = ended::by_code(terminated.exit_code, terminated.reason.as_deref(), pod_reason, message);
    if ended.committed.is_none() {
        ended = taken::corrected(pod, ended);
    }
    let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    // Of one clock, or none.
    if ended.start.is_none() || ended.end.is_none() {
        (ended.start, ended.end) = (time(&terminated.started_at), time(&terminated.finished_at));
    }
    ended
}

/// A Pod that is over without a word on its container: evicted before it started, or its status was edited.
fn ended_without_container(pod: &Pod, phase: &str) -> Ended {
    let status = pod.status.as_ref();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let reason = text(status.and_then(|status| status.reason.as_ref()));
    let message = text(status.and_then(|status| status.message.as_ref()));
    let init = container(status.and_then(|status| status.init_container_statuses.as_ref()), RUNNER_CONTAINER);
    let init_failed =
        init.and_then(|status| status.state.as_ref()?.terminated.as_ref()).filter(|state| state.exit_code != 0);
    if phase == "Succeeded" {
        return Ended::failure(
            Class::Infra,
            Reason::NoCommit.as_str(),
            "the Pod counts as succeeded but its container never ended",
        );
    }
    if let Some(full) = taken::disk_full(pod) {
        return full;
    }
    if reason == "DeadlineExceeded" {
        return Ended::failure(Class::User, Outcome::Timeout.as_str(), "the Pod did not start its program in time");
    }
    if let Some(state) = init_failed {
        return Ended::failure(
            Class::Infra,
            Reason::ContainerStartFailed.as_str(),
            format!("the init container that brings the runner ended with exit code {}", state.exit_code),
        );
    }
    let message = taken::disruption(pod).unwrap_or_else(|| {
        format!("the Pod failed before its program started: {reason} {message}").trim_end().to_owned()
    });
    Ended::failure(Class::Infra, Reason::Disrupted.as_str(), message)
}

#[cfg(test)]
mod tests;
