//! What kstatus says of our objects while they move, by the library that GitOps tools are built on: the tool of `cli-utils` applies
//! them, and follows each until it is done or has failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use e2e::build::Product;
use e2e::paths::Directories;
use serde_json::Value;

use crate::world::{Story, busybox, cluster, script};

/// A folder of objects that the tool keeps applied.
struct Folder {
    folder: tempfile::TempDir,
    namespace: String,
}

impl Folder {
    fn new(story: &Story) -> Self {
        let folder = Self { folder: tempfile::tempdir().unwrap(), namespace: story.namespace().to_owned() };
        let made = folder.tool(&["init", folder.path(), "--namespace", &folder.namespace]);
        assert!(made.status.success(), "{made:?}");
        folder
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn write(&self, name: &str, yaml: &str) {
        std::fs::write(self.folder.path().join(format!("{name}.yaml")), yaml).unwrap();
    }

    fn tool(&self, arguments: &[&str]) -> Output {
        let programs = Product::CliUtils.ensure(&Directories::from_env()).unwrap();
        cluster().command(programs.join("kapply").to_str().unwrap()).args(arguments).output().unwrap()
    }

    /// Applies them, and waits for all. What was said of each, one after the other, without repetitions.
    fn apply(&self) -> BTreeMap<String, Vec<String>> {
        let output = self.tool(&[
            "apply",
            self.path(),
            "--server-side",
            "--field-manager=git",
            "--reconcile-timeout=150s",
            "--status-events",
            "--output=json",
        ]);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            if event["type"] == "status" {
                let of = said.entry(format!("{}/{}", word("kind"), word("name"))).or_default();
                if of.last() != Some(&word("status")) {
                    of.push(word("status"));
                }
            }
        }
        assert!(!said.is_empty(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

fn object(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{indented}"
    )
}

#[test]
fn kstatus_follows_every_kind_from_its_creation_to_its_end() {
    let story = Story::new("kstatus");
    let folder = Folder::new(&story);
    let namespace = story.namespace();
    let image = busybox();
    let stage = |command: &str| {
        format!("stages: [{{name: a, container: {{image: \"{image}\", script: {}}}}}]\n", script(command))
    };
    let run = |command: &str| format!("pipeline:\n  {}", stage(command));
    let job = |command: &str| {
        format!(
            "framework: None\nrestart: {{limit: 0}}\nroles: [{{name: worker, replicas: 2, container: {{image: \"{image}\", script: {}}}}}]\n",
            script(command)
        )
    };
    let objects = [
        ("Pipeline", "good", stage("true"), "Current"),
        ("Pipeline", "wrong", stage("true").replace("script: ", "args: [$(params.none)], script: "), "Failed"),
        ("PipelineRun", "good", run("sleep 2"), "Current"),
        ("PipelineRun", "bad", run("sleep 2; exit 3"), "Failed"),
        ("TrainingJob", "good", job("sleep 2"), "Current"),
        ("TrainingJob", "bad", job("sleep 2; exit 3"), "Failed"),
    ];
    for (kind, name, spec, _) in &objects {
        folder.write(&format!("{kind}-{name}"), &object(kind, name, namespace, spec));
    }
    let said = folder.apply();
    for (kind, name, _, end) in &objects {
        let of = &said[&format!("{kind}/{name}")];
        // A Pipeline may be judged before anybody asks.
        let known: Vec<&str> = of.iter().map(String::as_str).filter(|word| *word != "NotFound").collect();
        assert!(known == ["InProgress", end] || (*kind == "Pipeline" && known == [*end]), "{kind} {name}: {of:?}");
    }
    // What is applied again is as it was.
    let again = folder.apply();
    assert_eq!(again["PipelineRun/good"], ["Current"]);
    // What is no longer there goes, once all that is left is well.
    for (kind, name, ..) in objects.iter().filter(|(.., end)| *end == "Failed") {
        std::fs::remove_file(Path::new(folder.path()).join(format!("{kind}-{name}.yaml"))).unwrap();
    }
    folder.apply();
    for (kind, name, ..) in objects.iter().filter(|(.., end)| *end == "Failed") {
        assert_eq!(story.get(&format!("{kind}/{name}")), None);
    }
}
