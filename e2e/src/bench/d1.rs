//! d1: what finished runs cost the operator, which stay in the API for as long as people want them: memory and processor time of
//! an operator that has nothing to do.
//!
//! And d2: an operator is started beside 10,000 of them and 500 active runs, and one of these has moved meanwhile. How long until
//! the first right action?
//!
//! A finished run is written as the operator leaves one: copies of a run that has really ended, with its status and the label that
//! takes it out of the watch. Only their creation is a shortcut.

use std::thread::sleep;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::PipelineRun;

use super::load::TOGETHER;
use super::operator::{self, Operator};
use super::process::seconds;
use super::row::Row;
use super::world::{Namespace, World};
use super::{Error, audit, graphs};
use graphs::Shape;

const ID: &str = "d1";
/// The measure of a restart.
const RESTART: &str = "d2";
/// How many finished runs there are when it is looked.
const STORED: [usize; 4] = [0, 100, 1000, 10_000];
/// Stages of a finished run.
const STAGES: usize = 10;
/// Active runs beside them at a restart, each with a Pod that lives.
const ACTIVE: usize = 500;
const MEMORY_GOAL: f64 = 25.0;
const PROCESSOR_GOAL: f64 = 0.1;
const RESTART_GOAL: f64 = 1.0;
/// After this time an operator without work is idle.
const SETTLED: Duration = Duration::from_secs(5);
/// Its watches begin anew within this time: whatever it does at times, it does.
const WINDOW: Duration = Duration::from_secs(60);
/// An action that takes longer does not come.
const LIMIT: Duration = Duration::from_secs(1800);
const GLANCE: Duration = Duration::from_millis(250);

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let kubeconfig = operator::kubeconfig(world, folder.path())?;
    let finished = world.namespace("bench-d1")?;
    let original = {
        let _operator = Operator::start(world, &kubeconfig)?;
        world.run(&finished, "original", &graphs::pipeline(Shape::Chain, STAGES, &graphs::kwok_stage()?))?
    };
    // Its Pods would be seen by every operator from here on.
    world.kubectl(&["--namespace", &finished.name, "delete", "pods", "--all", "--grace-period=0"])?;
    world.kubectl(&["--namespace", &finished.name, "delete", "pipelineruns", "--all"])?;
    let mut rows = Vec::new();
    let mut stored = 0;
    for (step, count) in STORED.into_iter().enumerate() {
        world.wait(store(finished.runs(), &original, stored..count))?;
        stored = count;
        let all = step + 1 == STORED.len();
        let (mut memory, mut processor) = (Vec::new(), Vec::new());
        for _ in 0..repeat {
            let operator = Operator::start(world, &kubeconfig)?;
            sleep(SETTLED);
            if all {
                processor.push(busy(&operator)?);
            }
            memory.push(operator.process().resident().ok_or(Error::OperatorGone)?);
        }
        let name = format!("idle RSS, {count} finished runs");
        let row = Row::new(ID, &name, "MiB", &memory)?;
        rows.push(if all { row.at_most(MEMORY_GOAL) } else { row });
        if all {
            let name = format!("idle, {count} finished runs, a minute");
            rows.push(Row::new(ID, &name, "CPU-s", &processor)?.at_most(PROCESSOR_GOAL));
        }
    }
    rows.push(restart(world, repeat, &kubeconfig, stored)?);
    Ok(rows)
}

/// Processor time that an idle operator takes in a minute, in seconds.
fn busy(operator: &Operator) -> Result<f64, Error> {
    let time = || operator.process().processor().ok_or(Error::OperatorGone);
    let before = time()?;
    sleep(WINDOW);
    Ok((time()? - before) / WINDOW.as_secs_f64() * 60.0)
}

/// Copies of a run that has ended, as the operator leaves it.
async fn store(
    api: Api<PipelineRun>,
    original: &PipelineRun,
    numbers: std::ops::Range<usize>,
) -> Result<(), kube::Error> {
    let status = json!({ "status": original.status });
    let copy = |number: usize| {
        let mut run = PipelineRun::new(&format!("finished-{number:05}"), original.spec.clone());
        run.metadata.labels.clone_from(&original.metadata.labels);
        run.metadata
            .labels
            .get_or_insert_default()
            .insert(labels::FINISHED.to_owned(), labels::FINISHED_TRUE.to_owned());
        let (api, status) = (api.clone(), Patch::Merge(status.clone()));
        async move {
            let name = run.metadata.name.clone().unwrap_or_default();
            api.create(&PostParams::default(), &run).await?;
            api.patch_status(&name, &PatchParams::default(), &status).await.map(drop)
        }
    };
    stream::iter(numbers.map(copy)).buffer_unordered(TOGETHER).try_collect().await
}

/// From the start of an operator to the create of the Pod that was due when it started.
fn restart(world: &World, repeat: usize, kubeconfig: &std::path::Path, stored: usize) -> Result<Row, Error> {
    let namespace = world.namespace("bench-d2")?;
    let mut pipeline = graphs::pipeline(Shape::Chain, 2, &graphs::kwok_stage()?);
    pipeline["stages"][0]["pod"] = graphs::endless_stage()?["pod"].clone();
    world.define(&namespace, "active", &pipeline)?;
    let first = Operator::start(world, kubeconfig)?;
    world.start(&namespace, "active", ACTIVE)?;
    until(|| Ok(running(world, &namespace)? == ACTIVE), "500 runs with a running Pod each")?;
    // Until it has written what it knows.
    sleep(SETTLED);
    drop(first);
    let pods = world.pods_by_stage(&namespace)?;
    let due: Vec<&String> = pods.iter().map(|(_, pod)| pod).take(repeat).collect();
    let mut took = Vec::new();
    for pod in due {
        let ended = Patch::Merge(graphs::ended_well()?);
        world.wait(namespace.pods().patch_status(pod, &PatchParams::default(), &ended))?;
        let mark = world.audit.mark()?;
        let operator = Operator::start(world, kubeconfig)?;
        let mut created = None;
        until(
            || {
                let events = world.audit.since(mark)?;
                created = audit::creates(&events).values().map(|event| event.received).min_by(f64::total_cmp);
                Ok(created.is_some())
            },
            "the Pod that was due",
        )?;
        let began = seconds(std::time::SystemTime::UNIX_EPOCH, operator.began);
        took.extend(created.map(|created| created - began));
        // What else it does with 500 runs, it does now.
        sleep(SETTLED);
        let events = world.audit.since(mark)?;
        let creates = audit::creates(&events).len();
        if creates != 1 {
            return Err(Error::Creates { expected: 1, found: creates });
        }
    }
    let name = format!("start to first right action, {stored} finished and {ACTIVE} active runs");
    Ok(Row::new(RESTART, &name, "s", &took)?.at_most(RESTART_GOAL))
}

/// Pods that run.
fn running(world: &World, namespace: &Namespace<'_>) -> Result<usize, Error> {
    let selected = kube::api::ListParams::default().labels(labels::STAGE).fields("status.phase=Running");
    Ok(world.wait(namespace.pods().list_metadata(&selected))?.items.len())
}

fn until(mut done: impl FnMut() -> Result<bool, Error>, what: &str) -> Result<(), Error> {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > LIMIT {
            return Err(Error::Slow { what: what.to_owned(), limit: LIMIT });
        }
        sleep(GLANCE);
    }
    Ok(())
}
