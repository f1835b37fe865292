//! The tutorial, from its first command to its last, on a real cluster.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[expect(dead_code, reason = "shared with the test of all documents, which uses all of it")]
mod documents;

use e2e::cluster::{self, Cluster};
use e2e::{command, paths};

/// The tutorial's commands one after the other, in a namespace of this test's own, on the cluster of the demo, which stays.
#[test]
fn the_tutorial_works() {
    const NAMESPACE: &str = "tutorial";
    let text: String = documents::blocks(&paths::repository().join("docs/tutorial.md"))
        .into_iter()
        .filter(|block| block.mark == "sh" && !block.text.contains("make cluster-down"))
        .map(|block| block.text)
        .collect();
    let script = text
        .replace("-n iris ", &format!("-n {NAMESPACE} "))
        .replace("namespace iris", &format!("namespace {NAMESPACE}"))
        .replace("cargo run --quiet --package trainyard-e2e --", "trainyard-e2e")
        .replace("/tmp/report.html", "/dev/null");
    assert!(!script.contains("cluster-down"), "others use that cluster");
    let tool = env!("CARGO_BIN_EXE_trainyard-e2e");
    let functions =
        format!("trainyard-e2e() {{ '{tool}' \"$@\"; }}\nmake() {{ command make \"E2E='{tool}'\" \"$@\"; }}\n");
    if let Ok(before) = Cluster::existing(cluster::DEFAULT_NAME) {
        // Left by a test that failed.
        let _ = command::run(before.kubectl().args(["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait"]));
    }
    let mut shell = std::process::Command::new("bash");
    shell.current_dir(paths::repository()).args(["-c", &format!("set -euxo pipefail\n{functions}{script}")]);
    let said = command::run(&mut shell).unwrap();
    assert!(said.contains("1 taken over"), "{said}");
    assert!(said.trim_end().ends_with("1 1 1 1 1 1 1 1"), "{said}");
    let cluster = Cluster::existing(cluster::DEFAULT_NAME).unwrap();
    command::run(cluster.kubectl().args(["delete", "namespace", NAMESPACE, "--wait=false"])).unwrap();
}
