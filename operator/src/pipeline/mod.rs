//! Pipelines: is it in order, what its triggers start, and what became of its runs.

mod look;
mod orphans;
mod report;
mod retention;
mod task;
mod triggered;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc::UnboundedReceiver;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{Pipeline, PipelineRun, PipelineStatus, RevisionPhase};
use trainyard_planner::Graph;
use trainyard_planner::retrain::{self, SeenRun, decide};

use crate::apply::{WriteError, Writer};
use crate::audit::audited;
use crate::context::Context;
use crate::health::Readiness;
use crate::pace::Pace;
use crate::seen::Seen;
use crate::status_patch;
use crate::survive::survive;

pub(crate) use orphans::started_by;

/// A dead watch is noticed after this many seconds and a few more.
const WATCH_SECONDS: u32 = 55;
/// A Pipeline that could not be looked at to the end is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);
/// A Pipeline with triggers is looked at again within this time: a clock that is set forward wakes nobody.
const LIVENESS: Duration = Duration::from_secs(60);

type Guarded = Seen<Pipeline>;

/// What each look at a Pipeline shares.
struct Shared {
    context: Arc<Context>,
    /// All Pipelines, since one may wait for another.
    pipelines: reflector::Store<Guarded>,
}

/// Watches the Pipelines of one namespace, or of all, until the shutdown.
pub(crate) async fn run(
    context: Arc<Context>,
    namespace: Option<String>,
    moved: UnboundedReceiver<ObjectRef<Pipeline>>,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = context.client.clone();
    let pipelines: Api<Guarded> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let watched = readiness.watch(&format!("pipelines in {}", namespace.as_deref().unwrap_or("all namespaces")));
    let (reader, writer) = reflector::store::<Guarded>();
    let (others, waiting) = (reader.clone(), context.pipelines.clone());
    let mut downstream = upstream::Downstream::default();
    let stream = audited(pipelines, watcher::Config::default().timeout(WATCH_SECONDS))
        .default_backoff()
        .inspect(move |event| {
            if matches!(event, Ok(watcher::Event::InitDone)) {
                watched.done();
            }
        })
        .reflect(writer)
        .applied_objects()
        .inspect(move |seen| {
            let Ok(pipeline) = seen.as_ref().map(|seen| &seen.0) else { return };
            for other in pipeline.iter().flat_map(|pipeline| downstream.of(pipeline, &others)) {
                waiting.send(other).ok();
            }
        });
    let shared = Arc::new(Shared { context, pipelines: reader.clone() });
    Controller::for_stream(stream, reader)
        .with_config(controller::Config::default().concurrency(4))
        .reconcile_on(
            crate::pipeline_run::received(moved)
                .map(|object| ObjectRef::new(&object.name).within(object.namespace.as_deref().unwrap_or_default())),
        )
        .graceful_shutdown_on(shutdown)
        .run(
            reconcile,
            |pipeline, error, _| {
                let name = format!("{}/{}", pipeline.namespace().unwrap_or_default(), pipeline.name_any());
                match error {
                    WriteError::Conflict(_) | WriteError::Gone(_) => {
                        tracing::debug!(pipeline = %name, error = %error, "looking again")
                    }
                    WriteError::Api { .. } => tracing::warn!(pipeline = %name, error = %error, "trying again"),
                }
                Action::requeue(AGAIN)
            },
            shared,
        )
        .for_each(|_| futures::future::ready(()))
        .await;
}

