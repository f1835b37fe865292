//! Cancel, terminate, suspend, resume and rerun, all by kubectl.

use crate::world::{HELD, Story, bucket_of_all, script, stage};

const LONG: &str = r###"
stages:
- name: quick
  container: {script: "#!/bin/sh\necho 1 > \"$TRAINYARD_OUT_X\"\n"}
  outputs: [{name: x}]
- name: long
  gracePeriod: 1s
  container: {script: "#!/bin/sh\ntest -e \"$TRAINYARD_IN_GO\" || sleep 600\n"}
  inputs: [{name: go, uri: "s3://trainyard/GO", optional: true}, {name: x, from: quick.x}]
- name: after
  container: {command: ["true"]}
  dependsOn: [long]
finally:
- name: report
  container: {command: [sh, -c, 'echo "$0" > $TRAINYARD_ROOT/results/phase', $(run.phase)]}
  results: [{name: phase}]
"###;

/// The same, its long stage waiting for an object that only this story writes.
fn long(story: &Story) -> String {
    LONG.replace("trainyard/GO", &format!("trainyard/{}", story.namespace()))
}

fn patch(story: &Story, run: &str, spec: &str) {
    story.kubectl(&["patch", "plr", run, "--type=merge", "--patch", &format!("{{\"spec\": {spec}}}")]);
}

#[test]
fn cancel_stops_the_stages_and_runs_finally() {
    let story = Story::new("cancel");
    story.run("long", &long(&story));
    story.stage_until("long", "long", "Running");
    patch(&story, "long", r###"{"state": "Cancelled"}"###);
    let run = story.finished("long");
    assert_eq!(
        (&run["status"]["phase"], &run["status"]["reason"]),
        (&"Cancelled".into(), &"Cancelled".into()),
        "{run:#}"
    );
    assert_eq!(stage(&run, "quick")["phase"], "Succeeded");
    assert_eq!(
        (&stage(&run, "long")["phase"], &stage(&run, "after")["phase"]),
        (&"Cancelled".into(), &"Cancelled".into())
    );
    assert_eq!(stage(&run, "report")["results"]["phase"], "Cancelled");
    let alive = story.kubectl(&["get", "pods", "--field-selector", "status.phase=Running", "--output", "name"]);
    assert!(!alive.contains("-long-a1"), "{alive}");
    let refused =
        story.refused(&["patch", "plr", "long", "--type=merge", "--patch", r###"{"spec": {"state": "Active"}}"###]);
    assert!(refused.contains("cannot become active again"), "{refused}");
}

#[test]
fn terminate_stops_everything() {
    let story = Story::new("terminate");
    story.run("long", &long(&story));
    story.stage_until("long", "long", "Running");
    patch(&story, "long", r###"{"state": "Terminated"}"###);
    let run = story.finished("long");
    assert_eq!(run["status"]["phase"], "Cancelled", "{run:#}");
    assert_eq!(stage(&run, "report")["phase"], "Cancelled");
}

#[test]
fn suspend_holds_the_next_stage_until_resumed() {
    let story = Story::new("suspend");
    story.run(
        "held",
        &format!(
            "stages:\n- {{name: a, container: {{script: {}}}}}\n- {{name: b, container: {{command: [\"true\"]}}, dependsOn: [a]}}\n",
            script(HELD)
        ),
    );
    story.stage_until("held", "a", "Running");
    patch(&story, "held", r###"{"suspend": true}"###);
    story.release("held", "a");
    let run = story.until("plr/held", "Suspended", |run| run["status"]["phase"] == "Suspended");
    assert_eq!(
        (&stage(&run, "a")["phase"], &stage(&run, "b")["phase"]),
        (&"Succeeded".into(), &"Waiting".into()),
        "{run:#}"
    );
    patch(&story, "held", r###"{"suspend": false}"###);
    assert_eq!(story.finished("held")["status"]["phase"], "Succeeded");
}

#[test]
fn rerun_from_failure_keeps_what_succeeded() {
    let story = Story::new("rerun");
    let go = format!("go/{}", story.namespace());
    let pipeline = r###"
stages:
- name: make
  container: {script: "#!/bin/sh\ndate +%s%N > \"$TRAINYARD_OUT_X\"\n"}
  outputs: [{name: x}]
- name: use
  container: {script: "#!/bin/sh\ntest -e \"$TRAINYARD_IN_GO\" && cp \"$TRAINYARD_IN_X\" \"$TRAINYARD_OUT_COPY\"\n"}
  inputs: [{name: go, uri: "s3://trainyard/GO", optional: true}, {name: x, from: make.x}]
  outputs: [{name: copy}]
"###
    .replace("trainyard/GO", &format!("trainyard/{go}"));
    let bucket = bucket_of_all();
    if bucket.list("trainyard", "go").unwrap().contains(&go) {
        // Left by an earlier run of this story.
        bucket.delete("trainyard", &go).unwrap();
    }
    story.run("first", &pipeline);
    let first = story.finished("first");
    assert_eq!(first["status"]["phase"], "Failed", "{first:#}");
    // What was missing comes, and only what failed runs again.
    bucket.put("trainyard", &go, b"go".to_vec()).unwrap();
    story.apply(
        "apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: second}\nspec: {rerun: {of: first}}\n",
    );
    let second = story.finished("second");
    assert_eq!(second["status"]["phase"], "Succeeded", "{second:#}");
    assert_eq!(stage(&second, "make")["cachedFrom"]["run"], "first");
    assert_eq!(second["status"]["counts"]["cached"], 1);
    assert_eq!(story.artifact(&first, "make", "x", "x"), story.artifact(&second, "use", "copy", "copy"));
    let pods = story.kubectl(&["get", "pods", "--selector", "trainyard.dev/run=second", "--output", "name"]);
    assert_eq!(pods.lines().count(), 1, "{pods}");
}

#[test]
fn a_run_goes_after_its_time_to_live_and_an_edit_of_it_is_refused() {
    let story = Story::new("ttl");
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {{name: brief}}\nspec:\n  ttl: 1d\n  params: {{x: a}}\n  pipeline:\n    params: [{{name: x}}]\n    stages: [{{name: a, container: {{image: \"{}\", command: [\"true\"]}}}}]\n",
        crate::world::busybox()
    ));
    story.finished("brief");
    let refused =
        story.refused(&["patch", "plr", "brief", "--type=merge", "--patch", r###"{"spec": {"params": {"x": "b"}}}"###]);
    assert!(refused.contains("params"), "{refused}");
    patch(&story, "brief", r###"{"ttl": "0s"}"###);
    story.kubectl(&["wait", "--for=delete", "--timeout=60s", "plr/brief"]);
}
