//! Clusters come up, do their work, and leave nothing behind.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use e2e::cluster::{self, Cluster, Options};
use e2e::{command, image, store};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A cluster that is down again when the test ends, however it ends.
struct Brief(Cluster);

impl Brief {
    /// What an earlier run may have left is removed first.
    fn up(options: Options, name: &str) -> Self {
        cluster::down(name, true).unwrap();
        Self(Cluster::up(options).unwrap())
    }

    fn name(&self) -> &str {
        self.0.plan().unwrap().name()
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        // After a failure the logs are worth more than the tidiness.
        let _ = cluster::down(self.name(), !std::thread::panicking());
    }
}

fn kubectl(cluster: &Cluster, arguments: &str) -> String {
    command::run(cluster.kubectl().args(arguments.split(' '))).unwrap()
}

fn apply(cluster: &Cluster, object: &Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    command::run(cluster.kubectl().args(["apply", "-f"]).arg(file.path())).unwrap();
}

fn pod(name: &str, image: &str, command: &[&str]) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": image, "command": command}]},
    })
}

#[test]
fn a_control_plane_stores_objects_and_keeps_a_record_of_them() {
    let brief = Brief::up(Options::control_plane("test-api"), "test-api");
    let cluster = &brief.0;
    apply(cluster, &pod("nobody-runs-it", "none", &[]));
    assert_eq!(kubectl(cluster, "get pod nobody-runs-it -o=jsonpath={.status.phase}"), "Pending");

    let log = std::fs::read_to_string(cluster.audit_log().unwrap()).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let creates = events.filter(|e| e["verb"] == "create" && e["objectRef"]["name"] == "nobody-runs-it");
    assert_eq!(creates.map(|event| event["stage"].clone()).collect::<Vec<_>>(), ["ResponseComplete"]);

    let (plan, components) = cluster::status("test-api").unwrap();
    assert_eq!(components.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["etcd", "kube-apiserver"]);
    let again = Cluster::up(Options::control_plane("test-api")).unwrap();
    assert_eq!(cluster::status("test-api").unwrap().1, components, "a second call starts nothing");

    let other = Cluster::up(Options::control_plane("test-api").with_controller_manager()).unwrap_err();
    assert!(other.to_string().contains("cluster test-api runs as a bare control plane"), "{other}");

    again.down(true).unwrap();
    assert!(!plan.folder().exists());
    assert!(cluster::status("test-api").is_err());
}

#[test]
fn what_was_killed_comes_up_again_with_what_it_knew() {
    let brief = Brief::up(Options::control_plane("test-killed"), "test-killed");
    kubectl(&brief.0, "create namespace kept");
    let pid = |name: &str| cluster::status("test-killed").unwrap().1.iter().find(|(n, _)| *n == name).unwrap().1;
    let old = pid("kube-apiserver").unwrap();
    command::run(Command::new("kill").args(["-9", &old.to_string()])).unwrap();

    Cluster::up(Options::control_plane("test-killed")).unwrap();
    assert_ne!(pid("kube-apiserver").unwrap(), old);
    kubectl(&brief.0, "get namespace kept");
}

#[test]
fn pods_of_kwok_end_as_their_annotations_say() {
    let brief = Brief::up(Options::control_plane("test-kwok").with_kwok(2), "test-kwok");
    let message = "{\"outputs\": \"\\u00fc \\\"quoted\\\"\"}\nand a line";
    let mut good = pod("good", "none", &[]);
    good["metadata"]["annotations"] = serde_json::json!({"kwok-stage/message": message});
    let mut bad = pod("bad", "none", &[]);
    bad["metadata"]["annotations"] = serde_json::json!({"kwok-stage/exit-code": "3"});
    for object in [&good, &bad, &pod("plain", "none", &[])] {
        apply(&brief.0, object);
    }
    kubectl(&brief.0, "wait pod/good pod/plain --for=jsonpath={.status.phase}=Succeeded --timeout=30s");
    kubectl(&brief.0, "wait pod/bad --for=jsonpath={.status.phase}=Failed --timeout=30s");
    let ended = |name: &str| {
        let text =
            kubectl(&brief.0, &format!("get pod {name} -o=jsonpath={{.status.containerStatuses[0].state.terminated}}"));
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(ended("good")["message"], message);
    assert_eq!(ended("bad")["exitCode"], 3);
    assert_eq!(ended("plain").get("message"), None);
}

#[test]
fn a_whole_cluster_runs_a_store_and_leaves_nothing() {
    if Cluster::foreign().is_some() {
        // The machine of KUBECONFIG is not ours to look at.
        return;
    }
    let brief = Brief::up(Options::full("test-full"), "test-full");
    let cluster = &brief.0;
    let access = store::up(cluster, "objects").unwrap();
    assert_eq!(access.endpoint, "http://store.objects.svc:9000");

    // By name, over the Service, to another Pod: an unsigned request is answered, and refused.
    let image = image::build("busybox").and_then(|image| image::load(cluster, &image)).unwrap();
    let script = "until wget -O- http://store.objects.svc:9000/ 2>&1 | grep 403; do :; done";
    apply(cluster, &pod("client", &image, &["timeout", "60", "sh", "-c", script]));
    kubectl(cluster, "wait pod/client --for=jsonpath={.status.phase}=Succeeded --timeout=90s");

    let plan = cluster.plan().unwrap().clone();
    cluster.clone().down(true).unwrap();
    assert!(!plan.folder().exists());
    for path in ["/run/netns", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        assert!(!Path::new(path).join(plan.node()).exists(), "{path}");
    }
    assert!(!Path::new("/sys/class/net").join(plan.link()).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&plan.folder().display().to_string()), "{mounts}");
}
