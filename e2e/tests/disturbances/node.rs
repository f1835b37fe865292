//! The node: its kubelet is killed, it does not answer any more, it is drained.

use std::time::Duration;

use crate::machine::{Machine, alone, pod_uid};
use crate::world::{HELD, Story, cluster, kubectl, script, stage};
use e2e::command;
use serde_json::{Value, json};

/// A stage that goes on when somebody lets it.
fn held(name: &str, more: &str) -> String {
    let lines =
        format!("echo program of attempt $TRAINYARD_ATTEMPT\n{HELD}\necho $TRAINYARD_ATTEMPT > $TRAINYARD_OUT_TEXT");
    format!("- name: {name}\n  container: {{script: {}}}\n  outputs: [{{name: text}}]\n{more}", script(&lines))
}

#[test]
fn a_kubelet_that_is_killed_is_not_seen() {
    let _alone = alone();
    let Some(machine) = Machine::of_ours("a_kubelet_that_is_killed_is_not_seen") else { return };
    let story = Story::new("kubelet");
    story.run(
        "kubelet",
        &format!(
            "stages:\n{}{}- {{name: after, dependsOn: [commits], container: {{command: [\"true\"]}}}}\n",
            held("commits", ""),
            held("runs", "")
        ),
    );
    for name in ["commits", "runs"] {
        story.stage_until("kubelet", name, "Running");
        story.log_until(&story.pod("kubelet", name), "program of attempt 1");
    }
    let (commits, runs) = (pod_uid(&story, "kubelet", "commits"), pod_uid(&story, "kubelet", "runs"));
    machine.kill("kubelet");
    // It commits while nobody looks after its Pod, and counts: the runner says so itself.
    machine.release(&commits);
    let run = story.stage_until("kubelet", "commits", "Succeeded");
    assert_eq!(stage(&run, "runs")["phase"], "Running", "{run:#}");
    machine.mend();
    machine.release(&runs);
    let run = story.finished("kubelet");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    for name in ["commits", "runs", "after"] {
        assert_eq!(
            (&stage(&run, name)["attempt"], &stage(&run, name)["failures"]),
            (&json!(1), &Value::Null),
            "{run:#}"
        );
    }
    let pods = story.kubectl(&["get", "pods", "--output", "name"]);
    assert_eq!(pods.lines().count(), 3, "{pods}");
    for name in ["commits", "runs"] {
        let log = story.kubectl(&["logs", &story.pod("kubelet", name)]);
        assert_eq!(log.matches("program of attempt").count(), 1, "{log}");
    }
}

#[test]
fn a_node_that_does_not_answer_is_told_and_its_stage_repeated_when_its_pod_is_gone() {
    let _alone = alone();
    let Some(machine) = Machine::of_ours("a_node_that_does_not_answer_...") else { return };
    let node = cluster().plan().unwrap().node();
    let _second = machine.second_node();
    let story = Story::new("node-lost");
    // Kubernetes calls a node lost after 50 s; what the Pod does then, its pipeline can say.
    let lines = "test $TRAINYARD_ATTEMPT -ge 2 || sleep 600\necho $TRAINYARD_ATTEMPT > $TRAINYARD_OUT_TEXT";
    let toleration = "{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}";
    story.run(
        "lost",
        &format!(
            "stages:\n- name: work\n  pod: {{tolerations: [{toleration}]}}\n  container: {{script: {}}}\n  outputs: [{{name: text}}]\n",
            script(lines)
        ),
    );
    story.stage_until("lost", "work", "Running");
    let pod = story.pod("lost", "work");
    machine.kill("kubelet");
    let run = story
        .until_within(Duration::from_secs(360), "plr/lost", "NodeLost", |run| run["status"]["reason"] == "NodeLost");
    let message = run["status"]["message"].as_str().unwrap();
    for word in [&node, &pod, "kubectl delete pod", "--force"] {
        assert!(message.contains(word), "no {word} in: {message}");
    }
    // Kubernetes deletes the Pod, and nobody there hears of it: as long as it may still run, there is no second one.
    story.until(&format!("pod/{pod}"), "its deletion", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    let run = story.get("plr/lost").unwrap();
    assert_eq!(
        (&stage(&run, "work")["attempt"], &stage(&run, "work")["phase"]),
        (&json!(1), &json!("Running")),
        "{run:#}"
    );
    let pods = story.kubectl(&["get", "pods", "--output", "name"]);
    assert_eq!(pods.lines().count(), 1, "{pods}");
    story.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0"]);
    let run = story.until("plr/lost", "attempt 2", |run| stage(run, "work")["attempt"] == 2);
    let row = stage(&run, "work");
    assert_eq!(
        (&row["failedAttempts"][0]["reason"], &row["failures"]["infra"]),
        (&json!("NodeLost"), &json!(1)),
        "{run:#}"
    );
    machine.mend();
    // While the node's taints go one by one, Kubernetes may take the new Pod away once more: it is counted as before.
    let run = story.finished("lost");
    let row = stage(&run, "work");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    let attempt = row["attempt"].as_u64().unwrap();
    assert_eq!(
        (row["failures"]["infra"].as_u64(), &row["failures"]["user"]),
        (Some(attempt - 1), &json!(0)),
        "{run:#}"
    );
    assert_eq!(story.artifact(&run, "work", "text", "text"), format!("{attempt}\n"));
}

/// A node that takes Pods again when this value goes.
struct Cordoned(String);

impl Drop for Cordoned {
    fn drop(&mut self) {
        kubectl(&["uncordon", &self.0]);
    }
}

#[test]
fn a_drained_node_costs_an_attempt_and_no_retry() {
    let _alone = alone();
    let story = Story::new("drained");
    let lines = "test $TRAINYARD_ATTEMPT -ge 2 || sleep 600";
    story.run(
        "drained",
        &format!("stages:\n- {{name: work, gracePeriod: 1s, container: {{script: {}}}}}\n", script(lines)),
    );
    story.stage_until("drained", "work", "Running");
    let pod = story.get(&format!("pod/{}", story.pod("drained", "work"))).unwrap();
    let node = Cordoned(pod["spec"]["nodeName"].as_str().unwrap().to_owned());
    command::run(cluster().kubectl().args([
        "drain",
        &node.0,
        "--pod-selector=trainyard.dev/run=drained",
        "--delete-emptydir-data",
        "--timeout=60s",
    ]))
    .unwrap();
    drop(node);
    let run = story.finished("drained");
    let row = stage(&run, "work");
    assert_eq!((&run["status"]["phase"], &row["attempt"]), (&json!("Succeeded"), &json!(2)), "{run:#}");
    assert_eq!(row["failedAttempts"][0]["reason"], "Disrupted", "{run:#}");
    assert_eq!((&row["failures"]["infra"], &row["failures"]["user"]), (&json!(1), &json!(0)), "{run:#}");
}
