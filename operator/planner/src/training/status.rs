//! What a job's status says beside its phase.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use step_protocol::ProgressReport;
use trainyard_crds::condition::{ConditionType, Reason};
use trainyard_crds::v1alpha1::{CheckpointStatus, JobPhase, RankFailure, ResolvedJob, TrainingJobStatus};

use super::observed::Ranks;
use super::plan::{JobAction, Pass};
use crate::observed::{AttemptState, Waiting};
use crate::schedule::{Note, NoteKind};
use crate::status::{Conditions, human as human_duration};

/// Ended attempts that a status remembers.
pub(super) const REMEMBERED: usize = 10;

/// The status of a job that has just been accepted. It says that work is going on: one without conditions that names the generation would
/// be done for kstatus.
#[must_use]
pub fn initial(resolved: ResolvedJob, generation: i64, now: Timestamp) -> TrainingJobStatus {
    let mut conditions = Conditions::new(&[], generation, now);
    conditions.set(ConditionType::Accepted, true, Reason::Valid.as_str(), "");
    active(&mut conditions, JobPhase::Pending);
    TrainingJobStatus {
        conditions: conditions.done(),
        observed_generation: generation,
        phase: Some(JobPhase::Pending),
        start_time: Some(Time(now)),
        active_since: Some(Time(now)),
        resolved: Some(resolved),
        ..TrainingJobStatus::default()
    }
}

