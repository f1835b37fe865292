//! The controllers of this process: one for runs and one for Pipelines in every watched namespace, or one of each for all.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{self, Receiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trainyard_crds::v1alpha1::{Pipeline, PipelineRun, TrainingJob};

use crate::args::Settings;
use crate::context::{Context, Mount};
use crate::events::Events;
use crate::gang::Gang;
use crate::health::Readiness;
use crate::memory::{Memory, lock};
use crate::metrics::Metrics;
use crate::report::{EarlyProgress, EarlyReport, ReportKeys};
use crate::revisions::Revisions;
use crate::training_job::memory::Jobs;
use crate::{pipeline, pipeline_run, training_job};

/// Kubernetes 1.36 has image volumes without a feature gate.
const IMAGE_VOLUMES_SINCE: (u32, u32) = (1, 36);

/// What the controllers are made of.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Metrics,
    pub(crate) keys: ReportKeys,
    pub(crate) events: Events,
    pub(crate) readiness: Readiness,
    pub(crate) jobs: Jobs,
    pub(crate) reports: Receiver<EarlyReport>,
    pub(crate) progress: Receiver<EarlyProgress>,
    pub(crate) shutdown: CancellationToken,
}

/// Runs all controllers until the shutdown; what is being done then is finished first.
pub(crate) async fn run(parts: Parts) {
    let Parts { client, settings, metrics, keys, events, readiness, jobs, reports, progress, shutdown } = parts;
    let gang = Gang::discover(&client, settings.gang_scheduler, settings.gang_scheduler_name.as_deref()).await;
    let mount = Mount::new(settings.runner_mode, image_volumes(&client).await);
    let scopes: Vec<Option<String>> = match settings.namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    let memory = Memory::default();
    let (moved, mut moved_pipelines) = mpsc::unbounded_channel();
    let context = Arc::new(Context {
        client,
        settings,
        metrics,
        keys,
        events,
        memory: memory.clone(),
        jobs: jobs.clone(),
        revisions: Revisions::default(),
        mount,
        gang,
        pipelines: moved,
    });
    let mut trainings: HashMap<Option<String>, UnboundedSender<ObjectRef<TrainingJob>>> = HashMap::new();
    let mut runs: HashMap<Option<String>, UnboundedSender<ObjectRef<PipelineRun>>> = HashMap::new();
    let mut pipelines: HashMap<Option<String>, UnboundedSender<ObjectRef<Pipeline>>> = HashMap::new();
    let mut controllers = Vec::new();
    for scope in scopes {
        let (run_sender, run_receiver) = mpsc::unbounded_channel();
        let (pipeline_sender, pipeline_receiver) = mpsc::unbounded_channel();
        let (listed, mut runs_are_listed) = watch::channel(false);
        runs.insert(scope.clone(), run_sender.clone());
        pipelines.insert(scope.clone(), pipeline_sender);
        let (context, readiness) = (Arc::clone(&context), readiness.clone());
        let (training_sender, training_receiver) = mpsc::unbounded_channel();
        trainings.insert(scope.clone(), training_sender);
        let training_shutdown = shutdown.clone();
        controllers.push(tokio::spawn(training_job::run(
            Arc::clone(&context),
            scope.clone(),
            training_receiver,
            run_sender,
            readiness.clone(),
            async move { training_shutdown.cancelled().await },
        )));
        let (run_shutdown, pipeline_shutdown) = (shutdown.clone(), shutdown.clone());
        controllers.push(tokio::spawn(pipeline_run::run(
            Arc::clone(&context),
            scope.clone(),
            run_receiver,
            listed,
            readiness.clone(),
            async move { run_shutdown.cancelled().await },
        )));
        controllers.push(tokio::spawn(async move {
            tokio::select! {
                // A Pipeline counts its runs: before all of them are known it would say that there are none.
                _ = runs_are_listed.wait_for(|listed| *listed) => {}
                () = pipeline_shutdown.cancelled() => return,
            }
            let shutdown = async move { pipeline_shutdown.cancelled().await };
            pipeline::run(context, scope, pipeline_receiver, readiness, shutdown).await;
        }));
    }
    let forward = async {
        while let Some(object) = moved_pipelines.recv().await {
            if let Some(sender) = scoped(&pipelines, object.namespace.as_deref()) {
                sender.send(object).ok();
            }
        }
    };
    tokio::select! {
        () = ended(controllers, &shutdown) => {}
        () = forward => {}
        () = deliver(reports, &memory, &runs, &jobs, &trainings) => {}
        () = deliver_progress(progress, &jobs, &trainings) => {}
    }
}

