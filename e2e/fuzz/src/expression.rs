//! `when`: the first line is a JSON value that a parameter and a result have, the rest the condition.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{PipelineSpec, StagePhase};
use trainyard_planner::{Graph, resolve_params};

use crate::world;

/// Most characters of a condition that the API server takes.
const LIMIT: usize = 4096;
/// Most bytes of a parameter.
const VALUE: usize = 32 * 1024;

/// Any bytes.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (value, when) = text.split_once('\n').unwrap_or(("null", &text));
    if when.chars().count() > LIMIT || value.len() > VALUE {
        return;
    }
    let value: Value = serde_json::from_str(value).unwrap_or(Value::Null);
    let kind = match &value {
        Value::Null => return,
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    let spec = json!({
        "store": { "uri": "s3://bucket" },
        "params": [{ "name": "p", "type": kind, "default": value }],
        "stages": [
            { "name": "a", "container": { "image": "x", "command": ["x"] }, "results": [{ "name": "r", "type": kind }], "metrics": ["m"] },
            { "name": "b", "container": { "image": "x", "command": ["x"] }, "when": when },
        ],
    });
    let spec: PipelineSpec = serde_json::from_value(spec).unwrap();
    let graph = match Graph::new(&spec, None) {
        Ok(graph) => graph,
        Err(problem) => {
            let place = ["spec.stages[1].when", "spec.params[0].default"].contains(&problem.path.as_str());
            assert!(place && !problem.message.is_empty(), "{problem}");
            return;
        }
    };
    let Ok(params) = resolve_params(&spec.params, &BTreeMap::new()) else { return };
    let results = || BTreeMap::from([("r".to_owned(), value.clone())]);
    let metrics = || BTreeMap::from([("m".to_owned(), Value::from(0.5))]);
    let world = world::play(&graph, &params, |_| world::success(results(), metrics()));
    let phase = world.phase("b").unwrap();
    // It holds, does not, or is an error that is said; it is never left open.
    assert!(matches!(phase, StagePhase::Succeeded | StagePhase::Skipped | StagePhase::Failed), "{phase:?}");
    if phase != StagePhase::Succeeded {
        let row = world.status.stages.iter().find(|row| row.name == "b").unwrap();
        assert!(!row.message.is_empty() && row.message.len() < 2_000, "{}", row.message);
    }
}
