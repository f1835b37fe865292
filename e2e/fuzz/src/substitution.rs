//! `$(...)`: the first line is a parameter's value, the rest a text with references to it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use step_protocol::{Segment, Text};
use trainyard_crds::v1alpha1::PipelineSpec;
use trainyard_planner::{Graph, resolve_params};

use crate::world;

/// A stage that is given one text as an argument, as a variable and as its script, and what becomes of the argument; nothing if it
/// is refused.
fn argument(value: &str, text: &str) -> Option<Text> {
    let spec = json!({
        "store": { "uri": "s3://bucket" },
        "params": [{ "name": "p", "default": value }, { "name": "n", "type": "number", "default": 0.1 }],
        "stages": [
            { "name": "a", "container": { "image": "x", "command": ["x"] }, "outputs": [{ "name": "o" }], "results": [{ "name": "r" }] },
            { "name": "c", "container": { "image": "x", "script": text } },
            {
                "name": "b", "dependsOn": ["a"],
                "inputs": [{ "name": "i", "from": "a.o" }], "outputs": [{ "name": "o" }],
                "container": { "image": "x", "command": ["x", text], "env": [{ "name": "V", "value": text }] },
            },
        ],
    });
    let spec: PipelineSpec = serde_json::from_value(spec).unwrap();
    let graph = match Graph::new(&spec, None) {
        Ok(graph) => graph,
        Err(problem) => {
            let place =
                problem.path.starts_with("spec.stages[2].container") || problem.path == "spec.params[0].default";
            assert!(place && !problem.message.is_empty(), "{problem}");
            return None;
        }
    };
    let params = resolve_params(&spec.params, &BTreeMap::new()).ok()?;
    let results = || BTreeMap::from([("r".to_owned(), Value::from("result"))]);
    let world = world::play(&graph, &params, |_| world::success(results(), BTreeMap::new()));
    let step = |stage: &str| world.steps.iter().find(|step| step.identity.stage == stage);
    assert_eq!(step("c")?.script.as_deref(), Some(text), "a script is not looked into");
    let step = step("b")?;
    assert_eq!(step.env[0].value, step.command[1], "the same text means the same everywhere");
    Some(step.command[1].clone())
}

/// Any bytes.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (value, text) = text.split_once('\n').unwrap_or(("", &text));
    // As it is: refused, or made of what it is made of.
    if let Some(Text::Segments(segments)) = argument(value, text) {
        assert!(segments.iter().any(|segment| matches!(segment, Segment::Result { .. })), "{segments:?}");
    }
    // A value is never read again, whatever it says.
    let Some(wrapped) = argument(value, "<$(params.p)>") else { return };
    assert_eq!(wrapped, Text::Known(format!("<{value}>")));
    // Every text can be said.
    let escaped = text.replace("$(", "$$(");
    if !text.contains("$$(") {
        assert_eq!(argument(value, &escaped), Some(Text::Known(text.to_owned())), "{escaped:?}");
    }
}
