//! Registries that say no, or nothing of use.

use std::time::Duration;

use crate::world::{Story, busybox, kubectl, stage};
use serde_json::Value;

/// A registry on the node itself, where the container runtime speaks plain HTTP: nothing exists at one port, another one wants to
/// know who is there, and a third one is busy.
struct Registry;

impl Registry {
    const NAMESPACE: &str = "story-registry";

    fn start() -> (Self, String) {
        kubectl(&["delete", "namespace", Self::NAMESPACE, "--ignore-not-found", "--wait"]);
        let (absent, refused) =
            ("httpd -f -p 127.0.0.1:5061 -h /tmp", "httpd -f -p 127.0.0.1:5062 -h /tmp -c /tmp/conf");
        let busy = r"nc -ll -p 5063 -e /tmp/busy";
        let script = format!(
            "printf '/:nobody:*\\n' > /tmp/conf\n\
             printf '#!/bin/sh\\nread line; printf \"HTTP/1.1 503 Service Unavailable\\\\r\\\\nContent-Length: 0\\\\r\\\\nConnection: close\\\\r\\\\n\\\\r\\\\n\"\\n' > /tmp/busy\n\
             chmod +x /tmp/busy\n{absent} &\n{refused} &\n{busy} &\necho ready\nwait\n"
        );
        let objects = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {0}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: registry, namespace: {0}}}\nspec:\n  hostNetwork: true\n  \
             automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - {{name: registry, image: \"{1}\", command: [sh, -c, {2}], readinessProbe: {{exec: {{command: [sh, -c, 'echo | nc 127.0.0.1 5063 | grep 503']}}, periodSeconds: 1}}}}\n",
            Self::NAMESPACE,
            busybox(),
            serde_json::to_string(&script).unwrap(),
        );
        e2e::command::input(crate::world::cluster().kubectl().args(["apply", "--filename", "-"]), &objects).unwrap();
        let pod = ["--namespace", Self::NAMESPACE, "wait", "--for=condition=Ready", "pod/registry", "--timeout=60s"];
        kubectl(&pod);
        let node = kubectl(&[
            "--namespace",
            Self::NAMESPACE,
            "get",
            "pod",
            "registry",
            "--output",
            "jsonpath={.spec.nodeName}",
        ]);
        (Self, node)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        kubectl(&["delete", "namespace", Self::NAMESPACE, "--wait=false", "--ignore-not-found"]);
    }
}

#[test]
fn a_registry_that_says_no_fails_the_stage_and_one_that_is_busy_is_waited_for() {
    let story = Story::new("registry");
    let (registry, node) = Registry::start();
    let of = |name: &str, port: u32| {
        format!(
            "- name: {name}\n  gracePeriod: 1s\n  pod: {{nodeSelector: {{kubernetes.io/hostname: {node}}}}}\n  \
             container: {{image: 'localhost:{port}/team/{name}:1', command: [\"true\"]}}\n"
        )
    };
    story.run("pull", &format!("stages:\n{}{}{}", of("absent", 5061), of("refused", 5062), of("busy", 5063)));
    let object = "plr/pull";
    for name in ["absent", "refused"] {
        let run = story.until_within(Duration::from_secs(120), object, "a stage that failed", |run| {
            stage(run, name)["phase"] == "Failed"
        });
        let row = stage(&run, name);
        assert_eq!((row["reason"].as_str(), row["attempt"].as_u64()), (Some("ImagePullFailed"), Some(1)), "{row:#}");
        assert!(row["message"].as_str().unwrap().contains(&format!("team/{name}:1")), "{row:#}");
        story.kubectl(&["wait", "--for=delete", "pod", row["pod"].as_str().unwrap(), "--timeout=60s"]);
    }
    // No failure is counted of a registry that may come back, and what it says is in sight.
    let busy = |run: &Value| {
        let row = stage(run, "busy");
        row["phase"] == "Pending" && row["reason"] == "ImagePull" && row["message"].as_str().unwrap().contains("503")
    };
    let run = story.until(object, "the registry's 503", busy);
    assert_eq!(stage(&run, "busy")["failures"], Value::Null, "{run:#}");
    story.kubectl(&["patch", "plr", "pull", "--type=merge", "--patch", r#"{"spec": {"state": "Terminated"}}"#]);
    story.finished("pull");
    drop(registry);
}
