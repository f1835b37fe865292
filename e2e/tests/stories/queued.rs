//! Trainings in queues: a stand-in does to their Pods what Kueue's documents say, and drives jobs by `spec.suspend`.

use serde_json::{Value, json};

use crate::jobs::{finished, pods, running};
use crate::queue::Queue;
use crate::world::{Story, busybox};

/// A job of two ranks in a queue. Each rank ends when it is told to, by a file of its scratch.
fn queued(story: &Story, name: &str, script: &str, more: &str) {
    let script = serde_json::to_string(&format!("#!/bin/sh\n{script}\n")).unwrap();
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}, labels: {{kueue.x-k8s.io/queue-name: team}}}}\n\
         spec:\n  framework: None\n  gracePeriod: 2s\n  restart: {{backoff: {{initial: 0s}}}}\n  \
         roles: [{{name: worker, replicas: 2, container: {{image: \"{}\", script: {script}}}}}]\n{more}",
        busybox(),
    ));
}

/// Goes on until it is let go, or asked to stop.
const HELD: &str = "trap 'exit 0' TERM\nuntil test -e \"$TMPDIR/go\"; do sleep 0.1; done";
/// The first attempt is held; rank 1 of it fails when it is let go.
const FAILS_ONCE: &str = "trap 'exit 0' TERM\n[ $TRAINYARD_ATTEMPT = 1 ] || exit 0\nuntil test -e \"$TMPDIR/go\"; do sleep 0.1; done\nexit 3";

fn release(story: &Story, pod: &str) {
    story.kubectl(&["exec", pod, "--", "touch", "/trainyard/tmp/go"]);
}

fn waits(story: &Story, name: &str) -> Value {
    story.until(&format!("tj/{name}"), "Queued", |job| job["status"]["reason"] == "Queued")
}

#[test]
fn a_queue_lets_all_ranks_of_an_attempt_go_and_has_its_room_back() {
    let story = Story::new("queue");
    let Some(queue) = Queue::open(story.namespace(), 2) else { return };
    queued(&story, "first", FAILS_ONCE, "");
    running(&story, "first", 1);
    // There is no room for it, and no part of it starts.
    queued(&story, "second", "exit 0", "");
    let job = waits(&story, "second");
    assert_eq!((&job["status"]["phase"], &job["status"]["ready"]), (&json!("Pending"), &json!("0/2")), "{job:#}");
    // The first one's attempt ends for all. Its next one is another group, and stands behind the second job.
    release(&story, &pods(&story, "first", 1)[1]);
    let second = finished(&story, "second");
    assert_eq!(
        (&second["status"]["phase"], &second["status"]["restarts"]),
        (&json!("Succeeded"), &Value::Null),
        "{second:#}"
    );
    let first = finished(&story, "first");
    let status = &first["status"];
    assert_eq!(
        (&status["phase"], &status["restarts"], &status["failures"]["user"]),
        (&json!("Succeeded"), &json!(1), &json!(1)),
        "{first:#}"
    );
    let history = queue.history();
    let jobs: Vec<_> = history.iter().map(|group| group.split('-').next().unwrap()).collect();
    assert_eq!((jobs, queue.most()), (vec!["first", "second", "first"], 2), "{history:?}");
}

#[test]
fn a_job_that_gives_way_to_another_is_disrupted_and_waits_in_the_queue_again() {
    let story = Story::new("queue-evicts");
    let Some(queue) = Queue::open(story.namespace(), 2) else { return };
    queued(&story, "low", &HELD.replace("until", "[ $TRAINYARD_ATTEMPT = 1 ] || exit 0\nuntil"), "");
    running(&story, "low", 1);
    queued(&story, "high", HELD, "");
    waits(&story, "high");
    queue.evict("low");
    running(&story, "high", 1);
    let job = waits(&story, "low");
    let first = &job["status"]["attempts"][0]["firstFailure"];
    assert_eq!((&first["class"], &first["reason"]), (&json!("Infra"), &json!("Disrupted")), "{job:#}");
    for pod in pods(&story, "high", 1) {
        release(&story, &pod);
    }
    assert_eq!(finished(&story, "high")["status"]["phase"], "Succeeded");
    let low = finished(&story, "low");
    assert_eq!(
        (&low["status"]["phase"], &low["status"]["failures"]["infra"]),
        (&json!("Succeeded"), &json!(1)),
        "{low:#}"
    );
    assert_eq!(queue.most(), 2);
}

#[test]
fn a_job_that_is_suspended_while_it_waits_in_a_queue_gives_up_its_place() {
    let story = Story::new("queue-suspend");
    let Some(queue) = Queue::open(story.namespace(), 2) else { return };
    queued(&story, "first", HELD, "");
    running(&story, "first", 1);
    queued(&story, "second", "exit 0", "");
    waits(&story, "second");
    suspend(&story, "second", true);
    story.kubectl(&["wait", "--for=condition=Suspended", "--timeout=60s", "tj/second"]);
    for pod in pods(&story, "first", 1) {
        release(&story, &pod);
    }
    assert_eq!(finished(&story, "first")["status"]["phase"], "Succeeded");
    suspend(&story, "second", false);
    let second = finished(&story, "second");
    assert_eq!(
        (&second["status"]["phase"], &second["status"]["restarts"]),
        (&json!("Succeeded"), &Value::Null),
        "{second:#}"
    );
    drop(queue);
}

fn suspend(story: &Story, name: &str, value: bool) {
    let patch = json!({"spec": {"suspend": value}}).to_string();
    story.kubectl(&["patch", "tj", name, "--type=merge", "--patch", &patch]);
}

/// Kueue's other way: a job is created suspended, is resumed when there is room for it, and suspended when it must give way. Its room is
/// another one's when `Suspended` is True, and not before.
#[test]
fn a_queue_of_jobs_drives_them_by_suspend() {
    let story = Story::new("queue-jobs");
    let script = serde_json::to_string(&format!("#!/bin/sh\n{HELD}\n")).unwrap();
    for name in ["low", "high"] {
        story.apply(&format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}}}\nspec:\n  suspend: true\n  framework: None\n  \
             gracePeriod: 2s\n  roles: [{{name: worker, replicas: 2, container: {{image: \"{}\", script: {script}}}}}]\n",
            busybox(),
        ));
        story.kubectl(&["wait", "--for=condition=Suspended", "--timeout=60s", &format!("tj/{name}")]);
    }
    assert_eq!(story.kubectl(&["get", "pods", "--output", "name"]), "");
    let alive = |name: &str| {
        let selector = format!("trainyard.dev/job={name}");
        story.kubectl(&[
            "get",
            "pods",
            "--selector",
            &selector,
            "--field-selector=status.phase=Running",
            "--output",
            "name",
        ])
    };
    suspend(&story, "low", false);
    running(&story, "low", 1);
    suspend(&story, "low", true);
    story.kubectl(&["wait", "--for=condition=Suspended", "--timeout=60s", "tj/low"]);
    assert_eq!(alive("low"), "", "its room is free");
    suspend(&story, "high", false);
    let high = running(&story, "high", 1)["status"]["attempt"].as_u64().unwrap();
    for pod in pods(&story, "high", high) {
        release(&story, &pod);
    }
    assert_eq!(finished(&story, "high")["status"]["phase"], "Succeeded");
    suspend(&story, "low", false);
    running(&story, "low", 2);
    for pod in pods(&story, "low", 2) {
        release(&story, &pod);
    }
    let low = finished(&story, "low");
    assert_eq!((&low["status"]["phase"], &low["status"]["restarts"]), (&json!("Succeeded"), &Value::Null), "{low:#}");
}
