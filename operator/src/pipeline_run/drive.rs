//! Plan, act, write, until it is quiet.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action as Requeue;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{PipelineRun, PipelineRunStatus, StagePhase, StageStatus};
use trainyard_planner::{Action, Note, NoteKind, Origin, Plan, Run, plan, published, refused};

use super::accept::{Accepted, accept};
use super::build::Request;
use super::{LIVENESS, RunError, finish, launch, register};
use crate::apply::{WriteError, Writer};
use crate::context::Context;
use crate::memory::{Frozen, RunMemory, lock};
use crate::mutant;
use crate::pace::Pace;
use crate::pipeline::started_by;
use crate::status_patch;

/// Pods whose labels were changed are read this often.
const ALTERED: Duration = Duration::from_secs(1);
/// A run that plans more often than this in one go is looked at again later, so that others have their turn.
const ROUNDS: usize = 16;
/// Most bytes of a status: below what an object may hold, with room to say that it is too large.
const STATUS_LIMIT: usize = 768 * 1024;

/// Looks at a run until there is nothing more to do now.
pub(super) async fn drive(
    context: &Context,
    memory: &Mutex<RunMemory>,
    run: Arc<PipelineRun>,
) -> Result<Requeue, RunError> {
    let phase = run.status.as_ref().and_then(|status| status.phase);
    if phase.is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal) {
        return finish::finish(context, memory, &run).await;
    }
    let now = Timestamp::now();
    let frozen = match accept(context, memory, &run, now).await? {
        Accepted::Yes { frozen, first: None } => frozen,
        Accepted::Yes { frozen, first: Some(first) } => {
            // What the run is must be on record before the first Pod exists.
            let driver = Driver { context, memory, frozen: &frozen };
            let patch = status_patch::run_patch(&version(&run), None, &first, &[]).map_err(json)?;
            driver.write(&run, patch).await?;
            frozen
        }
        Accepted::No(reason, message) => return refuse(context, memory, &run, reason, &message, now).await,
    };
    let driver = Driver { context, memory, frozen: &frozen };
    {
        let mut memory = lock(memory);
        memory.read_altered_again();
        memory.observed.forget_champions();
    }
    for _ in 0..ROUNDS {
        let Some(current) = lock(memory).latest.clone() else { break };
        if current
            .status
            .as_ref()
            .and_then(|status| status.phase)
            .is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal)
        {
            return finish::finish(context, memory, &current).await;
        }
        match driver.round(&current).await? {
            Round::Again => {}
            Round::Quiet(_) if mutant::is("forgotten-requeue") => return Ok(Requeue::await_change()),
            Round::Quiet(wait) => {
                let wait = if lock(memory).altered.is_empty() { wait } else { wait.min(ALTERED) };
                return Ok(Requeue::requeue(wait.min(LIVENESS)));
            }
        }
    }
    Ok(Requeue::requeue(Duration::from_millis(1)))
}

/// The revision that a run was started for, as the operator itself wrote it: key, cause and retries.
fn origin(run: &PipelineRun) -> Option<(String, String, u32)> {
    started_by(run)?;
    let note = |name: &str| run.annotations().get(name).cloned();
    let retries = note(labels::RUN_RETRIES).and_then(|retries| retries.parse().ok()).unwrap_or(0);
    Some((note(labels::RUN_KEY)?, note(labels::CAUSE)?, retries))
}

fn version(run: &PipelineRun) -> String {
    run.resource_version().unwrap_or_default()
}

fn json(error: serde_json::Error) -> RunError {
    RunError::Internal(error.to_string())
}

