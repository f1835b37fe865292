//! The soak: many runs under a steady rain of small faults, to see that all of them are right and that the operator does not grow.
//!
//! ```text
//! operator (child process) -> proxy with faults -> kube-apiserver <- node, which kills a Pod now and then
//! ```
//!
//! The operator, the API server and etcd are real. Programs are not: ten thousand of them would only measure this machine, so the
//! node tells the end of a Pod as a kubelet does, with the report that the step-runner would have written.

mod judge;
mod node;
mod operator;
mod proxy;

pub use judge::{Growth, Judgement};
pub use proxy::Fault;

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::faults::api::Api;
use crate::progress;

/// The Pipeline of all runs.
const PIPELINE: &str = "soak";
/// Stages of a run.
pub const STAGES: usize = 10;
/// Runs that are active at the same time.
const TOGETHER: usize = 20;
/// When for so long no run ends, the operator has got stuck.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is done, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many runs.
    pub runs: usize,
    /// Of a hundred requests and of a hundred Pods, so many meet a fault.
    pub percent: f64,
    /// Where the dice start.
    pub seed: u64,
    /// The operator.
    pub program: PathBuf,
    /// Its log and its kubeconfig go here.
    pub folder: PathBuf,
    /// A namespace that does not exist.
    pub namespace: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Soak {
    /// Whether every run is as it should be.
    pub judgement: Judgement,
    /// Memory of the operator, each time that a run had ended.
    pub growth: Growth,
    /// Faults by their kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Requests of the operator.
    pub requests: u64,
    /// Pods that were killed.
    pub killed: usize,
    /// All of it.
    pub took: Duration,
}

/// Runs all of it.
///
/// # Errors
/// When the harness cannot go on, the operator ends by itself, or no run ends any more.
pub async fn soak(api: &Api, options: &Options) -> Result<Soak> {
    let began = Instant::now();
    let Options { runs, percent, seed, program, folder, namespace } = options;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    api.create("/api/v1/namespaces", &object).await?;
    api.create(&collection(namespace, "pipelines"), &pipeline()).await?;
    let node = node::Node::start(api.clone(), namespace, *percent, *seed);
    let proxy = proxy::Proxy::start(api.clone(), *percent, seed.wrapping_add(1)).await?;
    let kubeconfig = folder.join("kubeconfig");
    proxy.write_kubeconfig(&kubeconfig)?;
    let mut operator = operator::Operator::start(program, namespace, &kubeconfig, &folder.join("operator.log"))?;
    let mut ended = watch_ends(api, namespace);
    let mut growth = Growth::default();
    let mut submitted = 0;
    while growth.samples().len() < *runs {
        while submitted < *runs && submitted < growth.samples().len() + TOGETHER {
            api.create(&collection(namespace, "pipelineruns"), &run(submitted)).await?;
            submitted += 1;
        }
        let next = tokio::time::timeout(PATIENCE, ended.recv()).await;
        operator.must_run()?;
        let stuck = || {
            format!(
                "no run has ended for {PATIENCE:?}; see {}; the node says {:?}",
                folder.display(),
                node.seen().wrong
            )
        };
        next.with_context(stuck)?.context("the watch of the runs ended")?;
        growth.push(operator.memory()?);
        if growth.samples().len().is_multiple_of(100) {
            progress::line(&format!("soak: {} runs, the operator has {}", growth.samples().len(), growth.last()));
        }
    }
    let mut judgement = judge::judge(api, namespace, *runs, &node.seen()).await?;
    operator.must_run()?;
    judgement.wrong.extend(judge::forgotten(|| operator.active_runs()).await?);
    let (faults, requests) = proxy.told();
    Ok(Soak { judgement, growth, faults, requests, killed: node.seen().killed(), took: began.elapsed() })
}

/// The collection of a kind of ours.
fn collection(namespace: &str, kind: &str) -> String {
    format!("/apis/trainyard.dev/v1alpha1/namespaces/{namespace}/{kind}")
}

/// The name of a stage.
fn stage(number: usize) -> String {
    format!("s{number}")
}

/// What a stage's result must be.
fn expected(stage: &str) -> u64 {
    stage.trim_start_matches('s').parse().unwrap_or_default()
}

/// One stage, eight that need it, one that needs those; every one has a result, and the middle ones use the first one's.
fn pipeline() -> Value {
    let stages = (0..STAGES).map(|number| {
        let needs: Vec<String> = if number == STAGES - 1 { (1..number).map(stage).collect() } else { Vec::new() };
        let arguments = if (1..STAGES - 1).contains(&number) { json!(["$(stages.s0.results.n)"]) } else { json!([]) };
        json!({
            "name": stage(number),
            "dependsOn": needs,
            "container": {"image": "localhost/none:1", "command": ["none"], "args": arguments},
            "results": [{"name": "n", "type": "integer"}],
        })
    });
    let store = json!({"volume": {"claimName": "store"}});
    json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": PIPELINE},
        "spec": {"store": store, "stages": stages.collect::<Vec<_>>()},
    })
}

fn run(number: usize) -> Value {
    json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "PipelineRun",
        "metadata": {"name": format!("run-{number}")},
        "spec": {"pipelineRef": {"name": PIPELINE}},
    })
}

/// Says the name of every run that has ended, once.
fn watch_ends(api: &Api, namespace: &str) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (api, path) = (api.clone(), collection(namespace, "pipelineruns"));
    tokio::spawn(async move {
        let mut told = HashSet::new();
        let seen = |run: &Value| {
            let name = run["metadata"]["name"].as_str().unwrap_or_default();
            let over = run["metadata"]["labels"]["trainyard.dev/finished"] == "true";
            if over && told.insert(name.to_owned()) {
                // Nobody may be listening any more.
                let _ = sender.send(name.to_owned());
            }
        };
        // Its end is seen as the end of the channel.
        let _ = follow(&api, &path, seen).await;
    });
    receiver
}

/// Hands every object of a collection to `seen`, also more than once, for as long as the API server answers. It ends a watch whose
/// reader is slow: then there is another one.
async fn follow(api: &Api, path: &str, mut seen: impl FnMut(&Value)) -> Result<Infallible> {
    loop {
        let list = api.get(path).await?;
        for object in list["items"].as_array().into_iter().flatten() {
            seen(object);
        }
        let from = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let event = |event: Value| {
            let whole = event["type"] != "ERROR";
            if whole && event["type"] != "DELETED" {
                seen(&event["object"]);
            }
            whole
        };
        api.watch(path, &from, event).await?;
    }
}

/// The programs and the place of a soak in the folder.
#[must_use]
pub fn options(program: &Path, folder: &Path, runs: usize) -> Options {
    Options {
        runs,
        percent: 1.0,
        seed: 7,
        program: program.to_owned(),
        folder: folder.to_owned(),
        namespace: "soak".to_owned(),
    }
}

/// Something that all tasks of a soak write to.
type Shared<T> = Arc<std::sync::Mutex<T>>;

fn lock<T>(shared: &Shared<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
