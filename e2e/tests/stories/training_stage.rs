//! Pipelines with a training among their stages: everything in and out as of any stage.

use e2e::command;
use serde_json::{Value, json};

use crate::jobs::pods;
use crate::world::{LIMIT, Story, cluster, script, stage};

/// prepare -> fit (two ranks) -> evaluate: artifacts, parameters, results and metrics go in and come out.
fn pipeline(fit: &str) -> String {
    let prepare = script("seq 3 > $TRAINYARD_OUT_TABLE\necho 3 > $TRAINYARD_ROOT/results/rows");
    let evaluate = script("set -e\necho \"model of $(cat $TRAINYARD_IN_MODEL), $1 epochs\" > $TRAINYARD_OUT_VERDICT");
    format!(
        "params: [{{name: rate, type: number, default: 0.5}}]\nstages:\n\
         - {{name: prepare, container: {{script: {prepare}}}, outputs: [{{name: table}}], results: [{{name: rows, type: integer}}]}}\n\
         - name: fit\n  inputs: [{{name: table, from: prepare.table}}]\n  outputs: [{{name: model}}]\n  results: [{{name: epochs, type: integer}}]\n  metrics: [loss]\n  gracePeriod: 2s\n\
        \x20 trainingJob:\n    framework: None\n    restart: {{limit: 1, backoff: {{initial: 1s}}}}\n    roles:\n    - name: worker\n      replicas: 2\n\
        \x20     container: {{script: {}, args: [$(params.rate), $(stages.prepare.results.rows), $(inputs.table.path)]}}\n\
         - {{name: evaluate, container: {{script: {evaluate}, args: [$(stages.fit.results.epochs)]}}, when: stages.fit.metrics.loss < 1.0,\
          inputs: [{{name: model, from: fit.model}}], outputs: [{{name: verdict}}]}}\n",
        script(fit)
    )
}

/// The job of the training stage.
fn job(story: &Story, run: &str) -> String {
    let seen =
        story.until(&format!("plr/{run}"), "the stage's job", |run| stage(run, "fit")["training"]["job"].is_string());
    stage(&seen, "fit")["training"]["job"].as_str().unwrap().to_owned()
}

fn job_until(story: &Story, job: &str, phase: &str) -> Value {
    story.until(&format!("trainingjob/{job}"), phase, |job| job["status"]["phase"] == phase)
}

#[test]
fn artifacts_parameters_results_and_metrics_go_through_a_training() {
    let story = Story::new("fit");
    let fit = "set -e\n[ $TRAINYARD_STAGE = fit ]\n[ $TRAINYARD_PARAM_RATE = 0.5 ]\n[ \"$(cat $3 | wc -l)\" = 3 ]\n\
               [ $TRAINYARD_RANK != 0 ] || {\n  echo \"$TRAINYARD_WORLD_SIZE ranks, rate $1, $2 rows\" > $TRAINYARD_OUT_MODEL\n  \
               echo 7 > $TRAINYARD_ROOT/results/epochs\n  echo '{\"name\": \"loss\", \"value\": 0.25}' >> $TRAINYARD_ROOT/metrics.jsonl\n}";
    story.run("whole", &pipeline(fit));
    let run = story.finished("whole");
    let row = stage(&run, "fit");
    assert_eq!((&run["status"]["phase"], &row["phase"]), (&"Succeeded".into(), &"Succeeded".into()), "{run:#}");
    assert_eq!((&row["results"]["epochs"], &row["metrics"]["loss"]), (&7.into(), &json!(0.25)), "{run:#}");
    assert_eq!((&row["pod"], &row["training"]["ready"], &row["attempt"]), (&Value::Null, &"2/2".into(), &1.into()));
    assert_eq!(
        story.artifact(&run, "evaluate", "verdict", "verdict"),
        "model of 2 ranks, rate 0.5, 3 rows, 7 epochs\n"
    );
    // It is a job as any other, and it goes with its run.
    let name = job(&story, "whole");
    let owner = &story.get(&format!("trainingjob/{name}")).unwrap()["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&"PipelineRun".into(), &"whole".into()));
    story.kubectl(&["delete", "plr", "whole"]);
    story.kubectl(&[
        "wait",
        "--for=delete",
        &format!("trainingjob/{name}"),
        &format!("--timeout={}s", LIMIT.as_secs()),
    ]);
}

#[test]
fn a_training_that_fails_says_in_its_run_which_rank_and_why() {
    let story = Story::new("fit-failure");
    story.run("nan", &pipeline("[ $TRAINYARD_RANK = 1 ] && { echo loss is nan >&2; exit 3; }\nsleep 600"));
    let run = story.finished("nan");
    let row = stage(&run, "fit");
    assert_eq!((&run["status"]["phase"], &run["status"]["reason"]), (&"Failed".into(), &"UserError".into()), "{run:#}");
    assert_eq!((&row["exitCode"], &row["training"]["restarts"]), (&3.into(), &1.into()), "{run:#}");
    assert_eq!(stage(&run, "evaluate")["reason"], "DependencyFailed");
    let described = story.kubectl(&["describe", "plr", "nan"]);
    for word in ["worker-1", "after 2 attempts", "exit code 3", "loss is nan", "kubectl logs"] {
        assert!(described.contains(word), "no {word} in:\n{described}");
    }
}

#[test]
fn a_suspended_run_has_no_ranks_and_a_cancelled_one_stops_them() {
    let story = Story::new("fit-control");
    story.run("held", &pipeline("trap 'exit 0' TERM\nwhile :; do sleep 0.2; done"));
    let name = job(&story, "held");
    job_until(&story, &name, "Running");
    let spec = |spec: &str| story.kubectl(&["patch", "plr", "held", "--type=merge", "--patch", spec]);
    spec(r#"{"spec": {"suspend": true}}"#);
    story.until("plr/held", "Suspended", |run| run["status"]["phase"] == "Suspended");
    assert!(pods(&story, &name, 1).is_empty());
    spec(r#"{"spec": {"suspend": false}}"#);
    job_until(&story, &name, "Running");
    assert_eq!(pods(&story, &name, 2).len(), 2);
    spec(r#"{"spec": {"state": "Cancelled"}}"#);
    let run = story.finished("held");
    assert_eq!((&run["status"]["phase"], &stage(&run, "fit")["phase"]), (&"Cancelled".into(), &"Cancelled".into()));
    let left = command::run(cluster().kubectl().args([
        "--namespace",
        story.namespace(),
        "get",
        "trainingjobs",
        "--output",
        "name",
    ]));
    assert_eq!(left.unwrap(), "", "a stopped run leaves no job");
}

#[test]
fn a_rerun_takes_a_training_over() {
    let story = Story::new("fit-rerun");
    let fit = "[ $TRAINYARD_RANK != 0 ] || { echo m > $TRAINYARD_OUT_MODEL; echo 1 > $TRAINYARD_ROOT/results/epochs; \
               echo '{\"name\": \"loss\", \"value\": 0.25}' >> $TRAINYARD_ROOT/metrics.jsonl; }";
    let pipeline = pipeline(fit).replace("echo \\\"model of", "[ $TRAINYARD_RUN = again ]; echo \\\"model of");
    story.run("first", &pipeline);
    assert_eq!(story.finished("first")["status"]["stage"], "evaluate");
    story.apply("apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: again}\nspec: {rerun: {of: first, stages: Failed}}\n");
    let run = story.finished("again");
    let fit = stage(&run, "fit");
    assert_eq!((&run["status"]["phase"], &fit["cachedFrom"]["run"]), (&"Succeeded".into(), &"first".into()), "{run:#}");
}
