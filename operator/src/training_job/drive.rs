//! Plan, act, write, until it is quiet.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action as Requeue;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{JobPhase, TrainingJob, TrainingJobStatus};
use trainyard_planner::training::{JobAction, JobPlan, JobRun, plan, refused};
use trainyard_planner::{Note, NoteKind};

use super::build::Request;
use super::memory::{JobMemory, Parsed};
use super::{JobError, LIVENESS, accept, finish, launch, look};
use crate::apply::{TOGETHER, WriteError, Writer};
use crate::context::Context;
use crate::gang::Gang;
use crate::memory::lock;
use crate::{mutant, status_patch};

/// At least this long between two writes of a job's status that nothing waits for: how many ranks have started.
const COALESCE: Duration = Duration::from_secs(1);
/// At least this long between two writes of nothing but progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// Pods whose labels were changed are read this often.
const ALTERED: Duration = Duration::from_secs(1);
/// A job that plans more often than this in one go is looked at again later, so that others have their turn.
const ROUNDS: usize = 32;

/// Looks at a job until there is nothing more to do now.
pub(super) async fn drive(
    context: &Context,
    memory: &Mutex<JobMemory>,
    job: Arc<TrainingJob>,
) -> Result<Requeue, JobError> {
    let now = Timestamp::now();
    let phase = job.status.as_ref().and_then(|status| status.phase);
    let known = lock(memory).parsed.clone().filter(|_| phase.is_some());
    let parsed = match known {
        // The spec may have been edited, where no admission policy forbids it.
        Some(parsed) if is_observed(&job) => parsed,
        _ => match accept::parse(&job, context.settings.default_store.as_ref()) {
            Ok(parsed) => Arc::new(parsed),
            Err(_) if phase.is_some_and(JobPhase::is_terminal) => {
                stop_all(context, memory, &job).await?;
                return finish::finish(context, memory, &job).await;
            }
            Err(problem) => return refuse(context, memory, &job, problem.reason, &problem.to_string(), now).await,
        },
    };
    lock(memory).parsed = Some(Arc::clone(&parsed));
    let driver = Driver { context, memory, parsed: &parsed };
    if phase.is_none() {
        // What the job is must be on record before anything of it exists.
        let first = accept::first(&job, &parsed, now);
        driver.write(&job, &first).await?;
    }
    lock(memory).read_altered_again();
    for _ in 0..ROUNDS {
        let Some(current) = lock(memory).latest.clone() else { break };
        match driver.round(&current).await? {
            Round::Again => {}
            Round::Quiet(wait) => {
                let terminal =
                    current.status.as_ref().and_then(|status| status.phase).is_some_and(JobPhase::is_terminal);
                if terminal {
                    return finish::finish(context, memory, &current).await;
                }
                let wait = if lock(memory).has_altered() { wait.min(ALTERED) } else { wait };
                return Ok(Requeue::requeue(wait.min(LIVENESS)));
            }
        }
    }
    Ok(Requeue::requeue(Duration::from_millis(1)))
}

/// Whether the status is about the spec as it is.
fn is_observed(job: &TrainingJob) -> bool {
    job.status.as_ref().map(|status| status.observed_generation) == job.metadata.generation
}

fn json(error: serde_json::Error) -> JobError {
    JobError::Internal(error.to_string())
}

/// Ends a job that cannot go on for a reason of its own. Its Pods go in the next rounds.
async fn refuse(
    context: &Context,
    memory: &Mutex<JobMemory>,
    job: &TrainingJob,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> Result<Requeue, JobError> {
    let prior = job.status.clone().unwrap_or_default();
    let status = refused(&prior, job.metadata.generation.unwrap_or_default(), reason, message, now);
    let version = job.resource_version().unwrap_or_default();
    let patch = status_patch::job_patch(&version, job.status.as_ref(), &status).map_err(json)?;
    let written = Arc::new(Writer::new(context.client.clone()).patch_job_status(job, patch).await?);
    lock(memory).latest = Some(Arc::clone(&written));
    tracing::info!(reason = reason.as_str(), message, "the job cannot go on");
    stop_all(context, memory, &written).await?;
    context.events.note(&*written, Note { kind: NoteKind::Warning, reason: "Failed", message: message.to_owned() });
    finish::finish(context, memory, &written).await
}

/// Deletes all Pods of an ended job whose spec nobody can read any more.
async fn stop_all(context: &Context, memory: &Mutex<JobMemory>, job: &TrainingJob) -> Result<(), JobError> {
    let pods: Vec<(String, String)> = {
        let memory = lock(memory);
        let alive = memory.ranks.iter().filter(|pod| !pod.has_ended() && !pod.attempt.deleting);
        alive.map(|pod| (pod.attempt.pod.clone(), pod.attempt.uid.clone())).collect()
    };
    let (writer, namespace) = (Writer::new(context.client.clone()), job.namespace().unwrap_or_default());
    for (pod, uid) in pods {
        writer.delete_pod(&namespace, &pod, &uid).await?;
    }
    Ok(())
}

enum Round {
    /// Something was done: plan again.
    Again,
    /// Nothing to do for so long.
    Quiet(Duration),
}

struct Driver<'a> {
    context: &'a Context,
    memory: &'a Mutex<JobMemory>,
    parsed: &'a Parsed,
}

