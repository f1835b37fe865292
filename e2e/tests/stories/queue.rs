//! A stand-in for Kueue, as far as its documented contract for groups of plain Pods goes: what it does to Pods, and when.
//!
//! * A Pod with the label `kueue.x-k8s.io/queue-name` gets a scheduling gate, a finalizer and a label when it is created.
//! * When as many Pods of a group exist as its annotation says, and there is room for all of them, all lose the gate.
//! * A group has finished when all of its Pods have succeeded; or when all have ended and one of them says that it is not replaced within its
//!   group. Then its room is free, and its Pods lose the finalizer. Until then Kueue waits for replacements, and so does this.
//! * A group that must give way has its Pods deleted, with the condition `TerminationTarget`.
//!
//! Quota is a number of Pods, and groups are admitted in the order of their creation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::command;
use serde_json::{Value, json};

use crate::world::{busybox, cluster, kubectl, wait_for};

const GATE: &str = "kueue.x-k8s.io/admission";
const MANAGED: &str = "kueue.x-k8s.io/managed";
const QUEUE: &str = "kueue.x-k8s.io/queue-name";
const GROUP: &str = "kueue.x-k8s.io/pod-group-name";
const COUNT: &str = "kueue.x-k8s.io/pod-group-total-count";
const RETRIABLE: &str = "kueue.x-k8s.io/retriable-in-group";

/// One queue for the Pods of a namespace, as long as this value.
pub(crate) struct Queue {
    namespace: String,
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<Shared>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    /// Groups that have room, with their sizes.
    admitted: BTreeMap<String, usize>,
    /// In the order in which they were admitted.
    history: Vec<String>,
    /// Most Pods that had room at the same time.
    most: usize,
}

/// The Pods of a group, as one look shows them.
struct Group<'a> {
    name: String,
    count: usize,
    created: &'a str,
    pods: Vec<&'a Value>,
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn gated(pod: &Value) -> bool {
    pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| gates.iter().any(|gate| gate["name"] == GATE))
}

impl Group<'_> {
    /// Pods that run or can still be run.
    fn active(&self) -> usize {
        let lost = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string() && pod["spec"]["nodeName"].is_null();
        self.pods.iter().filter(|pod| pod["status"]["phase"] != "Failed" && !lost(pod)).count()
    }

    fn has_finished(&self) -> bool {
        let succeeded = self.pods.iter().filter(|pod| pod["status"]["phase"] == "Succeeded").count();
        let is_replaced = |pod: &Value| pod["metadata"]["annotations"][RETRIABLE] != "false";
        succeeded == self.count
            || (self.pods.iter().all(|pod| ended(pod)) && self.pods.iter().any(|pod| !is_replaced(pod)))
    }
}

impl Queue {
    /// A queue with room for so many Pods. `None` where the cluster cannot change Pods without a webhook.
    pub(crate) fn open(namespace: &str, room: usize) -> Option<Self> {
        let kinds = kubectl(&["api-resources", "--api-group=admissionregistration.k8s.io", "--output=name"]);
        if !kinds.contains("mutatingadmissionpolicies.") {
            eprintln!("not run: the cluster has no MutatingAdmissionPolicy, which stands for Kueue's webhook here");
            return None;
        }
        let (stop, shared): (Arc<AtomicBool>, Arc<Mutex<Shared>>) = Default::default();
        let queue = Self {
            namespace: namespace.to_owned(),
            stop: Arc::clone(&stop),
            shared: Arc::clone(&shared),
            thread: Mutex::default(),
        };
        queue.admission();
        let namespace = namespace.to_owned();
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                look(&namespace, room, &shared);
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        *queue.thread.lock().unwrap() = Some(thread);
        Some(queue)
    }

    fn policy(&self) -> String {
        format!("{}-queue", self.namespace)
    }

