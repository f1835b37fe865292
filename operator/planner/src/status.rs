//! The run's own part of its status: a fold over the stages' phases and rows.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use trainyard_crds::condition::{ConditionType, Reason};
use trainyard_crds::v1alpha1::{PipelineRunStatus, Resolved, RunCounts, RunPhase, StagePhase, StageStatus};

use crate::graph::Graph;
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

/// The status of a run that cannot go on for a reason that lies in itself.
#[must_use]
pub fn refused(
    prior: &PipelineRunStatus,
    generation: i64,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> PipelineRunStatus {
    let mut status = prior.clone();
    status.observed_generation = generation;
    status.phase = Some(RunPhase::Failed);
    status.reason = reason.as_str().to_owned();
    status.message = message.to_owned();
    status.start_time.get_or_insert(Time(now));
    status.completion_time.get_or_insert(Time(now));
    let accepted = prior.conditions.iter().any(|condition| condition.type_ == "Accepted" && condition.status == "True");
    let mut conditions = Conditions::new(&prior.conditions, generation, now);
    if accepted {
        conditions.set(ConditionType::Accepted, true, Reason::Valid.as_str(), "");
    } else {
        conditions.set(ConditionType::Accepted, false, reason.as_str(), message);
    }
    conditions.terminal(RunPhase::Failed, reason.as_str(), message);
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
    head.counts = Some(counts);
    let summary = if ended { end(graph, phases, row, phase) } else { progress(graph, phases, row, run, phase) };
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
    if ended {
        conditions.terminal(phase, if head.reason.is_empty() { phase.as_str() } else { &head.reason }, &head.message);
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
fn end<'a>(graph: &Graph, phases: &[StagePhase], row: &dyn Fn(usize) -> &'a StageStatus, phase: RunPhase) -> Summary {
    let none = |reason: &str, message: String| Summary { stage: String::new(), reason: reason.to_owned(), message };
    let failed = phases
        .iter()
        .enumerate()
        .filter(|(node, phase)| **phase == StagePhase::Failed && !graph.nodes()[*node].allows_failure())
        .map(|(node, _)| row(node))
        .min_by_key(|row| row.end.as_ref().map(|time| time.0));
    match (phase, failed) {
        (RunPhase::Cancelled, _) => {
            let reason = phases
                .iter()
                .enumerate()
                .find(|(_, phase)| **phase == StagePhase::Cancelled)
                .map_or(Reason::Cancelled.as_str(), |(node, _)| row(node).reason.as_str());
            none(reason, "the run was stopped by its spec.state; a run with rerun.of keeps what succeeded".into())
        }
        (RunPhase::Failed, Some(row)) => Summary {
            stage: row.name.clone(),
            reason: row.reason.clone(),
            message: format!("stage {} failed: {}{}", row.name, row.message, advice(row)),
        },
        _ => none(
            "",
            format!(
                "{} of {} stages succeeded",
                phases.iter().filter(|p| **p == StagePhase::Succeeded).count(),
                phases.len()
            ),
        ),
    }
}

/// What to do about a failed stage.
fn advice(row: &StageStatus) -> String {
    if row.pod.is_empty() { String::new() } else { format!("; its log: kubectl logs {}", row.pod) }
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
            first = Some(row(node));
            if alive {
                break;
            }
        }
    }
    if phase == RunPhase::Suspended {
        let message = "no stage starts while spec.suspend is true".to_owned();
        return Summary { stage: String::new(), reason: Reason::Suspended.as_str().to_owned(), message };
    }
    let Some(row) = first else {
        return Summary { stage: String::new(), reason: String::new(), message: String::new() };
    };
    let stopping = run.state != trainyard_crds::v1alpha1::RunState::Active
        && graph.position(&row.name).is_some_and(|node| node < graph.main());
    let message = if row.message.is_empty() { String::new() } else { format!("stage {}: {}", row.name, row.message) };
    Summary {
        stage: row.name.clone(),
        reason: if stopping { Reason::Cancelled.as_str().to_owned() } else { row.reason.clone() },
        message,
    }
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
struct Conditions<'a> {
    before: &'a [Condition],
    generation: i64,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(before: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { before, generation, now, list: Vec::with_capacity(6) }
    }

    fn set(&mut self, kind: ConditionType, value: bool, reason: &str, message: &str) {
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

    fn active(&mut self, phase: RunPhase) {
        let word = phase.as_str();
        self.set(ConditionType::Finished, false, word, "");
        self.set(ConditionType::Succeeded, false, word, "");
        self.set(ConditionType::Reconciling, true, word, "");
        self.set(ConditionType::Stalled, false, word, "");
        self.set(ConditionType::Ready, false, word, "");
    }

    fn terminal(&mut self, phase: RunPhase, reason: &str, message: &str) {
        for (kind, value) in terminal_conditions(phase) {
            self.set(kind, value, reason, message);
        }
    }

    fn done(self) -> Vec<Condition> {
        self.list
    }
}

/// A duration for people: `48s`, `4m12s`, `2h05m`.
fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}
