//! A rank as a Pod, and the Service in which the ranks have their names. Pure: no client.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use kube::{Resource, ResourceExt};
use trainyard_crds::v1alpha1::TrainingJob;
use trainyard_crds::{labels, names};
use trainyard_planner::training::{JobRun, rank_spec};
use trainyard_planner::{StepContext, StepProblem};

use super::memory::Parsed;
use crate::args::Settings;
use crate::gang::{Gang, Placement};
use crate::pod::{GangPod, PodError, RunnerMount, StagePod, stage_pod};

/// Why a rank cannot be made a Pod.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error(transparent)]
    Step(#[from] StepProblem),
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// The Pod of one rank.
pub(super) struct Request<'a> {
    pub(super) parsed: &'a Parsed,
    pub(super) object: &'a TrainingJob,
    pub(super) run: &'a JobRun<'a>,
    pub(super) ranks: u32,
    pub(super) attempt: u32,
    pub(super) rank: u32,
    pub(super) mount: RunnerMount,
    pub(super) report_key: Option<&'a str>,
    pub(super) gang_key: &'a str,
    /// The scheduler that places the ranks together.
    pub(super) placement: Option<Placement<'a>>,
}

impl Request<'_> {
    /// Hash of what the rank is to do: a Pod of our name with another one is not ours.
    pub(super) fn spec_hash(&self) -> String {
        names::hash(&[self.run.uid, self.parsed.job.digest(), &self.ranks.to_string()])
    }

    pub(super) fn name(&self) -> String {
        self.parsed.job.pod_name(self.run.name, self.run.uid, self.ranks, self.attempt, self.rank)
    }

    pub(super) fn pod(&self, settings: &Settings) -> Result<Pod, BuildError> {
        let context = StepContext { report_url: settings.report_url.as_deref(), default_timeout: None };
        let job = &self.parsed.job;
        let spec = rank_spec(job, self.run, self.ranks, self.attempt, self.rank, context)?;
        let unknown = || StepProblem::Unknown(usize::try_from(self.rank).unwrap_or(usize::MAX));
        let program = job.role(self.ranks, self.rank).ok_or_else(unknown)?;
        let (role, index) = job.role_of(self.ranks, self.rank).ok_or_else(unknown)?;
        let queue = self.object.labels().get(labels::QUEUE).map(String::as_str);
        let group = names::group(self.run.name, self.run.uid, self.attempt);
        Ok(stage_pod(&StagePod {
            name: &self.name(),
            namespace: self.run.namespace,
            owner: owner(self.object),
            run: self.run.name,
            run_uid: self.run.uid,
            pipeline: &self.parsed.origin.pipeline,
            attempt: self.attempt,
            stage: role,
            program: &program.container,
            overrides: program.pod.as_ref(),
            spec: &spec,
            spec_hash: &self.spec_hash(),
            store: job.store(),
            code: job.code(),
            service_account_name: self.object.spec.service_account_name.as_deref(),
            settings: &settings.pod,
            mount: self.mount,
            report_key: self.report_key,
            gang: Some(GangPod {
                service: self.run.name,
                role,
                index,
                rank: self.rank,
                ranks: self.ranks,
                key: self.gang_key,
                queue,
                group: &group,
                placement: self.placement,
            }),
        })?)
    }
}

/// The job as controller. Nothing of ours ever blocks a deletion.
fn owner(object: &TrainingJob) -> OwnerReference {
    let mut owner = object.controller_owner_ref(&()).unwrap_or_default();
    owner.block_owner_deletion = Some(false);
    owner
}

/// The headless Service of a job: its ranks have host names in it, also before they are ready.
pub(super) fn service(object: &TrainingJob) -> Service {
    let uid = object.uid().unwrap_or_default();
    let label = |key: &str, value: String| (key.to_owned(), value);
    Service {
        metadata: ObjectMeta {
            name: Some(object.name_any()),
            namespace: object.namespace(),
            owner_references: Some(vec![owner(object)]),
            labels: Some(BTreeMap::from([
                label(labels::MANAGED_BY, labels::MANAGER.to_owned()),
                label(labels::JOB, labels::value(&object.name_any())),
                label(labels::JOB_UID, uid.clone()),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(BTreeMap::from([label(labels::JOB_UID, uid)])),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The group of the Pods of one attempt, for a scheduler that places them together. It goes with the job.
pub(super) fn pod_group(gang: &Gang, object: &TrainingJob, attempt: u32, ranks: u32) -> DynamicObject {
    let (namespace, name, uid) =
        (object.namespace().unwrap_or_default(), object.name_any(), object.uid().unwrap_or_default());
    gang.pod_group(&namespace, &names::group(&name, &uid, attempt), owner(object), ranks)
}

/// Whether a Service of our name is this job's.
pub(super) fn is_ours(service: &Service, object: &TrainingJob) -> bool {
    let owners = service.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && Some(&owner.uid) == object.metadata.uid.as_ref())
}
