//! A pipeline as JSON: read, checked, planned to its end, each step made.

use std::collections::BTreeMap;

use serde_json::json;
use step_protocol::StepSpec;
use trainyard_crds::v1alpha1::PipelineSpec;
use trainyard_planner::{Graph, resolve_params};

use crate::{there_and_back, world};

/// Any bytes.
pub fn run(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<PipelineSpec>(data) else { return };
    there_and_back(&spec);
    let graph = match Graph::new(&spec, None) {
        Ok(graph) => graph,
        Err(problem) => {
            assert!(!problem.message.is_empty() && names_a_field(&spec, &problem.path), "{problem}");
            return;
        }
    };
    let params = match resolve_params(&spec.params, &BTreeMap::new()) {
        Ok(params) => params,
        Err(problem) => {
            assert!(spec.params.iter().any(|param| problem.path == format!("spec.params.{}", param.name)), "{problem}");
            return;
        }
    };
    let world = world::play(&graph, &params, |_| world::success(BTreeMap::new(), BTreeMap::new()));
    for row in &world.status.stages {
        assert!(row.phase.is_terminal(), "{} is still {:?}", row.name, row.phase);
    }
    for step in &world.steps {
        let variables = step.to_env().unwrap().into_iter().collect();
        assert_eq!(StepSpec::from_env(&variables).unwrap(), *step);
    }
}

/// Whether a path leads to what the user wrote, but for its last part, which may be what is missing.
fn names_a_field(spec: &PipelineSpec, path: &str) -> bool {
    let document = json!({ "spec": spec });
    let path = path.replace('[', ".").replace(']', "");
    let (above, _) = path.rsplit_once('.').unwrap_or(("", &path));
    path.starts_with("spec") && document.pointer(&format!("/{}", above.replace('.', "/"))).is_some()
}
