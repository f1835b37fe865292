//! Pipelines that follow another one, ranges of instants, what triggers give to their runs, and what stays when a Pipeline goes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::world::{Story, busybox, script, wait_for};

fn entries(pipeline: &Value) -> &[Value] {
    pipeline["status"]["revisions"].as_array().map_or(&[], Vec::as_slice)
}

fn has_ended(entry: &Value) -> bool {
    !entry["completed"].is_null()
}

/// Waits until the ledger of a Pipeline has so many entries, all of them ended.
fn ledger(story: &Story, pipeline: &str, count: usize) -> Value {
    story.until(&format!("pl/{pipeline}"), &format!("{count} entries that have ended"), |pipeline| {
        entries(pipeline).len() == count && entries(pipeline).iter().all(has_ended)
    })
}

/// A Pipeline whose stage writes what its parameter says; another token runs it again.
fn clean(story: &Story, table: &str, token: &str) {
    let text = script("echo \"$TRAINYARD_PARAM_TABLE\" > \"$TRAINYARD_OUT_TABLE\"");
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: clean}}\nspec:\n  \
         triggers: [{{name: git, specChange: {{}}}}]\n  rerunToken: {token}\n  \
         params: [{{name: table, default: {table}}}]\n  \
         stages:\n  - {{name: clean, container: {{image: \"{}\", script: {text}}}, outputs: [{{name: table}}]}}\n",
        busybox()
    ));
}

#[test]
fn what_another_pipeline_has_made_is_read_by_one_run_and_the_same_again_by_none() {
    let story = Story::fresh("upstream");
    let text = script("cat \"$TRAINYARD_IN_TABLE\" > \"$TRAINYARD_OUT_MODEL\"");
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: train}}\nspec:\n  \
         triggers:\n  - name: clean\n    upstream: {{pipeline: clean, output: clean.table}}\n    params: {{table: $(trigger.uri)}}\n  \
         params: [{{name: table}}]\n  \
         stages:\n  - name: train\n    container: {{image: \"{}\", script: {text}}}\n    \
         inputs: [{{name: table, uri: $(params.table)}}]\n    outputs: [{{name: model, type: Model}}]\n",
        busybox()
    ));
    let waits = story
        .until("pl/train", "the answer", |pipeline| pipeline["status"]["triggers"][0]["reason"] == "UpstreamNotFound");
    let message = waits["status"]["triggers"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("there is no Pipeline clean in namespace "), "{message}");

    clean(&story, "first", "a");
    let first = ledger(&story, "train", 1);
    let entry = &entries(&first)[0];
    assert_eq!(entry["phase"], "Succeeded", "{entry:#}");
    let written = story.get(&format!("plr/{}", entry["upstream"]["run"].as_str().unwrap())).unwrap();
    let output = &written["status"]["stages"][0]["outputs"][0];
    assert_eq!(
        entry["cause"],
        json!({"upstream": {"pipeline": "clean", "output": "clean.table", "digest": output["digest"]}})
    );
    let run = story.get(&format!("plr/{}", entry["run"].as_str().unwrap())).unwrap();
    assert_eq!(run["spec"]["params"], json!({"table": output["uri"]}));
    assert_eq!(story.artifact(&run, "train", "model", "model"), "first\n");

    // It runs again, and writes the same.
    clean(&story, "first", "b");
    let same = story.until("pl/train", "the same output", |pipeline| {
        pipeline["status"]["triggers"][0]["reason"] == "OutputUnchanged"
    });
    assert_eq!(entries(&same).len(), 1);
    clean(&story, "second", "b");
    let second = ledger(&story, "train", 2);
    let run = story.get(&format!("plr/{}", entries(&second)[0]["run"].as_str().unwrap())).unwrap();
    assert_eq!(story.artifact(&run, "train", "model", "model"), "second\n");
}

