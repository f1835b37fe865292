//! Runs: the watches, and which run is looked at when.
//!
//! | file | does | needs the client |
//! |---|---|---|
//! | `observe` | a Pod, or a TrainingJob, as an attempt | no |
//! | `accept` | a new run is frozen, or refused | yes |
//! | `drive` | plan, act, write, until it is quiet | yes |
//! | `launch` | an attempt as a Pod or a TrainingJob, and what the API server says to it | yes |
//! | `build` | an attempt as a Pod, or a TrainingJob | no |
//! | `register` | models that a run publishes, in its Pipeline's status | yes |
//! | `stop` | attempts that are stopped, suspended or asked for | yes |
//! | `finish` | what is left to do for an ended run | yes |

mod accept;
mod build;
mod drive;
mod finish;
mod launch;
pub(crate) mod observe;
mod register;
mod stop;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tracing::Instrument;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{PipelineRun, PipelineRunStatus, RunPhase};

use crate::apply::{WriteError, Writer};
use crate::audit::audited;
use crate::context::Context;
use crate::health::Readiness;
use crate::memory::{Memory, RunMemory, Watched, lock};
use crate::seen::{Seen, SeenPod};
use crate::status_patch;
use crate::survive::{Panicked, survive};

/// Every active run is looked at again within this time, whatever events were lost.
const LIVENESS: Duration = Duration::from_secs(60);
/// A dead watch is noticed after this many seconds and a few more.
const WATCH_SECONDS: u32 = 55;

/// What keeps a run from being looked at to the end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
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

impl RunError {
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

type Guarded = Seen<PipelineRun>;

/// Watches and drives the runs of one namespace, or of all, until the shutdown. Says when all of them are in memory.
pub(crate) async fn run(
    context: Arc<Context>,
    namespace: Option<String>,
    reports: UnboundedReceiver<ObjectRef<PipelineRun>>,
    listed: watch::Sender<bool>,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = context.client.clone();
    let (runs, pods): (Api<Guarded>, Api<SeenPod>) = match &namespace {
        Some(namespace) => (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace)),
        None => (Api::all(client.clone()), Api::all(client)),
    };
    let scope = namespace.as_deref().unwrap_or("all namespaces").to_owned();
    let (runs_watch, pods_watch) =
        (readiness.watch(&format!("pipelineruns in {scope}")), readiness.watch(&format!("pods in {scope}")));
    let (reader, writer) = reflector::store::<Guarded>();
    let active = watcher::Config::default()
        .labels(&format!("{}!={}", labels::FINISHED, labels::FINISHED_TRUE))
        .timeout(WATCH_SECONDS);
    let memory = context.memory.clone();
    let mut listing = HashSet::new();
    let synced = Arc::new(AtomicBool::new(false));
    let runs_synced = Arc::clone(&synced);
    let runs_scope = namespace.clone();
    let pipelines = context.pipelines.clone();
    let metrics = context.metrics.clone();
    let runs_stream = audited(runs, active)
        .default_backoff()
        .inspect_ok(move |event| match event {
            watcher::Event::Init => listing.clear(),
            watcher::Event::InitApply(run) => {
                shown(run, &memory);
                listing.extend(run.uid());
            }
            watcher::Event::InitDone => {
                memory.retain(runs_scope.as_deref(), &listing);
                metrics.set_active_runs(memory.len());
                runs_synced.store(true, Ordering::Relaxed);
                listed.send_replace(true);
                runs_watch.done();
            }
            watcher::Event::Delete(run) => {
                if let Some(uid) = run.uid() {
                    memory.forget(&uid);
                }
                // Nobody looks at this run again, perhaps not at any.
                metrics.set_active_runs(memory.len());
                // Its Pipeline counted it.
                if let Ok(run) = &run.0
                    && let Some(status) = &run.status
                {
                    let namespace = run.namespace().unwrap_or_default();
                    pipelines.send(ObjectRef::new(&status.pipeline).within(&namespace)).ok();
                }
            }
            watcher::Event::Apply(run) => shown(run, &memory),
        })
        .reflect(writer)
        .applied_objects();
    let known = Known { scope: namespace, runs: reader.clone(), synced };
    let pods = pod_events(pods, Arc::clone(&context), pods_watch, known);
    let failures = Arc::new(Failures::default());
    let concurrency = context.settings.concurrency;
    Controller::for_stream(runs_stream, reader)
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(pods.map(guarded))
        .reconcile_on(received(reports).map(guarded))
        .graceful_shutdown_on(shutdown)
        .run(reconcile, move |run, error, _| retry(&run, error, &failures), context)
        .for_each(|result| async move {
            if let Err(error) = result {
                match &error {
                    // Logged where it happened, or nothing to say: the run went while its event was on the way.
                    controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_) => {}
                    controller::Error::QueueError(_) | controller::Error::RunnerError(_) => {
                        tracing::warn!(error = %error, "watching runs");
                    }
                }
            }
        })
        .await;
}

