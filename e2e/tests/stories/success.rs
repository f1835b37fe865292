//! Runs that end well, whatever is done to them.

use crate::world::{Story, busybox, cluster, kubectl, stage};
use e2e::{command, demo};

/// Three stages: one writes, one adds, one reads both and writes a result.
const CHAIN: &str = r###"
params: [{name: greeting, default: hello}]
stages:
- name: first
  container: {script: "#!/bin/sh\necho \"$TRAINYARD_PARAM_GREETING\" > \"$TRAINYARD_OUT_TEXT\"\n"}
  outputs: [{name: text}]
- name: second
  container: {script: "#!/bin/sh\nsleep ${DELAY:-0}\n{ cat \"$TRAINYARD_IN_TEXT\"; echo world; } > \"$TRAINYARD_OUT_TEXT\"\n"}
  inputs: [{name: text, from: first.text}]
  outputs: [{name: text}]
- name: third
  container: {script: "#!/bin/sh\nwc -l < \"$TRAINYARD_IN_TEXT\" > $TRAINYARD_ROOT/results/lines\necho '{\"name\": \"accuracy\", \"value\": 0.5}' >> $TRAINYARD_ROOT/metrics.jsonl\n"}
  inputs: [{name: text, from: second.text}]
  results: [{name: lines, type: integer}]
  metrics: [accuracy]
"###;

fn delayed(seconds: u32) -> String {
    CHAIN.replace("${DELAY:-0}", &seconds.to_string())
}

#[test]
fn a_chain_passes_data_results_and_metrics() {
    let story = Story::new("chain");
    story.run("chain", CHAIN);
    let run = story.finished("chain");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    assert_eq!(run["status"]["progress"], "3/3");
    assert_eq!(stage(&run, "third")["results"]["lines"], 2);
    assert_eq!(stage(&run, "third")["metrics"]["accuracy"], 0.5);
    assert_eq!(story.artifact(&run, "second", "text", "text"), "hello\nworld\n");
    let table = story.kubectl(&["get", "plr"]);
    assert!(
        table
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .eq(["NAME", "PIPELINE", "PHASE", "PROGRESS", "STAGE", "REASON", "DURATION", "AGE"]),
        "{table}"
    );
    let description = story.kubectl(&["describe", "plr", "chain"]);
    for word in ["Started", "Succeeded", "s3://", "sha256:"] {
        assert!(description.contains(word), "no {word} in:\n{description}");
    }
}

#[test]
fn a_killed_pod_is_a_disruption_and_the_result_is_the_same() {
    let story = Story::new("pod-killed");
    story.run("chain", &delayed(6));
    let before = story.stage_until("chain", "second", "Running");
    let pod = stage(&before, "second")["pod"].as_str().unwrap().to_owned();
    story.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]);
    let run = story.finished("chain");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    let second = stage(&run, "second");
    assert_eq!(second["attempt"], 2);
    assert_eq!(second["failedAttempts"][0]["reason"], "Disrupted");
    assert_eq!(second["failures"]["infra"], 1);
    assert_eq!(story.artifact(&run, "second", "text", "text"), "hello\nworld\n");
}

#[test]
fn hello_says_hello() {
    let story = Story::new("hello");
    let folder = e2e::paths::repository().join("examples/hello");
    for file in ["pipeline.yaml", "run.yaml"] {
        let text =
            std::fs::read_to_string(folder.join(file)).unwrap().replace("localhost/trainyard/busybox:1", &busybox());
        command::input(
            cluster().kubectl().args(["--namespace", story.namespace(), "create", "--filename", "-"]),
            &text,
        )
        .unwrap();
    }
    let run = story.kubectl(&["get", "plr", "--output", "name"]);
    let name = run.trim().rsplit('/').next().unwrap();
    assert_eq!(story.finished(name)["status"]["phase"], "Succeeded");
    let pipelines = story.kubectl(&["get", "pl"]);
    assert!(pipelines.contains("True"), "{pipelines}");
}

#[test]
fn the_demo_trains_a_model_that_is_good_enough() {
    cluster();
    demo::run(&e2e::cluster::default_name()).unwrap();
    let runs =
        kubectl(&["--namespace", "iris", "get", "plr", "--sort-by=.metadata.creationTimestamp", "--output", "json"]);
    let runs: serde_json::Value = serde_json::from_str(&runs).unwrap();
    let run = runs["items"].as_array().unwrap().last().unwrap();
    let accuracy = stage(run, "evaluate")["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.9, "{accuracy}");
}
