//! Dependencies point one way, and the core stays pure: read from `cargo metadata`.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Every crate of ours, and which others of ours it may use directly.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("trainyard-stamp", &[]),
    ("step-protocol", &[]),
    ("trainyard-crds", &[]),
    ("step-runner", &["step-protocol"]),
    ("trainyard-planner", &["step-protocol", "trainyard-crds"]),
    ("trainyard-operator", &["step-protocol", "trainyard-crds", "trainyard-planner"]),
    ("trainyard-e2e", &["step-protocol", "step-runner", "trainyard-crds", "trainyard-operator", "trainyard-planner"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(e2e::paths::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Normal dependencies by package id, development and build dependencies left out.
fn graph(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let normal =
        |dependency: &Value| dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
    nodes
        .iter()
        .map(|node| {
            let dependencies = node["deps"].as_array().unwrap().iter().filter(|dependency| normal(dependency));
            let ids = dependencies.map(|dependency| dependency["pkg"].as_str().unwrap().to_owned()).collect();
            (node["id"].as_str().unwrap().to_owned(), ids)
        })
        .collect()
}

fn names(metadata: &Value) -> BTreeMap<String, String> {
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| (package["id"].as_str().unwrap().to_owned(), package["name"].as_str().unwrap().to_owned()))
        .collect()
}

/// The names of everything that a package is built from when it is built alone. (The graph of `cargo metadata` has the features of the
/// whole workspace: there the planner's `kube` is also the operator's.)
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--locked"])
        .current_dir(e2e::paths::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains(package), "{text}");
    names
}

#[test]
fn each_crate_of_ours_uses_only_those_below_it() {
    let metadata = metadata();
    let (graph, names) = (graph(&metadata), names(&metadata));
    let ours: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| names[id.as_str().unwrap()].as_str())
        .collect();
    assert_eq!(members, ours, "a new crate says here what it may use");
    for (id, dependencies) in &graph {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == names[id]) else { continue };
        for dependency in dependencies {
            let name = names[dependency].as_str();
            assert!(!ours.contains(name) || allowed.contains(&name), "{} uses {name}", names[id]);
        }
    }
}

#[test]
fn the_planner_has_no_client_no_runtime_no_clock_and_no_randomness() {
    let tree = tree("trainyard-planner");
    for name in ["kube-client", "kube-runtime", "tokio", "hyper", "reqwest", "rand", "getrandom"] {
        assert!(!tree.contains(name), "trainyard-planner is built from {name}");
    }
}

#[test]
fn the_runner_knows_nothing_of_kubernetes() {
    let tree = tree("step-runner");
    for name in ["kube", "kube-core", "kube-client", "k8s-openapi", "trainyard-crds"] {
        assert!(!tree.contains(name), "step-runner is built from {name}");
    }
}

#[test]
fn the_protocol_is_serde_and_nothing_else() {
    let allowed = [
        "step-protocol",
        "serde",
        "serde_core",
        "serde_derive",
        "serde_json",
        "itoa",
        "memchr",
        "ryu",
        "zmij",
        "proc-macro2",
        "quote",
        "syn",
        "unicode-ident",
    ];
    let strange: Vec<String> =
        tree("step-protocol").into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn the_core_asks_nobody_for_the_time() {
    let mut folders = vec![e2e::paths::repository().join("operator/planner/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for call in
                ["Timestamp::now()", "SystemTime::now()", "Instant::now()", "thread_rng", "std::env::", "std::fs::"]
            {
                assert!(!text.contains(call), "{} calls {call}", path.display());
            }
        }
    }
}

#[test]
fn planted_mistakes_are_in_no_image() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let defaults = &package["features"]["default"];
        assert!(!defaults.to_string().contains("mutants"), "{}", package["name"]);
    }
    let mut files = vec![e2e::paths::repository().join("Makefile")];
    for folder in ["deploy", "charts", "e2e/src/image", "e2e/src/build"] {
        let mut waiting = vec![e2e::paths::repository().join(folder)];
        while let Some(path) = waiting.pop() {
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() { waiting.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
    }
    let building = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|line| line.contains("mutants") && !line.contains("## "))
    };
    let found: Vec<_> = files.iter().filter(|path| building(path)).collect();
    assert!(found.is_empty(), "{found:?}");
}
