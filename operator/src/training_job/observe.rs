//! A Pod as a rank, in the planner's words. Pure: no client.

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use step_protocol::paths;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::TrainingJob;
use trainyard_planner::training::RankPod;

use super::memory::AttemptKeys;
use crate::pipeline_run::observe::{attempt, disruption, version};
use crate::pod::STAGE_CONTAINER;

/// A Pod that is a rank of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observation {
    pub(super) job: ObjectRef<TrainingJob>,
    pub(super) job_uid: String,
    pub(super) spec_hash: String,
    /// Resource version of the Pod.
    pub(super) version: u64,
    pub(super) pod: RankPod,
    pub(super) keys: AttemptKeys,
}

/// What a Pod says, if it is one of ours: its labels and its controller's UID agree.
pub(super) fn observe(pod: &Pod) -> Option<Observation> {
    let (job_uid, number, rank) = labelled(pod)?;
    observe_named(pod, &job_uid, number, rank)
}

/// What a Pod says that was read by the name of this rank, whatever its labels have become. One that the job does not control is
/// not ours.
pub(super) fn observe_named(pod: &Pod, job_uid: &str, number: u32, rank: u32) -> Option<Observation> {
    let meta = &pod.metadata;
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    if owner.uid != job_uid {
        return None;
    }
    let variable = |name: &str| {
        let container = pod.spec.as_ref()?.containers.iter().find(|container| container.name == STAGE_CONTAINER)?;
        container.env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
    };
    Some(Observation {
        job: ObjectRef::new(&owner.name).within(meta.namespace.as_deref().unwrap_or_default()),
        job_uid: owner.uid.clone(),
        spec_hash: meta.annotations.as_ref().and_then(|map| map.get(labels::SPEC_HASH)).cloned().unwrap_or_default(),
        version: version(pod),
        pod: RankPod {
            rank,
            attempt: attempt(pod, number),
            bound: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
            held: meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()),
            due: meta.deletion_timestamp.as_ref().map(|time| time.0),
            disruption: disruption(pod),
        },
        keys: AttemptKeys {
            attempt: number,
            gang: variable(paths::ENV_GANG_KEY),
            report: variable(paths::ENV_REPORT_KEY).filter(|_| rank == 0),
        },
    })
}

/// A Pod's own labels of job, attempt and rank, if it has them.
pub(super) fn labelled(pod: &Pod) -> Option<(String, u32, u32)> {
    let labels = pod.metadata.labels.as_ref()?;
    let number = |key: &str| labels.get(key)?.parse().ok();
    Some((labels.get(labels::JOB_UID)?.clone(), number(labels::ATTEMPT)?, number(labels::RANK)?))
}
