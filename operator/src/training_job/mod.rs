//! Training jobs: the watches, and which job is looked at when.
//!
//! | file | does | needs the client |
//! |---|---|---|
//! | `observe` | a Pod as a rank | no |
//! | `memory` | what is remembered of active jobs | no |
//! | `accept` | a job is parsed, or refused | no |
//! | `drive` | plan, act, write, until it is quiet | yes |
//! | `launch` | ranks as Pods, the Service, and what the API server says to them | yes |
//! | `look` | live looks at a job's Pods | yes |
//! | `build` | a rank as a Pod, a job's Service | no |
//! | `finish` | what is left to do for an ended job | yes |

mod accept;
mod build;
mod drive;
mod finish;
mod launch;
mod look;
pub(crate) mod memory;
mod observe;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::Instrument;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{JobPhase, PipelineRun, TrainingJob, TrainingJobStatus};

use crate::apply::{WriteError, Writer};
use crate::audit::audited;
use crate::context::Context;
use crate::health::Readiness;
use crate::memory::{Memory, Watched, lock};
use crate::pipeline_run::received;
use crate::seen::{Seen, SeenPod};
use crate::status_patch;
use crate::survive::{Panicked, survive};
use memory::{JobMemory, Jobs};

/// Every active job is looked at again within this time, whatever events were lost.
const LIVENESS: Duration = Duration::from_secs(60);
/// A dead watch is noticed after this many seconds and a few more.
const WATCH_SECONDS: u32 = 55;

/// What keeps a job from being looked at to the end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// A write, or a live read.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A panic.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// Something that cannot be, such as a status that is not JSON.
    #[error("internal error: {0}")]
    Internal(String),
}

impl JobError {
    /// The label in metrics.
    const fn category(&self) -> &'static str {
        match self {
            Self::Write(WriteError::Conflict(_)) => "conflict",
            Self::Write(WriteError::Gone(_)) => "gone",
            Self::Write(WriteError::Api { .. }) => "api",
            Self::Panicked(_) => "panic",
            Self::Internal(_) => "internal",
        }
    }
}

type Guarded = Seen<TrainingJob>;

/// Watches and drives the jobs of one namespace, or of all, until the shutdown. `runs` hears of jobs that are stages of runs.
pub(crate) async fn run(
    context: Arc<Context>,
    namespace: Option<String>,
    reports: UnboundedReceiver<ObjectRef<TrainingJob>>,
    runs: UnboundedSender<ObjectRef<PipelineRun>>,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = context.client.clone();
    let (jobs, pods): (Api<Guarded>, Api<SeenPod>) = match &namespace {
        Some(namespace) => (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace)),
        None => (Api::all(client.clone()), Api::all(client)),
    };
    let scope = namespace.as_deref().unwrap_or("all namespaces").to_owned();
    let jobs_watch = readiness.watch(&format!("trainingjobs in {scope}"));
    let pods_watch = readiness.watch(&format!("pods of trainings in {scope}"));
    let (reader, writer) = reflector::store::<Guarded>();
    let active = watcher::Config::default()
        .labels(&format!("{}!={}", labels::FINISHED, labels::FINISHED_TRUE))
        .timeout(WATCH_SECONDS);
    let memory = context.jobs.clone();
    let stages = Stages { memory: context.memory.clone(), scope: namespace.clone(), runs };
    let mut listing = HashSet::new();
    let synced = Arc::new(AtomicBool::new(false));
    let (jobs_synced, jobs_scope) = (Arc::clone(&synced), namespace.clone());
    let jobs_stream = audited(jobs, active)
        .default_backoff()
        .inspect_ok(move |event| stages.hear(event))
        .inspect_ok(move |event| match event {
            watcher::Event::Init => listing.clear(),
            watcher::Event::InitApply(job) => {
                shown(job, &memory);
                listing.extend(job.uid());
            }
            watcher::Event::InitDone => {
                memory.retain(jobs_scope.as_deref(), &listing);
                jobs_synced.store(true, Ordering::Relaxed);
                jobs_watch.done();
            }
            watcher::Event::Delete(job) => {
                if let Some(uid) = job.uid() {
                    memory.forget(&uid);
                }
            }
            watcher::Event::Apply(job) => shown(job, &memory),
        })
        .reflect(writer)
        .applied_objects();
    let known = Known { scope: namespace, jobs: reader.clone(), synced };
    let pods = pod_events(pods, context.jobs.clone(), pods_watch, known);
    let failures = Arc::new(Failures::default());
    let concurrency = context.settings.concurrency;
    Controller::for_stream(jobs_stream, reader)
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(pods.map(guarded))
        .reconcile_on(received(reports).map(guarded))
        .graceful_shutdown_on(shutdown)
        .run(reconcile, move |job, error, _| retry(&job, error, &failures), context)
        .for_each(|result| async move {
            if let Err(error @ (controller::Error::QueueError(_) | controller::Error::RunnerError(_))) = result {
                tracing::warn!(error = %error, "watching training jobs");
            }
        })
        .await;
}