/// Ends a run that cannot go on for a reason of its own.
async fn refuse(
    context: &Context,
    memory: &Mutex<RunMemory>,
    run: &PipelineRun,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> Result<Requeue, RunError> {
    let prior = run.status.clone().unwrap_or_default();
    let mut status = refused(&prior, run.metadata.generation.unwrap_or_default(), reason, message, now);
    if status.pipeline.is_empty() {
        status.pipeline =
            run.spec.pipeline_ref.as_ref().map_or_else(|| run.name_any(), |reference| reference.name.clone());
    }
    let patch = status_patch::whole_patch(&version(run), serde_json::to_value(&status).map_err(json)?);
    let written = Arc::new(Writer::new(context.client.clone()).patch_run_status(run, patch).await?);
    lock(memory).latest = Some(Arc::clone(&written));
    tracing::info!(reason = reason.as_str(), message, "the run cannot go on");
    let (kind, word) = match reason {
        Reason::Superseded => (NoteKind::Normal, reason.as_str()),
        _ => (NoteKind::Warning, "Failed"),
    };
    context.events.note(&*written, Note { kind, reason: word, message: message.to_owned() });
    context.pipelines.send(ObjectRef::new(&status.pipeline).within(&run.namespace().unwrap_or_default())).ok();
    finish::finish(context, memory, &written).await
}

enum Round {
    /// Something was done: plan again.
    Again,
    /// Nothing to do for so long.
    Quiet(Duration),
}

pub(super) struct Driver<'a> {
    pub(super) context: &'a Context,
    pub(super) memory: &'a Mutex<RunMemory>,
    pub(super) frozen: &'a Frozen,
}

