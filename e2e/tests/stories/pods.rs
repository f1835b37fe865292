//! Pods that are taken away, asked to stop, or do not start: what becomes of the stage.

use std::time::Duration;

use crate::world::{Story, bucket_of_all, cluster, kubectl, place, script, stage};
use e2e::command;
use serde_json::{Value, json};

/// A stage whose first attempt goes on until somebody ends it, and whose second one is quick. It has no retry of its own.
fn until_ended(name: &str) -> String {
    format!(
        "- name: {name}\n  gracePeriod: 1s\n  container: {{script: {}}}\n  outputs: [{{name: text}}]\n",
        script("test $TRAINYARD_ATTEMPT -ge 2 || sleep 600\necho $TRAINYARD_ATTEMPT > $TRAINYARD_OUT_TEXT"),
    )
}

/// The run succeeded at its second attempt, whose first was the infrastructure's fault.
fn repeated(run: &Value, stage_name: &str) -> String {
    let row = stage(run, stage_name);
    assert_eq!((&run["status"]["phase"], &row["attempt"]), (&json!("Succeeded"), &json!(2)), "{run:#}");
    assert_eq!(row["failedAttempts"][0]["reason"], "Disrupted", "{run:#}");
    assert_eq!((&row["failures"]["infra"], &row["failures"]["user"]), (&json!(1), &json!(0)), "{run:#}");
    row["failedAttempts"][0]["message"].as_str().unwrap().to_owned()
}

#[test]
fn an_evicted_pod_is_a_disruption_and_takes_no_retry() {
    let story = Story::new("evicted");
    story.run("evicted", &format!("stages:\n{}", until_ended("work")));
    story.stage_until("evicted", "work", "Running");
    let (namespace, pod) = (story.namespace(), story.pod("evicted", "work"));
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    command::input(cluster().kubectl().args(["create", "--raw", &path, "--filename", "-"]), &eviction.to_string())
        .unwrap();
    let run = story.finished("evicted");
    let message = repeated(&run, "work");
    assert!(message.contains("EvictionByEvictionAPI"), "{message}");
    let events = story.events("evicted");
    assert!(events.contains("StageRetrying") && events.contains("Disrupted"), "{events}");
    assert_eq!(story.artifact(&run, "work", "text", "text"), "2\n");
}

/// A resource that exists once, on one node, as long as this value.
struct Slot {
    node: String,
}

impl Slot {
    const NAME: &str = "story.trainyard.dev/slot";
    const PATH: &str = "/status/capacity/story.trainyard.dev~1slot";

    fn new() -> Self {
        let slot = Self { node: kubectl(&["get", "nodes", "--output", "jsonpath={.items[0].metadata.name}"]) };
        slot.patch(&json!([{"op": "add", "path": Self::PATH, "value": "1"}]));
        let allocatable = r"--for=jsonpath={.status.allocatable.story\.trainyard\.dev/slot}=1";
        kubectl(&["wait", &format!("node/{}", slot.node), allocatable, "--timeout=60s"]);
        slot
    }

    fn patch(&self, patch: &Value) {
        kubectl(&["patch", "node", &self.node, "--subresource=status", "--type=json", "--patch", &patch.to_string()]);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.patch(&json!([{"op": "remove", "path": Self::PATH}]));
        kubectl(&["delete", "priorityclass", "story-urgent", "--ignore-not-found"]);
    }
}

