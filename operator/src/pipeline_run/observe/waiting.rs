//! Why a Pod has not started its program, and how long that is waited for.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use trainyard_crds::condition::Reason;
use trainyard_planner::{Late, Verdict, Waiting};

use super::container;
use crate::pod::{RUNNER_CONTAINER, STAGE_CONTAINER};

/// How long an image that the registry says does not exist, or does not give, is waited for.
pub(super) const IMAGE_PATIENCE: SignedDuration = SignedDuration::from_secs(90);
/// How long a registry that does not answer is waited for.
pub(super) const REGISTRY_PATIENCE: SignedDuration = SignedDuration::from_secs(30 * 60);
/// How long a Secret or ConfigMap that does not exist is waited for: a GitOps tool may apply it a moment later.
const CONFIG_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// How long a Pod may take without a word on why: people hear of it within half a minute.
pub(super) const LATE_SECONDS: i64 = 20;

/// Why a Pod has not started its program.
pub(super) fn waiting(pod: &Pod, stage: Option<&ContainerStatus>) -> Waiting {
    let status = pod.status.as_ref();
    let scheduled = status.and_then(|status| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
    });
    if let Some(condition) = scheduled {
        return Waiting {
            reason: match condition.reason.as_deref() {
                Some("SchedulingGated") => Reason::Queued.as_str().to_owned(),
                _ => Reason::Unschedulable.as_str().to_owned(),
            },
            message: condition.message.clone().unwrap_or_default(),
            ..Waiting::default()
        };
    }
    let init = container(status.and_then(|status| status.init_container_statuses.as_ref()), RUNNER_CONTAINER);
    let waits = |status: &ContainerStatus| {
        let state: &ContainerState = status.state.as_ref()?;
        let waiting = state.waiting.as_ref()?;
        Some((waiting.reason.clone().unwrap_or_default(), waiting.message.clone().unwrap_or_default()))
    };
    let (reason, message) = init
        .and_then(waits)
        .filter(|(reason, _)| !matches!(reason.as_str(), "" | "PodInitializing" | "ContainerCreating"))
        .or_else(|| stage.and_then(waits))
        .unwrap_or_default();
    container_waiting(&reason, message, pod)
}

fn container_waiting(reason: &str, message: String, pod: &Pod) -> Waiting {
    let verdict = |after, reason| Some(Verdict { after, reason });
    let text = message.to_lowercase();
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => {
            let image = image(pod);
            let said =
                ["not found", "notfound", "unauthorized", "denied", "invalid reference", "no match for platform"];
            let patience = match reason {
                // The kubelet itself will not try.
                "InvalidImageName" | "ErrImageNeverPull" => SignedDuration::ZERO,
                _ if said.iter().any(|word| text.contains(word)) => IMAGE_PATIENCE,
                _ => REGISTRY_PATIENCE,
            };
            Waiting {
                reason: Reason::ImagePull.as_str().to_owned(),
                message: format!(
                    "image {image} cannot be pulled: {reason}: {message}; check its name and pod.imagePullSecrets"
                ),
                verdict: verdict(patience, Reason::ImagePullFailed),
                late: None,
            }
        }
        "CreateContainerConfigError" if text.contains("runasnonroot") || text.contains("will run as root") => Waiting {
            reason: Reason::ImageRunsAsRoot.as_str().to_owned(),
            message: format!(
                "image {} runs as root, which the Restricted profile forbids: set pod.runAsUser to a number above 0, or pod.securityProfile to Baseline",
                image(pod)
            ),
            verdict: verdict(SignedDuration::ZERO, Reason::ImageRunsAsRoot),
            late: None,
        },
        "CreateContainerConfigError" => Waiting {
            reason: Reason::Starting.as_str().to_owned(),
            message: format!("{message}; create it in the run's namespace"),
            verdict: verdict(CONFIG_PATIENCE, Reason::ConfigMissing),
            late: None,
        },
        "CreateContainerError" | "RunContainerError" | "StartError" | "CrashLoopBackOff" => Waiting {
            reason: Reason::Starting.as_str().to_owned(),
            message: format!("the container could not be started: {message}"),
            verdict: verdict(SignedDuration::ZERO, Reason::ContainerStartFailed),
            late: None,
        },
        _ => Waiting { reason: Reason::Starting.as_str().to_owned(), late: Some(late(pod)), ..Waiting::default() },
    }
}

fn image(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.containers.iter().find(|container| container.name == STAGE_CONTAINER))
        .and_then(|container| container.image.as_deref())
        .unwrap_or("?")
}

/// What is said of a Pod that does not start and does not say why: the kubelet tells that by Events, which the operator does not read.
fn late(pod: &Pod) -> Late {
    let status = pod.status.as_ref();
    let has = |kind: &str| {
        let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let what = if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
        "no scheduler has looked at its Pod".to_owned()
    } else if has("PodReadyToStartContainers") {
        format!("the kubelet has not started the container: it may still be pulling image {}", image(pod))
    } else {
        let mounts = mounts(pod);
        let hint = if mounts.is_empty() { String::new() } else { format!(", which must exist: {}", mounts.join(", ")) };
        format!("the Pod's volumes or its network are not ready{hint}")
    };
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let message = format!(
        "{what}, for more than {LATE_SECONDS} s; why is shown by: kubectl describe pod -n {} {}",
        namespace.unwrap_or_default(),
        name.unwrap_or_default()
    );
    Late { after: SignedDuration::from_secs(LATE_SECONDS), message }
}

/// The objects of the namespace that the Pod cannot start without.
fn mounts(pod: &Pod) -> Vec<String> {
    let mut mounts = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if let Some(config_map) = volume.config_map.as_ref().filter(|source| source.optional != Some(true)) {
            mounts.push(format!("ConfigMap {}", config_map.name));
        }
        if let Some(secret) = volume.secret.as_ref().filter(|source| source.optional != Some(true)) {
            mounts.push(format!("Secret {}", secret.secret_name.as_deref().unwrap_or_default()));
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            mounts.push(format!("PersistentVolumeClaim {}", claim.claim_name));
        }
    }
    mounts
}
