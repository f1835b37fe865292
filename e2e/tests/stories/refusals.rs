//! Bad input that the API server takes: the operator says what is wrong before any Pod, and nobody waits for what is not there.

#[path = "../api/table.rs"]
mod table;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::Story;

/// What is read here of `corpus.yaml`.
#[derive(Deserialize)]
struct Corpus {
    bases: BTreeMap<String, Value>,
    refusals: Vec<table::Refusal>,
}

fn run(name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

#[test]
fn every_refusal_of_the_corpus_is_told_before_any_pod() {
    let story = Story::new("refusals");
    let corpus: Corpus = serde_saphyr::from_str(include_str!("../api/corpus.yaml")).unwrap();
    let mut expected = Vec::new();
    for refusal in &corpus.refusals {
        for (row, changes) in &refusal.rows {
            let name = format!("row-{}", expected.len());
            story.apply(&run(&name, &table::changed(&corpus.bases["refusal"], changes)));
            expected.push((name, row, refusal));
        }
    }
    for (name, row, refusal) in &expected {
        let status = story.finished(name)["status"].clone();
        let message = status["message"].as_str().unwrap();
        assert_eq!((&status["phase"], &status["reason"]), (&"Failed".into(), &refusal.reason.clone().into()), "{row}");
        assert!(message.contains(&refusal.field), "{row}: {message}");
        let accepted =
            status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == "Accepted");
        let accepted = accepted.unwrap();
        assert_eq!((&accepted["status"], &accepted["reason"]), (&"False".into(), &status["reason"]), "{row}");
    }
    assert_eq!(story.kubectl(&["get", "pods", "--output", "name"]), "");
}

#[test]
fn an_account_or_a_secret_that_is_missing_fails_the_run_and_is_named() {
    let story = Story::new("missing");
    let image = crate::world::busybox();
    let stages = json!([{ "name": "a", "container": { "image": image, "command": ["true"] } }]);
    story.apply(&run("account", &json!({ "serviceAccountName": "nobody", "pipeline": { "stages": stages } })));
    let store = json!({ "uri": "s3://bucket/prefix", "credentials": { "secretName": "no-such-secret" } });
    story.apply(&run("secret", &json!({ "pipeline": { "store": store, "stages": stages } })));
    for (name, reason, missing) in [
        ("account", "PodRejected", "serviceaccount \"nobody\" not found"),
        ("secret", "ConfigMissing", "no-such-secret"),
    ] {
        let status = story.finished(name)["status"].clone();
        assert_eq!((&status["phase"], &status["reason"]), (&"Failed".into(), &reason.into()), "{status:#}");
        assert!(status["stages"][0]["message"].as_str().unwrap().contains(missing), "{status:#}");
        assert_eq!(status["stages"][0]["attempt"], 1, "{status:#}");
    }
}