#[test]
fn a_range_of_days_is_a_run_for_each_that_knows_its_day() {
    let story = Story::fresh("backfill");
    let text = script(
        "echo \"$TRAINYARD_PARAM_DAY\" > \"$TRAINYARD_OUT_DAY\"\nif [ \"$TRAINYARD_PARAM_DAY\" = 2026-01-03 ]; then exit 3; fi",
    );
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: days}}\nspec:\n  \
         triggers:\n  - name: history\n    params: {{day: $(trigger.date)}}\n    \
         backfill: {{cron: \"0 0 * * *\", from: 2026-01-01T00:00:00Z, until: 2026-01-06T00:00:00Z, maxActive: 2}}\n  \
         params: [{{name: day}}]\n  \
         stages:\n  - {{name: count, container: {{image: \"{}\", script: {text}}}, outputs: [{{name: day}}]}}\n",
        busybox()
    ));
    let done = ledger(&story, "days", 5);
    let counts = &done["status"]["triggers"][0]["backfill"];
    assert_eq!(
        (&counts["instants"], &counts["succeeded"], &counts["failed"]),
        (&json!(5), &json!(4), &json!(1)),
        "{counts:#}"
    );
    let runs = story.kubectl(&["get", "plr", "--selector", "trainyard.dev/trigger=history", "--output", "json"]);
    let runs: Value = serde_json::from_str(&runs).unwrap();
    let days: BTreeMap<String, String> = runs["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&run["spec"]["params"]["day"]), text(&run["status"]["phase"]))
        })
        .collect();
    let expected = [1, 2, 3, 4, 5]
        .map(|day| (format!("2026-01-0{day}"), if day == 3 { "Failed" } else { "Succeeded" }.to_owned()));
    assert_eq!(days, BTreeMap::from(expected));
}

#[test]
fn runs_stay_when_their_pipeline_goes_if_it_says_so_also_those_that_there_were() {
    let story = Story::fresh("orphans");
    let apply = |policy: &str| {
        story.apply(&format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: iris}}\nspec:\n  triggers: [{{name: git, specChange: {{}}}}]\n  \
             {policy}\n  stages:\n  - {{name: a, container: {{image: \"{}\", command: [\"true\"]}}}}\n",
            busybox()
        ));
    };
    apply("");
    let run = entries(&ledger(&story, "iris", 1))[0]["run"].as_str().unwrap().to_owned();
    let run = format!("plr/{run}");
    let owned = || !story.get(&run).unwrap()["metadata"]["ownerReferences"].is_null();
    assert!(owned());
    apply("deletionPolicy: {runs: Orphan}");
    wait_for("the run to have no owner", || !owned());
    apply("deletionPolicy: {runs: Delete}");
    wait_for("the run to have its owner again", owned);
    apply("deletionPolicy: {runs: Orphan}\n  rerunToken: again");
    let newest = format!("plr/{}", entries(&ledger(&story, "iris", 2))[0]["run"].as_str().unwrap());
    wait_for("no run to have an owner", || !owned());
    story.kubectl(&["delete", "pl", "iris", "--cascade=foreground", "--wait"]);
    // What the garbage collector would take goes before this one, which is owned by the Pipeline.
    for run in [&run, &newest] {
        let run = story.get(run).unwrap();
        assert_eq!(
            (&run["metadata"]["deletionTimestamp"], &run["status"]["phase"]),
            (&Value::Null, &json!("Succeeded"))
        );
    }
}

#[test]
fn a_run_that_a_policy_of_the_cluster_refuses_is_told_in_the_ledger() {
    let story = Story::fresh("refused-run");
    let name = format!("no-runs-in-{}", story.namespace());
    let metadata = format!("metadata: {{name: {name}}}");
    story.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\n{metadata}\nspec:\n  \
         matchConstraints:\n    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n    \
         resourceRules: [{{apiGroups: [trainyard.dev], apiVersions: [\"*\"], operations: [CREATE], resources: [pipelineruns]}}]\n  \
         validations: [{{expression: \"false\", message: the budget is spent}}]\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\n{metadata}\n\
         spec: {{policyName: {name}, validationActions: [Deny]}}\n",
        namespace = story.namespace(),
    ));
    let probe =
        "apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: x}\nspec: {pipelineRef: {name: x}}\n";
    wait_for("the policy", || story.refuses(probe));
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: iris}}\nspec:\n  triggers: [{{name: git, specChange: {{}}}}]\n  \
         stages:\n  - {{name: a, container: {{image: \"{}\", command: [\"true\"]}}}}\n",
        busybox()
    ));
    let refused = ledger(&story, "iris", 1);
    let entry = &entries(&refused)[0];
    assert_eq!((&entry["phase"], &entry["reason"]), (&json!("Failed"), &json!("RunRefused")));
    assert!(entry["message"].as_str().unwrap().contains("the budget is spent"), "{entry:#}");
    story.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", &name]);
}
