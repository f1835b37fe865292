//! The tutorials, from their first command to their last, on a real cluster.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[expect(dead_code, reason = "shared with the test of all documents, which uses all of it")]
mod documents;

use e2e::cluster::{self, Cluster};
use e2e::{command, paths};

/// The commands of a document, one after the other, in a namespace of this test's own, on the cluster of the demo, which stays; what
/// they said.
fn followed(documents: &[(&str, usize)], named: &str, namespace: &str) -> String {
    let text: String = documents
        .iter()
        .flat_map(|(document, most)| {
            let blocks = documents::blocks(&paths::repository().join(document)).into_iter();
            blocks.filter(|block| block.mark == "sh" && !block.text.contains("make cluster-down")).take(*most)
        })
        .map(|block| block.text)
        .collect();
    let script = text
        .replace(&format!("-n {named} "), &format!("-n {namespace} "))
        .replace(&format!("namespace {named}"), &format!("namespace {namespace}"))
        .replace("cargo run --quiet --package trainyard-e2e --", "trainyard-e2e")
        .replace("/tmp/report.html", "/dev/null");
    assert!(!script.contains("cluster-down"), "others use that cluster");
    let tool = env!("CARGO_BIN_EXE_trainyard-e2e");
    let functions =
        format!("trainyard-e2e() {{ '{tool}' \"$@\"; }}\nmake() {{ command make \"E2E='{tool}'\" \"$@\"; }}\n");
    if let Ok(before) = Cluster::existing(&cluster::default_name()) {
        // Left by a test that failed.
        let _ = command::run(before.kubectl().args(["delete", "namespace", namespace, "--ignore-not-found", "--wait"]));
    }
    let mut shell = std::process::Command::new("bash");
    shell.current_dir(paths::repository()).args(["-c", &format!("set -euxo pipefail\n{functions}{script}")]);
    let said = command::run(&mut shell).unwrap();
    let cluster = Cluster::existing(&cluster::default_name()).unwrap();
    let delete = ["delete", "namespace", namespace, "--wait=false", "--ignore-not-found"];
    command::run(cluster.kubectl().args(delete)).unwrap();
    said
}

#[test]
fn the_tutorial_works() {
    let said = followed(&[("docs/tutorial.md", usize::MAX)], "iris", "tutorial");
    assert!(said.contains("1 taken over"), "{said}");
    assert!(said.trim_end().ends_with("1 1 1 1 1 1 1 1"), "{said}");
}

/// After the first block of the other one, which brings the cluster.
#[test]
fn the_tutorial_of_trainings_works() {
    let documents = [("docs/tutorial.md", 1), ("docs/tutorial-training.md", usize::MAX)];
    let said = followed(&documents, "training", "tutorial-training");
    let began: Vec<u32> =
        said.lines().filter_map(|line| line.strip_prefix("begins at step ")?.split(' ').next()?.parse().ok()).collect();
    assert!(began.len() == 2 && began[0] == began[1] && began[0] > 0, "{began:?} in:\n{said}");
    assert!(said.contains("\nSucceeded 1 0."), "{said}");
}

/// After the first block of the first one, too.
#[test]
fn the_tutorial_of_gitops_works() {
    let documents = [("docs/tutorial.md", 1), ("docs/tutorial-gitops.md", usize::MAX)];
    // A name of its own each time: versions are counted on in the store.
    let namespace = format!("tutorial-gitops-{}", std::process::id());
    let said = followed(&documents, "gitops", &namespace);
    let champions: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("champion ")?.split([',', ' ']).next()).collect();
    assert_eq!(champions, ["1", "2", "2", "2", "1", "3"], "{said}");
    assert!(said.contains("last: GateFailed") && said.contains("RolledBack"), "{said}");
}
