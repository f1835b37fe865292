//! The run's own part of its status: a fold over the stages' phases and rows.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use trainyard_crds::condition::{ConditionType, Reason};
use trainyard_crds::v1alpha1::{PipelineRunStatus, Resolved, RunCounts, RunPhase, RunState, StagePhase, StageStatus};

use crate::graph::Graph;
use crate::observed::Verdict;
use crate::schedule::{Action, Note, NoteKind, Run};

/// The status of a run that has just been accepted: one waiting row a stage, or the rows that are taken over.
#[must_use]
pub fn initial(
    graph: &Graph,
    pipeline: &str,
    revision: &str,
    resolved: Resolved,
    taken_over: Vec<Option<StageStatus>>,
    now: Timestamp,
) -> PipelineRunStatus {
    let mut taken_over = taken_over.into_iter();
    let stages = graph
        .nodes()
        .iter()
        .map(|node| {
            taken_over
                .next()
                .flatten()
                .unwrap_or_else(|| StageStatus { name: node.name().to_owned(), ..StageStatus::default() })
        })
        .collect();
    PipelineRunStatus {
        phase: Some(RunPhase::Pending),
        pipeline: pipeline.to_owned(),
        revision: revision.to_owned(),
        resolved: Some(resolved),
        start_time: Some(Time(now)),
        stages,
        ..PipelineRunStatus::default()
    }
}

/// The status of a run that cannot go on for a reason that lies in itself: it has failed, or another run takes its place.
#[must_use]
pub fn refused(
    prior: &PipelineRunStatus,
    generation: i64,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> PipelineRunStatus {
    let mut status = prior.clone();
    let phase = if reason == Reason::Superseded { RunPhase::Cancelled } else { RunPhase::Failed };
    status.observed_generation = generation;
    status.phase = Some(phase);
    status.reason = reason.as_str().to_owned();
    status.message = message.to_owned();
    status.start_time.get_or_insert(Time(now));
    status.completion_time.get_or_insert(Time(now));
    let accepted = prior.conditions.iter().any(|condition| condition.type_ == "Accepted" && condition.status == "True");
    let mut conditions = Conditions::new(&prior.conditions, generation, now);
    // Each condition says something of its own: the sentence itself stands in the status, and once among them.
    let succeeded = if accepted {
        conditions.set(ConditionType::Accepted, true, Reason::Valid.as_str(), "");
        message
    } else {
        conditions.set(ConditionType::Accepted, false, reason.as_str(), message);
        "the run was not accepted"
    };
    conditions.terminal(phase, reason.as_str(), succeeded, "");
    status.conditions = conditions.done();
    status
}

/// Finished, Succeeded, Reconciling, Stalled and Ready of a run that ended in this phase.
#[must_use]
pub fn terminal_conditions(phase: RunPhase) -> [(ConditionType, bool); 5] {
    let good = phase == RunPhase::Succeeded;
    [
        (ConditionType::Finished, true),
        (ConditionType::Succeeded, good),
        (ConditionType::Reconciling, false),
        (ConditionType::Stalled, !good),
        (ConditionType::Ready, good),
    ]
}

/// How stages that have all ended end their run.
pub(crate) fn outcome(graph: &Graph, phases: &[StagePhase]) -> RunPhase {
    let mut outcome = RunPhase::Succeeded;
    for (phase, node) in phases.iter().zip(graph.nodes()) {
        match phase {
            StagePhase::Cancelled => return RunPhase::Cancelled,
            StagePhase::Failed if !node.allows_failure() => outcome = RunPhase::Failed,
            StagePhase::Waiting
            | StagePhase::Pending
            | StagePhase::Running
            | StagePhase::Retrying
            | StagePhase::Failed
            | StagePhase::Succeeded
            | StagePhase::Skipped => {}
        }
    }
    outcome
}

/// The status but for its rows.
pub(crate) fn head<'a>(
    graph: &Graph,
    run: &Run<'_>,
    phases: &[StagePhase],
    row: &dyn Fn(usize) -> &'a StageStatus,
    now: Timestamp,
) -> PipelineRunStatus {
    let mut head = without_rows(run.status);
    head.observed_generation = run.generation;
    let counts = count(phases, row);
    let ended = counts.total == counts.succeeded + counts.failed + counts.skipped;
    let ended = ended || phases.iter().all(|phase| phase.is_terminal());
    let finished = phases.iter().filter(|phase| phase.is_terminal()).count();
    head.progress = format!("{finished}/{}", phases.len());
    let before = run.status.phase.unwrap_or_default();
    let phase = if ended {
        outcome(graph, phases)
    } else if counts.running > 0 {
        RunPhase::Running
    } else if run.suspend {
        RunPhase::Suspended
    } else if before == RunPhase::Pending && phases.iter().all(|phase| *phase == StagePhase::Waiting) {
        RunPhase::Pending
    } else {
        RunPhase::Running
    };
    head.phase = Some(phase);
    let summary =
        if ended { end(graph, run, phases, row, phase, &counts) } else { progress(graph, phases, row, run, phase) };
    head.counts = Some(counts);
    head.stage = summary.stage;
    head.reason = summary.reason;
    head.message = summary.message;
    if ended {
        let last = phases.iter().enumerate().filter_map(|(node, _)| row(node).end.as_ref()).map(|time| time.0).max();
        let start = run.status.start_time.as_ref().map_or(now, |time| time.0);
        // When its last stage ended, though the operator may have been away: unless the clocks disagree.
        let completion = last.filter(|last| (start..=now).contains(last)).unwrap_or(now);
        head.completion_time = Some(Time(completion));
        head.duration = human(completion.duration_since(start));
    }
    let mut conditions = Conditions::new(&run.status.conditions, run.generation, now);
    conditions.set(ConditionType::Accepted, true, Reason::Valid.as_str(), "");
    let asked = phases
        .iter()
        .enumerate()
        .find(|(node, phase)| **phase == StagePhase::Waiting && row(*node).reason == Reason::AwaitingApproval.as_str());
    match asked {
        Some((node, _)) => {
            conditions.set(ConditionType::Suspended, true, Reason::AwaitingApproval.as_str(), &row(node).message);
        }
        None if conditions.had(ConditionType::Suspended) => {
            conditions.set(ConditionType::Suspended, false, phase.as_str(), "");
        }
        None => {}
    }
    if ended {
        let reason = if head.reason.is_empty() { phase.as_str() } else { &head.reason };
        conditions.terminal(phase, reason, &head.message, &head.stage);
    } else {
        conditions.active(phase);
    }
    head.conditions = conditions.done();
    head
}

