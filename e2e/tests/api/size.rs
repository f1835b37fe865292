//! How large objects may be, and what a write of a status costs then.

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

/// The shortest of a few: what the write costs when nothing else is in its way.
fn fastest(mut write: impl FnMut(usize) -> Answer) -> Duration {
    (0..5).map(|number| timed(|| write(number))).min().unwrap()
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
fn a_status_write_does_not_pay_for_the_rules_on_an_inline_pipeline() {
    let spec = pipeline(200, 8);
    server().create(Kind::PipelineRun, "inline", &json!({ "pipeline": spec }));
    server().create(Kind::PipelineRun, "small", &json!({"pipelineRef": {"name": "p"}}));
    let of = |name: &str| {
        fastest(|number| {
            let status = json!({"status": {"progress": format!("{number}/200")}});
            server().send(Method::PATCH, &format!("pipelineruns/{name}/status"), &status)
        })
    };
    let (large, small) = (of("inline"), of("small"));
    let created = fastest(|_| server().try_create(Kind::PipelineRun, &json!({ "pipeline": spec })));
    println!("a status write: {large:?} with the pipeline inline, {small:?} with a reference; the create: {created:?}");
    assert!(large < created, "a status write takes {large:?}, the create with all its rules {created:?}");
}
