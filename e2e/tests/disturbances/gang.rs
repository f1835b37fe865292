//! A scheduler that places all Pods of a training or none: what the operator makes for it. The Pods go to the cluster's own scheduler, since
//! the others are not here.

use e2e::{command, demo, install};
use serde_json::{Value, json};

use crate::machine::alone;
use crate::operator::Installed;
use crate::world::{LIMIT, Story, busybox, cluster, kubectl, script};

/// Volcano's PodGroup as far as the API server is concerned, as long as this value.
struct Definition;

impl Definition {
    const NAME: &str = "podgroups.scheduling.volcano.sh";

    fn new() -> Self {
        let object = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": Self::NAME},
            "spec": {
                "group": "scheduling.volcano.sh", "scope": "Namespaced",
                "names": {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup"},
                "versions": [{
                    "name": "v1beta1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "properties": {"minMember": {"type": "integer"}}},
                    }}},
                }],
            },
        });
        command::input(cluster().kubectl().args(["apply", "--filename", "-"]), &object.to_string()).unwrap();
        kubectl(&["wait", "--for=condition=Established", &format!("crd/{}", Self::NAME), "--timeout=60s"]);
        Self
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        let _ = command::run(cluster().kubectl().args(["delete", "crd", Self::NAME, "--ignore-not-found"]));
    }
}

fn list(story: &Story, kind: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&story.kubectl(&["get", kind, "--output", "json"])).unwrap();
    list["items"].as_array().unwrap().clone()
}

#[test]
fn each_attempt_of_a_training_has_a_pod_group_where_the_cluster_knows_them() {
    let _alone = alone();
    let story = Story::new("gang");
    let _definition = Definition::new();
    let _installed = Installed;
    let (store, gang) = (demo::default_store(), r#"gangScheduler={"kind": "Auto", "name": "default-scheduler"}"#);
    install::up(cluster(), &[&store, gang]).unwrap();
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: fit}}\nspec:\n  framework: None\n  gracePeriod: 1s\n  \
         restart: {{backoff: {{initial: 0s}}}}\n  roles: [{{name: worker, replicas: 2, container: {{image: \"{}\", script: {}}}}}]\n",
        busybox(),
        script("test $TRAINYARD_ATTEMPT -ge 2"),
    ));
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    story.kubectl(&["wait", "--for=condition=Finished", &timeout, "tj/fit"]);
    let job = story.get("tj/fit").unwrap();
    assert_eq!((&job["status"]["phase"], &job["status"]["restarts"]), (&json!("Succeeded"), &json!(1)), "{job:#}");
    let groups = list(&story, "podgroups.scheduling.volcano.sh");
    assert_eq!(groups.len(), 2, "{groups:#?}");
    for group in &groups {
        assert_eq!(group["spec"]["minMember"], 2, "{group:#}");
        assert_eq!(group["metadata"]["ownerReferences"][0]["uid"], job["metadata"]["uid"], "{group:#}");
    }
    for pod in list(&story, "pods") {
        let named = &pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"];
        assert!(groups.iter().any(|group| group["metadata"]["name"] == *named), "{pod:#}");
        assert!(named.as_str().unwrap().starts_with("fit-a2-"), "{pod:#}");
        assert_eq!(pod["spec"]["schedulerName"], "default-scheduler", "{pod:#}");
    }
}