/// Who hears of jobs that are stages of runs.
struct Stages {
    memory: Memory,
    scope: Option<String>,
    runs: UnboundedSender<ObjectRef<PipelineRun>>,
}

impl Stages {
    /// Takes what the watch shows into the memory of runs, and says which runs it moves.
    fn hear(&self, event: &watcher::Event<Guarded>) {
        let (memory, scope) = (&self.memory, self.scope.as_deref());
        let moved: Vec<_> = match event {
            watcher::Event::Init => {
                memory.listing(Watched::Jobs, scope);
                Vec::new()
            }
            watcher::Event::InitDone => memory.listed(Watched::Jobs, scope),
            watcher::Event::InitApply(job) => job.0.iter().filter_map(|job| memory.job_seen(job, true)).collect(),
            watcher::Event::Apply(job) => job.0.iter().filter_map(|job| memory.job_seen(job, false)).collect(),
            watcher::Event::Delete(job) => job.0.iter().filter_map(|job| memory.job_deleted(job)).collect(),
        };
        for run in moved {
            self.runs.send(run).ok();
        }
    }
}

fn guarded(object: ObjectRef<TrainingJob>) -> ObjectRef<Guarded> {
    ObjectRef::new(&object.name).within(object.namespace.as_deref().unwrap_or_default())
}

/// Takes every Pod of a training into memory, and says whose job it moves.
fn pod_events(
    pods: Api<SeenPod>,
    memory: Jobs,
    readiness: crate::health::WatchReadiness,
    known: Known,
) -> impl Stream<Item = ObjectRef<TrainingJob>> + Send {
    let config = watcher::Config::default().labels(labels::JOB_UID).timeout(WATCH_SECONDS);
    audited(pods, config)
        .default_backoff()
        .inspect_err(|error| tracing::warn!(error = %error, "watching Pods of trainings"))
        .filter_map(move |event| {
            let touched: Vec<_> = match event {
                Err(_) => Vec::new(),
                Ok(watcher::Event::Init) => {
                    memory.listing(known.scope.as_deref());
                    Vec::new()
                }
                Ok(watcher::Event::InitApply(pod)) => memory.pod_seen(&pod, true).into_iter().collect(),
                Ok(watcher::Event::Apply(pod)) => memory.pod_seen(&pod, false).into_iter().collect(),
                Ok(watcher::Event::Delete(pod)) => memory.pod_deleted(&pod).into_iter().collect(),
                Ok(watcher::Event::InitDone) => {
                    readiness.done();
                    memory.listed(known.scope.as_deref())
                }
            };
            let moved: Vec<_> = touched.into_iter().filter(|object| known.job(object, &memory)).collect();
            futures::future::ready((!moved.is_empty()).then(|| futures::stream::iter(moved)))
        })
        .flatten()
}

/// Which jobs are watched.
struct Known {
    scope: Option<String>,
    jobs: reflector::Store<Guarded>,
    synced: Arc<AtomicBool>,
}

impl Known {
    /// Whether a Pod's job is watched. Before all jobs are listed, what their Pods tell is kept.
    fn job(&self, object: &ObjectRef<TrainingJob>, memory: &Jobs) -> bool {
        if self.jobs.get(&guarded(object.clone())).is_some() {
            return true;
        }
        if self.synced.load(Ordering::Relaxed) {
            memory.forget_unknown(object);
        }
        false
    }
}

/// One look at one job.
async fn reconcile(job: Arc<Guarded>, context: Arc<Context>) -> Result<Action, JobError> {
    let started = std::time::Instant::now();
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let span = tracing::info_span!("job", job = %name, namespace = %namespace);
    let result = match survive(look(&job, &context).instrument(span.clone())).await {
        Ok(result) => result,
        Err(panicked) => {
            tell(&job, &context, &panicked).instrument(span).await;
            Err(panicked.into())
        }
    };
    context.metrics.reconciled("trainingjob", started.elapsed(), result.as_ref().err().map(JobError::category));
    result
}

