//! The Pod of one attempt, from data alone: no client, no clock.
//!
//! [`stage_pod`] is a pure function, so the same attempt always makes the same Pod and a repeated create meets itself. What the
//! attempt does stands in the [`StepSpec`] that travels in the Pod's environment; what is here is how it is run: how the runner comes
//! into the user's image (`containers`), what is mounted (`volumes`), and as whom it runs (`security`).

mod containers;
mod error;
mod resources;
mod security;
mod task;
mod volumes;

#[cfg(test)]
mod pod_security;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use step_protocol::StepSpec;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{Container as Program, PodOverrides, Resources, Store};

use crate::gang::{Member, Placement};

pub use containers::{RUNNER_CONTAINER, STAGE_CONTAINER};
pub use error::PodError;
pub(crate) use task::{DEADLINE_MARGIN_SECONDS as TASK_MARGIN_SECONDS, TaskPod, task_pod};

/// What the runner may still do after the program's grace period: publish, write its report, say goodbye.
const RUNNER_GRACE_SECONDS: u64 = 15;
/// What `activeDeadlineSeconds` allows beyond the stage's timeout and grace.
///
/// The runner enforces the timeout itself, from its own start. The kubelet's deadline counts from when it took the Pod, pulls of
/// large images included (20 GB at 10 MB/s are 33 minutes), so it is only for a runner that hangs or is frozen. Too early it would
/// kill hours of work, too late it costs one more hour of a Pod that does nothing.
const DEADLINE_MARGIN_SECONDS: u64 = 3600;
/// How long a Pod stays bound to a node that does not answer. The API server's own default is five minutes, in which nobody works.
const NODE_LOSS_SECONDS: i64 = 30;

/// One attempt of one stage, with all that its Pod depends on.
#[derive(Clone, Debug)]
pub struct StagePod<'a> {
    /// Name of the Pod, see [`trainyard_crds::names::pod`].
    pub name: &'a str,
    /// Namespace of the run.
    pub namespace: &'a str,
    /// The PipelineRun, as controller.
    pub owner: OwnerReference,
    /// Name of the PipelineRun.
    pub run: &'a str,
    /// UID of the PipelineRun.
    pub run_uid: &'a str,
    /// Name of the Pipeline; of the run itself for an inline one.
    pub pipeline: &'a str,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Name of the stage.
    pub stage: &'a str,
    /// Its program, with the pipeline's defaults merged in.
    pub program: &'a Program,
    /// What the stage needs of its Pod.
    pub overrides: Option<&'a PodOverrides>,
    /// What the runner is to do.
    pub spec: &'a StepSpec,
    /// Hash of the attempt's description, by which a Pod of this name is known to be this one.
    pub spec_hash: &'a str,
    /// The run's store, with the installation's default merged in.
    pub store: &'a Store,
    /// Name of the ConfigMap with the pipeline's code.
    pub code: Option<&'a str>,
    /// Service account of the run; the stage's own goes first.
    pub service_account_name: Option<&'a str>,
    /// What the installation says.
    pub settings: &'a PodSettings,
    /// How the runner comes into the image.
    pub mount: RunnerMount,
    /// Key of this attempt's early report, in hex; `None` where early reports are off.
    pub report_key: Option<&'a str>,
    /// What makes the Pod one rank of a training job; the owner, `run`, `run_uid` and `attempt` are then the job's, and the stage is
    /// the rank's role.
    pub gang: Option<GangPod<'a>>,
}

/// One rank of a training job.
#[derive(Clone, Copy, Debug)]
pub struct GangPod<'a> {
    /// Name of the headless Service in which the ranks have their host names.
    pub service: &'a str,
    /// Name of the role.
    pub role: &'a str,
    /// Place in the role, from 0.
    pub index: u32,
    /// Place among all ranks, from 0.
    pub rank: u32,
    /// How many ranks there are.
    pub ranks: u32,
    /// Key that the runners of this attempt share, in hex.
    pub key: &'a str,
    /// Kueue's queue of the job.
    pub queue: Option<&'a str>,
    /// Name of the group that the ranks are to that queue, and to a scheduler that places them together.
    pub group: &'a str,
    /// Such a scheduler.
    pub placement: Option<Placement<'a>>,
}

/// What the installation says about every Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSettings {
    /// Image with the step-runner.
    pub runner_image: String,
    /// When that image is pulled; `None` = as Kubernetes decides by its tag.
    pub runner_pull_policy: Option<PullPolicy>,
    /// User, group and fsGroup of Pods that do not say otherwise; `None` = as the cluster gives (OpenShift).
    pub run_as_user: Option<i64>,
    /// Resources of stages that say nothing.
    pub default_resources: Option<Resources>,
}

/// How the runner comes into the user's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RunnerMount {
    /// As an image volume: Kubernetes >= 1.33 with the feature on, and a runtime that can.
    Image,
    /// Copied into an emptyDir by an init container: everywhere, half a second slower.
    Init,
}

impl RunnerMount {
    /// The word in the annotation [`labels::RUNNER_MOUNT`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::Init => "Init",
        }
    }
}

/// When an image is pulled, as in a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Always ask the registry.
    Always,
    /// Only when the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

