//! Models that are published, gates before them, approvals, and a spec that returns to what it was.

use serde_json::{Value, json};

use crate::world::{Story, busybox, script, stage, wait_for};

/// A training that is as accurate as its parameter says, compared with the champion and published.
fn pipeline(story: &Story, accuracy: &str) {
    let text = script(
        "echo \"$TRAINYARD_PARAM_ACCURACY\" > \"$TRAINYARD_OUT_MODEL\"\necho \"{\\\"name\\\": \\\"accuracy\\\", \\\"value\\\": $TRAINYARD_PARAM_ACCURACY}\" >> /trainyard/metrics.jsonl",
    );
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: iris}}\nspec:\n  \
         triggers: [{{name: git, specChange: {{}}}}]\n  \
         params: [{{name: accuracy, type: number, default: {accuracy}}}]\n  \
         stages:\n  \
         - {{name: train, container: {{image: \"{}\", script: {text}}}, outputs: [{{name: model, type: Model}}], metrics: [accuracy]}}\n  \
         - {{name: gate, gate: {{checks: [{{metric: train.accuracy, min: 0.2, minImprovement: 0}}]}}}}\n  \
         - {{name: publish, dependsOn: [gate], publish: {{model: iris, from: train.model}}}}\n",
        busybox()
    ));
}

fn entries(pipeline: &Value) -> &[Value] {
    pipeline["status"]["revisions"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until so many runs have been started, and the ledger says that the newest has ended.
fn ended(story: &Story, runs: usize) -> Value {
    story.until("pl/iris", &format!("the end of run {runs}"), |pipeline| {
        let rollbacks: u64 = entries(pipeline).iter().map(|entry| entry["rollbacks"].as_u64().unwrap_or(0)).sum();
        entries(pipeline).len() + usize::try_from(rollbacks).unwrap() == runs
            && !entries(pipeline)[0]["completed"].is_null()
    })
}

fn model(pipeline: &Value) -> (u64, Option<u64>, u64) {
    let model = &pipeline["status"]["models"][0];
    (model["champion"].as_u64().unwrap(), model["previous"].as_u64(), model["sequence"].as_u64().unwrap())
}

fn pods(story: &Story, run: &Value) -> Vec<String> {
    let selector = format!("trainyard.dev/run-uid={}", run["metadata"]["uid"].as_str().unwrap());
    let names = "--output=jsonpath={.items[*].metadata.labels.trainyard\\.dev/stage}";
    story.kubectl(&["get", "pods", "--selector", &selector, names]).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_better_model_becomes_champion_a_worse_one_is_stopped_and_a_return_trains_nothing() {
    let story = Story::fresh("models");
    pipeline(&story, "0.8");
    let first = ended(&story, 1);
    assert_eq!(model(&first), (1, None, 1));
    let version = &first["status"]["models"][0]["versions"][0];
    assert_eq!(version["metrics"], json!({"train.accuracy": 0.8}));
    assert_eq!((&version["run"], &version["key"]), (&entries(&first)[0]["run"], &entries(&first)[0]["key"]));
    let record: Value = serde_json::from_str(&story.stored("iris/models/iris/1/model.json")).unwrap();
    assert_eq!((&record["digest"], &record["output"]["digest"]), (&Value::Null, &version["digest"]));
    assert_eq!((&record["uri"], &record["lineage"]["params"]), (&version["uri"], &json!({"accuracy": 0.8})));
    assert_eq!(record["lineage"]["stages"][0]["images"], json!([busybox()]));
    let alias: Value = serde_json::from_str(&story.stored("iris/models/iris/champion.json")).unwrap();
    assert_eq!((&alias["version"], &alias["uri"]), (&json!(1), &version["uri"]));

    pipeline(&story, "0.9");
    assert_eq!(model(&ended(&story, 2)), (2, Some(1), 2));

    // Worse: the gate says so, and the champion stays.
    pipeline(&story, "0.5");
    let worse = ended(&story, 3);
    assert_eq!((model(&worse), &entries(&worse)[0]["reason"]), ((2, Some(1), 2), &json!("GateFailed")));
    let run = story.get(&format!("plr/{}", entries(&worse)[0]["run"].as_str().unwrap())).unwrap();
    let check = &stage(&run, "gate")["checks"][0];
    let expected = json!({"name": "train.accuracy", "passed": false, "value": 0.5, "min": 0.2, "minImprovement": 0, "baseline": 0.9, "baselineVersion": 2,
        "message": "train.accuracy is 0.5, version 2 of model iris has 0.9, and it must not be worse"});
    assert_eq!(check, &expected);
    assert_eq!(stage(&run, "publish")["phase"], "Skipped");

    // Back to what is champion: nothing is left to do.
    pipeline(&story, "0.9");
    story.until("pl/iris", "the return to be told", |pipeline| {
        pipeline["status"]["triggers"][0]["reason"] == "AlreadyRun"
    });

    // Back to the first: its version is champion again, by a run that trains nothing.
    pipeline(&story, "0.8");
    let back = ended(&story, 4);
    assert_eq!(model(&back), (1, Some(2), 3));
    let entry = &entries(&back)[0];
    assert_eq!((&entry["phase"], &entry["rollbacks"]), (&json!("Succeeded"), &json!(1)));
    let run = story.get(&format!("plr/{}", entry["run"].as_str().unwrap())).unwrap();
    assert_eq!(run["spec"]["promote"], json!([{"model": "iris", "version": 1}]));
    assert_eq!(pods(&story, &run), ["iris"], "one Pod, and none that trains");
    wait_for("the event", || {
        story
            .kubectl(&["get", "events", "--field-selector", "reason=RolledBack"])
            .contains("is champion again, in place of version 2")
    });
    let previous: Value = serde_json::from_str(&story.stored("iris/models/iris/previous.json")).unwrap();
    assert_eq!(previous["version"], 2);

    // By hand.
    story.apply("apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: by-hand}\nspec: {pipelineRef: {name: iris}, promote: [{model: iris, version: 2}]}\n");
    assert_eq!(story.finished("by-hand")["status"]["phase"], "Succeeded");
    assert_eq!(model(&story.get("pl/iris").unwrap()), (2, Some(1), 4));
    story.apply("apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: unknown}\nspec: {pipelineRef: {name: iris}, promote: [{model: iris, version: 7}]}\n");
    let unknown = story.finished("unknown");
    assert_eq!(unknown["status"]["reason"], "InputMissing");
    assert!(unknown["status"]["message"].as_str().unwrap().contains("version 7"), "{unknown:#}");
}

#[test]
fn a_person_with_the_right_to_approve_lets_a_run_go_on_and_no_other() {
    let story = Story::new("approval");
    for (user, role) in [("ada", "edit"), ("grace", "admin")] {
        story.kubectl(&["create", "rolebinding", user, &format!("--clusterrole={role}"), &format!("--user={user}")]);
    }
    let text = script("true");
    story.run(
        "ship",
        &format!("stages:\n- {{name: train, container: {{script: {text}}}}}\n- {{name: approve, dependsOn: [train], approval: {{message: \"Ship it?\", timeout: 24h}}}}\n- {{name: deploy, dependsOn: [approve], container: {{script: {text}}}}}\n"),
    );
    let waits = story.until("plr/ship", "the question", |run| run["status"]["reason"] == "AwaitingApproval");
    let message = waits["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("stage approve: waits for approval by spec.approvals.approve, until 20"), "{message}");
    assert!(message.ends_with(": Ship it?"), "{message}");
    let decide = |by: &str, user: &str| {
        let patch = format!(
            "{{\"spec\": {{\"approvals\": {{\"approve\": {{\"decision\": \"Approved\", \"by\": \"{by}\"}}}}}}}}"
        );
        ["patch", "plr", "ship", "--type=merge", "--as", user, "--patch", &patch].map(str::to_owned)
    };
    let refused = |by: &str, user: &str| story.refused(&decide(by, user).each_ref().map(String::as_str));
    wait_for("the RoleBindings", || refused("ada", "ada").contains("user ada may not decide on approvals of runs"));
    assert!(refused("ada", "grace").contains("by must be the name of whoever decides, which is grace"));
    assert_eq!(story.get("plr/ship").unwrap()["spec"]["approvals"], Value::Null);
    story.kubectl(&decide("grace", "grace").each_ref().map(String::as_str));
    let run = story.finished("ship");
    assert_eq!(run["status"]["phase"], "Succeeded");
    let approval = &stage(&run, "approve")["approval"];
    assert_eq!((&approval["decision"], &approval["by"]), (&json!("Approved"), &json!("grace")));
    assert!(story.events("ship").contains("stage approve was approved by grace"), "{}", story.events("ship"));
}

#[test]
fn other_data_starts_one_run_by_a_short_pod_that_goes() {
    let story = Story::fresh("data");
    let put = |name: &str, text: &str| story.store(&format!("raw/{name}"), text);
    put("a.csv", "1");
    let text = script("cat \"$TRAINYARD_IN_RAW\"/*");
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: iris}}\nspec:\n  \
         triggers: [{{name: drops, data: {{uri: \"{uri}\", poll: 10s}}}}]\n  \
         stages:\n  - {{name: count, container: {{image: \"{}\", script: {text}}}, inputs: [{{name: raw, uri: \"{uri}\"}}]}}\n",
        busybox(),
        uri = story.stored_uri("raw/"),
    ));
    let begun = story.until("pl/iris", "the first look", |pipeline| {
        pipeline["status"]["triggers"][0]["data"]["fingerprint"]
            .as_str()
            .is_some_and(|digest| digest.starts_with("sha256:"))
    });
    assert_eq!((&begun["status"]["triggers"][0]["data"]["objects"], entries(&begun).len()), (&json!(1), 0));
    put("b.csv", "2");
    let ran = ended(&story, 1);
    let data = &ran["status"]["triggers"][0]["data"];
    assert_eq!((&entries(&ran)[0]["phase"], &data["objects"]), (&json!("Succeeded"), &json!(2)));
    assert_eq!(entries(&ran)[0]["cause"], json!({"data": {"fingerprint": data["fingerprint"]}}));
    // Two more looks see nothing new.
    let checked = |pipeline: &Value| pipeline["status"]["triggers"][0]["data"]["checked"].as_str().unwrap().to_owned();
    let mut last = checked(&ran);
    for _ in 0..2 {
        let again = story.until("pl/iris", "another look", |pipeline| checked(pipeline) != last);
        last = checked(&again);
    }
    assert_eq!(story.kubectl(&["get", "plr", "--output", "name"]).lines().count(), 1);
    story.kubectl(&["patch", "pl", "iris", "--type=merge", "--patch", "{\"spec\": {\"suspend\": true}}"]);
    wait_for("the Pods that looked to be gone", || {
        story.kubectl(&["get", "pods", "--selector", "trainyard.dev/pipeline-uid", "--output", "name"]).is_empty()
    });
}

#[test]
fn a_status_that_was_lost_trains_nothing_twice() {
    let story = Story::fresh("twin");
    // Also where the first stage is a training on many Pods.
    let text = script("echo trained");
    let ranks = format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: ranks}}\nspec:\n  triggers: [{{name: git, specChange: {{}}}}]\n  \
         stages:\n  - name: train\n    trainingJob: {{framework: None, roles: [{{name: worker, replicas: 2, container: {{image: \"{}\", script: {text}}}}}]}}\n",
        busybox()
    );
    let end = |name: &str| {
        story.until(&format!("pl/{name}"), "the end of its run", |pipeline| {
            entries(pipeline).len() == 1 && !entries(pipeline)[0]["completed"].is_null()
        })
    };
    pipeline(&story, "0.8");
    story.apply(&ranks);
    let first = ["iris", "ranks"].map(end);
    for pipeline in &first {
        assert_eq!(entries(pipeline)[0]["phase"], "Succeeded", "{pipeline:#}");
    }
    // As after a restore without status: the Pipelines and their runs are gone, and only the store remembers.
    story.kubectl(&["delete", "pl", "iris", "ranks", "--wait"]);
    wait_for("their runs to be gone", || story.kubectl(&["get", "plr", "--output", "name"]).is_empty());
    pipeline(&story, "0.8");
    story.apply(&ranks);
    for (first, second) in first.iter().zip(["iris", "ranks"].map(end)) {
        let (before, now) = (&entries(first)[0], &entries(&second)[0]);
        assert_eq!((&now["phase"], &now["reason"]), (&json!("Failed"), &json!("AlreadyRun")), "{now:#}");
        assert_eq!(now["key"], before["key"]);
        let message = now["message"].as_str().unwrap();
        assert!(message.contains("has taken this revision") && message.contains("rerunToken"), "{message}");
    }
    let versions = story.stored("iris/models/iris/champion.json");
    assert_eq!(serde_json::from_str::<Value>(&versions).unwrap()["version"], 1);
}

#[test]
fn runs_beyond_their_retention_go_and_artifacts_are_looked_through_by_a_short_pod() {
    let story = Story::fresh("retention");
    let apply = |rate: &str| {
        let text = script("echo \"$TRAINYARD_PARAM_RATE\" > \"$TRAINYARD_OUT_MODEL\"");
        story.apply(&format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: iris}}\nspec:\n  \
             triggers: [{{name: git, specChange: {{}}}}]\n  retention: {{succeeded: 1, artifacts: DryRun}}\n  \
             params: [{{name: rate, type: number, default: {rate}}}]\n  \
             stages:\n  - {{name: train, container: {{image: \"{}\", script: {text}}}, outputs: [{{name: model, type: Model}}]}}\n",
            busybox()
        ));
    };
    apply("0.1");
    let first = ended(&story, 1);
    apply("0.2");
    let second = ended(&story, 2);
    let gone = format!("plr/{}", entries(&first)[0]["run"].as_str().unwrap());
    wait_for("the older run to be gone", || story.get(&gone).is_none());
    assert!(story.get(&format!("plr/{}", entries(&second)[0]["run"].as_str().unwrap())).is_some());
    let looked = story.until("pl/iris", "the artifacts", |pipeline| !pipeline["status"]["artifacts"].is_null());
    let artifacts = &looked["status"]["artifacts"];
    assert_eq!(
        (&artifacts["dryRun"], &artifacts["runs"], &artifacts["message"]),
        (&json!(true), &json!(0), &Value::Null)
    );
    assert_eq!(entries(&looked).len(), 2, "the ledger stays");
    wait_for("the Pod that looked to be gone", || {
        story.kubectl(&["get", "pods", "--selector", "trainyard.dev/pipeline-uid", "--output", "name"]).is_empty()
    });
}
