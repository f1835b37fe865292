//! What is in a key and what is not: each line of the table in docs/concepts.md.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{Cause, PipelineSpec};
use trainyard_planner::retrain::run_key;

use crate::world::time;

/// A pipeline that says a good part of what can be said.
fn whole() -> Value {
    json!({
        "description": "what for",
        "store": {"uri": "s3://bucket/prefix", "s3": {"endpoint": "http://store:9000"}, "credentials": {"secretName": "a"}},
        "code": {"configMapName": "code-1"},
        "params": [
            {"name": "rate", "type": "number", "default": 0.5, "minimum": 0.0, "description": "how fast"},
            {"name": "word"},
        ],
        "defaults": {"container": {"image": "python:3.13"}, "retry": {"limit": 1}, "timeout": "30m", "resources": {"requests": {"cpu": "1"}}},
        "parallel": 3,
        "stages": [
            {
                "name": "prepare",
                "container": {"command": ["prepare"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                              "resources": {"requests": {"cpu": "2"}}},
                "inputs": [{"name": "raw", "uri": "s3://bucket/raw.csv"}],
                "outputs": [{"name": "table", "type": "Dataset", "description": "clean"}, {"name": "other"}],
                "results": [{"name": "rows", "type": "integer", "description": "how many"}],
                "metrics": ["a", "b"],
                "retry": {"limit": 2},
                "timeout": "5m",
                "gracePeriod": "10s",
                "pod": {"nodeSelector": {"a": "b"}, "volumes": [{"name": "v", "mountPath": "/v", "emptyDir": {}}]},
            },
            {
                "name": "fit",
                "trainingJob": {
                    "framework": "XGBoost",
                    "roles": [{"name": "worker", "replicas": 2, "container": {"command": ["fit"]}, "pod": {"priorityClassName": "p"}}],
                    "checkpoint": {"interval": "1m"}, "restart": {"limit": 1}, "startTimeout": "1m", "stallTimeout": "2m", "port": 2000,
                },
                "inputs": [{"name": "table", "from": "prepare.table"}],
                "outputs": [{"name": "model", "type": "Model"}],
                "when": "params.rate > 0.1",
            },
            {"name": "gate", "gate": {"checks": [{"metric": "prepare.a", "min": 0.5, "minImprovement": 0}]}},
            {"name": "approve", "dependsOn": ["gate"], "approval": {"message": "Ship it?", "timeout": "24h"}},
            {"name": "publish", "dependsOn": ["approve"], "publish": {"model": "iris", "from": "fit.model"}},
        ],
        "finally": [{"name": "report", "container": {"image": "busybox", "command": ["report"]}}],
        "triggers": [{"name": "git", "specChange": {}}],
        "concurrency": "Forbid",
        "retryFailedRevision": "Backoff",
        "suspend": true,
    })
}

fn key(spec: &Value) -> String {
    let spec: PipelineSpec = serde_json::from_value(spec.clone()).unwrap();
    run_key(&spec, "", &Cause::SpecChange {})
}

/// The key after each of these changes: a path, and what stands there (null: nothing).
fn keys(changes: &[(&str, Value)]) -> Vec<(String, String)> {
    changes
        .iter()
        .map(|(path, value)| {
            let mut spec = whole();
            let (parent, field) = path.rsplit_once('/').unwrap();
            let parent = spec.pointer_mut(parent).unwrap_or_else(|| panic!("{path}"));
            match parent {
                Value::Array(list) => list[field.parse::<usize>().unwrap()] = value.clone(),
                object if value.is_null() => {
                    assert!(object.as_object_mut().unwrap().remove(field).is_some(), "{path}");
                }
                object => object[field] = value.clone(),
            }
            ((*path).to_owned(), key(&spec))
        })
        .collect()
}

#[test]
fn what_says_when_and_how_it_runs_is_not_in_the_key() {
    let same = key(&whole());
    for (path, key) in keys(&[
        ("/description", json!("another")),
        ("/store/credentials", json!({"secretName": "b"})),
        ("/params/0/description", Value::Null),
        ("/params/1/type", json!("string")),
        ("/defaults/retry", Value::Null),
        ("/defaults/timeout", json!("1h")),
        ("/defaults/resources", Value::Null),
        ("/parallel", Value::Null),
        ("/stages/0/container/resources", Value::Null),
        ("/stages/0/container/image", json!("python:3.13")),
        ("/stages/0/outputs/0/description", json!("cleaner")),
        ("/stages/0/results/0/description", Value::Null),
        ("/stages/0/inputs/0/optional", json!(false)),
        ("/stages/0/allowFailure", json!(false)),
        ("/stages/0/retry", Value::Null),
        ("/stages/0/timeout", json!("6m")),
        ("/stages/0/gracePeriod", Value::Null),
        ("/stages/0/pod/nodeSelector", json!({"c": "d"})),
        ("/stages/1/trainingJob/checkpoint", Value::Null),
        ("/stages/1/trainingJob/restart", json!({"limit": 5})),
        ("/stages/1/trainingJob/startTimeout", Value::Null),
        ("/stages/1/trainingJob/stallTimeout", Value::Null),
        ("/stages/1/trainingJob/port", json!(2001)),
        ("/stages/1/trainingJob/success", json!("Rank0")),
        ("/stages/1/trainingJob/roles/0/pod", Value::Null),
        ("/stages/1/trainingJob/roles/0/processesPerReplica", json!(1)),
        ("/stages/2/gate/checks/0/goal", json!("Maximize")),
        ("/stages/2/gate/checks/0/baseline", json!("Champion")),
        ("/stages/2/gate/checks/0/noBaseline", json!("Pass")),
        ("/stages/3/approval/message", Value::Null),
        ("/stages/3/approval/timeout", json!("1h")),
        ("/triggers", Value::Null),
        ("/retention", json!({"succeeded": 3})),
        ("/deletionPolicy", json!({"runs": "Orphan"})),
        ("/concurrency", json!("Allow")),
        ("/retryFailedRevision", Value::Null),
        ("/suspend", json!(false)),
    ]) {
        assert_eq!(key, same, "{path}");
    }
}

#[test]
fn the_order_of_what_has_a_name_is_not_in_the_key() {
    let same = key(&whole());
    for path in ["/params", "/stages/0/container/env", "/stages/0/outputs", "/stages/0/metrics"] {
        let mut spec = whole();
        spec.pointer_mut(path).unwrap().as_array_mut().unwrap().reverse();
        assert_eq!(key(&spec), same, "{path}");
    }
}

#[test]
fn what_can_change_a_result_is_in_the_key() {
    let changed = keys(&[
        ("/store/uri", json!("s3://bucket/elsewhere")),
        ("/store/s3", json!({"endpoint": "http://other:9000"})),
        ("/code/configMapName", json!("code-2")),
        ("/params/0/default", json!(0.25)),
        ("/params/0/minimum", Value::Null),
        ("/params/0/type", json!("string")),
        ("/defaults/container/image", json!("python:3.14")),
        ("/stages/2/gate/checks/0/min", json!(0.6)),
        ("/stages/2/gate/checks/0/goal", json!("Minimize")),
        ("/stages/2/gate/checks/0/noBaseline", json!("Fail")),
        ("/stages/2/gate/model", json!("other")),
        ("/stages/4/publish/model", json!("other")),
        ("/stages/0/container/command", json!(["prepare", "--all"])),
        ("/stages/0/container/args", json!(["--all"])),
        ("/stages/0/container/workingDir", json!("/work")),
        ("/stages/0/container/env/0/value", json!("3")),
        ("/stages/0/name", json!("clean")),
        ("/stages/0/inputs/0/uri", json!("s3://bucket/new.csv")),
        ("/stages/0/inputs/0/optional", json!(true)),
        ("/stages/0/outputs/0/type", json!("Table")),
        ("/stages/0/outputs/1/name", json!("another")),
        ("/stages/0/results/0/type", json!("number")),
        ("/stages/0/metrics", json!(["a"])),
        ("/stages/0/pod/volumes", Value::Null),
        ("/stages/0/allowFailure", json!(true)),
        ("/stages/1/dependsOn", json!(["prepare"])),
        ("/stages/1/after", json!([{"stage": "prepare"}])),
        ("/stages/1/when", json!("params.rate > 0.2")),
        ("/stages/1/trainingJob/framework", json!("None")),
        ("/stages/1/trainingJob/elastic", json!({"min": 1, "max": 3})),
        ("/stages/1/trainingJob/success", json!("All")),
        ("/stages/1/trainingJob/roles/0/replicas", json!(3)),
        ("/stages/1/trainingJob/roles/0/container/command", json!(["fit", "-v"])),
        ("/stages/1/trainingJob/roles/0/processesPerReplica", json!(2)),
        ("/finally", Value::Null),
        ("/rerunToken", json!("again")),
    ]);
    let distinct: BTreeSet<&String> = changed.iter().map(|(_, key)| key).collect();
    assert_eq!(distinct.len(), changed.len(), "each is another one");
    assert!(!distinct.contains(&key(&whole())));
}

#[test]
fn numbers_are_compared_as_numbers() {
    let mut spec = whole();
    spec["params"][0]["default"] = json!(1);
    let integer = key(&spec);
    spec["params"][0]["default"] = serde_json::from_str("1.0").unwrap();
    assert_eq!(key(&spec), integer);
}

#[test]
fn each_cause_has_its_key() {
    let spec: PipelineSpec = serde_json::from_value(whole()).unwrap();
    let instant =
        |text: &str| Cause::Schedule { instant: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(text)) };
    let request = |value: &str| Cause::Request { value: value.into() };
    let output = |pipeline: &str, output: &str, digest: &str| Cause::Upstream {
        pipeline: pipeline.into(),
        output: output.into(),
        digest: digest.into(),
    };
    let causes = [
        Cause::SpecChange {},
        instant("2026-01-01T00:00:00Z"),
        instant("2026-01-01T00:01:00Z"),
        request("a"),
        request("b"),
        Cause::Backfill { instant: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time("2026-01-01T00:00:00Z")) },
        output("clean", "table", "sha256:a"),
        output("other", "table", "sha256:a"),
        output("clean", "other", "sha256:a"),
        output("clean", "table", "sha256:b"),
    ];
    let keys: BTreeSet<String> = causes.iter().map(|cause| run_key(&spec, "", cause)).collect();
    assert_eq!(keys.len(), causes.len());
}

