//! Install, what Pods look like, and uninstall.

use crate::world::{Story, kubectl};

#[test]
fn every_pod_keeps_to_the_restricted_profile_and_carries_nothing_of_ours_but_data() {
    let story = Story::new("restricted");
    story.run("one", "stages:\n- {name: a, container: {command: [\"true\"]}}\n");
    story.finished("one");
    let pods: serde_json::Value = serde_json::from_str(&story.kubectl(&["get", "pods", "--output", "json"])).unwrap();
    let spec = &pods["items"][0]["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["enableServiceLinks"], false);
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["containers"].as_array().unwrap().len(), 1, "no sidecar");
    let volumes = spec["volumes"].to_string();
    assert!(!volumes.contains("serviceAccountToken") && !volumes.contains("hostPath"), "{volumes}");
}

#[test]
fn the_operators_account_reads_no_secret_and_no_log() {
    crate::world::cluster();
    let account = "system:serviceaccount:trainyard-system:trainyard";
    let accounts = kubectl(&["--namespace", "trainyard-system", "get", "serviceaccounts", "--output", "name"]);
    assert!(accounts.contains("serviceaccount/trainyard\n"), "{accounts}");
    for verb in [
        "get secrets",
        "list configmaps",
        "create pods --subresource=exec",
        "get pods --subresource=log",
        "create serviceaccounts --subresource=token",
        "patch nodes",
        "escalate clusterroles",
        "impersonate users",
    ] {
        let mut kubectl = crate::world::cluster().kubectl();
        kubectl.args(["auth", "can-i", "--as", account, "--all-namespaces"]).args(verb.split(' '));
        assert!(!e2e::command::succeeds(&mut kubectl), "{verb} is allowed");
    }
}

#[test]
fn a_namespace_with_runs_goes_when_it_is_deleted() {
    let story = Story::new("gone");
    story.run("long", "stages:\n- {name: a, gracePeriod: 1s, container: {command: [sleep, '600']}}\n");
    story.stage_until("long", "a", "Running");
    kubectl(&["delete", "namespace", story.namespace(), "--timeout=90s"]);
}
