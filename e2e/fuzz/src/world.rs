//! A run of a pipeline as the operator has it, planned until nothing more happens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};
use step_protocol::StepSpec;
use trainyard_crds::v1alpha1::{PipelineRunStatus, Resolved, RunState, StagePhase};
use trainyard_planner::{
    Action, Attempt, AttemptState, Ended, Graph, Observed, Run, StepContext, initial, plan, step_spec,
};

const BEGIN: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// The run, and every step that it started.
pub(crate) struct World {
    pub(crate) status: PipelineRunStatus,
    pub(crate) steps: Vec<StepSpec>,
}

/// Runs all stages; each attempt ends as it is told.
pub(crate) fn play(graph: &Graph, params: &Map<String, Value>, end: impl Fn(&str) -> Ended) -> World {
    let mut world =
        World { status: initial(graph, "iris", "iris-rev", Resolved::default(), Vec::new(), BEGIN), steps: Vec::new() };
    let mut observed = Observed::default();
    let mut now = BEGIN;
    // Each stage is launched, ends, and is repeated a bounded number of times.
    for _ in 0..(graph.nodes().len() * 8 + 8) {
        let status = world.status.clone();
        let run = Run {
            namespace: "team",
            name: "iris-1",
            uid: "uid-1",
            pipeline: "iris",
            generation: 1,
            params,
            state: RunState::Active,
            suspend: false,
            approvals: &BTreeMap::new(),
            origin: None,
            status: &status,
        };
        let plan = plan(graph, &run, &observed, now);
        let rows = plan.status(&status).stages;
        for action in &plan.actions {
            if let Action::Launch { node, attempt } = action {
                let context = StepContext { report_url: Some("http://report:8082"), default_timeout: Some(60) };
                world.steps.push(step_spec(graph, &run, &rows, *node, *attempt, context).unwrap());
                let name = graph.nodes()[*node].name();
                let state = AttemptState::Ended(end(name));
                let (pod, uid) = (format!("{name}-{attempt}"), format!("{name}-{attempt}-uid"));
                observed.insert(
                    name,
                    Attempt {
                        number: *attempt,
                        pod,
                        uid,
                        created: now,
                        deleting: false,
                        lost_node: None,
                        state,
                        child: None,
                    },
                );
            }
        }
        let quiet = plan.actions.is_empty() && !plan.changes(&status);
        world.status = plan.status(&status);
        match plan.requeue_at {
            Some(at) => now = now.max(at),
            None if quiet => break,
            None => {}
        }
    }
    world
}

impl World {
    /// A stage's row.
    pub(crate) fn phase(&self, stage: &str) -> Option<StagePhase> {
        self.status.stages.iter().find(|row| row.name == stage).map(|row| row.phase)
    }
}

/// A success with these results and metrics.
pub(crate) fn success(results: BTreeMap<String, Value>, metrics: BTreeMap<String, Value>) -> Ended {
    let mut report = step_protocol::StepReport::new(step_protocol::Outcome::Succeeded, "");
    report.results = results;
    report.metrics = metrics;
    crate::ended::committed(report)
}