#[test]
fn what_a_trigger_gives_its_runs_is_in_their_key() {
    let with = |params: Value| -> PipelineSpec {
        let mut spec = whole();
        spec["triggers"] = json!([{"name": "git", "specChange": {}, "params": params}, {"name": "other", "params": {"rate": 9},
            "schedule": {"cron": "0 3 * * *"}}]);
        serde_json::from_value(spec).unwrap()
    };
    let key = |params: Value| run_key(&with(params), "git", &Cause::SpecChange {});
    let same = run_key(&with(json!({})), "", &Cause::SpecChange {});
    assert_eq!(key(json!({})), same, "of a trigger that gives nothing it is as if there were none");
    let keys: BTreeSet<String> =
        [json!({"rate": 0.1}), json!({"rate": 0.2}), json!({"text": "$(trigger.name)"}), json!({})].map(key).into();
    assert_eq!(keys.len(), 4);
}

/// It is in the names of runs and in ledgers of clusters that exist: another release must find the same.
#[test]
fn the_key_of_a_pipeline_is_the_same_for_ever() {
    let mut first = whole();
    // As it was written when keys were new.
    first["stages"].as_array_mut().unwrap().truncate(2);
    assert_eq!(key(&first), "c7abf937a065937bd67ea7f6000cfb78256402c536732520a8ea909cbdb6e1c8");
}
