//! Stages that publish a model: what their runner is told, and what is known of a version that was published.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use step_protocol::{InputSource, PublishSource, PublishSpec, paths};
use trainyard_crds::v1alpha1::{Publish, StageKind, StagePhase, StageStatus};

use crate::graph::{Graph, Node};
use crate::schedule::Run;
use crate::step::{Maker, StepProblem};

/// Metrics that a version is kept with, at most.
const METRICS: usize = 64;

/// A version that a stage has published or promoted.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Name of the model.
    pub model: String,
    /// Number of the version.
    pub version: u64,
    /// Number of the promotion.
    pub sequence: u64,
    /// The version that was champion before.
    pub previous: Option<u64>,
    /// Checksum of its manifest.
    pub digest: String,
    /// Where its files lie.
    pub uri: String,
    /// Sum of their sizes.
    pub bytes: i64,
    /// Metrics that it is kept with, as `STAGE.METRIC`.
    pub metrics: BTreeMap<String, Value>,
    /// Key of the revision that it was published for, of a version that there was.
    pub key: Option<String>,
}

/// What a row says of a version that its stage has published, if the stage does that and has succeeded.
#[must_use]
pub fn published(graph: &Graph, rows: &[StageStatus], node: usize) -> Option<Published> {
    let publish = graph.nodes().get(node)?.publishes()?;
    let row = rows.get(node).filter(|row| row.phase == StagePhase::Succeeded)?;
    let number = |name: &str| row.results.get(name).and_then(Value::as_u64);
    let output = row.outputs.first();
    Some(Published {
        model: publish.model.clone(),
        version: number("version")?,
        sequence: number("sequence")?,
        previous: number("previous"),
        digest: output.map(|output| output.digest.clone()).unwrap_or_default(),
        uri: output.map(|output| output.uri.clone()).unwrap_or_default(),
        bytes: output.map(|output| output.bytes).unwrap_or_default(),
        // Of one that there was the runner says what its record has.
        metrics: match publish.from {
            Some(_) => metrics(graph, rows, &ancestors(graph, node)),
            None => row.metrics.clone(),
        },
        key: row.results.get("key").and_then(Value::as_str).map(str::to_owned),
    })
}

/// What the runner of a publishing stage is told.
pub(crate) fn publish_spec(maker: &Maker<'_>, publish: &Publish) -> Result<PublishSpec, StepProblem> {
    let Maker { graph, run, rows, node } = maker;
    let source = match (&publish.from, publish.version) {
        (Some(from), _) => {
            let (stage, output) = from.split_once('.').unwrap_or((from, ""));
            let InputSource::Stage { commit, output, digest } = maker.artifact(stage, output)? else {
                return Err(StepProblem::NotReady(stage.to_owned()));
            };
            let before = graph.position(node.name()).map(|node| ancestors(graph, node)).unwrap_or_default();
            PublishSource::Output {
                commit,
                output,
                digest,
                metrics: metrics(graph, rows, &before),
                lineage: lineage(graph, run, rows, &before),
            }
        }
        (None, Some(version)) => PublishSource::Version { version },
        (None, None) => return Err(StepProblem::NotReady(node.name().to_owned())),
    };
    Ok(PublishSpec {
        model: publish.model.clone(),
        prefix: paths::model_prefix(run.namespace, run.pipeline, &publish.model),
        source,
        run_started: run.status.start_time.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
    })
}

/// Every stage that must have ended before this one, in their order.
fn ancestors(graph: &Graph, node: usize) -> BTreeSet<usize> {
    let mut all = BTreeSet::new();
    let mut waiting = vec![node];
    while let Some(node) = waiting.pop() {
        for need in graph.nodes().get(node).into_iter().flat_map(|node| &node.needs) {
            if all.insert(need.node) {
                waiting.push(need.node);
            }
        }
    }
    all
}

/// The declared metrics of stages that have succeeded.
fn metrics(graph: &Graph, rows: &[StageStatus], before: &BTreeSet<usize>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (node, row) in succeeded(graph, rows, before) {
        for name in &node.stage().metrics {
            if let Some(value) = row.metrics.get(name) {
                all.insert(format!("{}.{name}", node.name()), value.clone());
            }
        }
    }
    while all.len() > METRICS {
        all.pop_last();
    }
    all
}

fn succeeded<'a>(
    graph: &'a Graph,
    rows: &'a [StageStatus],
    before: &'a BTreeSet<usize>,
) -> impl Iterator<Item = (&'a Node, &'a StageStatus)> {
    before
        .iter()
        .filter_map(|node| Some((graph.nodes().get(*node)?, rows.get(*node)?)))
        .filter(|(_, row)| row.phase == StagePhase::Succeeded)
}

/// Where a version comes from: the revision and what started it, parameters, code, and of each stage before it its image and the
/// digests of what it read and wrote.
fn lineage(graph: &Graph, run: &Run<'_>, rows: &[StageStatus], before: &BTreeSet<usize>) -> Map<String, Value> {
    let mut lineage = Map::new();
    lineage.insert("revision".into(), json!(run.status.revision));
    if let Some(origin) = &run.origin {
        lineage.insert("key".into(), json!(origin.key));
        lineage.insert("cause".into(), serde_json::from_str(origin.cause).unwrap_or_else(|_| json!(origin.cause)));
    }
    lineage.insert("params".into(), json!(run.params));
    if let Some(code) = graph.code() {
        lineage.insert("code".into(), json!(code));
    }
    let stages: Vec<Value> = succeeded(graph, rows, before).map(|(node, row)| stage(graph, rows, node, row)).collect();
    lineage.insert("stages".into(), json!(stages));
    lineage
}

fn stage(graph: &Graph, rows: &[StageStatus], node: &Node, row: &StageStatus) -> Value {
    let images: Vec<&str> = match &node.stage().kind {
        StageKind::Container(container) => container.image.iter().map(String::as_str).collect(),
        StageKind::TrainingJob(training) => {
            training.roles.iter().filter_map(|role| role.container.image.as_deref()).collect()
        }
        StageKind::Gate(_) | StageKind::Approval(_) | StageKind::Publish(_) => Vec::new(),
    };
    let digest = |from: &str| {
        let (stage, output) = from.split_once('.')?;
        let row = rows.get(graph.position(stage)?)?;
        row.outputs.iter().find(|known| known.name == output).map(|known| known.digest.clone())
    };
    let inputs = node.stage().inputs.iter().map(|input| match (&input.from, &input.uri) {
        (Some(from), _) => json!({ "name": input.name, "from": from, "digest": digest(from) }),
        (None, uri) => json!({ "name": input.name, "uri": uri }),
    });
    let outputs = row.outputs.iter().map(|output| json!({ "name": output.name, "digest": output.digest }));
    json!({
        "name": node.name(),
        "images": images,
        "inputs": inputs.collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
        "checks": row.checks,
        "approval": row.approval,
        "takenOverFrom": row.cached_from,
    })
}
