//! How large objects may be. That a write of a status does not pay for the rules again is held by the schema's own test in `crds`.

use crate::server::{Answer, Kind, server};
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A pipeline of that many stages, each with that many inputs from stages before it and dependencies, all with the longest names.
fn pipeline(stages: usize, inputs: usize) -> Value {
    let name = |number: usize| format!("stage-{number:034}");
    let stages = (0..stages).map(|number| {
        let before: Vec<usize> = (0..number).rev().take(inputs).collect();
        let from =
            |n: &usize| json!({"name": format!("input-{n:034}"), "from": format!("{}.{:o<40}", name(*n), "output")});
        json!({
            "name": name(number),
            "container": {"image": "registry.example.com/team/image:1.0", "command": ["python3", "program.py"]},
            "inputs": before.iter().map(from).collect::<Vec<_>>(),
            "dependsOn": before.iter().map(|n| name(*n)).collect::<Vec<_>>(),
            "after": before.iter().map(|n| json!({"stage": name(*n), "phases": ["Succeeded"]})).collect::<Vec<_>>(),
            "outputs": [{"name": format!("{:o<40}", "output")}],
        })
    });
    json!({ "stages": stages.collect::<Vec<_>>() })
}

fn timed(write: impl FnOnce() -> Answer) -> Duration {
    let start = Instant::now();
    let answer = write();
    let took = start.elapsed();
    assert!(answer.accepted(), "{}", answer.message());
    took
}

#[test]
fn the_largest_pipeline_is_accepted() {
    let spec = pipeline(200, 16);
    let size = spec.to_string().len();
    let took = timed(|| server().try_create(Kind::Pipeline, &spec));
    println!("{size} bytes in {took:?}");
    // One stage or input more is refused for that reason, and not for its cost.
    let answer = server().try_create(Kind::Pipeline, &pipeline(201, 1));
    assert!(
        answer.message().contains("spec.stages: Too many: 201: must have at most 200 items"),
        "{}",
        answer.message()
    );
}

#[test]
fn a_run_of_the_largest_pipeline_is_accepted() {
    let took = timed(|| server().try_create(Kind::PipelineRun, &json!({ "pipeline": pipeline(200, 16) })));
    println!("{took:?}");
}

#[test]
fn an_edit_is_judged_like_a_create_and_a_status_is_written_beside_it() {
    let stages = |needs: &str| {
        json!({"stages": [
            {"name": "a", "container": {"image": "i", "command": ["c"]}},
            {"name": "b", "container": {"image": "i", "command": ["c"]}, "dependsOn": [needs]},
            {"name": "c", "container": {"image": "i", "command": ["c"]}},
        ]})
    };
    server().create(Kind::Pipeline, "edited", &stages("a"));
    let status = server().send(Method::PATCH, "pipelines/edited/status", &json!({"status": {"activeRuns": 1}}));
    assert!(status.accepted(), "{}", status.message());
    let refused = server().send(Method::PATCH, "pipelines/edited", &json!({"spec": stages("c")}));
    assert!(
        refused.message().contains("dependsOn may only name stages listed before the stage"),
        "{}",
        refused.message()
    );
    let labelled = server().send(Method::PATCH, "pipelines/edited", &json!({"metadata": {"labels": {"x": "y"}}}));
    assert!(labelled.accepted(), "{}", labelled.message());
}
