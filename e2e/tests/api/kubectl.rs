//! What a user sees of the API through kubectl.

use crate::server::{Kind, server};
use e2e::{command, paths};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The arguments for kubectl that name each example: a folder with a kustomization as `-k`, other YAML files as `-f`.
fn examples() -> Vec<(&'static str, PathBuf)> {
    fn collect(folder: &Path, found: &mut Vec<(&'static str, PathBuf)>) {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        let kustomized = folder.join("kustomization.yaml").exists();
        if kustomized {
            found.push(("-k", folder.to_owned()));
        }
        for path in entries {
            let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
            if path.is_dir() {
                collect(&path, found);
            } else if is_yaml && std::fs::read_to_string(&path).unwrap().contains("\nkind: Pipeline") {
                found.push(("-f", path));
            }
        }
    }
    let mut found = Vec::new();
    collect(&paths::repository().join("examples"), &mut found);
    found
}

/// Runs kubectl on an example.
fn on_example(verb: &[&str], how: &str, path: &Path) -> Result<String, command::Error> {
    server().kubectl(&[verb, &[how, path.to_str().unwrap()]].concat())
}

fn is_generated(how: &str, path: &Path) -> bool {
    how == "-f" && std::fs::read_to_string(path).unwrap().contains("generateName:")
}

/// Two examples have a Pipeline of one name, so they are not applied at the same time.
static APPLYING: Mutex<()> = Mutex::new(());

#[test]
fn every_example_is_accepted_and_applied_twice_is_the_same() {
    let _alone = APPLYING.lock();
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    for (how, path) in &examples {
        let shown = path.display();
        if is_generated(how, path) {
            on_example(&["create"], how, path).unwrap();
            continue;
        }
        on_example(&["apply"], how, path).unwrap();
        // Services and Deployments have defaults of their own, and are not ours to judge.
        let again = on_example(&["apply"], how, path).unwrap();
        for line in again.lines().filter(|line| line.contains("trainyard.dev")) {
            assert!(line.ends_with("unchanged"), "{shown}: {line}");
        }
    }
}

#[test]
fn server_side_apply_twice_shows_no_drift() {
    let _alone = APPLYING.lock();
    for (how, path) in examples() {
        if is_generated(how, &path) {
            continue;
        }
        let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=git"];
        on_example(&apply, how, &path).unwrap();
        on_example(&apply, how, &path).unwrap();
        let diff = ["diff", "--server-side", "--force-conflicts", "--field-manager=git"];
        let differs = on_example(&diff, how, &path).map_err(|error| error.to_string());
        assert_eq!(differs.as_deref(), Ok(""), "{}", path.display());
    }
}

#[test]
fn explain_reads_well() {
    for field in [
        "pipeline.spec",
        "pipeline.spec.params",
        "pipeline.spec.stages",
        "pipeline.spec.stages.container",
        "pipeline.spec.stages.inputs",
        "pipeline.spec.stages.pod",
        "pipeline.spec.stages.retry",
        "pipeline.spec.triggers",
        "pipeline.spec.triggers.schedule",
        "pipeline.status",
        "pipeline.status.revisions",
        "pipeline.status.triggers",
        "plr.spec",
        "plr.status",
        "plr.status.stages",
        "tj.spec",
        "tj.spec.elastic",
        "tj.spec.restart",
        "tj.spec.roles",
        "tj.status",
        "tj.status.attempts",
        "tj.status.attempts.firstFailure",
    ] {
        let text = server().kubectl(&["explain", field]).unwrap();
        let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(field.replace('.', "-"), trimmed.join("\n"));
    }
}

/// The plainest job.
fn job() -> Value {
    json!({"framework": "None", "roles": [{"name": "worker", "replicas": 2, "container": {"image": "b", "command": ["c"]}}]})
}

#[test]
fn the_columns_are_those_of_the_documentation() {
    let words = |resource: &str, wide: &[&str]| {
        let text = server().kubectl(&[&["get", resource], wide].concat()).unwrap();
        text.lines().next().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    server().create(
        Kind::Pipeline,
        "columns",
        &json!({"stages": [{"name": "a", "container": {"image": "b", "command": ["c"]}}]}),
    );
    server().create(Kind::PipelineRun, "columns", &json!({"pipelineRef": {"name": "columns"}}));
    server().create(Kind::TrainingJob, "columns", &job());
    assert_eq!(words("pl", &[]), "NAME READY STAGES RUNS LAST-RUN LAST-PHASE NEXT AGE");
    assert_eq!(words("pl", &["-o=wide"]), "NAME READY STAGES RUNS LAST-RUN LAST-PHASE NEXT AGE MESSAGE");
    assert_eq!(words("plr", &[]), "NAME PIPELINE PHASE PROGRESS STAGE REASON DURATION AGE");
    assert_eq!(words("plr", &["-o=wide"]), "NAME PIPELINE PHASE PROGRESS STAGE REASON DURATION AGE MESSAGE");
    assert_eq!(words("tj", &[]), "NAME FRAMEWORK PHASE READY RESTARTS PROGRESS REASON DURATION AGE");
    assert_eq!(words("tj", &["-o=wide"]), "NAME FRAMEWORK PHASE READY RESTARTS PROGRESS REASON DURATION AGE MESSAGE");
    let all = server().kubectl(&["get", "trainyard", "-o=name"]).unwrap();
    for kind in ["pipeline", "pipelinerun", "trainingjob"] {
        assert!(all.contains(&format!("{kind}.trainyard.dev/columns")), "{all}");
    }
}

#[test]
fn a_new_object_says_that_nobody_has_looked_at_it() {
    for kind in [Kind::Pipeline, Kind::PipelineRun, Kind::TrainingJob] {
        let spec = match kind {
            Kind::Pipeline => json!({"stages": [{"name": "a", "container": {"image": "b", "command": ["c"]}}]}),
            Kind::PipelineRun => json!({"pipelineRef": {"name": "p"}}),
            Kind::TrainingJob => job(),
        };
        let object = server().create(kind, "fresh", &spec);
        assert_eq!(object["status"], json!({"observedGeneration": -1}));
        assert_eq!(object["spec"], spec, "no defaults are written into a spec");
    }
}

#[test]
fn the_definitions_are_structural_and_in_use() {
    for name in ["pipelines.trainyard.dev", "pipelineruns.trainyard.dev", "trainingjobs.trainyard.dev"] {
        let text = server().kubectl(&["get", "crd", name, "-o=json"]).unwrap();
        let crd: Value = serde_json::from_str(&text).unwrap();
        let conditions = crd["status"]["conditions"].as_array().unwrap();
        let of = |kind: &str| conditions.iter().find(|c| c["type"] == kind).map(|c| c["status"].clone());
        assert_eq!(of("Established"), Some(json!("True")));
        assert_eq!(of("NamesAccepted"), Some(json!("True")));
        assert_eq!(of("NonStructuralSchema"), None);
        assert_eq!(crd["spec"]["names"]["categories"], json!(["trainyard"]));
    }
}

#[test]
fn a_jobs_name_must_be_one_that_its_service_can_have() {
    let refused = |name: &str| {
        let object = Kind::TrainingJob.object(name, job());
        let answer = server().send(http::Method::POST, "trainingjobs?dryRun=All", &object);
        assert!(
            answer.accepted() || answer.message().contains("metadata.name must be at most 63"),
            "{}",
            answer.message()
        );
        !answer.accepted()
    };
    for name in ["a", "iris-7", &"a".repeat(63)] {
        assert!(!refused(name), "{name}");
    }
    for name in ["7iris", "iris.7", &"a".repeat(64)] {
        assert!(refused(name), "{name}");
    }
}

#[test]
fn what_is_refused_reads_well() {
    let cases = [
        json!({"stages": [
            {"name": "a", "container": {"image": "b", "command": ["c"]}, "inputs": [{"name": "x", "from": "z.y"}]},
            {"name": "B", "container": {"image": "b", "command": ["c"]}},
        ]}),
        json!({"stages": [{"name": "a", "container": {"image": "b", "command": ["c"]}, "inputs": [{"name": "x", "from": "z.y"}]}]}),
        json!({"stages": [{"name": "a", "container": {"script": "echo"}}]}),
        json!({"stages": [{"name": "a", "container": {"image": "b"}, "timout": "5m"}]}),
    ];
    let mut seen = String::new();
    for spec in cases {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Kind::Pipeline.object("iris", spec).to_string()).unwrap();
        let output = server().cluster.kubectl().args(["apply", "-f"]).arg(file.path()).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        seen.push_str(&text.replace(file.path().to_str().unwrap(), "pipeline.yaml"));
        seen.push('\n');
    }
    insta::assert_snapshot!("refusals", seen);
}