async fn reconcile(pipeline: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, WriteError> {
    let (started, context) = (std::time::Instant::now(), &shared.context);
    let (result, error) = match survive(look(&pipeline, &shared)).await {
        Ok(result) => {
            let error = result.is_err().then_some("api");
            (result, error)
        }
        Err(panicked) => {
            tracing::error!(pipeline = %pipeline.name_any(), error = %panicked, "a panic");
            if let Ok(pipeline) = &pipeline.0 {
                context.events.note(&**pipeline, panicked.note());
            }
            (Ok(Action::requeue(AGAIN * 6)), Some("panic"))
        }
    };
    context.metrics.reconciled("pipeline", started.elapsed(), error);
    result
}

async fn look(pipeline: &Guarded, shared: &Shared) -> Result<Action, WriteError> {
    let context = &*shared.context;
    let pipeline = match &pipeline.0 {
        Ok(pipeline) => pipeline,
        Err(invalid) => {
            tracing::warn!(error = %invalid.error, "the Pipeline cannot be read: it was written by another version, or its status was edited");
            context.events.unreadable::<Pipeline>(&invalid.metadata, &invalid.error);
            return Ok(Action::requeue(AGAIN * 12));
        }
    };
    if pipeline.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let (namespace, uid) = (pipeline.namespace().unwrap_or_default(), pipeline.uid().unwrap_or_default());
    let judged = pipeline.status.as_ref().map(|status| status.observed_generation);
    if judged == pipeline.metadata.generation
        && let Some(rest) = context.memory.rest(&uid, Instant::now())
    {
        // Only its runs have moved: they are counted together with those that move meanwhile.
        return Ok(Action::requeue(rest));
    }
    let writer = Writer::new(context.client.clone());
    orphans::follow_policy(context, &writer, pipeline).await;
    let mut judged = judge(shared, pipeline).await?;
    let mut on_record = record(context, pipeline, &judged).await;
    if let Err(WriteError::Conflict(what)) = on_record {
        // What the watch showed is old: what is there decides, if its spec is still the one that was judged. The status is made
        // anew from it, since it knows of runs that the old one does not.
        let live = writer.read_pipeline(&namespace, &pipeline.name_any()).await?;
        let Some(live) = live.filter(|live| same(live, pipeline)) else { return Err(WriteError::Conflict(what)) };
        judged = judge(shared, &live).await?;
        on_record = record(context, &live, &judged).await;
    }
    let written = on_record?;
    if let Some(last) = &judged.status.last_run {
        context.memory.recorded(&namespace, &pipeline.name_any(), last, judged.status.last_succeeded.as_ref());
    }
    if start(context, &writer, pipeline, &judged, written).await? {
        return Ok(Action::requeue(Duration::from_millis(1)));
    }
    retention::runs(context, &writer, pipeline, &judged.status, Timestamp::now()).await?;
    Ok(next_look(pipeline, &judged.status, judged.wake, Timestamp::now())
        .map_or_else(Action::await_change, Action::requeue))
}

/// When a Pipeline is looked at again although nothing tells of it: one with triggers for its clocks, and one whose ledger has an entry
/// that has not ended for a create that was not taken, or a run that left the watch.
fn next_look(
    pipeline: &Pipeline,
    status: &PipelineStatus,
    wake: Option<Timestamp>,
    now: Timestamp,
) -> Option<Duration> {
    let goes_on = status.revisions.iter().any(|entry| !entry.phase.is_terminal());
    let keeps = pipeline.spec.retention.is_some();
    if pipeline.spec.triggers.is_empty() && wake.is_none() && !goes_on && !keeps {
        return None;
    }
    let wake = wake.map(|wake| Duration::try_from(wake.duration_since(now)).unwrap_or_default());
    Some(wake.unwrap_or(LIVENESS).min(LIVENESS) + Duration::from_millis(1))
}

fn same(live: &Pipeline, pipeline: &Pipeline) -> bool {
    live.uid() == pipeline.uid() && live.metadata.generation == pipeline.metadata.generation
}

/// Creates the runs that the status says to create, and cancels those that give way to them. Returns whether there is news of one at once.
async fn start(
    context: &Context,
    writer: &Writer,
    pipeline: &Pipeline,
    judged: &Judged,
    written: bool,
) -> Result<bool, WriteError> {
    let starting =
        |status: &PipelineStatus| status.revisions.iter().any(|entry| entry.phase == RevisionPhase::Starting);
    if !starting(&judged.status) && judged.cancel.is_empty() {
        return Ok(false);
    }
    if !written {
        // What the watch showed may be old, and what it says to create may long have ended.
        let live = writer.read_pipeline(&pipeline.namespace().unwrap_or_default(), &pipeline.name_any()).await?;
        if live.filter(|live| same(live, pipeline)).and_then(|live| live.status).as_ref() != Some(&judged.status) {
            return Err(WriteError::Conflict(format!("Pipeline {}", pipeline.name_any())));
        }
    }
    triggered::cancel(writer, &judged.cancel, &judged.runs).await?;
    triggered::create(context, pipeline, &judged.status.revisions, &judged.seen).await
}

/// What a Pipeline's status is to say, and what is to be done when it does.
struct Judged {
    status: PipelineStatus,
    seen: BTreeMap<String, SeenRun>,
    runs: BTreeMap<String, Arc<PipelineRun>>,
    cancel: Vec<String>,
    wake: Option<Timestamp>,
    /// Pods that have looked, by name and UID, and whose word the status says.
    looked: Vec<(String, String)>,
}

async fn judge(shared: &Shared, pipeline: &Pipeline) -> Result<Judged, WriteError> {
    let context = &*shared.context;
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    let writer = Writer::new(context.client.clone());
    let graph = Graph::new(&pipeline.spec, context.settings.default_store.as_ref());
    let mut runs = active_runs(context, &namespace, &name).await?;
    let mut prior = pipeline.status.clone().unwrap_or_default();
    if let Some(last) = &prior.last_run
        && !last.phase.is_terminal()
        && !runs.contains_key(&last.name)
    {
        // It left the watch before its end was written here, or it was deleted.
        let live = writer.read_run(&namespace, &last.name).await?;
        prior.last_run = live.as_ref().and_then(report::last_run);
        // Or the watch is behind, and it is active.
        runs.extend(live.map(|live| (live.name_any(), Arc::new(live))));
    }
    let generation = pipeline.metadata.generation.unwrap_or_default();
    let now = Timestamp::now();
    let (seen, live) = triggered::seen(context, &namespace, &prior.revisions, &runs).await?;
    runs.extend(live);
    let store = pipeline.spec.store.as_ref().or(context.settings.default_store.as_ref());
    let (mut looked, mut collected) = (look::Looked::default(), None);
    if let Some(store) = store.filter(|_| graph.is_ok()) {
        let tasks = task::Tasks { context, pipeline, store, now };
        looked = look::look(&tasks, &prior).await?;
        collected = retention::artifacts(&tasks, &prior, &mut looked).await?;
        let tasked = !prior.triggers.is_empty() || prior.artifacts.is_some() || pipeline.spec.retention.is_some();
        if tasked && prior.observed_generation != generation {
            let expected: Vec<String> =
                look::pods(pipeline, &prior).into_iter().chain(retention::pod(pipeline, &prior)).collect();
            tasks.clean(&expected).await?;
        }
    }
    let upstream = upstream::see(&writer, pipeline, &prior, &shared.pipelines).await?;
    let decision = decide(&retrain::Seen {
        name: &name,
        spec: &pipeline.spec,
        status: &prior,
        request: pipeline.annotations().get(labels::RERUN_REQUESTED_AT).map(String::as_str),
        runnable: graph.is_ok(),
        runs: &seen,
        data: &looked.seen,
        upstream: &upstream,
        now,
    });
    let valid = graph.and_then(|graph| retrain::check(&name, &pipeline.spec, &prior.triggers).map(|()| graph));
    let (cancel, wake) = (decision.cancel.clone(), decision.wake);
    let glance = looked.wait.and_then(|wait| now.checked_add(wait).ok());
    let wake = wake.into_iter().chain(glance).min();
    let mut status = report::status(&prior, generation, &valid, &runs, decision, now);
    status.artifacts = collected.or(status.artifacts);
    Ok(Judged { status, seen, runs, cancel, wake, looked: looked.done })
}

/// Deletes the Pods that have had their word, and writes the status that says it. In this order: a word that is lost with a crash is asked
/// for again, and no Pod is left behind.
async fn record(context: &Context, pipeline: &Pipeline, judged: &Judged) -> Result<bool, WriteError> {
    let (writer, namespace) = (Writer::new(context.client.clone()), pipeline.namespace().unwrap_or_default());
    for (name, uid) in &judged.looked {
        writer.delete_pod(&namespace, name, uid).await?;
    }
    write(context, pipeline, &judged.status).await
}

/// Writes the status if it says something new. Returns whether it did.
async fn write(context: &Context, pipeline: &Pipeline, status: &PipelineStatus) -> Result<bool, WriteError> {
    if pipeline.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let Ok(value) = serde_json::to_value(status) else { return Ok(false) };
    let patch = status_patch::whole_patch(&pipeline.resource_version().unwrap_or_default(), value);
    let began = Instant::now();
    Writer::new(context.client.clone()).patch_pipeline_status(pipeline, patch).await?;
    let ended = Instant::now();
    context.memory.paced(&pipeline.uid().unwrap_or_default(), Pace::after(began, ended, 1), ended);
    Ok(true)
}

/// The runs of a Pipeline that have not left the watch, by name.
async fn active_runs(
    context: &Context,
    namespace: &str,
    pipeline: &str,
) -> Result<BTreeMap<String, Arc<PipelineRun>>, WriteError> {
    Ok(context
        .memory
        .runs()
        .into_iter()
        .filter(|run| run.namespace().as_deref() == Some(namespace))
        .filter(|run| is_of(run, pipeline))
        .map(|run| (run.name_any(), run))
        .collect())
}

/// Whether a run is one of this Pipeline, by its status, or by its spec as long as it has none. One with a pipeline of its own is of none,
/// whatever its name.
fn is_of(run: &PipelineRun, pipeline: &str) -> bool {
    if run.spec.pipeline.is_some() {
        return false;
    }
    match run.status.as_ref().map(|status| status.pipeline.as_str()).filter(|name| !name.is_empty()) {
        Some(name) => name == pipeline,
        None => run.spec.pipeline_ref.as_ref().is_some_and(|reference| reference.name == pipeline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_that_was_asked_for_and_could_not_be_created_is_tried_again_without_any_trigger() {
        let pipeline: Pipeline = serde_json::from_value(json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "Pipeline",
            "metadata": {"name": "iris"}, "spec": {"stages": [{"name": "a", "container": {"image": "i", "command": ["c"]}}]}}))
        .unwrap();
        let look = |phase: Option<&str>| {
            let entry = |phase: &str| json!({"key": "k", "run": "r", "cause": {"request": {"value": "v"}}, "phase": phase, "created": "2026-01-01T00:00:00Z"});
            let revisions: Vec<_> = phase.into_iter().map(entry).collect();
            let status = serde_json::from_value(json!({"observedGeneration": 1, "revisions": revisions})).unwrap();
            next_look(&pipeline, &status, None, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(look(None), None);
        assert_eq!(look(Some("Succeeded")), None);
        for phase in ["Queued", "Starting", "Running"] {
            assert!(look(Some(phase)).is_some_and(|wait| wait <= LIVENESS + Duration::from_millis(1)), "{phase}");
        }
    }

    #[test]
    fn a_run_with_a_pipeline_of_its_own_is_of_no_pipeline_of_its_name() {
        let run = |spec: serde_json::Value, status: serde_json::Value| -> PipelineRun {
            let run = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "iris"}, "spec": spec, "status": status});
            serde_json::from_value(run).unwrap()
        };
        let inline = json!({"pipeline": {"stages": [{"name": "a", "container": {"image": "i", "command": ["c"]}}]}});
        assert!(!is_of(&run(inline, json!({"pipeline": "iris"})), "iris"));
        assert!(is_of(&run(json!({"pipelineRef": {"name": "iris"}}), json!({})), "iris"));
        assert!(is_of(&run(json!({"rerun": {"of": "iris-abc"}}), json!({"pipeline": "iris"})), "iris"));
        assert!(!is_of(&run(json!({"pipelineRef": {"name": "other"}}), json!({"pipeline": "other"})), "iris"));
    }
}
