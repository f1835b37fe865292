//! A Pod as an attempt, in the planner's words. Pure: no client.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::runtime::reflector::ObjectRef;
use step_protocol::{Outcome, StepReport};
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::PipelineRun;
use trainyard_planner::{Attempt, AttemptState, Class, Committed, CommittedOutput, Ended, Verdict, Waiting};

use crate::pod::{RUNNER_CONTAINER, STAGE_CONTAINER};

/// How long an image that the registry says does not exist, or does not give, is waited for.
const IMAGE_PATIENCE: SignedDuration = SignedDuration::from_secs(90);
/// How long a registry that does not answer is waited for.
const REGISTRY_PATIENCE: SignedDuration = SignedDuration::from_secs(30 * 60);
/// How long a Secret or ConfigMap that does not exist is waited for: a GitOps tool may apply it a moment later.
const CONFIG_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// A Pod that belongs to a stage of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observation {
    pub(crate) run: ObjectRef<PipelineRun>,
    pub(crate) run_uid: String,
    pub(crate) stage: String,
    pub(crate) spec_hash: String,
    pub(crate) attempt: Attempt,
}

/// What a Pod says, if it is one of ours: its labels and its controller's UID agree.
pub(crate) fn observe(pod: &Pod) -> Option<Observation> {
    let meta = &pod.metadata;
    let label = |key: &str| meta.labels.as_ref()?.get(key).cloned();
    let run_uid = label(labels::RUN_UID)?;
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    if owner.uid != run_uid {
        return None;
    }
    let created = meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(Observation {
        run: ObjectRef::new(&owner.name).within(meta.namespace.as_deref().unwrap_or_default()),
        stage: label(labels::STAGE)?,
        spec_hash: meta.annotations.as_ref().and_then(|map| map.get(labels::SPEC_HASH)).cloned().unwrap_or_default(),
        attempt: Attempt {
            number: label(labels::ATTEMPT)?.parse().ok()?,
            pod: meta.name.clone()?,
            uid: meta.uid.clone().unwrap_or_default(),
            created,
            deleting: meta.deletion_timestamp.is_some(),
            state: state(pod, created),
        },
        run_uid,
    })
}

fn state(pod: &Pod, created: Timestamp) -> AttemptState {
    let status = pod.status.as_ref();
    let stage = container(status.and_then(|status| status.container_statuses.as_ref()), STAGE_CONTAINER);
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if let Some(terminated) = stage.and_then(|status| status.state.as_ref()?.terminated.as_ref()) {
        let disrupted = disruption(pod);
        let ended = ended(
            terminated.exit_code,
            terminated.reason.as_deref(),
            terminated.message.as_deref(),
            terminated.finished_at.as_ref().map(|time| time.0),
            disrupted,
            status.and_then(|status| status.reason.as_deref()),
        );
        return AttemptState::Ended(ended);
    }
    if phase == "Failed" || phase == "Succeeded" {
        return AttemptState::Ended(ended_without_container(pod, phase));
    }
    if let Some(running) = stage.and_then(|status| status.state.as_ref()?.running.as_ref()) {
        return AttemptState::Running(running.started_at.as_ref().map_or(created, |time| time.0));
    }
    AttemptState::Pending(waiting(pod, stage))
}

fn container<'a>(statuses: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}