#[test]
fn a_preempted_pod_is_a_disruption_and_waits_for_room() {
    let story = Story::new("preempted");
    let slot = Slot::new();
    let resources = format!("resources: {{requests: {{{0}: 1}}, limits: {{{0}: 1}}}}", Slot::NAME);
    let work = until_ended("work").replace("container: {", &format!("container: {{{resources}, "));
    story.run("preempted", &format!("stages:\n{work}"));
    story.stage_until("preempted", "work", "Running");
    story.apply(&format!(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: story-urgent}}\nvalue: 1000\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: urgent}}\nspec:\n  priorityClassName: story-urgent\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 1\n  \
         securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}\n  \
         containers:\n  - {{name: a, image: \"{}\", command: [sleep, '600'], {resources}, \
         securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}\n",
        crate::world::busybox(),
    ));
    // The next attempt comes after the one that took its place, and says so.
    let waiting = story.until("plr/preempted", "attempt 2 without room", |run| {
        stage(run, "work")["attempt"] == 2 && run["status"]["reason"] == "Unschedulable"
    });
    assert!(
        waiting["status"]["message"].as_str().unwrap().contains("Insufficient story.trainyard.dev/slot"),
        "{waiting:#}"
    );
    story.kubectl(&["delete", "pod", "urgent"]);
    let message = repeated(&story.finished("preempted"), "work");
    assert!(message.contains("PreemptionByScheduler"), "{message}");
    drop(slot);
}

/// What a queue such as Kueue's does: Pods get a gate when they are created, and lose it when it is their turn.
struct Queue;

impl Queue {
    fn new(namespace: &str) -> Option<Self> {
        let objects = format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\nmetadata: {{name: story-queue}}\nspec:\n  \
             failurePolicy: Fail\n  reinvocationPolicy: Never\n  matchConstraints:\n    resourceRules:\n    \
             - {{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}\n    \
             namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n  mutations:\n  \
             - patchType: ApplyConfiguration\n    applyConfiguration:\n      \
             expression: 'Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: \"story.trainyard.dev/queue\"}}]}}}}'\n---\n\
             apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicyBinding\nmetadata: {{name: story-queue}}\nspec: {{policyName: story-queue}}\n"
        );
        let kinds = kubectl(&["api-resources", "--api-group=admissionregistration.k8s.io", "--output=name"]);
        if !kinds.contains("mutatingadmissionpolicies.") {
            eprintln!("not run: the cluster has no MutatingAdmissionPolicy, which stands for a queue here");
            return None;
        }
        let queue = Self;
        command::input(cluster().kubectl().args(["apply", "--filename", "-"]), &objects).unwrap();
        Some(queue)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for kind in ["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"] {
            kubectl(&["delete", kind, "story-queue", "--ignore-not-found"]);
        }
    }
}