impl Driver<'_> {
    async fn round(&self, object: &PipelineRun) -> Result<Round, RunError> {
        let (namespace, name, uid) =
            (object.namespace().unwrap_or_default(), object.name_any(), object.uid().unwrap_or_default());
        let status = object.status.clone().unwrap_or_default();
        let origin = origin(object);
        let run = Run {
            namespace: &namespace,
            name: &name,
            uid: &uid,
            pipeline: &status.pipeline,
            generation: object.metadata.generation.unwrap_or_default(),
            params: &self.frozen.params,
            state: object.spec.state.unwrap_or_default(),
            suspend: object.spec.suspend.unwrap_or(false),
            approvals: &object.spec.approvals,
            origin: origin.as_ref().map(|(key, cause, retries)| Origin { key, cause, retries: *retries }),
            status: &status,
        };
        let now = Timestamp::now();
        let plan = plan(self.frozen.graph(), &run, &lock(self.memory).observed, now);
        let launches = plan.actions.iter().any(|action| matches!(action, Action::Launch { .. }));
        if launches && !lock(self.memory).read {
            self.read(object).await?;
            return Ok(Round::Again);
        }
        if !self.act(object, &run, &plan, now).await? {
            return Ok(Round::Again);
        }
        if !plan.changes(&status) {
            return Ok(Round::Quiet(until(plan.requeue_at, now)));
        }
        if !urgent(&status, &plan, now)
            && let Some(rest) = self.rest()
        {
            return Ok(Round::Quiet(rest.min(until(plan.requeue_at, now))));
        }
        if plan.head.phase.is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal) {
            self.record(object, &status, plan).await?;
        } else {
            self.record_and_launch(object, &run, plan).await?;
        }
        Ok(Round::Again)
    }

    /// Writes the status that a plan leads to, and launches meanwhile what becomes ready: on a long run the API server takes tens of
    /// milliseconds for a status, and the next stage would wait for it.
    ///
    /// What is launched follows from the status that is on record and from what is observed, as between two writes; an attempt after
    /// a failed one is not among it before the failure is on record. All else waits for the next round.
    async fn record_and_launch(&self, object: &PipelineRun, run: &Run<'_>, plan: Plan) -> Result<(), RunError> {
        let written = Notify::new();
        let moved = Arc::clone(&lock(self.memory).moved);
        let record = async {
            let result = self.record(object, run.status, plan).await;
            written.notify_one();
            result
        };
        let launch = async {
            loop {
                tokio::select! {
                    biased;
                    () = written.notified() => return Ok(()),
                    () = moved.notified() => {}
                }
                let now = Timestamp::now();
                let mut next = trainyard_planner::plan(self.frozen.graph(), run, &lock(self.memory).observed, now);
                next.actions.retain(|action| matches!(action, Action::Launch { .. }));
                if !next.actions.is_empty() {
                    self.act(object, run, &next, now).await?;
                }
            }
        };
        // Neither is given up for the other: a request that was sent may have been done.
        let (recorded, launched): (_, Result<(), RunError>) = tokio::join!(record, launch);
        recorded.and(launched)
    }

    /// Performs a plan's actions. Returns whether the plan still stands.
    async fn act(&self, object: &PipelineRun, run: &Run<'_>, plan: &Plan, now: Timestamp) -> Result<bool, RunError> {
        let mut requests = Vec::new();
        let mut stands = true;
        let needs_rows = plan.actions.iter().any(|action| matches!(action, Action::Launch { .. }));
        let rows: Vec<StageStatus> = if needs_rows { plan.status(run.status).stages } else { Vec::new() };
        let keys: Vec<String> = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::Launch { node, attempt } if self.context.settings.report_url.is_some() => {
                    self.context.keys.derive(run.uid, self.stage(*node), *attempt)
                }
                Action::Launch { .. }
                | Action::Stop { .. }
                | Action::Suspend { .. }
                | Action::Confirm { .. }
                | Action::ReadChampions
                | Action::Emit(_) => String::new(),
            })
            .collect();
        for (action, key) in plan.actions.iter().zip(&keys) {
            match action {
                Action::Launch { node, attempt } => requests.push(Request {
                    graph: self.frozen.graph(),
                    object,
                    run,
                    rows: &rows,
                    node: *node,
                    attempt: *attempt,
                    mount: self.context.mount.current(),
                    report_key: (!key.is_empty()).then_some(key.as_str()),
                }),
                Action::Stop { node, attempt, pod, uid } => self.stop(run, *node, *attempt, pod, uid).await?,
                Action::Suspend { node, attempt, job, uid, suspend } => {
                    self.suspend(run, *node, *attempt, (job, uid), *suspend).await?;
                }
                Action::Confirm { node, attempt, pod } => {
                    self.confirm(run, *node, *attempt, pod).await?;
                    stands = false;
                }
                Action::ReadChampions => {
                    let champions = register::champions(self.context, run).await?;
                    lock(self.memory).observed.set_champions(champions);
                    stands = false;
                }
                // Said when the status that it is about is written.
                Action::Emit(_) => {}
            }
        }
        let launches = !requests.is_empty();
        let created = launch::launch(self.context, self.memory, requests, now).await?;
        let ended = plan
            .rows
            .iter()
            .filter(|(_, row)| row.phase.is_terminal())
            .filter_map(|(_, row)| Some(row.end.as_ref()?.0))
            .max();
        if let (true, true, Some(ended)) = (launches, created, ended) {
            let took = Timestamp::now().duration_since(ended);
            self.context.metrics.handed_off(Duration::try_from(took).unwrap_or_default());
        }
        Ok(stands && created)
    }

    pub(super) fn stage(&self, node: usize) -> &str {
        self.frozen.graph().nodes().get(node).map_or("", |node| node.name())
    }

    /// Asks the API server itself what the run is. A process that has just begun knows it from a list, and an old list may name a stage
    /// that has long ended as one that has not begun, when its Pod is long gone.
    async fn read(&self, object: &PipelineRun) -> Result<(), WriteError> {
        let writer = Writer::new(self.context.client.clone());
        let live = writer.read_run(&object.namespace().unwrap_or_default(), &object.name_any()).await?;
        let mut memory = lock(self.memory);
        memory.latest = live.filter(|live| live.uid() == object.uid()).map(Arc::new);
        memory.read = true;
        Ok(())
    }

    /// How long until a status that nothing waits for may be written.
    fn rest(&self) -> Option<Duration> {
        lock(self.memory).pace?.rest(Instant::now())
    }

    /// Writes the status that a plan leads to, and tells people.
    async fn record(&self, object: &PipelineRun, before: &PipelineRunStatus, plan: Plan) -> Result<(), RunError> {
        let after = plan.status(before);
        let size = serde_json::to_string(&after).map_err(json)?.len();
        if size > STATUS_LIMIT {
            let message = format!(
                "the status would be {size} bytes and {STATUS_LIMIT} are allowed: write less to results and metrics"
            );
            let now = Timestamp::now();
            let status =
                refused(before, object.metadata.generation.unwrap_or_default(), Reason::StatusTooLarge, &message, now);
            let patch = status_patch::whole_patch(&version(object), serde_json::to_value(&status).map_err(json)?);
            self.write(object, patch).await?;
            return Ok(());
        }
        // Before the row that says so: what its Pipeline does not know by then, nobody would tell it.
        for (node, _) in &plan.rows {
            let was = before.stages.get(*node).map(|row| row.phase);
            if was != Some(StagePhase::Succeeded)
                && let Some(published) = published(self.frozen.graph(), &after.stages, *node)
            {
                register::register(self.context, object, &after.pipeline, &published).await?;
            }
        }
        let patch =
            status_patch::run_patch(&version(object), object.status.as_ref(), &after, &plan.rows).map_err(json)?;
        let written = self.write(object, patch).await?;
        for (node, row) in &plan.rows {
            let old = before.stages.get(*node).map(|row| row.phase);
            if row.phase.is_terminal() && old != Some(row.phase) {
                tracing::info!(stage = %row.name, attempt = row.attempt, phase = row.phase.as_str(), reason = %row.reason, "stage ended");
                self.context.metrics.attempt_ended(if row.reason.is_empty() {
                    row.phase.as_str()
                } else {
                    &row.reason
                });
            }
        }
        for action in &plan.actions {
            if let Action::Emit(note) = action {
                self.context.events.note(&*written, note.clone());
            }
        }
        if before.phase != after.phase {
            let phase = after.phase.unwrap_or_default();
            tracing::info!(phase = phase.as_str(), reason = %after.reason, "run is");
            self.context
                .pipelines
                .send(ObjectRef::new(&after.pipeline).within(&object.namespace().unwrap_or_default()))
                .ok();
        }
        Ok(())
    }

    async fn write(&self, object: &PipelineRun, patch: json_patch::Patch) -> Result<Arc<PipelineRun>, RunError> {
        let writer = Writer::new(self.context.client.clone());
        self.context.metrics.status_written("pipelinerun");
        let began = Instant::now();
        match writer.patch_run_status(object, patch).await {
            Ok(written) => {
                let written = Arc::new(written);
                let active = self.context.memory.len();
                let mut memory = lock(self.memory);
                memory.latest = Some(Arc::clone(&written));
                memory.read = true;
                memory.pace = Some(Pace::after(began, Instant::now(), active));
                Ok(written)
            }
            Err(WriteError::Conflict(what)) => {
                // Somebody changed the run: what it is now decides.
                self.read(object).await?;
                Err(WriteError::Conflict(what).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether something waits for this status: people for a phase or a failure, the next step for the record of this one.
fn urgent(before: &PipelineRunStatus, plan: &Plan, now: Timestamp) -> bool {
    // The planner asks to be asked again at once: it waits to read what it is about to write.
    plan.requeue_at.is_some_and(|at| at <= now)
        || plan.head.phase != before.phase
        || plan.actions.iter().any(|action| matches!(action, Action::Emit(_)))
        || plan.rows.iter().any(|(node, row)| {
            matches!(row.phase, StagePhase::Retrying | StagePhase::Failed | StagePhase::Cancelled)
                || trainyard_planner::Verdict::class(&row.reason).is_some()
                || before.stages.get(*node).is_some_and(|old| old.phase == StagePhase::Retrying)
        })
}

fn until(at: Option<Timestamp>, now: Timestamp) -> Duration {
    match at {
        // A moment more, so that the time has come when it is looked at.
        Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(1),
        None => LIVENESS,
    }
}
