//! f1: how long `plan` takes on chain, wide and layered graphs of 10 to 100,000 stages at half progress, and how that grows.
//!
//! Prints a JSON object a line: `{"id":"f1","arm":"chain 1000","value":..,"unit":"ms","n":..,"low":..,"high":..}`; value is the
//! median, low and high are the quartiles. `cargo bench -p trainyard-planner` runs it.
#![expect(clippy::unwrap_used, reason = "a benchmark may end")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use trainyard_crds::v1alpha1::{
    OutputStatus, PipelineRunStatus, PipelineSpec, Resolved, RunState, Stage, StagePhase, StageStatus,
};
use trainyard_planner::{
    Attempt, AttemptState, Class, Committed, CommittedOutput, Ended, Graph, Observed, Run, initial, plan,
};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Stages alive at once where many could be.
const ALIVE: usize = 100;

#[derive(Clone, Copy)]
enum Shape {
    /// Each stage needs the one before it; one is alive.
    Chain,
    /// No stage needs another; a hundred are alive, the others queue.
    Wide,
    /// Layers as wide as there are layers, each stage reads from three of the layer before; a layer is alive.
    Layered,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Wide => "wide",
            Self::Layered => "layered",
        }
    }

    fn width(self, size: usize) -> usize {
        match self {
            Self::Chain => 1,
            Self::Wide => size,
            Self::Layered => size.isqrt().max(1),
        }
    }

    /// The stages that the stage of this index reads from.
    fn needs(self, size: usize, index: usize) -> Vec<usize> {
        let width = self.width(size);
        match index / width {
            0 => Vec::new(),
            layer => {
                let (above, column) = ((layer - 1) * width, index % width);
                let mut needs: Vec<usize> = [0, 1, 7].map(|step| above + (column + step) % width).to_vec();
                needs.sort_unstable();
                needs.dedup();
                needs
            }
        }
    }
}

/// A run at half progress.
struct Setting {
    graph: Graph,
    status: PipelineRunStatus,
    observed: Observed,
    params: Map<String, Value>,
    alive: Vec<usize>,
}

fn name(index: usize) -> String {
    format!("stage-{index}")
}

fn begin() -> Timestamp {
    Timestamp::constant(1_767_225_600, 0)
}

fn spec(shape: Shape, size: usize) -> PipelineSpec {
    let template: Stage = serde_json::from_value(json!({
        "name": "x",
        "container": { "image": "python:3.13-slim", "command": ["python3", "train.py", "--rate", "$(params.rate)"] },
        "outputs": [{ "name": "model", "type": "Model" }],
        "metrics": ["accuracy"],
    }))
    .unwrap();
    let stage = |index: usize| {
        let inputs = shape.needs(size, index).into_iter().enumerate().map(|(at, other)| {
            serde_json::from_value(json!({ "name": format!("in-{at}"), "from": format!("{}.model", name(other)) }))
                .unwrap()
        });
        Stage { name: name(index), inputs: inputs.collect(), ..template.clone() }
    };
    let mut spec: PipelineSpec = serde_json::from_value(json!({
        "params": [{ "name": "rate", "type": "number", "default": 0.1 }],
        "store": { "uri": "s3://bucket/prefix" },
        "parallel": ALIVE.max(shape.width(size).min(10_000)),
        "stages": [],
    }))
    .unwrap();
    if matches!(shape, Shape::Wide) {
        spec.parallel = u32::try_from(ALIVE).ok();
    }
    spec.stages = (0..size).map(stage).collect();
    spec
}

fn success(index: usize) -> StageStatus {
    StageStatus {
        name: name(index),
        phase: StagePhase::Succeeded,
        attempt: Some(1),
        pod: format!("run-stage-{index}-a1-abcdefghijklmnop"),
        start: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(begin())),
        end: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(begin())),
        outputs: vec![OutputStatus {
            name: "model".into(),
            uri: format!("s3://bucket/prefix/team/iris/iris-1.uid/stage-{index}/1/model/"),
            digest: format!("sha256:{index:064x}"),
            bytes: 1_000,
        }],
        metrics: [("accuracy".to_owned(), json!(0.97))].into(),
        ..StageStatus::default()
    }
}

fn attempt(index: usize, state: AttemptState) -> Attempt {
    Attempt {
        number: 1,
        pod: format!("run-stage-{index}-a1-abcdefghijklmnop"),
        uid: format!("uid-{index}"),
        created: begin(),
        deleting: false,
        lost_node: None,
        state,
        child: None,
    }
}

