//! A TrainingJob as an attempt of the stage that it trains for, in the planner's words. Pure: no client.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{JobPhase, OutputStatus, StageTraining, TrainingJob, TrainingJobStatus};
use trainyard_planner::{
    Attempt, AttemptState, ChildJob, Class, Committed, CommittedOutput, Ended, Waiting,
};

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
            let TrainingJobStatus { reason, message, .. } = status;
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
