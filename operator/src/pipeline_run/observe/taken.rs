//! Pods that are taken away, or whose node is: by something other than their program.

use k8s_openapi::api::core::v1::Pod;
use step_protocol::Outcome;
use trainyard_crds::condition::Reason;
use trainyard_planner::{Class, Ended};

use crate::pod::STAGE_CONTAINER;

/// The failure of an attempt as what is known of its Pod shows it.
pub(super) fn corrected(pod: &Pod, mut ended: Ended) -> Ended {
    if let Some(full) = disk_full(pod) {
        return Ended { last_lines: ended.last_lines, start: ended.start, end: ended.end, ..full };
    }
    if let Some(message) = disruption(pod)
        && ended.class != Class::User
    {
        ended.class = Class::Infra;
        ended.reason = Reason::Disrupted.as_str().to_owned();
        ended.message = message;
    }
    ended
}

/// Why the Pod is or was being taken away by something other than its program.
pub(crate) fn disruption(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True");
    if let Some(condition) = condition {
        let reason = condition.reason.as_deref().unwrap_or("DisruptionTarget");
        let message = condition.message.as_deref().unwrap_or_default();
        return Some(format!("the Pod was taken away: {reason} {message}").trim_end().to_owned());
    }
    match status.reason.as_deref() {
        Some(reason @ ("Evicted" | "Preempting" | "Shutdown" | "NodeShutdown" | "Terminated" | "NodeLost")) => {
            let message = status.message.as_deref().unwrap_or_default();
            Some(format!("the Pod was taken away: {reason} {message}").trim_end().to_owned())
        }
        _ => None,
    }
}

/// The stage wrote more than it may: the kubelet evicts the Pod for that, which is no fault of the infrastructure and would only
/// happen again.
pub(super) fn disk_full(pod: &Pod) -> Option<Ended> {
    let status = pod.status.as_ref()?;
    let said = status.message.as_deref().filter(|_| status.reason.as_deref() == Some("Evicted"))?;
    let message = if let Some(rest) = said.trim().strip_prefix("Usage of EmptyDir volume ") {
        // `"trainyard" exceeds the limit "16Mi". `
        let mut quoted = rest.split('"').skip(1).step_by(2);
        let (volume, limit) = (quoted.next()?, quoted.next()?);
        let field = match volume {
            "trainyard" => "pod.scratch.size".to_owned(),
            "shm" => "pod.shmSize".to_owned(),
            other => format!("the sizeLimit of volume {}", other.trim_start_matches("v-")),
        };
        format!("more than {limit} were written below {}: raise {field}, or write less", mount_path(pod, volume))
    } else if said.contains("ephemeral local storage usage exceeds the total limit")
        || said.contains("exceeded its local ephemeral storage limit")
    {
        format!("{}: raise resources.limits.ephemeral-storage, or write less", said.trim().trim_end_matches('.'))
    } else {
        return None;
    };
    Some(Ended::failure(Class::User, Outcome::DiskFull.as_str(), message))
}

fn mount_path<'a>(pod: &'a Pod, volume: &'a str) -> &'a str {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut mounts = containers
        .filter(|container| container.name == STAGE_CONTAINER)
        .flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.find(|mount| mount.name == volume).map_or(volume, |mount| &mount.mount_path)
}

/// The Pod's node, if that does not answer any more: the node controller then takes back that the Pod is ready, which the kubelet
/// says only together with its containers.
pub(super) fn lost_node(pod: &Pod) -> Option<String> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let is = |kind: &str, value: &str| {
        status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == value)
    };
    let gates = spec.readiness_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let lost = is("ContainersReady", "True") && is("Ready", "False") && !gates;
    if lost { spec.node_name.clone() } else { None }
}