fn count<'a>(phases: &[StagePhase], row: &dyn Fn(usize) -> &'a StageStatus) -> RunCounts {
    let mut counts = RunCounts { total: u32::try_from(phases.len()).unwrap_or(u32::MAX), ..RunCounts::default() };
    for (node, phase) in phases.iter().enumerate() {
        match phase {
            StagePhase::Succeeded => {
                counts.succeeded += 1;
                counts.cached += u32::from(row(node).cached_from.is_some());
            }
            StagePhase::Failed => counts.failed += 1,
            // A training without Pods, which goes on when its run does.
            StagePhase::Pending if row(node).reason == Reason::Suspended.as_str() => {}
            StagePhase::Pending | StagePhase::Running => counts.running += 1,
            StagePhase::Skipped => counts.skipped += 1,
            StagePhase::Waiting | StagePhase::Retrying | StagePhase::Cancelled => {}
        }
    }
    counts
}

struct Summary {
    stage: String,
    reason: String,
    message: String,
}

/// What an ended run says: the root cause of the first failure that counts.
fn end<'a>(
    graph: &Graph,
    run: &Run<'_>,
    phases: &[StagePhase],
    row: &dyn Fn(usize) -> &'a StageStatus,
    phase: RunPhase,
    counts: &RunCounts,
) -> Summary {
    let of = |wanted: StagePhase| move |(_, phase): &(usize, &StagePhase)| **phase == wanted;
    let failed = phases.iter().enumerate().filter(of(StagePhase::Failed)).map(|(node, _)| node);
    let failed = failed.filter(|node| !graph.nodes()[*node].allows_failure()).map(row);
    match (phase, failed.min_by_key(|row| row.end.as_ref().map(|time| time.0))) {
        (RunPhase::Cancelled, _) => {
            let first = phases.iter().enumerate().find(of(StagePhase::Cancelled));
            let reason = first.map_or(Reason::Cancelled.as_str(), |(node, _)| row(node).reason.as_str());
            Summary {
                stage: String::new(),
                reason: reason.to_owned(),
                message: format!(
                    "stopped, since spec.state is {reason}; a new run with spec.rerun.of: {} keeps what succeeded",
                    run.name
                ),
            }
        }
        (RunPhase::Failed, Some(row)) => {
            let attempts = row.attempt.filter(|attempt| *attempt > 1);
            let attempts = attempts.map(|attempt| format!(" after {attempt} attempts")).unwrap_or_default();
            Summary {
                stage: row.name.clone(),
                reason: row.reason.clone(),
                message: format!("stage {} failed{attempts}: {}{}", row.name, row.message, advice(run, row)),
            }
        }
        _ => Summary { stage: String::new(), reason: String::new(), message: successes(counts) },
    }
}