/// What arrives on a channel, as a stream.
pub(crate) fn received<T>(mut channel: UnboundedReceiver<T>) -> impl Stream<Item = T> {
    futures::stream::poll_fn(move |context| channel.poll_recv(context))
}

fn guarded(object: ObjectRef<PipelineRun>) -> ObjectRef<Guarded> {
    ObjectRef::new(&object.name).within(object.namespace.as_deref().unwrap_or_default())
}

/// Takes every Pod of ours into memory, and says whose run it moves.
fn pod_events(
    pods: Api<SeenPod>,
    context: Arc<Context>,
    readiness: crate::health::WatchReadiness,
    known: Known,
) -> impl Stream<Item = ObjectRef<PipelineRun>> + Send {
    let config = watcher::Config::default().labels(labels::RUN_UID).timeout(WATCH_SECONDS);
    audited(pods, config)
        .default_backoff()
        .inspect_err(|error| tracing::warn!(error = %error, "watching Pods"))
        .filter_map(move |event| {
            let memory = &context.memory;
            let touched = match event {
                Err(_) => Vec::new(),
                Ok(watcher::Event::Init) => {
                    memory.listing(Watched::Pods, known.scope.as_deref());
                    Vec::new()
                }
                Ok(watcher::Event::InitApply(pod)) => memory.pod_seen(&pod, true).into_iter().collect(),
                Ok(watcher::Event::Apply(pod)) => memory.pod_seen(&pod, false).into_iter().collect(),
                Ok(watcher::Event::Delete(pod)) => memory.pod_deleted(&pod).into_iter().collect::<Vec<_>>(),
                Ok(watcher::Event::InitDone) => {
                    readiness.done();
                    memory.listed(Watched::Pods, known.scope.as_deref())
                }
            };
            // Pods of finished runs outlive their run's place in the watch: nothing is remembered of them.
            let moved: Vec<_> = touched.into_iter().filter(|object| known.run(object, &context)).collect();
            futures::future::ready((!moved.is_empty()).then(|| futures::stream::iter(moved)))
        })
        .flatten()
}

/// Which runs are watched.
struct Known {
    scope: Option<String>,
    runs: reflector::Store<Guarded>,
    synced: Arc<AtomicBool>,
}

impl Known {
    /// Whether a Pod's run is watched. Before all runs are listed, what their Pods tell is kept.
    fn run(&self, object: &ObjectRef<PipelineRun>, context: &Context) -> bool {
        if self.runs.get(&guarded(object.clone())).is_some() {
            return true;
        }
        if self.synced.load(Ordering::Relaxed) {
            context.memory.forget_unknown(object);
        }
        false
    }
}

/// One look at one run.
async fn reconcile(run: Arc<Guarded>, context: Arc<Context>) -> Result<Action, RunError> {
    let started = std::time::Instant::now();
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let span = tracing::info_span!("run", run = %name, namespace = %namespace);
    let result = match survive(look(&run, &context).instrument(span.clone())).await {
        Ok(result) => result,
        Err(panicked) => {
            tell(&run, &context, &panicked).instrument(span).await;
            Err(panicked.into())
        }
    };
    context.metrics.set_active_runs(context.memory.len());
    context.metrics.reconciled("pipelinerun", started.elapsed(), result.as_ref().err().map(RunError::category));
    result
}

/// Says on the run itself why it stands still. A later look that succeeds writes over it.
async fn tell(run: &Guarded, context: &Context, panicked: &Panicked) {
    let Ok(run) = &run.0 else { return };
    let note = panicked.note();
    context.events.note(&**run, note.clone());
    let known = context.memory.known(&run.uid().unwrap_or_default()).and_then(|memory| lock(&memory).latest.clone());
    let run = known.as_deref().unwrap_or(run);
    let before = run.status.clone().unwrap_or_default();
    let after =
        PipelineRunStatus { reason: Reason::InternalError.as_str().into(), message: note.message, ..before.clone() };
    if after == before || before.phase.is_some_and(RunPhase::is_terminal) {
        return;
    }
    let version = run.resource_version().unwrap_or_default();
    let Ok(patch) = status_patch::run_patch(&version, run.status.as_ref(), &after, &[]) else { return };
    if let Err(error) = Writer::new(context.client.clone()).patch_run_status(run, patch).await {
        tracing::debug!(error = %error, "the status does not say that the run stands still");
    }
}