impl Driver<'_> {
    async fn round(&self, object: &TrainingJob) -> Result<Round, JobError> {
        let (namespace, name, uid) =
            (object.namespace().unwrap_or_default(), object.name_any(), object.uid().unwrap_or_default());
        let mut status = object.status.clone().unwrap_or_default();
        if mutant::is("restarts-in-memory") && lock(self.memory).written.is_none() {
            status.restarts = 0;
        }
        let run = JobRun {
            namespace: &namespace,
            name: &name,
            uid: &uid,
            generation: object.metadata.generation.unwrap_or_default(),
            suspend: object.spec.suspend.unwrap_or(false),
            elastic: object.spec.training.elastic,
            origin: &self.parsed.origin,
            attempts_before: self.parsed.attempts_before,
            status: &status,
        };
        let now = Timestamp::now();
        let plan = plan(&self.parsed.job, &run, &lock(self.memory).ranks, now);
        let is_write = |action: &JobAction| matches!(action, JobAction::Launch { .. } | JobAction::Stop { .. });
        if plan.actions.iter().any(is_write) && !lock(self.memory).read {
            self.read(object).await?;
            return Ok(Round::Again);
        }
        let is_stop = |action: &JobAction| matches!(action, JobAction::Stop { .. });
        if plan.actions.iter().any(is_stop) && !lock(self.memory).pods_read {
            // A list may be old, and a Pod that has ended is not stopped: its logs would go.
            look::list(&Writer::new(self.context.client.clone()), self.memory, &run).await?;
            lock(self.memory).pods_read = true;
            return Ok(Round::Again);
        }
        if !self.act(object, &run, &plan, now).await? {
            return Ok(Round::Again);
        }
        if plan.status == status {
            return Ok(Round::Quiet(until(plan.requeue_at, now)));
        }
        if let Some(rest) = self.rest(&status, &plan) {
            return Ok(Round::Quiet(rest.min(until(plan.requeue_at, now))));
        }
        self.record(object, &status, plan).await?;
        Ok(Round::Again)
    }

    /// Performs a plan's actions. Returns whether the plan still stands.
    async fn act(
        &self,
        object: &TrainingJob,
        run: &JobRun<'_>,
        plan: &JobPlan,
        now: Timestamp,
    ) -> Result<bool, JobError> {
        let ranks = run.status.ranks.unwrap_or_else(|| self.parsed.job.ranks());
        let mut launches = Vec::new();
        let mut stops = Vec::new();
        let mut stands = true;
        for action in &plan.actions {
            match action {
                JobAction::Service => {
                    if !launch::service(self.context, self.memory, object).await? {
                        return Ok(false);
                    }
                }
                JobAction::Launch { attempt, rank } => launches.push((*attempt, *rank)),
                JobAction::Stop { attempt, rank, pod, uid } => stops.push((*attempt, *rank, pod.clone(), uid.clone())),
                JobAction::Look { attempt, ranks } => {
                    let gone = look::look(self.context, self.memory, self.parsed, run, *attempt, *ranks).await?;
                    for rank in gone {
                        if mutant::is("replace-one-rank") {
                            launches.push((*attempt, rank));
                        } else {
                            lock(self.memory).ranks.confirm_gone(*attempt, rank);
                        }
                    }
                    stands = false;
                }
                JobAction::Clear { attempt, ranks, fenced } => {
                    look::clear(self.context, self.memory, self.parsed, run, (*attempt, *ranks), fenced).await?;
                    stands = false;
                }
                // Said when the status that it is about is written.
                JobAction::Emit(_) => {}
            }
        }
        let stopping = futures::stream::iter(stops)
            .map(|(attempt, rank, pod, uid)| async move { self.stop(run, attempt, rank, &pod, &uid).await });
        stopping.buffer_unordered(TOGETHER).try_collect::<Vec<()>>().await?;
        if !launches.is_empty() {
            self.launch(object, run, ranks, &launches, now).await?;
            // The world has changed, and the plan with it.
            stands = false;
        }
        Ok(stands)
    }

    async fn launch(
        &self,
        object: &TrainingJob,
        run: &JobRun<'_>,
        ranks: u32,
        launches: &[(u32, u32)],
        now: Timestamp,
    ) -> Result<bool, JobError> {
        let Some(attempt) = launches.first().map(|(attempt, _)| *attempt) else { return Ok(true) };
        if let Some(gang) = &self.context.gang
            && !launch::pod_group(self.context, self.memory, gang, object, (attempt, ranks)).await?
        {
            return Ok(false);
        }
        let keys = &self.context.keys;
        let gang = lock(self.memory).gang_key(attempt, || keys.derive(run.uid, "gang", attempt));
        let origin = &self.parsed.origin;
        let report =
            self.context.settings.report_url.is_some().then(|| keys.derive(&origin.run_uid, &origin.stage, attempt));
        let mount = self.context.mount.current();
        let requests = launches.iter().map(|(attempt, rank)| Request {
            parsed: self.parsed,
            object,
            run,
            ranks,
            attempt: *attempt,
            rank: *rank,
            mount,
            report_key: report.as_deref().filter(|_| *rank == 0),
            gang_key: &gang,
            placement: self.context.gang.as_ref().map(Gang::placement),
        });
        launch::launch(self.context, self.memory, requests.collect(), now).await
    }

    async fn stop(&self, run: &JobRun<'_>, attempt: u32, rank: u32, pod: &str, uid: &str) -> Result<(), JobError> {
        Writer::new(self.context.client.clone()).delete_pod(run.namespace, pod, uid).await?;
        tracing::info!(attempt, rank, pod, "stopped");
        if let Some(known) = lock(self.memory).ranks.pod_mut(attempt, rank).filter(|known| known.attempt.uid == uid) {
            known.attempt.deleting = true;
        }
        Ok(())
    }

    /// Asks the API server itself what the job is: a process that has just begun knows it from a list, which may be old.
    async fn read(&self, object: &TrainingJob) -> Result<(), WriteError> {
        let writer = Writer::new(self.context.client.clone());
        let live = writer.read_job(&object.namespace().unwrap_or_default(), &object.name_any()).await?;
        let mut memory = lock(self.memory);
        memory.latest = live.filter(|live| live.uid() == object.uid()).map(Arc::new);
        memory.read = true;
        Ok(())
    }

    /// How long until a status that nothing waits for may be written.
    fn rest(&self, before: &TrainingJobStatus, plan: &JobPlan) -> Option<Duration> {
        let written = lock(self.memory).written?;
        let after = &plan.status;
        let pause = if plan.is_only_progress(before) {
            PROGRESS
        } else if after.phase == before.phase
            && after.attempt == before.attempt
            && after.attempts.len() == before.attempts.len()
            && after.launched == before.launched
            && after.started == before.started
            && after.retry_at == before.retry_at
            && after.observed_generation == before.observed_generation
            && !plan.actions.iter().any(|action| matches!(action, JobAction::Emit(_)))
        {
            COALESCE
        } else {
            return None;
        };
        pause.checked_sub(written.elapsed()).filter(|rest| !rest.is_zero())
    }

    /// Writes the status that a plan leads to, and tells people.
    async fn record(&self, object: &TrainingJob, before: &TrainingJobStatus, plan: JobPlan) -> Result<(), JobError> {
        let after = &plan.status;
        if mutant::is("delete-before-status") && after.attempts.len() > before.attempts.len() {
            stop_all(self.context, self.memory, object).await?;
        }
        let written = self.write(object, after).await?;
        if let Some(attempt) = after.attempt.filter(|attempt| before.attempt != Some(*attempt)) {
            // It is begun here: no Pod of it can be there.
            lock(self.memory).ranks.know(attempt);
        }
        if let Some(ended) = after.attempts.last().filter(|ended| before.attempts.last() != Some(ended)) {
            let reason = ended.first_failure.as_ref().map_or("", |failure| failure.reason.as_str());
            tracing::info!(attempt = ended.number, outcome = ?ended.outcome, reason, "attempt ended");
            self.context.metrics.attempt_ended(if reason.is_empty() { "Succeeded" } else { reason });
            if reason == Reason::ContainerStartFailed.as_str() && self.context.mount.image_failed() {
                tracing::warn!(
                    "a container with an image volume could not be made: the runner comes by init container from now on"
                );
            }
        }
        for action in &plan.actions {
            if let JobAction::Emit(note) = action {
                self.context.events.note(&*written, note.clone());
            }
        }
        if before.phase != after.phase {
            let phase = after.phase.unwrap_or_default();
            tracing::info!(phase = phase.as_str(), reason = %after.reason, attempt = after.attempt, "job is");
        }
        Ok(())
    }

    async fn write(&self, object: &TrainingJob, after: &TrainingJobStatus) -> Result<Arc<TrainingJob>, JobError> {
        let version = object.resource_version().unwrap_or_default();
        let patch = status_patch::job_patch(&version, object.status.as_ref(), after).map_err(json)?;
        let writer = Writer::new(self.context.client.clone());
        self.context.metrics.status_written("trainingjob");
        match writer.patch_job_status(object, patch).await {
            Ok(written) => {
                let written = Arc::new(written);
                let mut memory = lock(self.memory);
                memory.latest = Some(Arc::clone(&written));
                (memory.written, memory.read) = (Some(Instant::now()), true);
                Ok(written)
            }
            Err(WriteError::Conflict(what)) => {
                // Somebody changed the job: what it is now decides.
                self.read(object).await?;
                Err(WriteError::Conflict(what).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn until(at: Option<Timestamp>, now: Timestamp) -> Duration {
    match at {
        // A moment more, so that the time has come when it is looked at.
        Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(1),
        None => LIVENESS,
    }
}