/// Why the Pod is or was being taken away by something other than its program.
fn disruption(pod: &Pod) -> Option<String> {
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

/// How a terminated container ended. The exit code decides: only the runner's own 0 stands for a commit, and a message counts
/// only where it says the same as the code, since user code can write a message but not the runner's exit code.
fn ended(
    code: i32,
    kubelet_reason: Option<&str>,
    message: Option<&str>,
    end: Option<Timestamp>,
    disrupted: Option<String>,
    pod_reason: Option<&str>,
) -> Ended {
    let report: Option<StepReport> = message.and_then(|text| serde_json::from_str(text).ok());
    let outcome = Outcome::from_exit_code(code);
    let report = report.filter(|report| Some(report.outcome) == outcome);
    let mut ended = match (outcome, report) {
        (Some(Outcome::Succeeded), Some(report)) if report.commit.is_some() => committed(report),
        (Some(Outcome::Succeeded), _) => Ended::failure(
            Class::Infra,
            Reason::NoCommit.as_str(),
            "the Pod ended well but its report does not name a commit record; the next attempt looks for the record",
        ),
        (Some(outcome), report) => failure(outcome, report),
        (None, _) if kubelet_reason == Some("OOMKilled") => Ended::failure(
            Class::User,
            Outcome::OOMKilled.as_str(),
            "the container ran out of memory: raise resources.limits.memory, or use less",
        ),
        (None, _) if pod_reason == Some("DeadlineExceeded") => Ended::failure(
            Class::User,
            Outcome::Timeout.as_str(),
            "the Pod was still there long after the stage's timeout",
        ),
        (None, _) => Ended::failure(
            Class::Infra,
            Reason::Disrupted.as_str(),
            format!(
                "the Pod ended without a report, exit code {code}{}",
                kubelet_reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
            ),
        ),
    };
    if let Some(message) = disrupted
        && ended.committed.is_none()
        && ended.class != Class::User
    {
        ended.class = Class::Infra;
        ended.reason = Reason::Disrupted.as_str().to_owned();
        ended.message = message;
    }
    ended.end = ended.end.or(end);
    ended
}

/// The success that a report speaks of.
pub(crate) fn committed(report: StepReport) -> Ended {
    let outputs = report
        .outputs
        .into_iter()
        .map(|output| CommittedOutput { name: output.name, digest: output.digest, bytes: output.bytes })
        .collect();
    let end = report.finished.as_deref().and_then(|text| text.parse().ok());
    Ended {
        committed: Some(Committed {
            winner: report.winner.unwrap_or(1),
            outputs,
            results: report.results,
            metrics: report.metrics,
        }),
        class: Class::User,
        reason: String::new(),
        message: String::new(),
        exit_code: None,
        last_lines: String::new(),
        end,
    }
}

fn failure(outcome: Outcome, report: Option<StepReport>) -> Ended {
    let report = report.unwrap_or_else(|| StepReport::new(outcome, "the runner's report was lost"));
    Ended {
        committed: None,
        class: class(outcome),
        reason: outcome.as_str().to_owned(),
        message: report.message,
        exit_code: report.exit_code,
        last_lines: report.last_lines,
        end: report.finished.as_deref().and_then(|text| text.parse().ok()),
    }
}

/// Whose fault an outcome is.
const fn class(outcome: Outcome) -> Class {
    match outcome {
        Outcome::Succeeded
        | Outcome::UserError
        | Outcome::OOMKilled
        | Outcome::Timeout
        | Outcome::OutputMissing
        | Outcome::OutputUnsafe
        | Outcome::ResultInvalid
        | Outcome::DiskFull
        | Outcome::ArtifactCorrupt => Class::User,
        Outcome::Disrupted | Outcome::StoreUnavailable | Outcome::RunnerError => Class::Infra,
        Outcome::StartError
        | Outcome::StoreAccessDenied
        | Outcome::StoreUnsupported
        | Outcome::InputMissing
        | Outcome::ConfigError => Class::Fatal,
    }
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
    let message = disruption(pod).unwrap_or_else(|| {
        format!("the Pod failed before its program started: {reason} {message}").trim_end().to_owned()
    });
    Ended::failure(Class::Infra, Reason::Disrupted.as_str(), message)
}

/// Why a Pod has not started its program.
fn waiting(pod: &Pod, stage: Option<&ContainerStatus>) -> Waiting {
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
            verdict: None,
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
            }
        }
        "CreateContainerConfigError" if text.contains("runasnonroot") || text.contains("will run as root") => Waiting {
            reason: Reason::ImageRunsAsRoot.as_str().to_owned(),
            message: format!(
                "image {} runs as root, which the Restricted profile forbids: set pod.runAsUser to a number above 0, or pod.securityProfile to Baseline",
                image(pod)
            ),
            verdict: verdict(SignedDuration::ZERO, Reason::ImageRunsAsRoot),
        },
        "CreateContainerConfigError" => Waiting {
            reason: Reason::Starting.as_str().to_owned(),
            message: format!("{message}; create it in the run's namespace"),
            verdict: verdict(CONFIG_PATIENCE, Reason::ConfigMissing),
        },
        "CreateContainerError" | "RunContainerError" | "StartError" | "CrashLoopBackOff" => Waiting {
            reason: Reason::Starting.as_str().to_owned(),
            message: format!("the container could not be started: {message}"),
            verdict: verdict(SignedDuration::ZERO, Reason::ContainerStartFailed),
        },
        _ => Waiting { reason: Reason::Starting.as_str().to_owned(), message: String::new(), verdict: None },
    }
}