async fn look(run: &Guarded, context: &Context) -> Result<Action, RunError> {
    let cached = match &run.0 {
        Ok(run) => run,
        Err(invalid) => {
            tracing::warn!(error = %invalid.error, "the run cannot be read: it was written by another version, or its status was edited");
            context.events.unreadable::<PipelineRun>(&invalid.metadata, &invalid.error);
            return Ok(Action::requeue(LIVENESS));
        }
    };
    let uid = cached.uid().unwrap_or_default();
    if cached.metadata.deletion_timestamp.is_some() {
        context.memory.forget(&uid);
        return Ok(Action::await_change());
    }
    match known(&context.memory, cached) {
        Some((memory, newest)) => drive::drive(context, &memory, newest).await,
        None => Ok(Action::await_change()),
    }
}

/// Takes a run into memory before it is looked at: its Pipeline counts it.
fn shown(run: &Guarded, memory: &Memory) {
    if let Ok(run) = &run.0
        && run.metadata.deletion_timestamp.is_none()
    {
        let memory = memory.run(&run.uid().unwrap_or_default());
        newest(run, &mut lock(&memory).latest);
    }
}

/// The memory of a run that is being watched, and its newest version. A look may have been asked for just before the run was deleted:
/// it must not bring the run back into memory, where its Pipeline would count it for ever.
fn known(memory: &Memory, run: &Arc<PipelineRun>) -> Option<(Arc<Mutex<RunMemory>>, Arc<PipelineRun>)> {
    let memory = memory.known(&run.uid()?)?;
    let newest = {
        let mut memory = lock(&memory);
        memory.latest.as_ref()?;
        newest(run, &mut memory.latest)
    };
    Some((memory, newest))
}

/// The newer of what the watch shows and what our own last write returned (P3). When they are the same, one of the two is let go.
fn newest(cached: &Arc<PipelineRun>, latest: &mut Option<Arc<PipelineRun>>) -> Arc<PipelineRun> {
    let version = |run: &PipelineRun| run.resource_version().and_then(|version| version.parse::<u64>().ok());
    match latest {
        Some(known) if known.uid() == cached.uid() && version(known) > version(cached) => Arc::clone(known),
        _ => {
            *latest = Some(Arc::clone(cached));
            Arc::clone(cached)
        }
    }
}

/// How often a run could not be looked at to the end, one after the other.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<String, (std::time::Instant, u32)>>);

fn retry(run: &Guarded, error: &RunError, failures: &Failures) -> Action {
    let name = format!("{}/{}", run.namespace().unwrap_or_default(), run.name_any());
    if let RunError::Write(WriteError::Gone(what)) = error {
        tracing::debug!(run = %name, what, "gone");
        return Action::requeue(LIVENESS);
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
    if matches!(error, RunError::Write(WriteError::Conflict(_))) {
        tracing::debug!(run = %name, error = %error, "looking again");
        return Action::requeue(Duration::from_millis(100));
    }
    tracing::warn!(run = %name, error = %error, wait_seconds = wait.as_secs_f64(), "trying again");
    Action::requeue(wait)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn run(version: &str) -> Arc<PipelineRun> {
        let run = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": version}, "spec": {}});
        Arc::new(serde_json::from_value(run).unwrap())
    }

    #[test]
    fn of_two_equal_versions_of_a_run_one_is_kept_and_of_others_the_newer_one() {
        let mut latest = None;
        let (written, shown) = (run("5"), run("5"));
        newest(&written, &mut latest);
        assert!(Arc::ptr_eq(&newest(&shown, &mut latest), &shown));
        drop(shown);
        assert_eq!(Arc::strong_count(&written), 1);
        newest(&run("7"), &mut latest);
        assert_eq!(newest(&run("6"), &mut latest).resource_version().as_deref(), Some("7"));
    }

    #[test]
    fn a_look_at_a_run_that_has_just_been_deleted_does_not_bring_it_back() {
        let run = run("5");
        let pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-train-a1", "namespace": "n", "uid": "p",
            "labels": {labels::RUN_UID: "u", labels::STAGE: "train", labels::ATTEMPT: "1"},
            "ownerReferences": [{"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": "a", "uid": "u", "controller": true}]}}))
        .unwrap();
        let memory = Memory::default();
        shown(&Seen(Ok(Arc::clone(&run))), &memory);
        assert!(known(&memory, &run).is_some());
        memory.forget("u");
        assert!(known(&memory, &run).is_none());
        // A Pod that outlives it is no reason either.
        memory.pod_seen(&pod, false);
        assert!(known(&memory, &run).is_none());
        assert_eq!(memory.runs(), Vec::<Arc<PipelineRun>>::new());
    }
}
