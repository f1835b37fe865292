//! One case: a namespace, an operator behind its proxy, a kubelet, one run, and at most one fault.

use super::api::Api;
use super::history::{History, Kind, Recorder, What, World};
use super::invariants::{self, Evidence, Summary, Violation};
use super::kubelet::{self, Kubelet};
use super::observer::{Observer, collection};
use super::operator::{self, Killer, Operator};
use super::proxy::{Plan, Proxy};
use super::store::{self, Commit};
use super::workload::Workload;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A case that has not come to its end by then is stuck.
const LIMIT: Duration = Duration::from_secs(30);
/// What follows the end (Pods go, the Pipeline hears of it) has this long. It is judged as it is then.
const SETTLE: Duration = Duration::from_secs(3);
/// Succeeded Pods go at once when their run has ended, so that this is a part of every case.
const POD_TTL: &str = "0s";
/// A container's end is seen so much later; until then the early report is all that the operator has.
const SHOWN_AFTER: Duration = Duration::from_millis(150);
/// The name of the run.
const RUN: &str = "run";

/// What all cases have in common.
#[derive(Clone)]
pub struct Setup {
    /// The API server.
    pub api: Api,
    /// The operator.
    pub operator: PathBuf,
    /// The step-runner.
    pub runner: PathBuf,
    /// Every case has a folder below this.
    pub folder: PathBuf,
}

/// What came of a case.
#[derive(Debug)]
pub struct Case {
    /// All that happened.
    pub history: History,
    /// What lies in the store.
    pub commits: Vec<Commit>,
    /// Why it did not come to an end.
    pub stuck: Option<String>,
    /// Whether its Pods went and its Pipeline heard of the end.
    pub settled: bool,
    /// From the first request to the end.
    pub took: Duration,
}

impl Case {
    /// What is wrong.
    #[must_use]
    pub fn violations(&self, workload: &Workload, expected: Option<&Summary>) -> Vec<Violation> {
        let stuck = self.stuck.iter().map(|what| Violation { invariant: "end", what: what.clone() });
        let evidence = Evidence { workload, history: &self.history, commits: &self.commits, expected };
        stuck.chain(invariants::check(evidence)).collect()
    }
}

/// Runs a workload in a namespace of its own, with the fault of `plan`.
///
/// # Errors
/// When the harness itself cannot go on. That the operator does not get to the end is no error: it is what [`Case::stuck`] says.
pub async fn run(setup: &Setup, workload: &Workload, namespace: &str, plan: Option<Plan>) -> Result<Case> {
    let folder = setup.folder.join(namespace);
    let (store, pods) = (folder.join("store"), folder.join("pods"));
    for path in [&store, &pods] {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    }
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    setup.api.create("/api/v1/namespaces", &object).await?;

    let recorder = Recorder::default();
    let (observer, seen) = Observer::start(&setup.api, namespace, &recorder).await?;
    let options = kubelet::Options {
        namespace: namespace.to_owned(),
        runner: setup.runner.clone(),
        store: store.clone(),
        folder: pods,
        shown_after: SHOWN_AFTER,
    };
    let kubelet = Kubelet::start(setup.api.clone(), options, recorder.clone(), seen);
    let (killer, kills) = Killer::new();
    let proxy = Proxy::start(setup.api.clone(), recorder.clone(), killer, plan).await?;
    let kubeconfig = folder.join("kubeconfig");
    proxy.write_kubeconfig(&kubeconfig)?;
    let options = operator::Options {
        program: setup.operator.clone(),
        namespace: namespace.to_owned(),
        kubeconfig,
        logs: folder.clone(),
        early_reports: workload.early_reports,
        pod_ttl: POD_TTL.to_owned(),
    };
    let operator = Operator::start(options, recorder.clone(), kills)?;
    submit(&setup.api, workload, namespace).await?;
    let ended = recorder.wait(LIMIT, "the run to end, its label and its last runner", end).await;
    // Whether it comes to this is for the invariants to say.
    let what = "Pods to go and the Pipeline to hear of it";
    let settled = ended.is_ok() && recorder.wait(SETTLE, what, |world| settled(world, workload)).await.is_ok();
    let took = recorder.elapsed();
    operator.stop().await;
    drop((proxy, kubelet, observer));
    let history = recorder.history();
    if let Some(trouble) = history.entries.iter().find_map(|entry| match &entry.what {
        What::Trouble(text) if ended.is_err() => Some(text),
        _ => None,
    }) {
        keep(&folder, &history)?;
        anyhow::bail!("{trouble}; see {}", folder.display());
    }
    let commits = store::commits(&store, &recorder)?;
    Ok(Case { history, commits, stuck: ended.err().map(|error| error.to_string()), settled, took })
}

/// Writes the history beside the logs of the case.
pub fn keep(folder: &Path, history: &History) -> Result<PathBuf> {
    let path = folder.join("history.jsonl");
    fs::write(&path, history.to_lines()).with_context(|| path.display().to_string())?;
    Ok(path)
}

async fn submit(api: &Api, workload: &Workload, namespace: &str) -> Result<()> {
    let pipeline = json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": workload.name},
        "spec": workload.pipeline,
    });
    let run = json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "PipelineRun",
        "metadata": {"name": RUN},
        "spec": {"pipelineRef": {"name": workload.name}},
    });
    api.create(&collection(Kind::Pipeline, namespace), &pipeline).await?;
    api.create(&collection(Kind::Run, namespace), &run).await?;
    Ok(())
}

/// The run has ended and has left the operator's watch, and no runner is left.
fn end(world: &World) -> Option<()> {
    let run = world.object(Kind::Run, RUN)?;
    let ended = matches!(run["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Cancelled"));
    let labelled = run["metadata"]["labels"]["trainyard.dev/finished"] == "true";
    (ended && labelled && world.runners() == 0).then_some(())
}

/// Its Pods are gone, and the Pipeline shows how it ended.
fn settled(world: &World, workload: &Workload) -> Option<()> {
    let run = world.object(Kind::Run, RUN)?;
    let pipeline = world.object(Kind::Pipeline, workload.name).map(|pipeline| &pipeline["status"])?;
    let heard = pipeline["lastRun"]["phase"] == run["status"]["phase"] && pipeline["activeRuns"] == 0;
    (heard && world.objects(Kind::Pod).next().is_none()).then_some(())
}
