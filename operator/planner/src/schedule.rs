//! [`plan`]: one pass over the stages that have not ended.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{ApprovalDecision, PipelineRunStatus, RunState, StagePhase, StageStatus};

use crate::expression::{NoValue, Scope};
use crate::graph::{Graph, Node, Section};
use crate::observed::{Class, Ended, Observed};
use crate::{status, step};

/// A run as it stands: its identity, what its user wants, and the status that was written last.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Namespace of the run.
    pub namespace: &'a str,
    /// Name of the run.
    pub name: &'a str,
    /// UID of the run.
    pub uid: &'a str,
    /// Name of the Pipeline; the run's own for an inline one.
    pub pipeline: &'a str,
    /// `metadata.generation`.
    pub generation: i64,
    /// Parameters with their defaults.
    pub params: &'a Map<String, Value>,
    /// `spec.state`.
    pub state: RunState,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.approvals`.
    pub approvals: &'a BTreeMap<String, ApprovalDecision>,
    /// The revision that a trigger or a request started it for.
    pub origin: Option<Origin<'a>>,
    /// The status that was written last, with one row a stage: see [`crate::initial`].
    pub status: &'a PipelineRunStatus,
}

/// The revision that a run was started for.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its key.
    pub key: &'a str,
    /// What started it, as JSON.
    pub cause: &'a str,
    /// How often it was repeated after a failure.
    pub retries: u32,
}

/// What to do. All of it may be done again without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the Pod of this attempt, or its TrainingJob.
    Launch {
        /// Index of the stage.
        node: usize,
        /// Number of the attempt.
        attempt: u32,
    },
    /// Delete the Pod of this attempt, or its TrainingJob that has no Pods any more, with its UID as precondition.
    Stop {
        /// Index of the stage.
        node: usize,
        /// Number of the attempt.
        attempt: u32,
        /// Name of it.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// Set `spec.suspend` of the TrainingJob of this attempt, and that its run did so, with its UID as precondition.
    Suspend {
        /// Index of the stage.
        node: usize,
        /// Number of the attempt.
        attempt: u32,
        /// Name of the job.
        job: String,
        /// Its UID.
        uid: String,
        /// Whether it is to have no Pods.
        suspend: bool,
    },
    /// Ask the API server itself whether the Pod of this attempt, or its TrainingJob, is gone, and plan again.
    Confirm {
        /// Index of the stage.
        node: usize,
        /// Number of the attempt.
        attempt: u32,
        /// Name of it.
        pod: String,
    },
    /// Ask the API server itself which versions of the pipeline's models are champions, and plan again.
    ReadChampions,
    /// Tell people, once the status is written.
    Emit(Note),
}

/// Something to tell people, as an Event of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub kind: NoteKind,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Whether a note is a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// It is as it should be.
    Normal,
    /// Something went wrong.
    Warning,
}

/// What follows from a run as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What to do, in this order.
    pub actions: Vec<Action>,
    /// Rows of `status.stages` that change, by index.
    pub rows: Vec<(usize, StageStatus)>,
    /// All of the status but its rows.
    pub head: PipelineRunStatus,
    /// When to plan again even if nothing happens.
    pub requeue_at: Option<Timestamp>,
}

impl Plan {
    /// Whether the status differs from the one that was planned from.
    #[must_use]
    pub fn changes(&self, prior: &PipelineRunStatus) -> bool {
        !self.rows.is_empty() || !status::same_head(&self.head, prior)
    }

    /// The whole status after this plan.
    #[must_use]
    pub fn status(&self, prior: &PipelineRunStatus) -> PipelineRunStatus {
        let mut status = self.head.clone();
        status.stages.clone_from(&prior.stages);
        for (index, row) in &self.rows {
            if let Some(old) = status.stages.get_mut(*index) {
                old.clone_from(row);
            }
        }
        status
    }
}

/// What to do next for a run.
///
/// Total and deterministic: a status whose rows are not the graph's gives a failed run with the reason `InternalError`.
#[must_use]
pub fn plan(graph: &Graph, run: &Run<'_>, observed: &Observed, now: Timestamp) -> Plan {
    let prior = run.status;
    if prior.phase.is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal) {
        return Plan { actions: Vec::new(), rows: Vec::new(), head: status::without_rows(prior), requeue_at: None };
    }
    let known = prior.stages.len() == graph.nodes().len()
        && prior.stages.iter().zip(graph.nodes()).all(|(row, node)| row.name == node.name());
    if !known {
        let message =
            "the stages in the status are not those of the frozen pipeline: the status was edited, or this is a bug";
        let head = status::refused(prior, run.generation, Reason::InternalError, message, now);
        return Plan { actions: Vec::new(), rows: Vec::new(), head: status::without_rows(&head), requeue_at: None };
    }
    let phases: Vec<StagePhase> = prior.stages.iter().map(|row| row.phase).collect();
    let mut pass = Pass {
        graph,
        run,
        observed,
        now,
        live: phases.iter().filter(|phase| is_live(**phase)).count(),
        phases,
        changed: vec![None; graph.nodes().len()],
        unwritten: BTreeSet::new(),
        asked: BTreeSet::new(),
        actions: Vec::new(),
        requeue_at: None,
    };
    pass.attempts();
    pass.waiting();
    pass.finish()
}

/// Whether a waiting stage may have begun.
enum Beginning {
    /// It cannot have.
    Impossible,
    /// Nobody knows yet.
    Open,
    /// This attempt may be there.
    Possible(u32),
}

fn is_live(phase: StagePhase) -> bool {
    matches!(phase, StagePhase::Pending | StagePhase::Running)
}

pub(crate) struct Pass<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) run: &'a Run<'a>,
    pub(crate) observed: &'a Observed,
    pub(crate) now: Timestamp,
    /// Phase of every stage, as far as this pass has come.
    pub(crate) phases: Vec<StagePhase>,
    /// How many stages are alive.
    pub(crate) live: usize,
    changed: Vec<Option<Box<StageStatus>>>,
    /// Stages that failed in this pass, were stopped, or were skipped because of such ones; and stages without a Pod that ended.
    unwritten: BTreeSet<usize>,
    /// Stages that wait for the answer to a question about an attempt.
    pub(crate) asked: BTreeSet<usize>,
    pub(crate) actions: Vec<Action>,
    requeue_at: Option<Timestamp>,
}

impl<'a> Pass<'a> {
    pub(crate) fn prior(&self, node: usize) -> &'a StageStatus {
        &self.run.status.stages[node]
    }

    pub(crate) fn node(&self, node: usize) -> &'a Node {
        &self.graph.nodes()[node]
    }

    /// Records a stage's new row, if it is new.
    pub(crate) fn set(&mut self, node: usize, row: StageStatus) {
        let (before, after) = (self.phases[node], row.phase);
        self.live = self.live + usize::from(is_live(after)) - usize::from(is_live(before));
        self.phases[node] = after;
        // A success is kept by its commit record, if it has one.
        let recorded = after == StagePhase::Succeeded && !self.node(node).is_judged();
        if matches!(after, StagePhase::Succeeded | StagePhase::Failed | StagePhase::Cancelled) && !recorded {
            self.unwritten.insert(node);
        }
        self.put(node, row);
    }

    /// Keeps what is to be said of a stage without saying that it has moved.
    pub(crate) fn put(&mut self, node: usize, row: StageStatus) {
        if row != *self.prior(node) {
            self.changed[node] = Some(Box::new(row));
        }
    }

    pub(crate) fn look_again(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |before| before.min(at)));
    }

    /// Whether stages of this section are to be stopped.
    pub(crate) fn stopping(&self, section: Section) -> bool {
        match self.run.state {
            RunState::Active => false,
            RunState::Cancelled => section == Section::Main,
            RunState::Terminated => true,
        }
    }

    pub(crate) fn note(&mut self, kind: NoteKind, reason: &'static str, message: impl FnOnce() -> String) {
        self.actions.push(Action::Emit(Note { kind, reason, message: message() }));
    }

    /// Then all that wait, in their order, so that what one skips the next one sees.
    fn waiting(&mut self) {
        let main = self.graph.main();
        let mut main_ended = true;
        for node in 0..self.phases.len() {
            if node == main {
                let ended = self.phases[..main].iter().all(|phase| phase.is_terminal());
                main_ended = ended && self.unwritten.is_empty();
                if ended && !main_ended {
                    self.look_again(self.now);
                }
            }
            match self.phases[node] {
                StagePhase::Waiting | StagePhase::Retrying if self.asked.contains(&node) => {}
                StagePhase::Waiting | StagePhase::Retrying if self.stopping(self.node(node).section()) => {
                    match self.beginning(node) {
                        // What it needs is asked for first.
                        Beginning::Open => {}
                        Beginning::Possible(attempt) => {
                            let pod = self.object(node, attempt);
                            self.actions.push(Action::Confirm { node, attempt, pod });
                        }
                        Beginning::Impossible => {
                            let row = self.row(node).clone();
                            self.cancelled(node, row, self.now);
                        }
                    }
                }
                StagePhase::Waiting if node < main || main_ended => self.start(node),
                StagePhase::Retrying => self.repeat(node),
                StagePhase::Waiting
                | StagePhase::Pending
                | StagePhase::Running
                | StagePhase::Succeeded
                | StagePhase::Failed
                | StagePhase::Skipped
                | StagePhase::Cancelled => {}
            }
        }
    }

    /// Whether the Pod of a waiting stage may exist although nothing of it is known: its create may have been the last thing that an
    /// operator before this one did. It may have done so on an early report, of a success that no status tells of yet.
    fn beginning(&self, node: usize) -> Beginning {
        if self.node(node).is_judged() {
            return Beginning::Impossible;
        }
        let prior = self.prior(node);
        let attempt = match prior.phase {
            StagePhase::Waiting => {
                let mut open = false;
                for need in &self.node(node).needs {
                    let known = match self.phases[need.node] {
                        _ if self.asked.contains(&need.node) => None,
                        StagePhase::Waiting | StagePhase::Retrying => None,
                        StagePhase::Pending | StagePhase::Running => Some(StagePhase::Succeeded),
                        ended => Some(ended),
                    };
                    match known {
                        Some(phase) if !need.on.allows(phase) => return Beginning::Impossible,
                        known => open |= known.is_none(),
                    }
                }
                if open {
                    return Beginning::Open;
                }
                Some(1)
            }
            StagePhase::Retrying => prior.attempt.map(|attempt| attempt.saturating_add(1)),
            _ => None,
        };
        let attempt = attempt.filter(|attempt| !self.observed.is_gone(self.node(node).name(), *attempt));
        attempt.map_or(Beginning::Impossible, Beginning::Possible)
    }

    /// Whether a stage has ended so that others may start because of it: a success is kept by its commit record, and a failure only
    /// by the status that was written.
    fn has_ended(&self, node: usize) -> bool {
        self.phases[node].is_terminal() && !self.unwritten.contains(&node)
    }

    /// What is said of a stage, as far as this pass has come.
    pub(crate) fn row(&self, node: usize) -> &StageStatus {
        self.changed[node].as_deref().unwrap_or(self.prior(node))
    }

    /// An attempt is repeated only when its failure stands in the status that was written.
    fn repeat(&mut self, node: usize) {
        if self.changed[node].is_some() {
            return;
        }
        let prior = self.prior(node);
        let at = prior.retry_at.as_ref().map_or(self.now, |time| time.0);
        if at > self.now {
            self.look_again(at);
        } else if !self.run.suspend {
            self.launch(node, prior.attempt.unwrap_or(0).saturating_add(1));
        }
    }

    /// A stage starts or is skipped when all that it needs has ended, so that the reason does not depend on what ended first.
    fn start(&mut self, node: usize) {
        let needs = &self.node(node).needs;
        if !needs.iter().all(|need| self.phases[need.node].is_terminal()) {
            return;
        }
        let missing = needs.iter().filter(|need| !need.on.allows(self.phases[need.node]));
        // A failure explains more than a skip.
        if let Some(need) = missing.min_by_key(|need| self.phases[need.node] == StagePhase::Skipped) {
            let (other, phase) = (self.node(need.node).name(), self.phases[need.node]);
            let (reason, message) = match (need.on.only_success(), phase) {
                (true, StagePhase::Skipped) => (Reason::DependencySkipped, format!("stage {other} was skipped")),
                (true, _) => (Reason::DependencyFailed, format!("stage {other} did not succeed")),
                (false, _) => (
                    Reason::BranchNotTaken,
                    format!("stage {other} is {}; this stage runs only after {}", phase.as_str(), need.on),
                ),
            };
            self.skip(node, reason, message);
            return;
        }
        match self.condition(node) {
            Ok(None) if self.run.suspend => self.waits(node, Reason::None, String::new()),
            Ok(None) if !needs.iter().all(|need| self.has_ended(need.node)) => self.look_again(self.now),
            Ok(None) if self.node(node).is_judged() => self.judge(node),
            Ok(None) => self.launch(node, 1),
            Ok(Some(message)) => self.skip(node, Reason::WhenFalse, message),
            Err(ended) => self.failed(node, 0, "", self.now, &ended),
        }
    }

    /// A stage that could start waits, for this reason.
    fn waits(&mut self, node: usize, reason: Reason, message: String) {
        let prior = self.prior(node);
        if prior.phase == StagePhase::Waiting && (prior.reason != reason.as_str() || prior.message != message) {
            let row = StageStatus { reason: reason.as_str().to_owned(), message, ..prior.clone() };
            self.set(node, row);
        }
    }

    fn skip(&mut self, node: usize, reason: Reason, message: String) {
        if self.node(node).needs.iter().any(|need| self.unwritten.contains(&need.node)) {
            self.unwritten.insert(node);
        }
        let mut row = self.prior(node).clone();
        row.phase = StagePhase::Skipped;
        reason.as_str().clone_into(&mut row.reason);
        row.message = message;
        self.set(node, row);
    }

    /// Why the stage's `when` does not hold, if it does not.
    fn condition(&self, node: usize) -> Result<Option<String>, Box<Ended>> {
        let Some(when) = &self.node(node).when else { return Ok(None) };
        let params =
            when.params.iter().filter_map(|name| Some((name.clone(), self.run.params.get(name)?.clone()))).collect();
        let read = || when.stages.iter().filter_map(|name| self.graph.position(name));
        let stages = read().map(|other| {
            let row = self.row(other);
            let value =
                serde_json::json!({ "phase": row.phase.as_str(), "results": row.results, "metrics": row.metrics });
            (row.name.clone(), value)
        });
        let scope = Scope { params, stages: stages.collect(), run: step::run_fields(self.run, self.main_phase()) };
        let (key, message) = match when.evaluate(&scope) {
            Ok(true) => return Ok(None),
            Ok(false) => return Ok(Some(format!("`{}` is false", when.source()))),
            Err(NoValue { key, message }) => (key, message),
        };
        // A stage that did not succeed has no results and metrics to ask for.
        if let Some(other) = read().find(|other| self.phases[*other] != StagePhase::Succeeded) {
            let other = self.node(other).name();
            return Ok(Some(format!("`{}` has no value, since stage {other} did not succeed", when.source())));
        }
        let too_large = key.as_ref().and_then(|key| {
            read().find(|other| {
                let declared = self.node(*other).stage().results.iter().any(|result| result.name == *key);
                declared && !self.row(*other).results.contains_key(key)
            })
        });
        let ended = match (too_large, key) {
            (Some(other), Some(key)) => Ended::failure(
                Class::Fatal,
                Reason::ResultTooLarge.as_str(),
                format!(
                    "`{}` reads result {key} of stage {}, which is too large for the stage's report: write a smaller one for conditions",
                    when.source(),
                    self.node(other).name()
                ),
            ),
            (_, _) => Ended::failure(Class::Fatal, Reason::InvalidExpression.as_str(), message),
        };
        Err(Box::new(ended))
    }

    /// How the main stages ended, for `finally`.
    fn main_phase(&self) -> trainyard_crds::v1alpha1::RunPhase {
        status::outcome(self.graph, &self.phases[..self.graph.main()])
    }

    fn launch(&mut self, node: usize, attempt: u32) {
        let name = self.node(node).name();
        let mut row = self.prior(node).clone();
        if let Some(blocked) = self.observed.blocked(name, self.now) {
            self.look_again(blocked.until);
            row.reason.clone_from(&blocked.reason);
            row.message.clone_from(&blocked.message);
            self.set(node, row);
            return;
        }
        if self.graph.parallel().is_some_and(|limit| self.live >= limit) {
            let limit = self.graph.parallel().unwrap_or_default();
            self.waits(node, Reason::Queued, format!("spec.parallel is {limit}, and so many stages are alive"));
            return;
        }
        self.actions.push(Action::Launch { node, attempt });
        row.phase = StagePhase::Pending;
        row.attempt = Some(attempt);
        let object = self.object(node, attempt);
        self.put_name(node, &mut row, &object);
        row.reason = Reason::Starting.as_str().to_owned();
        row.message = String::new();
        row.exit_code = None;
        row.last_lines = String::new();
        row.retry_at = None;
        self.set(node, row);
    }

    fn finish(self) -> Plan {
        let Self { graph, run, now, phases, changed, mut actions, requeue_at, .. } = self;
        let rows = |node: usize| changed[node].as_deref().unwrap_or(&run.status.stages[node]);
        let head = status::head(graph, run, &phases, &rows, now);
        status::notes(run.status, &head, &mut actions);
        let rows = changed.into_iter().enumerate().filter_map(|(node, row)| Some((node, *row?))).collect();
        Plan { actions, rows, head, requeue_at }
    }
}
