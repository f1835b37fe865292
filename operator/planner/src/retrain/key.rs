//! The key of a revision: what makes one run the same as another.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use trainyard_crds::v1alpha1::{Cause, PipelineSpec};

use super::given::given;

/// SHA-256, as 64 hexadecimal digits, over canonical JSON (RFC 8785) of the part of the spec that can change a result, its
/// `rerunToken`, the cause, and the parameters that the trigger of this name gives, if it gives any.
///
/// What is not in it can be changed without another run: all else of triggers, concurrency, suspend, retention, deletionPolicy and
/// retryFailedRevision; descriptions; retry,
/// timeout, gracePeriod, parallel and resources; of a Pod all but its volumes; the store's credentials; of a training what keeps it
/// alive (checkpoint, restart, startTimeout, stallTimeout, port); of an approval what is asked and for how long. The order of what has a name does not matter, nor where an image is
/// said, nor whether what is the default is said.
#[must_use]
pub fn run_key(spec: &PipelineSpec, trigger: &str, cause: &Cause) -> String {
    let mut content = json!({
        "spec": relevant(spec),
        "rerunToken": spec.rerun_token.as_deref().unwrap_or_default(),
        "cause": cause,
    });
    let written = spec.triggers.iter().find(|known| known.name == trigger).map(|trigger| &trigger.params);
    // Where an output of another pipeline lies is not in it: the cause has its checksum.
    if let Some(written) = written.filter(|params| !params.is_empty()) {
        content["params"] = json!({"written": written, "given": given(spec, trigger, cause, None)});
    }
    // Of a JSON value this cannot fail; if it did, all specs would have the key of nothing, and none would run twice.
    let canonical = serde_json_canonicalizer::to_vec(&content).unwrap_or_default();
    Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fields of a spec that say when and how it is run, and not what. A field that is not named here, such as a new one, is in the key: a
/// run too many is better than one that is missing.
const OF_THE_PIPELINE: [&str; 11] = [
    "description",
    "parallel",
    "defaults",
    "triggers",
    "concurrency",
    "retryFailedRevision",
    "rerunToken",
    "suspend",
    "retention",
    "deletionPolicy",
    "store",
];
const OF_A_STAGE: [&str; 3] = ["retry", "timeout", "gracePeriod"];
const OF_A_TRAINING: [&str; 5] = ["checkpoint", "restart", "startTimeout", "stallTimeout", "port"];

/// The part of a spec that can change a result.
fn relevant(spec: &PipelineSpec) -> Value {
    let Ok(Value::Object(mut whole)) = serde_json::to_value(spec) else { return Value::Null };
    let image = spec.defaults.as_ref().and_then(|defaults| defaults.container.as_ref()?.image.as_deref());
    for field in OF_THE_PIPELINE {
        whole.remove(field);
    }
    if let Some(store) = &spec.store {
        let mut store = store.clone();
        store.credentials = None;
        whole.insert("store".into(), json!(store));
    }
    for param in objects(whole.get_mut("params")) {
        param.remove("description");
        drop_default(param, "type", &json!("string"));
    }
    for section in ["stages", "finally"] {
        for stage in objects(whole.get_mut(section)) {
            of_stage(stage, image);
        }
        by_name(whole.get_mut(section));
    }
    by_name(whole.get_mut("params"));
    Value::Object(whole)
}

fn of_stage(stage: &mut Map<String, Value>, image: Option<&str>) {
    for field in OF_A_STAGE {
        stage.remove(field);
    }
    drop_default(stage, "allowFailure", &json!(false));
    keep_volumes(stage);
    for list in ["inputs", "outputs", "results"] {
        for item in objects(stage.get_mut(list)) {
            item.remove("description");
            drop_default(item, "optional", &json!(false));
            if list == "results" {
                drop_default(item, "type", &json!("string"));
            }
        }
        by_name(stage.get_mut(list));
    }
    if let Some(after) = stage.get_mut("after").and_then(Value::as_array_mut) {
        after.iter_mut().for_each(|item| sort(item.get_mut("phases")));
        after.sort_by_key(|item| item["stage"].to_string());
    }
    for check in objects(stage.get_mut("gate").and_then(|gate| gate.get_mut("checks"))) {
        drop_default(check, "goal", &json!("Maximize"));
        drop_default(check, "baseline", &json!("Champion"));
        drop_default(check, "noBaseline", &json!("Pass"));
    }
    if let Some(Value::Object(approval)) = stage.get_mut("approval") {
        approval.clear();
    }
    sort(stage.get_mut("dependsOn"));
    sort(stage.get_mut("metrics"));
    of_container(stage, image);
    let Some(Value::Object(training)) = stage.get_mut("trainingJob") else { return };
    for field in OF_A_TRAINING {
        training.remove(field);
    }
    drop_default(training, "success", &json!("Rank0"));
    // The order of roles says which rank is which.
    for role in objects(training.get_mut("roles")) {
        drop_default(role, "processesPerReplica", &json!(1));
        keep_volumes(role);
        of_container(role, image);
    }
}

/// The container of a stage or a role, with the image that it gets.
fn of_container(owner: &mut Map<String, Value>, image: Option<&str>) {
    let Some(Value::Object(container)) = owner.get_mut("container") else { return };
    container.remove("resources");
    if let Some(image) = image
        && !container.contains_key("image")
    {
        container.insert("image".into(), json!(image));
    }
    by_name(container.get_mut("env"));
}

/// Of what is said of a Pod only its volumes bring data.
fn keep_volumes(owner: &mut Map<String, Value>) {
    let volumes = owner.remove("pod").and_then(|mut pod| pod.get_mut("volumes").map(Value::take));
    if let Some(mut volumes) = volumes.filter(|volumes| volumes.as_array().is_some_and(|list| !list.is_empty())) {
        by_name(Some(&mut volumes));
        owner.insert("volumes".into(), volumes);
    }
}

fn objects(list: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn by_name(list: Option<&mut Value>) {
    if let Some(list) = list.and_then(Value::as_array_mut) {
        list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
}

fn sort(set: Option<&mut Value>) {
    if let Some(set) = set.and_then(Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

fn drop_default(object: &mut Map<String, Value>, field: &str, default: &Value) {
    if object.get(field) == Some(default) {
        object.remove(field);
    }
}