/// Says on the job itself why it stands still. A later look that succeeds writes over it.
async fn tell(job: &Guarded, context: &Context, panicked: &Panicked) {
    let Ok(job) = &job.0 else { return };
    let note = panicked.note();
    context.events.note(&**job, note.clone());
    let known = context.jobs.known(&job.uid().unwrap_or_default()).and_then(|memory| lock(&memory).latest.clone());
    let job = known.as_deref().unwrap_or(job);
    let before = job.status.clone().unwrap_or_default();
    let after =
        TrainingJobStatus { reason: Reason::InternalError.as_str().into(), message: note.message, ..before.clone() };
    if after == before || before.phase.is_some_and(JobPhase::is_terminal) {
        return;
    }
    let version = job.resource_version().unwrap_or_default();
    let Ok(patch) = status_patch::job_patch(&version, job.status.as_ref(), &after) else { return };
    if let Err(error) = Writer::new(context.client.clone()).patch_job_status(job, patch).await {
        tracing::debug!(error = %error, "the status does not say that the job stands still");
    }
}

async fn look(job: &Guarded, context: &Context) -> Result<Action, JobError> {
    let cached = match &job.0 {
        Ok(job) => job,
        Err(invalid) => {
            tracing::warn!(error = %invalid.error, "the job cannot be read: it was written by another version, or its status was edited");
            context.events.unreadable::<TrainingJob>(&invalid.metadata, &invalid.error);
            return Ok(Action::requeue(LIVENESS));
        }
    };
    let uid = cached.uid().unwrap_or_default();
    if cached.metadata.deletion_timestamp.is_some() {
        context.jobs.forget(&uid);
        return Ok(Action::await_change());
    }
    match known(&context.jobs, cached) {
        Some((memory, newest)) => drive::drive(context, &memory, newest).await,
        None => Ok(Action::await_change()),
    }
}

/// Takes a job into memory before it is looked at.
fn shown(job: &Guarded, memory: &Jobs) {
    if let Ok(job) = &job.0
        && job.metadata.deletion_timestamp.is_none()
    {
        let memory = memory.job(&job.uid().unwrap_or_default());
        newest(job, &mut lock(&memory).latest);
    }
}

/// The memory of a job that is being watched, and its newest version. A look may have been asked for just before the job was deleted:
/// it must not bring the job back.
fn known(memory: &Jobs, job: &Arc<TrainingJob>) -> Option<(Arc<Mutex<JobMemory>>, Arc<TrainingJob>)> {
    let memory = memory.known(&job.uid()?)?;
    let newest = {
        let mut memory = lock(&memory);
        memory.latest.as_ref()?;
        newest(job, &mut memory.latest)
    };
    Some((memory, newest))
}

/// The newer of what the watch shows and what our own last write returned (P3). When they are the same, one of the two is let go.
fn newest(cached: &Arc<TrainingJob>, latest: &mut Option<Arc<TrainingJob>>) -> Arc<TrainingJob> {
    let version = |job: &TrainingJob| job.resource_version().and_then(|version| version.parse::<u64>().ok());
    match latest {
        Some(known) if known.uid() == cached.uid() && version(known) > version(cached) => Arc::clone(known),
        _ => {
            *latest = Some(Arc::clone(cached));
            Arc::clone(cached)
        }
    }
}

/// How often a job could not be looked at to the end, one after the other.
#[derive(Default)]
struct Failures(Mutex<HashMap<String, (std::time::Instant, u32)>>);

fn retry(job: &Guarded, error: &JobError, failures: &Failures) -> Action {
    let name = format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any());
    if let JobError::Write(WriteError::Gone(what)) = error {
        tracing::debug!(job = %name, what, "gone");
        return Action::requeue(LIVENESS);
    }
    if matches!(error, JobError::Write(WriteError::Conflict(_))) {
        tracing::debug!(job = %name, error = %error, "looking again");
        return Action::requeue(Duration::from_millis(100));
    }
    let wait = {
        let mut failures = lock(&failures.0);
        // An entry older than any wait belongs to a failure that was overcome.
        failures.retain(|_, (at, _)| at.elapsed() < 2 * LIVENESS);
        let entry = failures.entry(name.clone()).or_insert((std::time::Instant::now(), 0));
        *entry = (std::time::Instant::now(), (entry.1 + 1).min(7));
        Duration::from_millis(250 << entry.1)
    };
    let wait = wait.min(LIVENESS / 2);
    tracing::warn!(job = %name, error = %error, wait_seconds = wait.as_secs_f64(), "trying again");
    Action::requeue(wait)
}
