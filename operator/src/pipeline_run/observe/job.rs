//! A TrainingJob as an attempt of the stage that it trains for, in the planner's words. Pure: no client.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{JobPhase, OutputStatus, StageTraining, TrainingJob, TrainingJobStatus};
use trainyard_planner::{Attempt, AttemptState, ChildJob, Class, Committed, CommittedOutput, Ended, Waiting};

use super::Observation;

/// What a job says, if it is a stage of a run: its labels and its controller's UID agree.
pub(crate) fn observe_job(job: &TrainingJob) -> Option<Observation> {
    let run_uid = job.labels().get(labels::RUN_UID)?.clone();
    let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    if owner.uid != run_uid || owner.kind != "PipelineRun" {
        return None;
    }
    Some(Observation {
        run: ObjectRef::new(&owner.name).within(&job.namespace().unwrap_or_default()),
        stage: job.labels().get(labels::STAGE)?.clone(),
        spec_hash: job.annotations().get(labels::SPEC_HASH).cloned().unwrap_or_default(),
        version: job.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default(),
        attempt: attempt(job, job.labels().get(labels::ATTEMPT)?.parse().ok()?),
        run_uid,
    })
}

/// What a job says that was read by the name of this attempt, whatever its labels have become. One that the run does not control is
/// not ours.
pub(crate) fn observe_named_job(job: &TrainingJob, run_uid: &str, number: u32) -> Option<Attempt> {
    let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    (owner.uid == run_uid).then(|| attempt(job, number))
}

fn attempt(job: &TrainingJob, number: u32) -> Attempt {
    let meta = &job.metadata;
    let status = job.status.clone().unwrap_or_default();
    let suspended = status.phase == Some(JobPhase::Suspended);
    let child = ChildJob {
        shown: StageTraining {
            job: job.name_any(),
            attempt: status.attempt,
            ready: status.ready.clone(),
            restarts: status.restarts,
            progress: status.progress.clone(),
            eta: status.eta.clone(),
        },
        reason: status.reason.clone(),
        message: said(&status),
        suspend: job.spec.suspend.unwrap_or(false),
        by_run: job.annotations().contains_key(labels::SUSPENDED_BY_RUN),
        suspended,
    };
    Attempt {
        number,
        pod: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: meta.deletion_timestamp.is_some(),
        lost_node: None,
        state: state(status),
        child: Some(Box::new(child)),
    }
}

/// What is to be said of a job that goes on: why it waits, else how far it is.
fn said(status: &TrainingJobStatus) -> String {
    let TrainingJobStatus { message, ready, progress, .. } = status;
    match (message.as_str(), ready.as_str(), progress.as_str()) {
        ("", "", _) => String::new(),
        ("", ready, "") => format!("{ready} ranks run"),
        ("", ready, progress) => format!("{ready} ranks run, {progress} done"),
        (message, ..) => message.to_owned(),
    }
}

fn state(status: TrainingJobStatus) -> AttemptState {
    let start = status.start_time.as_ref().map(|time| time.0);
    match status.phase.unwrap_or_default() {
        JobPhase::Pending | JobPhase::Suspended => {
            let TrainingJobStatus { mut reason, message, .. } = status;
            if reason.is_empty() {
                // Nobody has looked at it yet.
                Reason::Starting.as_str().clone_into(&mut reason);
            }
            AttemptState::Pending(Waiting { reason, message, ..Waiting::default() })
        }
        JobPhase::Running | JobPhase::Restarting => AttemptState::Running(start.unwrap_or(Timestamp::UNIX_EPOCH)),
        JobPhase::Succeeded => AttemptState::Ended(Ended {
            committed: Some(Committed {
                winner: status.winner.unwrap_or(1),
                outputs: status.outputs.into_iter().map(output).collect(),
                results: status.results,
                metrics: status.metrics,
            }),
            start,
            end: status.completion_time.map(|time| time.0),
            ..Ended::failure(Class::User, "", "")
        }),
        // It has been repeated as often as it was to be.
        JobPhase::Failed => {
            let end = status.completion_time.as_ref().map(|time| time.0);
            let first = status.attempts.into_iter().next_back().and_then(|attempt| attempt.first_failure);
            let (exit_code, last_lines) = first.map(|first| (first.exit_code, first.last_lines)).unwrap_or_default();
            let ended = Ended::failure(Class::Fatal, status.reason, status.message);
            AttemptState::Ended(Ended { exit_code, last_lines, start, end, ..ended })
        }
    }
}