fn setting(shape: Shape, size: usize) -> Setting {
    let graph = Graph::new(&spec(shape, size), None).unwrap();
    let mut status = initial(&graph, "iris", "iris-rev", Resolved::default(), Vec::new(), begin());
    let half = size / 2 / shape.width(size).min(size / 2) * shape.width(size).min(size / 2);
    for (index, row) in status.stages.iter_mut().enumerate().take(half) {
        *row = success(index);
    }
    let alive: Vec<usize> = (half..size.min(half + shape.width(size).min(ALIVE))).collect();
    let mut observed = Observed::default();
    for index in &alive {
        observed.insert(&name(*index), attempt(*index, AttemptState::Running(begin())));
    }
    let mut setting = Setting { graph, status, observed, params: Map::from_iter([("rate".into(), json!(0.1))]), alive };
    // What an operator would have written by now.
    setting.status = plan(&setting.graph, &run(&setting), &setting.observed, now()).status(&setting.status);
    for (index, row) in setting.status.stages.iter().enumerate() {
        if row.phase == StagePhase::Pending {
            setting.observed.insert(&name(index), attempt(index, AttemptState::Running(begin())));
            setting.alive.push(index);
        }
    }
    setting.status = plan(&setting.graph, &run(&setting), &setting.observed, now()).status(&setting.status);
    setting
}

fn run(setting: &Setting) -> Run<'_> {
    Run {
        namespace: "team",
        name: "iris-1",
        uid: "0b8f6d9c-0000-4000-8000-000000000000",
        pipeline: "iris",
        generation: 1,
        params: &setting.params,
        state: RunState::Active,
        suspend: false,
        approvals: const { &BTreeMap::new() },
        origin: None,
        status: &setting.status,
    }
}

fn now() -> Timestamp {
    begin().saturating_add(SignedDuration::from_secs(3_600)).unwrap()
}

/// Seconds that each of so many calls took, sorted.
fn times(repeats: usize, mut call: impl FnMut()) -> Vec<f64> {
    call();
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

fn print(arm: &str, unit: &str, scale: f64, times: &[f64]) -> f64 {
    let at = |share: usize| times[(times.len() - 1) * share / 4] * scale;
    let line = json!({
        "id": "f1", "arm": arm, "value": rounded(at(2)), "unit": unit, "n": times.len(), "low": rounded(at(1)), "high": rounded(at(3)),
    });
    println!("{line}");
    at(2)
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// The slope of the line through the logarithms.
fn slope(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    #[expect(clippy::cast_precision_loss, reason = "five")]
    let count = logs.len() as f64;
    let (mean_x, mean_y) =
        (logs.iter().map(|p| p.0).sum::<f64>() / count, logs.iter().map(|p| p.1).sum::<f64>() / count);
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

fn main() {
    for shape in [Shape::Chain, Shape::Wide, Shape::Layered] {
        let mut points = Vec::new();
        for size in SIZES {
            let setting = setting(shape, size);
            let repeats = (2_000_000 / size).clamp(15, 2_000);
            let times = times(repeats, || {
                black_box(plan(&setting.graph, &run(&setting), &setting.observed, now()));
            });
            let median = print(&format!("{} {size}", shape.name()), "ms", 1e3, &times);
            #[expect(clippy::cast_precision_loss, reason = "at most 100,000")]
            points.push((size as f64, median));
        }
        let line = json!({
            "id": "f1", "arm": format!("{} slope", shape.name()), "value": rounded(slope(&points)), "unit": "log/log", "n": SIZES.len(),
            "low": rounded(slope(&points[..3])), "high": rounded(slope(&points[2..])),
        });
        println!("{line}");
    }
    for size in [10, 100, 1_000, 10_000] {
        let mut setting = setting(Shape::Chain, size);
        let ended = Ended {
            committed: Some(Committed {
                winner: 1,
                outputs: vec![CommittedOutput { name: "model".into(), digest: "sha256:0".into(), bytes: 1_000 }],
                metrics: [("accuracy".to_owned(), json!(0.97))].into(),
                ..Committed::default()
            }),
            end: Some(now()),
            ..Ended::failure(Class::User, "", "")
        };
        let index = setting.alive[0];
        setting.observed.insert(&name(index), attempt(index, AttemptState::Ended(ended)));
        let times = times(2_000, || {
            black_box(plan(&setting.graph, &run(&setting), &setting.observed, now()));
        });
        print(&format!("event in a chain of {size}"), "us", 1e6, &times);
    }
    for size in [1_000, 100_000] {
        let spec = spec(Shape::Layered, size);
        let times = times(5, || {
            black_box(Graph::new(&spec, None).unwrap());
        });
        print(&format!("graph of {size}, layered"), "ms", 1e3, &times);
    }
}