#[test]
fn a_pod_that_a_queue_holds_back_is_queued_and_starts_when_it_is_its_turn() {
    let story = Story::new("queued");
    let Some(queue) = Queue::new(story.namespace()) else { return };
    // The API server takes a moment to know the policy.
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: probe}}\nspec: {{securityContext: {{runAsNonRoot: true, runAsUser: 1, \
         seccompProfile: {{type: RuntimeDefault}}}}, containers: [{{name: a, image: \"{}\", \
         securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]}}\n",
        crate::world::busybox()
    );
    let mut dry = cluster().kubectl();
    dry.args(["--namespace", story.namespace(), "create", "--dry-run=server", "--output=yaml", "--filename", "-"]);
    crate::world::wait_for("the queue", || {
        command::input(&mut dry, &pod).unwrap().contains("story.trainyard.dev/queue")
    });
    story.run("waits", "stages:\n- {name: a, container: {command: [\"true\"]}}\n");
    let run =
        story.until_within(Duration::from_secs(30), "plr/waits", "Queued", |run| run["status"]["reason"] == "Queued");
    assert_eq!(run["status"]["phase"], "Running", "{run:#}");
    let pod = story.pod("waits", "a");
    story.kubectl(&[
        "patch",
        "pod",
        &pod,
        "--type=json",
        "--patch",
        r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#,
    ]);
    let run = story.finished("waits");
    assert_eq!((&run["status"]["phase"], &stage(&run, "a")["attempt"]), (&json!("Succeeded"), &json!(1)), "{run:#}");
    drop(queue);
}

#[test]
fn a_program_that_is_asked_to_stop_may_end_well_and_is_repeated_else() {
    let story = Story::new("term");
    let polite = "trap 'echo whole > $TRAINYARD_OUT_TEXT; exit 0' TERM\nsleep 600 &\necho ready\nwait";
    story.run(
        "asked",
        &format!(
            "stages:\n- name: polite\n  gracePeriod: 20s\n  container: {{script: {}}}\n  outputs: [{{name: text}}]\n{}",
            script(polite),
            until_ended("deaf").replace("sleep 600", "{ echo part > $TRAINYARD_OUT_TEXT; echo ready; sleep 600; }"),
        ),
    );
    for name in ["polite", "deaf"] {
        story.stage_until("asked", name, "Running");
        let pod = story.pod("asked", name);
        story.log_until(&pod, "ready");
        story.kubectl(&["delete", "pod", &pod, "--wait=false"]);
    }
    let run = story.finished("asked");
    repeated(&run, "deaf");
    assert_eq!(stage(&run, "polite")["attempt"], 1, "{run:#}");
    assert_eq!(story.artifact(&run, "polite", "text", "text"), "whole\n");
    assert_eq!(story.artifact(&run, "deaf", "text", "text"), "2\n");
    // Of the first attempt there is nothing that could be taken for an output.
    let (bucket, prefix) = place(&run, "deaf", "text");
    let below = prefix.strip_suffix("2/text/").unwrap();
    let keys = bucket_of_all().list(&bucket, below).unwrap();
    assert!(keys.iter().all(|key| !key.starts_with(&format!("{below}1/text"))), "{keys:?}");
}

#[test]
fn a_deleted_run_takes_its_pods_along() {
    let story = Story::new("deleted");
    story.run("gone", "stages:\n- {name: a, gracePeriod: 1s, container: {command: [sleep, '600']}}\n");
    story.stage_until("gone", "a", "Running");
    for object in ["plr/gone".to_owned(), format!("pod/{}", story.pod("gone", "a"))] {
        assert_eq!(story.get(&object).unwrap()["metadata"]["finalizers"], Value::Null, "{object}");
    }
    story.kubectl(&["delete", "plr", "gone", "--timeout=60s"]);
    story.kubectl(&["wait", "--for=delete", "pod,controllerrevision", "--all", "--timeout=60s"]);
}

#[test]
fn a_pod_that_cannot_mount_its_code_says_within_half_a_minute_where_to_look() {
    let story = Story::new("mount");
    story.run(
        "waits",
        &format!(
            "code: {{configMapName: nobody}}\nstages:\n- {{name: a, container: {{script: {}}}}}\n",
            script("cat code.txt")
        ),
    );
    story.stage_until("waits", "a", "Pending");
    let run = story.until_within(Duration::from_secs(35), "plr/waits", "a word on the volumes", |run| {
        run["status"]["message"].as_str().is_some_and(|message| message.contains("ConfigMap nobody"))
    });
    let message = run["status"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("kubectl describe pod -n {}", story.namespace())), "{message}");
    assert_eq!((&run["status"]["phase"], &run["status"]["reason"]), (&json!("Running"), &json!("Starting")), "{run:#}");
    // It comes a moment later, and nothing needs to be done.
    story.kubectl(&["create", "configmap", "nobody", "--from-literal=code.txt=here"]);
    let run = story.finished("waits");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    assert_eq!(story.kubectl(&["logs", &story.pod("waits", "a")]).trim(), "here");
}

#[test]
fn whoever_writes_more_than_the_scratch_has_room_for_has_a_full_disk() {
    let story = Story::new("disk");
    story.run(
        "full",
        &format!(
            "stages:\n- name: greedy\n  gracePeriod: 1s\n  pod: {{scratch: {{size: 16Mi}}}}\n  container: {{script: {}}}\n",
            script("head -c 67108864 /dev/zero > $TMPDIR/big\nsleep 600"),
        ),
    );
    let run = story.finished("full");
    let row = stage(&run, "greedy");
    assert_eq!((&run["status"]["reason"], &row["attempt"]), (&json!("DiskFull"), &json!(1)), "{run:#}");
    let message = run["status"]["message"].as_str().unwrap();
    for word in ["16Mi", "/trainyard", "pod.scratch.size"] {
        assert!(message.contains(word), "no {word} in: {message}");
    }
}