/// How a run succeeded.
fn successes(counts: &RunCounts) -> String {
    let RunCounts { total, succeeded, failed, running: _, skipped, cached } = *counts;
    let mut text = format!("{succeeded} of {total} stages succeeded");
    for (count, what) in [(cached, "taken over"), (failed, "failed (allowed)"), (skipped, "skipped")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// What to do about a failed stage: its log is worth reading if its program ran and its Pod is there.
fn advice(run: &Run<'_>, row: &StageStatus) -> String {
    let silent = [Reason::NameConflict, Reason::PodRejected, Reason::Disrupted, Reason::NodeLost];
    let silent = silent.iter().any(|reason| reason.as_str() == row.reason) || Verdict::class(&row.reason).is_some();
    if silent || row.pod.is_empty() {
        return String::new();
    }
    format!("; its log: kubectl logs -n {} {}", run.namespace, row.pod)
}

/// What a run that goes on says: its first living stage, and why that waits.
fn progress<'a>(
    graph: &Graph,
    phases: &[StagePhase],
    row: &dyn Fn(usize) -> &'a StageStatus,
    run: &Run<'_>,
    phase: RunPhase,
) -> Summary {
    let mut first = None;
    for (node, phase) in phases.iter().enumerate() {
        let alive = matches!(phase, StagePhase::Pending | StagePhase::Running | StagePhase::Retrying);
        let blocked = *phase == StagePhase::Waiting && !row(node).reason.is_empty();
        if alive || (blocked && first.is_none()) {
            first = Some((node, row(node)));
            if alive {
                break;
            }
        }
    }
    if phase == RunPhase::Suspended {
        let message = "no stage starts while spec.suspend is true".to_owned();
        return Summary { stage: String::new(), reason: Reason::Suspended.as_str().to_owned(), message };
    }
    let Some((node, row)) = first else {
        return Summary { stage: String::new(), reason: String::new(), message: String::new() };
    };
    let (stage, reason) = (row.name.clone(), row.reason.clone());
    let stopped = match run.state {
        RunState::Active => None,
        RunState::Cancelled => (node < graph.main()).then_some(Reason::Cancelled),
        RunState::Terminated => Some(Reason::Terminated),
    };
    if let Some(reason) = stopped {
        let message = format!("stage {stage} is being stopped, since spec.state is {reason}");
        return Summary { stage, reason: reason.as_str().to_owned(), message };
    }
    let message = match (&row.retry_at, row.attempt) {
        (Some(at), Some(attempt)) => {
            let at = at.0.strftime("%H:%M:%S UTC");
            format!("stage {stage}: {}; attempt {} follows at {at}", row.message, attempt.saturating_add(1))
        }
        _ if !row.message.is_empty() => format!("stage {stage}: {}", row.message),
        _ if run.suspend => "no further stage starts while spec.suspend is true".to_owned(),
        _ => String::new(),
    };
    Summary { stage, reason, message }
}

/// Notes on what changed for the run as a whole.
pub(crate) fn notes(prior: &PipelineRunStatus, head: &PipelineRunStatus, actions: &mut Vec<Action>) {
    let (before, after) = (prior.phase.unwrap_or_default(), head.phase.unwrap_or_default());
    if before == after {
        return;
    }
    let (kind, reason, message) = match after {
        RunPhase::Running if before == RunPhase::Pending => {
            (NoteKind::Normal, "Started", format!("running pipeline {}", head.pipeline))
        }
        RunPhase::Running => (NoteKind::Normal, "Resumed", "stages start again".to_owned()),
        RunPhase::Suspended => (NoteKind::Normal, "Suspended", head.message.clone()),
        RunPhase::Succeeded => (NoteKind::Normal, "Succeeded", format!("{} after {}", head.message, head.duration)),
        RunPhase::Failed => (NoteKind::Warning, "Failed", head.message.clone()),
        RunPhase::Cancelled => (NoteKind::Normal, "Cancelled", head.message.clone()),
        RunPhase::Pending => return,
    };
    actions.push(Action::Emit(Note { kind, reason, message }));
}

/// Whether two statuses say the same but for their rows.
pub(crate) fn same_head(a: &PipelineRunStatus, b: &PipelineRunStatus) -> bool {
    let PipelineRunStatus {
        observed_generation,
        phase,
        reason,
        message,
        progress,
        stage,
        pipeline,
        revision,
        start_time,
        completion_time,
        duration,
        resolved,
        conditions,
        counts,
        stages: _,
    } = a;
    *observed_generation == b.observed_generation
        && *phase == b.phase
        && *reason == b.reason
        && *message == b.message
        && *progress == b.progress
        && *stage == b.stage
        && *pipeline == b.pipeline
        && *revision == b.revision
        && *start_time == b.start_time
        && *completion_time == b.completion_time
        && *duration == b.duration
        && *resolved == b.resolved
        && *conditions == b.conditions
        && *counts == b.counts
}

/// A status without its rows, which may be many.
#[must_use]
pub fn without_rows(status: &PipelineRunStatus) -> PipelineRunStatus {
    PipelineRunStatus {
        observed_generation: status.observed_generation,
        phase: status.phase,
        reason: status.reason.clone(),
        message: status.message.clone(),
        progress: status.progress.clone(),
        stage: status.stage.clone(),
        pipeline: status.pipeline.clone(),
        revision: status.revision.clone(),
        start_time: status.start_time.clone(),
        completion_time: status.completion_time.clone(),
        duration: status.duration.clone(),
        resolved: status.resolved.clone(),
        conditions: status.conditions.clone(),
        counts: status.counts.clone(),
        stages: Vec::new(),
    }
}

/// Conditions that keep the time of their last transition.
pub(crate) struct Conditions<'a> {
    before: &'a [Condition],
    generation: i64,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(crate) fn new(before: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { before, generation, now, list: Vec::with_capacity(6) }
    }

    pub(crate) fn set(&mut self, kind: ConditionType, value: bool, reason: &str, message: &str) {
        let status = if value { "True" } else { "False" };
        let before =
            self.before.iter().find(|condition| condition.type_ == kind.as_str() && condition.status == status);
        let since = before.map_or_else(|| Time(self.now), |condition| condition.last_transition_time.clone());
        self.list.push(Condition {
            type_: kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: Some(self.generation),
            last_transition_time: since,
        });
    }

    /// Whether there was a condition of this type.
    fn had(&self, kind: ConditionType) -> bool {
        self.before.iter().any(|condition| condition.type_ == kind.as_str())
    }

    fn active(&mut self, phase: RunPhase) {
        let word = phase.as_str();
        self.set(ConditionType::Finished, false, word, "");
        self.set(ConditionType::Succeeded, false, word, "");
        self.set(ConditionType::Reconciling, true, word, "");
        self.set(ConditionType::Stalled, false, word, "");
        self.set(ConditionType::Ready, false, word, "");
    }

    /// `succeeded` is what became of the run, in a sentence; `stage` the one that failed first, if one did.
    fn terminal(&mut self, phase: RunPhase, reason: &str, succeeded: &str, stage: &str) {
        // What kstatus tells of a run that needs a person, short enough for a line.
        let stalled = match (phase, stage) {
            (RunPhase::Succeeded, _) => String::new(),
            (_, "") => format!("the run is {} ({reason})", phase.as_str()),
            (_, stage) => format!("stage {stage} failed ({reason})"),
        };
        for (kind, value) in terminal_conditions(phase) {
            let (reason, message) = match kind {
                ConditionType::Succeeded => (reason, succeeded),
                ConditionType::Stalled => (reason, stalled.as_str()),
                ConditionType::Ready => (reason, ""),
                ConditionType::Accepted
                | ConditionType::Finished
                | ConditionType::Suspended
                | ConditionType::Reconciling => (phase.as_str(), ""),
            };
            self.set(kind, value, reason, message);
        }
    }

    pub(crate) fn done(self) -> Vec<Condition> {
        self.list
    }
}

/// A duration for people: `48s`, `4m12s`, `2h05m`.
pub(crate) fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}
