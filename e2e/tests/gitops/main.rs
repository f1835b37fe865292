//! The health checks for Argo CD and Flux in `deploy`, asked about objects that were recorded from a real cluster in every phase.
//!
//! Argo CD runs Lua 5.1, and so does this; Flux evaluates CEL. What kstatus itself says of live objects is in the stories.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlua::{Lua, LuaSerdeExt as _};
use serde_json::{Value, json};

/// What Argo CD is to say, and what Flux, of each of the recorded objects.
const VERDICTS: [(&str, &str, &str); 18] = [
    ("pipeline-new", "Progressing", "InProgress"),
    ("pipeline-ready", "Healthy", "Current"),
    ("pipeline-stalled", "Degraded", "Failed"),
    ("pipelinerun-accepted", "Progressing", "InProgress"),
    ("pipelinerun-cancelled", "Degraded", "Failed"),
    ("pipelinerun-failed", "Degraded", "Failed"),
    ("pipelinerun-new", "Progressing", "InProgress"),
    ("pipelinerun-running", "Progressing", "InProgress"),
    ("pipelinerun-succeeded", "Healthy", "Current"),
    ("pipelinerun-suspended", "Suspended", "InProgress"),
    ("trainingjob-accepted", "Progressing", "InProgress"),
    ("trainingjob-failed", "Degraded", "Failed"),
    ("trainingjob-new", "Progressing", "InProgress"),
    ("trainingjob-pending", "Progressing", "InProgress"),
    ("trainingjob-restarting", "Progressing", "InProgress"),
    ("trainingjob-running", "Progressing", "InProgress"),
    ("trainingjob-succeeded", "Healthy", "Current"),
    ("trainingjob-suspended", "Suspended", "InProgress"),
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gitops/objects"))
}

fn object(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn yaml(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_recorded_object_has_its_verdict() {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let recorded: BTreeSet<String> = files.map(|name| name.trim_end_matches(".json").to_owned()).collect();
    assert_eq!(recorded, VERDICTS.map(|(name, ..)| name.to_owned()).into());
}

/// What Argo CD says of an object: its health, and the message.
fn argo(object: &Value) -> (String, String) {
    let texts = yaml("deploy/argocd/argocd-cm.yaml");
    let text = texts["data"]
        [format!("resource.customizations.health.trainyard.dev_{}", object["kind"].as_str().unwrap())]
    .as_str();
    let lua = Lua::new();
    lua.globals().set("obj", lua.to_value(object).unwrap()).unwrap();
    let health: Value = lua.from_value(lua.load(text.unwrap()).eval().unwrap()).unwrap();
    let word = |field: &str| health[field].as_str().unwrap().to_owned();
    (word("status"), word("message"))
}

#[test]
fn argo_cd_gets_one_text_for_all_kinds() {
    let texts = yaml("deploy/argocd/argocd-cm.yaml");
    let texts: BTreeSet<&str> =
        texts["data"].as_object().unwrap().values().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(texts.len(), 1);
}

#[test]
fn argo_cd_sees_every_phase_as_it_is() {
    for (name, expected, _) in VERDICTS {
        let object = object(name);
        let (health, message) = argo(&object);
        assert_eq!(health, expected, "{name}");
        assert!(health != "Degraded" || message.len() > 10, "{name} is not explained: {message:?}");
        // An edit that nobody has looked at.
        let mut edited = object;
        edited["metadata"]["generation"] = json!(99);
        assert_eq!(argo(&edited).0, "Progressing", "{name}, edited");
    }
}

/// What Flux says of an object, in its order: the generation, then inProgress, failed and current.
fn flux(object: &Value) -> &'static str {
    let kustomization = yaml("deploy/flux/kustomization.yaml");
    let checks = kustomization["spec"]["healthCheckExprs"].as_array().unwrap().clone();
    let of_kind: Vec<&Value> = checks.iter().filter(|check| check["kind"] == object["kind"]).collect();
    let [check] = of_kind.as_slice() else { unreachable!("{} expressions for {}", of_kind.len(), object["kind"]) };
    assert_eq!(check["apiVersion"], object["apiVersion"]);
    let holds = |field: &str| {
        let program = cel::Program::compile(check[field].as_str().unwrap()).unwrap();
        let mut context = cel::Context::default();
        for part in ["metadata", "spec", "status"] {
            context.add_variable(part, &object[part]).unwrap();
        }
        program.execute(&context).unwrap() == cel::Value::Bool(true)
    };
    let verdicts = BTreeMap::from([
        ("1", ("inProgress", "InProgress")),
        ("2", ("failed", "Failed")),
        ("3", ("current", "Current")),
    ]);
    verdicts.values().find(|(field, _)| holds(field)).map_or("Unknown", |(_, verdict)| *verdict)
}

#[test]
fn flux_sees_every_phase_as_it_is() {
    for (name, _, expected) in VERDICTS {
        let object = object(name);
        assert_eq!(flux(&object), expected, "{name}");
        let mut edited = object;
        edited["metadata"]["generation"] = json!(99);
        assert_eq!(flux(&edited), "InProgress", "{name}, edited");
    }
}