/// The status of a job that cannot go on for a reason that lies in itself.
#[must_use]
pub fn refused(
    prior: &TrainingJobStatus,
    generation: i64,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> TrainingJobStatus {
    let mut status = prior.clone();
    status.observed_generation = generation;
    status.phase = Some(JobPhase::Failed);
    reason.as_str().clone_into(&mut status.reason);
    message.clone_into(&mut status.message);
    status.start_time.get_or_insert(Time(now));
    status.completion_time.get_or_insert(Time(now));
    let mut conditions = Conditions::new(&prior.conditions, generation, now);
    let accepted = prior.conditions.iter().any(|condition| condition.type_ == "Accepted" && condition.status == "True");
    match accepted {
        true => conditions.set(ConditionType::Accepted, true, Reason::Valid.as_str(), ""),
        false => conditions.set(ConditionType::Accepted, false, reason.as_str(), message),
    }
    terminal(&mut conditions, false, reason.as_str(), message);
    status.conditions = conditions.done();
    status
}

/// Takes in what rank 0 says of its progress.
pub(super) fn progress(status: &mut TrainingJobStatus, report: &ProgressReport) {
    if let Some(progress) = report.progress.filter(|progress| progress.is_finite()) {
        status.progress = format!("{:.0}%", (progress.clamp(0.0, 1.0) * 100.0).floor());
    }
    if let Some(eta) = &report.eta {
        status.eta = shortened(eta, 64);
    }
    status.metrics.extend(report.metrics.iter().map(|(name, value)| (name.clone(), value.clone())));
    if let Some(name) = report.checkpoint {
        status.checkpoint = Some(CheckpointStatus { attempt: name.execution, sequence: name.sequence });
    }
}

/// How many ranks of an attempt run, or have ended well.
pub(super) fn running(ranks: &Ranks, attempt: u32) -> u32 {
    let running = ranks.of(attempt).filter(|pod| match &pod.attempt.state {
        AttemptState::Running(_) => !pod.attempt.deleting && pod.attempt.lost_node.is_none(),
        AttemptState::Ended(ended) => ended.committed.is_some(),
        AttemptState::Pending(_) => false,
    });
    u32::try_from(running.count()).unwrap_or(u32::MAX)
}

/// Whether a queue holds back a rank of an attempt.
pub(super) fn is_held(ranks: &Ranks, attempt: u32) -> bool {
    ranks.of(attempt).any(|pod| match &pod.attempt.state {
        AttemptState::Pending(waiting) => waiting.reason == Reason::Queued.as_str(),
        AttemptState::Running(_) | AttemptState::Ended(_) => false,
    })
}

/// Why an attempt has not started: a word and a sentence.
pub(super) fn waiting(pass: &mut Pass<'_>, attempt: u32, ranks: u32) -> (String, String) {
    if let Some(blocked) = pass.ranks.blocked(pass.now) {
        return (blocked.reason.clone(), blocked.message.clone());
    }
    let mut first: Option<(u32, &Waiting, Timestamp)> = None;
    for pod in pass.ranks.of(attempt) {
        if let AttemptState::Pending(waiting) = &pod.attempt.state {
            // Something that people can do something about says more than that it is being started.
            let dull = |waiting: &Waiting| waiting.reason.is_empty() || waiting.reason == Reason::Starting.as_str();
            if first.is_none_or(|(_, known, _)| dull(known) && !dull(waiting)) {
                first = Some((pod.rank, waiting, pod.attempt.created));
            }
        }
    }
    let Some((rank, waiting, created)) = first else { return (Reason::Starting.as_str().to_owned(), String::new()) };
    let mut message = waiting.message.clone();
    if let Some(late) = &waiting.late {
        let due = created.saturating_add(late.after).unwrap_or(Timestamp::MAX);
        if due <= pass.now {
            message.clone_from(&late.message);
        } else {
            pass.look_again(due);
        }
    }
    let place = pass.job.role_of(ranks, rank).map(|(role, index)| format!("{role}-{index}")).unwrap_or_default();
    let message = if message.is_empty() { message } else { format!("{place}: {}", shortened(&message, 512)) };
    (if waiting.reason.is_empty() { Reason::Starting.as_str().to_owned() } else { waiting.reason.clone() }, message)
}

/// A failure in a sentence: which rank, what, where its log is.
pub(super) fn failure(failure: &RankFailure) -> String {
    let place = match failure.index {
        Some(index) => format!("{}-{index} ended with ", failure.role),
        None => String::new(),
    };
    let message = if failure.message.is_empty() { String::new() } else { format!(": {}", failure.message) };
    format!("{place}{}{message}", failure.reason)
}

/// Ready, reason, message, conditions and the events of a change of phase.
pub(super) fn finish(pass: &mut Pass<'_>) {
    let prior = pass.run.status;
    let (before, after) = (prior.phase.unwrap_or_default(), pass.status.phase.unwrap_or_default());
    pass.status.observed_generation = pass.run.generation;
    let open =
        pass.status.attempt.filter(|attempt| pass.status.attempts.last().is_none_or(|ended| ended.number != *attempt));
    let (reason, message) = summary(pass, open, after);
    if !after.is_terminal() {
        pass.status.reason = reason;
        pass.status.message = message;
    }
    if !after.is_terminal() || pass.status.ready.is_empty() {
        let wanted = pass.status.ranks.unwrap_or_else(|| pass.job.ranks());
        let running = open.map_or(0, |attempt| running(pass.ranks, attempt));
        pass.status.ready = format!("{running}/{wanted}");
    }
    if after.is_terminal() {
        ended(pass, after);
    }
    notes(pass, before, after);
    conditions(pass, after);
}

/// Why a job that goes on is where it is.
fn summary(pass: &mut Pass<'_>, open: Option<u32>, phase: JobPhase) -> (String, String) {
    let last = pass.status.attempts.last().and_then(|ended| ended.first_failure.clone());
    if phase == JobPhase::Suspended {
        return (Reason::Suspended.as_str().into(), "there are no Pods while spec.suspend is true".into());
    }
    if pass.run.suspend {
        return (Reason::Suspending.as_str().into(), "the ranks are being stopped, since spec.suspend is true".into());
    }
    match (open, phase) {
        (_, JobPhase::Running) => (String::new(), lost(pass, open)),
        (Some(attempt), _) if pass.run.status.attempt == Some(attempt) => {
            let ranks = pass.status.ranks.unwrap_or_else(|| pass.job.ranks());
            waiting(pass, attempt, ranks)
        }
        (Some(_), _) => (Reason::Starting.as_str().into(), String::new()),
        (None, _) => match last {
            Some(failure) => {
                let next = pass.status.attempt.unwrap_or(0).saturating_add(1);
                let when = pass.status.retry_at.as_ref().filter(|at| at.0 > pass.now);
                let when = when.map(|at| format!(" at {}", at.0.strftime("%H:%M:%S UTC"))).unwrap_or_default();
                (failure.reason.clone(), format!("{}; attempt {next} follows{when}", self::failure(&failure)))
            }
            None => (Reason::Starting.as_str().into(), String::new()),
        },
    }
}

/// What is said of a running attempt with a Pod on a node that does not answer.
fn lost(pass: &Pass<'_>, open: Option<u32>) -> String {
    let lost =
        open.and_then(|attempt| pass.ranks.of(attempt).find(|pod| pod.attempt.lost_node.is_some() && !pod.has_ended()));
    match lost {
        Some(pod) => format!(
            "node {} of Pod {} does not answer",
            pod.attempt.lost_node.as_deref().unwrap_or_default(),
            pod.attempt.pod
        ),
        None => String::new(),
    }
}

/// Completion, duration and, of a failure, where its log is.
fn ended(pass: &mut Pass<'_>, phase: JobPhase) {
    let now = pass.now;
    let start = pass.run.status.start_time.as_ref().map_or(now, |time| time.0);
    let completion = pass.status.completion_time.get_or_insert(Time(now)).0;
    pass.status.duration = human_duration(completion.duration_since(start));
    if phase == JobPhase::Failed {
        let ended = pass.status.attempts.last().and_then(|ended| ended.first_failure.as_ref());
        if let Some(failure) = ended.filter(|failure| failure.exit_code.is_some() && !failure.pod.is_empty()) {
            pass.status.message.push_str(&format!("; its log: kubectl logs -n {} {}", pass.run.namespace, failure.pod));
        }
    }
}

fn notes(pass: &mut Pass<'_>, before: JobPhase, after: JobPhase) {
    if before == after {
        return;
    }
    let (kind, reason, message) = match after {
        JobPhase::Suspended => (NoteKind::Normal, "Suspended", pass.status.message.clone()),
        JobPhase::Succeeded => {
            (NoteKind::Normal, "Succeeded", format!("{} after {}", pass.status.message, pass.status.duration))
        }
        JobPhase::Failed => (NoteKind::Warning, "Failed", pass.status.message.clone()),
        JobPhase::Pending | JobPhase::Running | JobPhase::Restarting => return,
    };
    pass.actions.push(JobAction::Emit(Note { kind, reason, message }));
}

fn conditions(pass: &mut Pass<'_>, phase: JobPhase) {
    let mut conditions = Conditions::new(&pass.run.status.conditions, pass.run.generation, pass.now);
    conditions.set(ConditionType::Accepted, true, Reason::Valid.as_str(), "");
    let word = phase.as_str();
    match phase {
        JobPhase::Succeeded => terminal(&mut conditions, true, word, &pass.status.message),
        JobPhase::Failed => {
            let reason = if pass.status.reason.is_empty() { word } else { &pass.status.reason };
            terminal(&mut conditions, false, reason, &pass.status.message);
        }
        JobPhase::Pending | JobPhase::Running | JobPhase::Restarting | JobPhase::Suspended => {
            active(&mut conditions, phase);
        }
    }
    pass.status.conditions = conditions.done();
}

/// Of a job that goes on.
fn active(conditions: &mut Conditions<'_>, phase: JobPhase) {
    let word = phase.as_str();
    conditions.set(ConditionType::Finished, false, word, "");
    conditions.set(ConditionType::Succeeded, false, word, "");
    conditions.set(ConditionType::Suspended, phase == JobPhase::Suspended, word, "");
    conditions.set(ConditionType::Reconciling, true, word, "");
    conditions.set(ConditionType::Stalled, false, word, "");
    conditions.set(ConditionType::Ready, false, word, "");
}

fn terminal(conditions: &mut Conditions<'_>, good: bool, reason: &str, message: &str) {
    let word = if good { JobPhase::Succeeded } else { JobPhase::Failed }.as_str();
    conditions.set(ConditionType::Finished, true, word, "");
    conditions.set(ConditionType::Succeeded, good, reason, message);
    conditions.set(ConditionType::Suspended, false, word, "");
    conditions.set(ConditionType::Reconciling, false, word, "");
    let stalled = if good { String::new() } else { format!("the job is Failed ({reason})") };
    conditions.set(ConditionType::Stalled, !good, reason, &stalled);
    conditions.set(ConditionType::Ready, good, reason, "");
}

pub(super) fn human(duration: Option<SignedDuration>) -> String {
    duration.map(human_duration).unwrap_or_default()
}

/// At most `limit` characters.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        text.to_owned()
    } else {
        text.chars().take(limit - 3).chain("...".chars()).collect()
    }
}