/// Waits until all controllers have ended as asked, or one by itself: without it the process would be alive and do only a part of its
/// work, and another process does all of it.
async fn ended(controllers: Vec<JoinHandle<()>>, shutdown: &CancellationToken) {
    let mut controllers: FuturesUnordered<_> = controllers.into_iter().collect();
    while let Some(result) = controllers.next().await {
        if let Err(error) = result {
            tracing::error!(error = %error, "a controller ended by itself");
        }
        if !shutdown.is_cancelled() {
            return;
        }
    }
}

/// The channel of the controller that watches a namespace.
fn scoped<'a, T>(channels: &'a HashMap<Option<String>, T>, namespace: Option<&str>) -> Option<&'a T> {
    channels.get(&None).or_else(|| channels.get(&namespace.map(str::to_owned)))
}

/// Brings early reports into memory, and their runs to attention.
async fn deliver(
    mut reports: Receiver<EarlyReport>,
    memory: &Memory,
    runs: &HashMap<Option<String>, UnboundedSender<ObjectRef<PipelineRun>>>,
    jobs: &Jobs,
    trainings: &HashMap<Option<String>, UnboundedSender<ObjectRef<TrainingJob>>>,
) {
    while let Some(early) = reports.recv().await {
        let EarlyReport { namespace, run, run_uid, stage, attempt, report } = early;
        if let Some(job) = jobs.report(&run_uid, &stage, attempt, &report) {
            if let Some(sender) = scoped(trainings, Some(&namespace)) {
                sender.send(job).ok();
            }
            continue;
        }
        let Some(known) = memory.known(&run_uid) else {
            tracing::debug!(%namespace, %run, %stage, attempt, "a report of a run that is not active");
            continue;
        };
        if lock(&known).report(&stage, attempt, report)
            && let Some(sender) = scoped(runs, Some(&namespace))
        {
            sender.send(ObjectRef::new(&run).within(&namespace)).ok();
        }
    }
    // The endpoint is gone: early reports are only a hint, so the controllers go on.
    futures::future::pending::<()>().await;
}

/// Brings what rank 0 says of its progress into memory, and its job to attention.
async fn deliver_progress(
    mut progress: Receiver<EarlyProgress>,
    jobs: &Jobs,
    trainings: &HashMap<Option<String>, UnboundedSender<ObjectRef<TrainingJob>>>,
) {
    while let Some(EarlyProgress { namespace, key, execution, report }) = progress.recv().await {
        if let Some(job) = jobs.progress(&key, execution, &report)
            && let Some(sender) = scoped(trainings, Some(&namespace))
        {
            sender.send(job).ok();
        }
    }
    futures::future::pending::<()>().await;
}

/// Whether the API server is new enough for image volumes. When it does not say, they are tried.
async fn image_volumes(client: &Client) -> bool {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    match client.apiserver_version().await {
        Ok(version) => match (number(&version.major), number(&version.minor)) {
            (Some(major), Some(minor)) => (major, minor) >= IMAGE_VOLUMES_SINCE,
            _ => true,
        },
        Err(error) => {
            tracing::debug!(error = %error, "the API server does not say its version");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_controller_that_ends_by_itself_ends_the_work() {
        let works = || tokio::spawn(std::future::pending());
        let panics = tokio::spawn(async { panic!("of a controller") });
        ended(vec![works(), panics, works()], &CancellationToken::new()).await;
        ended(vec![works(), tokio::spawn(async {})], &CancellationToken::new()).await;
    }

    #[tokio::test]
    async fn after_the_shutdown_all_are_waited_for() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let (told, hears) = tokio::sync::oneshot::channel();
        let slow = tokio::spawn(async move {
            tokio::task::yield_now().await;
            told.send(()).unwrap();
        });
        ended(vec![tokio::spawn(async {}), slow], &shutdown).await;
        hears.await.unwrap();
    }
}
