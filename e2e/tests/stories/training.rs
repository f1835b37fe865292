//! Training jobs: many Pods, one outcome.

use serde_json::Value;

use crate::jobs::{finished, pods, running};
use crate::world::{Story, busybox, cluster};

/// A job of so many ranks of one role in busybox.
fn job(story: &Story, name: &str, replicas: u32, script: &str, more: &str) {
    let script = serde_json::to_string(&format!("#!/bin/sh\n{script}\n")).unwrap();
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}}}\nspec:\n  framework: None\n  gracePeriod: 2s\n  roles: [{{name: worker, replicas: {replicas}, container: {{image: \"{}\", script: {script}}}}}]\n{more}",
        busybox(),
    ));
}

#[test]
fn two_ranks_know_each_other_and_rank_0_publishes() {
    let story = Story::new("ranks");
    job(
        &story,
        "two",
        2,
        "set -e\necho rank $TRAINYARD_RANK of $TRAINYARD_WORLD_SIZE\nnslookup worker-1.two.$TRAINYARD_NAMESPACE.svc.cluster.local\n[ $TRAINYARD_RANK != 0 ] || { cat $TRAINYARD_ROOT/hosts > $TRAINYARD_OUT_HOSTS; echo 7 > $TRAINYARD_ROOT/results/answer; }",
        "  outputs: [{name: hosts}]\n  results: [{name: answer, type: integer}]\n",
    );
    let job = finished(&story, "two");
    let status = &job["status"];
    assert_eq!((&status["phase"], &status["ready"]), (&"Succeeded".into(), &"2/2".into()), "{job:#}");
    assert_eq!((&status["results"]["answer"], &status["restarts"]), (&7.into(), &Value::Null), "{job:#}");
    let uri = status["outputs"][0]["uri"].as_str().unwrap();
    assert!(uri.contains("/trainingjobs/two."), "{uri}");
    let (bucket, prefix) = uri.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    let store = e2e::store::NAMESPACE;
    let connection = e2e::bucket::Connection::open(cluster(), store, &e2e::store::access(store)).unwrap();
    let hosts = connection.get(bucket, &format!("{prefix}hosts")).unwrap();
    assert_eq!(String::from_utf8(hosts).unwrap(), "worker-0.two\nworker-1.two\n");
    let columns = story.kubectl(&["get", "tj"]);
    assert!(columns.starts_with("NAME"), "{columns}");
}

#[test]
fn a_deleted_rank_restarts_all_of_them_once() {
    let story = Story::new("restart");
    let script = "trap 'exit 0' TERM\n[ \"$TRAINYARD_ATTEMPT\" -lt 2 ] || exit 0\nwhile :; do sleep 0.2; done";
    job(&story, "group", 3, script, "");
    running(&story, "group", 1);
    let before = pods(&story, "group", 1);
    story.kubectl(&["delete", "pod", &before[2], "--wait=false"]);
    let job = finished(&story, "group");
    let status = &job["status"];
    assert_eq!(
        (&status["phase"], &status["restarts"], &status["attempt"]),
        (&"Succeeded".into(), &1.into(), &2.into()),
        "{job:#}"
    );
    let first = &status["attempts"][0]["firstFailure"];
    assert_eq!((&first["role"], &first["index"], &first["reason"]), (&"worker".into(), &2.into(), &"Disrupted".into()));
    assert!(pods(&story, "group", 1).is_empty(), "no Pod of the first attempt is left");
    assert_eq!(pods(&story, "group", 2).len(), 3);
}

#[test]
fn a_failing_rank_is_named_with_its_code_and_last_lines() {
    let story = Story::new("rank-failure");
    let script = "[ $TRAINYARD_RANK = 1 ] && { echo loss is nan >&2; exit 3; }\nsleep 600";
    job(&story, "nan", 2, script, "  restart: {limit: 0}\n");
    let job = finished(&story, "nan");
    assert_eq!((&job["status"]["phase"], &job["status"]["reason"]), (&"Failed".into(), &"UserError".into()), "{job:#}");
    let description = story.kubectl(&["describe", "tj", "nan"]);
    for word in ["worker-1", "exit code 3", "loss is nan", "kubectl logs"] {
        assert!(description.contains(word), "no {word} in:\n{description}");
    }
}

#[test]
fn a_suspended_job_has_no_pods_and_goes_on_when_resumed() {
    let story = Story::new("suspend");
    let script = "trap 'exit 0' TERM\n[ \"$TRAINYARD_ATTEMPT\" -lt 2 ] || exit 0\nwhile :; do sleep 0.2; done";
    job(&story, "pause", 2, script, "");
    running(&story, "pause", 1);
    story.kubectl(&["patch", "tj", "pause", "--type=merge", "--patch", r#"{"spec": {"suspend": true}}"#]);
    story.kubectl(&["wait", "--for=condition=Suspended", "--timeout=120s", "tj/pause"]);
    assert_eq!(story.kubectl(&["get", "pods", "--output", "name"]), "");
    story.kubectl(&["patch", "tj", "pause", "--type=merge", "--patch", r#"{"spec": {"suspend": false}}"#]);
    let job = finished(&story, "pause");
    let status = &job["status"];
    assert_eq!(
        (&status["phase"], &status["attempt"], &status["restarts"]),
        (&"Succeeded".into(), &2.into(), &Value::Null),
        "{job:#}"
    );
}