    /// What Kueue's webhook does when a Pod is created.
    fn admission(&self) {
        let (name, namespace) = (self.policy(), &self.namespace);
        let objects = format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             failurePolicy: Fail\n  reinvocationPolicy: Never\n  matchConstraints:\n    resourceRules:\n    \
             - {{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}\n    \
             namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n    \
             objectSelector: {{matchExpressions: [{{key: {QUEUE}, operator: Exists}}]}}\n  mutations:\n  \
             - patchType: ApplyConfiguration\n    applyConfiguration:\n      \
             expression: 'Object{{metadata: Object.metadata{{labels: {{\"{MANAGED}\": \"true\"}}, finalizers: [\"{MANAGED}\"]}}, \
             spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: \"{GATE}\"}}]}}}}'\n---\n\
             apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicyBinding\nmetadata: {{name: {name}}}\nspec: {{policyName: {name}}}\n"
        );
        command::input(cluster().kubectl().args(["apply", "--filename", "-"]), &objects).unwrap();
        // The API server takes a moment to know the policy.
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "probe", "labels": {QUEUE: "probe"}},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "a", "image": busybox(),
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        let mut dry = cluster().kubectl();
        dry.args(["--namespace", namespace, "create", "--dry-run=server", "--output=yaml", "--filename", "-"]);
        wait_for("the queue", || command::input(&mut dry, &pod.to_string()).unwrap().contains(GATE));
    }

    /// The groups that were let go, in this order.
    pub(crate) fn history(&self) -> Vec<String> {
        self.shared.lock().unwrap().history.clone()
    }

    /// Most Pods that had room at the same time.
    pub(crate) fn most(&self) -> usize {
        self.shared.lock().unwrap().most
    }

    /// Takes the room of a job's group back, for somebody more important.
    pub(crate) fn evict(&self, job: &str) {
        let selector = format!("trainyard.dev/job={job},{MANAGED}=true");
        let list = pods(&self.namespace, &selector);
        for pod in list.iter().filter(|pod| !ended(pod)) {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let condition = json!({"status": {"conditions": [{
                "type": "TerminationTarget", "status": "True", "reason": "WorkloadEvictedDueToPreempted",
                "message": "Preempted to accommodate a workload of a higher priority",
            }]}});
            let patch = condition.to_string();
            let namespace = ["--namespace", &self.namespace];
            kubectl(&[&namespace[..], &["patch", "pod", name, "--subresource=status", "--patch", &patch]].concat());
            kubectl(&[&namespace[..], &["delete", "pod", name, "--wait=false"]].concat());
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        for kind in ["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"] {
            let _ = command::run(cluster().kubectl().args(["delete", kind, &self.policy(), "--ignore-not-found"]));
        }
        for pod in pods(&self.namespace, &format!("{MANAGED}=true")) {
            release(&self.namespace, &pod);
        }
    }
}

fn pods(namespace: &str, selector: &str) -> Vec<Value> {
    let arguments = ["--namespace", namespace, "get", "pods", "--selector", selector, "--output", "json"];
    let list: Value = serde_json::from_str(&kubectl(&arguments)).unwrap();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Changes a Pod, unless it is gone.
fn patch(namespace: &str, pod: &Value, patch: &Value) {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let patch = patch.to_string();
    let mut kubectl = cluster().kubectl();
    kubectl.args(["--namespace", namespace, "patch", "pod", name, "--type=json", "--patch", &patch]);
    let _ = command::run(&mut kubectl);
}

fn release(namespace: &str, pod: &Value) {
    let finalizers = pod["metadata"]["finalizers"].as_array();
    if let Some(at) = finalizers.and_then(|all| all.iter().position(|finalizer| finalizer == MANAGED)) {
        let path = format!("/metadata/finalizers/{at}");
        let test = json!({"op": "test", "path": path, "value": MANAGED});
        patch(namespace, pod, &json!([test, {"op": "remove", "path": path}]));
    }
}

fn look(namespace: &str, room: usize, shared: &Mutex<Shared>) {
    let list = pods(namespace, &format!("{MANAGED}=true"));
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for pod in &list {
        let Some(name) = pod["metadata"]["labels"][GROUP].as_str() else { continue };
        let count = pod["metadata"]["annotations"][COUNT].as_str().unwrap().parse().unwrap();
        let created = pod["metadata"]["creationTimestamp"].as_str().unwrap();
        let new = || Group { name: name.to_owned(), count, created, pods: Vec::new() };
        let group = groups.entry(name).or_insert_with(new);
        assert_eq!(group.count, count, "all Pods of group {name} say the same");
        group.created = group.created.min(created);
        group.pods.push(pod);
    }
    let mut shared = shared.lock().unwrap();
    let there: BTreeSet<&str> = groups.keys().copied().collect();
    shared.admitted.retain(|name, _| there.contains(name.as_str()));
    let mut waiting = Vec::new();
    for group in groups.values() {
        if shared.admitted.contains_key(&group.name) && group.has_finished() {
            shared.admitted.remove(&group.name);
        }
        if group.has_finished() {
            group.pods.iter().for_each(|pod| release(namespace, pod));
        } else if !shared.admitted.contains_key(&group.name) && group.pods.iter().any(|pod| gated(pod)) {
            waiting.push(group);
        }
    }
    waiting.sort_by_key(|group| (group.created, group.name.clone()));
    for group in waiting {
        let used: usize = shared.admitted.values().sum();
        if group.active() < group.count || used + group.count > room {
            continue;
        }
        shared.admitted.insert(group.name.clone(), group.count);
        shared.history.push(group.name.clone());
        shared.most = shared.most.max(used + group.count);
        for pod in &group.pods {
            patch(namespace, pod, &json!([{"op": "remove", "path": "/spec/schedulingGates"}]));
        }
    }
}