fn image(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.containers.iter().find(|container| container.name == STAGE_CONTAINER))
        .and_then(|container| container.image.as_deref())
        .unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "iris-1-train-a1-x", "uid": "p", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": { labels::RUN_UID: "u", labels::STAGE: "train", labels::ATTEMPT: "1" },
                "ownerReferences": [{"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": "iris-1", "uid": "u", "controller": true}],
            },
            "spec": {"containers": [{"name": STAGE_CONTAINER, "image": "team/train:1"}]},
            "status": status,
        }))
        .unwrap()
    }

    fn terminated(code: i32, message: &str) -> Ended {
        let state = json!({"phase": "Failed", "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "message": message, "finishedAt": "2026-01-01T00:01:00Z"}}}]});
        match observe(&pod(state)).unwrap().attempt.state {
            AttemptState::Ended(ended) => ended,
            other => panic!("{other:?}"),
        }
    }

    fn waits(reason: &str, message: &str) -> Waiting {
        let state = json!({"phase": "Pending", "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}}}]});
        match observe(&pod(state)).unwrap().attempt.state {
            AttemptState::Pending(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_controller_of_the_same_uid_makes_a_pod_ours() {
        let mut other = pod(json!({}));
        other.metadata.owner_references.as_mut().unwrap()[0].uid = "another".into();
        assert_eq!(observe(&other), None);
        let mut orphan = pod(json!({}));
        orphan.metadata.owner_references = None;
        assert_eq!(observe(&orphan), None);
    }

    #[test]
    fn success_needs_the_runners_exit_code_and_a_commit() {
        let message = r#"{"version":1,"outcome":"Succeeded","commit":"sha256:aa","winner":2,"outputs":[{"name":"model","digest":"sha256:bb","bytes":7}]}"#;
        let ended = terminated(0, message);
        assert_eq!(ended.committed.unwrap().winner, 2);
        assert_eq!(terminated(0, "").reason, "NoCommit");
        assert_eq!(terminated(0, r#"{"version":1,"outcome":"Succeeded"}"#).reason, "NoCommit");
        // Written by user code before the kernel killed the runner.
        let forged = terminated(137, message);
        assert_eq!((forged.committed, forged.reason.as_str()), (None, "Disrupted"));
    }

    #[test]
    fn the_exit_code_outlives_a_garbled_message() {
        let ended = terminated(65, "\u{0}garbage");
        assert_eq!((ended.reason.as_str(), ended.class), ("OOMKilled", Class::User));
        let ended = terminated(
            64,
            r#"{"version":1,"outcome":"UserError","exitCode":3,"message":"exit code 3","lastLines":"boom"}"#,
        );
        assert_eq!((ended.exit_code, ended.last_lines.as_str(), ended.class), (Some(3), "boom", Class::User));
        assert_eq!(ended.end.unwrap().to_string(), "2026-01-01T00:01:00Z");
        assert_eq!(terminated(73, "").class, Class::Fatal);
        assert_eq!(terminated(72, "").class, Class::Infra);
    }

    #[test]
    fn pending_reasons_speak_of_the_object_and_the_way_out() {
        let missing = waits("ErrImagePull", "failed to resolve: team/train:1: not found");
        assert_eq!(missing.reason, "ImagePull");
        assert_eq!(missing.verdict.unwrap(), Verdict { after: IMAGE_PATIENCE, reason: Reason::ImagePullFailed });
        assert!(missing.message.contains("team/train:1") && missing.message.contains("imagePullSecrets"));
        assert_eq!(waits("InvalidImageName", "").verdict.unwrap().after, SignedDuration::ZERO);
        assert_eq!(waits("ImagePullBackOff", "503 Service Unavailable").verdict.unwrap().after, REGISTRY_PATIENCE);
        let root = waits("CreateContainerConfigError", "container has runAsNonRoot and image will run as root");
        assert_eq!(root.verdict.unwrap().reason, Reason::ImageRunsAsRoot);
        let secret = waits("CreateContainerConfigError", "secret \"store\" not found");
        assert_eq!(secret.verdict.unwrap().reason, Reason::ConfigMissing);
        assert_eq!(waits("ContainerCreating", "").reason, "Starting");
    }

    #[test]
    fn an_unschedulable_pod_waits_for_ever_and_says_why() {
        let state = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu"}]});
        let AttemptState::Pending(waiting) = observe(&pod(state)).unwrap().attempt.state else { panic!("not pending") };
        assert_eq!((waiting.reason.as_str(), waiting.verdict), ("Unschedulable", None));
        assert!(waiting.message.contains("Insufficient cpu"));
    }

    #[test]
    fn eviction_is_the_infrastructures_fault() {
        let AttemptState::Ended(ended) =
            observe(&pod(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"})))
                .unwrap()
                .attempt
                .state
        else {
            panic!("not ended")
        };
        assert_eq!((ended.class, ended.reason.as_str()), (Class::Infra, "Disrupted"));
        assert!(ended.message.contains("low on memory"));
    }
}