impl PullPolicy {
    /// The word in a Pod.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The Pod of an attempt.
///
/// # Errors
/// When the stage asks for what no Pod can give; repeating cannot help, see [`PodError::reason`].
pub fn stage_pod(input: &StagePod<'_>) -> Result<Pod, PodError> {
    let none = PodOverrides::default();
    let overrides = input.overrides.unwrap_or(&none);

    let resources =
        resources::requirements(input.program.resources.as_ref().or(input.settings.default_resources.as_ref()));
    let mounted = volumes::mounted(input, overrides)?;
    let runner = (input.mount == RunnerMount::Init).then(|| containers::runner(input.settings, resources.as_ref()));
    let stage = containers::stage(input, resources, mounted.mounts)?;

    let service_account_name = overrides.service_account_name.as_deref().or(input.service_account_name);
    Ok(Pod {
        metadata: metadata(input, overrides),
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            hostname: input.gang.map(|gang| format!("{}-{}", gang.role, gang.index)),
            subdomain: input.gang.map(|gang| gang.service.to_owned()),
            scheduler_name: input.gang.and_then(|gang| Some(gang.placement?.scheduler_name.to_owned())),
            service_account_name: service_account_name.map(str::to_owned),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(seconds(
                input.spec.grace_seconds.saturating_add(RUNNER_GRACE_SECONDS),
            )),
            active_deadline_seconds: deadline(input.spec),
            security_context: Some(security::pod(overrides, input.settings)?),
            init_containers: runner.map(|runner| vec![runner]),
            containers: vec![stage],
            volumes: Some(mounted.volumes),
            node_selector: (!overrides.node_selector.is_empty()).then(|| overrides.node_selector.clone()),
            tolerations: Some(tolerations(&overrides.tolerations)),
            affinity: overrides.affinity.clone(),
            priority_class_name: overrides.priority_class_name.clone(),
            runtime_class_name: overrides.runtime_class_name.clone(),
            image_pull_secrets: pull_secrets(overrides),
            ..PodSpec::default()
        }),
        status: None,
    })
}

/// Labels and annotations: the user's, then ours over them. Nothing comes from the run, whose labels may be those of a GitOps tool
/// that would take the Pod for its own and prune it.
fn metadata(input: &StagePod<'_>, overrides: &PodOverrides) -> ObjectMeta {
    let ours = |user: &BTreeMap<String, String>, ours: &[(&str, String)]| {
        let mut all = user.clone();
        all.extend(ours.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Some(all)
    };
    let mut own = vec![(labels::MANAGED_BY, labels::MANAGER.to_owned()), (labels::ATTEMPT, input.attempt.to_string())];
    let mut notes = vec![
        (labels::DEFAULT_CONTAINER, STAGE_CONTAINER.to_owned()),
        (labels::RUNNER_MOUNT, input.mount.as_str().to_owned()),
        (labels::SPEC_HASH, input.spec_hash.to_owned()),
    ];
    match input.gang {
        None => own.extend([
            (labels::PIPELINE, labels::value(input.pipeline)),
            (labels::RUN, labels::value(input.run)),
            (labels::RUN_UID, input.run_uid.to_owned()),
            (labels::STAGE, labels::value(input.stage)),
        ]),
        Some(gang) => {
            own.extend([
                (labels::JOB, labels::value(input.run)),
                (labels::JOB_UID, input.run_uid.to_owned()),
                (labels::ROLE, labels::value(gang.role)),
                (labels::INDEX, gang.index.to_string()),
                (labels::RANK, gang.rank.to_string()),
            ]);
            if let Some(queue) = gang.queue {
                own.extend([(labels::QUEUE, queue.to_owned()), (labels::POD_GROUP, gang.group.to_owned())]);
                notes.extend([
                    (labels::POD_GROUP_COUNT, gang.ranks.to_string()),
                    (labels::POD_GROUP_RETRIABLE, "false".to_owned()),
                ]);
            }
            match gang.placement.map(|placement| placement.member) {
                Some(Member::Label(key)) => own.push((key, gang.group.to_owned())),
                Some(Member::Annotation(key)) => notes.push((key, gang.group.to_owned())),
                None => {}
            }
        }
    }
    ObjectMeta {
        name: Some(input.name.to_owned()),
        namespace: Some(input.namespace.to_owned()),
        owner_references: Some(vec![input.owner.clone()]),
        labels: ours(&overrides.labels, &own),
        annotations: ours(&overrides.annotations, &notes),
        ..ObjectMeta::default()
    }
}

/// The kubelet's deadline, see [`DEADLINE_MARGIN_SECONDS`]. A sum that the API does not take (over 68 years) is none.
fn deadline(spec: &StepSpec) -> Option<i64> {
    let sum = spec.timeout_seconds?.checked_add(spec.grace_seconds)?.checked_add(DEADLINE_MARGIN_SECONDS)?;
    i32::try_from(sum).ok().map(i64::from)
}

fn seconds(seconds: u64) -> i64 {
    i64::from(i32::try_from(seconds).unwrap_or(i32::MAX))
}

/// The user's tolerations, and ours for a lost node unless the user names that taint.
fn tolerations(user: &[Toleration]) -> Vec<Toleration> {
    let mut all = user.to_vec();
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if user.iter().any(|toleration| toleration.key.as_deref() == Some(taint)) {
            continue;
        }
        all.push(Toleration {
            key: Some(taint.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(NODE_LOSS_SECONDS),
            ..Toleration::default()
        });
    }
    all
}

fn pull_secrets(overrides: &PodOverrides) -> Option<Vec<LocalObjectReference>> {
    let secrets = &overrides.image_pull_secrets;
    (!secrets.is_empty())
        .then(|| secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() }).collect())
}