fn output(output: OutputStatus) -> CommittedOutput {
    let OutputStatus { name, uri: _, digest, bytes } = output;
    CommittedOutput { name, digest, bytes: u64::try_from(bytes).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(status: Value) -> TrainingJob {
        serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {
                "name": "iris-1-fit-x", "namespace": "team", "uid": "j", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {labels::RUN_UID: "r", labels::STAGE: "fit", labels::ATTEMPT: "1"},
                "annotations": {labels::SPEC_HASH: "hash"},
                "ownerReferences": [{"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": "iris-1", "uid": "r", "controller": true}],
            },
            "spec": {"framework": "None", "roles": [{"name": "worker", "replicas": 4, "container": {"command": ["x"]}}]},
            "status": status,
        }))
        .unwrap()
    }

    fn seen(status: Value) -> Attempt {
        observe_job(&job(status)).unwrap().attempt
    }

    #[test]
    fn a_job_is_an_attempt_of_its_stage_if_its_run_controls_it() {
        let whole = job(json!({}));
        let observation = observe_job(&whole).unwrap();
        assert_eq!((observation.stage.as_str(), observation.attempt.number, observation.version), ("fit", 1, 7));
        assert_eq!((observation.run.name.as_str(), observation.spec_hash.as_str()), ("iris-1", "hash"));
        let mut alone = whole.clone();
        alone.metadata.owner_references = None;
        assert_eq!((observe_job(&alone), observe_named_job(&alone, "r", 1)), (None, None));
        let mut relabelled = whole.clone();
        relabelled.metadata.labels = None;
        assert_eq!(observe_job(&relabelled), None);
        assert_eq!(observe_named_job(&relabelled, "r", 1), Some(observation.attempt));
        assert_eq!(observe_named_job(&relabelled, "another", 1), None);
    }

    #[test]
    fn a_job_that_goes_on_says_how_far_it_is() {
        let running = seen(
            json!({"phase": "Running", "ready": "3/4", "attempt": 2, "restarts": 1, "progress": "40%", "startTime": "2026-01-01T00:00:05Z"}),
        );
        assert!(matches!(running.state, AttemptState::Running(since) if since.to_string() == "2026-01-01T00:00:05Z"));
        let child = running.child.unwrap();
        assert_eq!(child.message, "3/4 ranks run, 40% done");
        assert_eq!((child.shown.attempt, child.shown.restarts, child.suspended), (Some(2), 1, false));
        let restarting = seen(
            json!({"phase": "Restarting", "reason": "UserError", "message": "worker-1 ended with UserError; attempt 2 follows"}),
        );
        assert!(matches!(restarting.state, AttemptState::Running(_)));
        assert!(restarting.child.unwrap().message.contains("worker-1"));
    }

    #[test]
    fn a_job_says_whether_its_run_has_suspended_it() {
        let mut job = job(json!({"phase": "Suspended"}));
        job.spec.suspend = Some(true);
        let child = |job: &TrainingJob| observe_job(job).unwrap().attempt.child.unwrap();
        assert_eq!((child(&job).suspend, child(&job).by_run), (true, false));
        job.annotations_mut().insert(labels::SUSPENDED_BY_RUN.to_owned(), "true".to_owned());
        assert!(child(&job).by_run);
    }

    #[test]
    fn a_job_without_pods_waits() {
        for (status, reason, suspended) in [
            (json!({}), "Starting", false),
            (json!({"phase": "Pending", "reason": "Unschedulable"}), "Unschedulable", false),
            (json!({"phase": "Suspended", "reason": "Suspended"}), "Suspended", true),
        ] {
            let attempt = seen(status);
            let AttemptState::Pending(waiting) = attempt.state else { panic!("{:?}", attempt.state) };
            assert_eq!((waiting.reason.as_str(), attempt.child.unwrap().suspended), (reason, suspended));
        }
    }

    #[test]
    fn the_end_of_a_job_is_the_last_word() {
        let times = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z"});
        let with = |status: Value| {
            let mut status = status;
            status.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
            let AttemptState::Ended(ended) = seen(status).state else { panic!("it has not ended") };
            ended
        };
        let good = with(json!({
            "phase": "Succeeded", "winner": 3, "results": {"epochs": 7}, "metrics": {"loss": 0.25},
            "outputs": [{"name": "model", "uri": "s3://b/k", "digest": "sha256:m", "bytes": 5}],
        }));
        let committed = good.committed.unwrap();
        assert_eq!((committed.winner, committed.outputs[0].bytes, &committed.results["epochs"]), (3, 5, &json!(7)));
        assert_eq!(good.end.unwrap().to_string(), "2026-01-01T00:01:00Z");
        let failure = json!({"class": "User", "reason": "UserError", "role": "worker", "index": 1, "exitCode": 3, "lastLines": "loss is nan"});
        let bad = with(json!({
            "phase": "Failed", "reason": "UserError", "message": "the training failed: worker-1 ended with UserError",
            "attempts": [{"number": 1, "outcome": "Failed", "firstFailure": failure}],
        }));
        assert_eq!((bad.class, bad.exit_code, bad.last_lines.as_str()), (Class::Fatal, Some(3), "loss is nan"));
        assert!(bad.message.contains("worker-1"), "{bad:?}");
    }
}
