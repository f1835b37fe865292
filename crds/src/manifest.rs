//! The CustomResourceDefinitions as they are installed: what the derive gives, made tidy for the API server.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::v1alpha1::{Pipeline, PipelineRun, TrainingJob};

/// `kubectl apply` keeps the whole object in an annotation, of which there may be 256 KiB.
pub const APPLY_LIMIT: usize = 262_144;

/// Every CustomResourceDefinition, with its file name.
///
/// # Errors
/// Only if a definition were not JSON, which the types exclude.
pub fn all() -> Result<Vec<(&'static str, Value)>, serde_json::Error> {
    let mut pipeline = tidy(serde_json::to_value(Pipeline::crd())?);
    skip_unchanged(&mut pipeline);
    leave_to_the_operator(&mut pipeline, "");
    let mut run = tidy(serde_json::to_value(PipelineRun::crd())?);
    without_triggers(&mut run);
    freeze_rules(&mut run);
    leave_to_the_operator(&mut run, "/properties/pipeline");
    let mut job = tidy(serde_json::to_value(TrainingJob::crd())?);
    fix_fields(&mut job);
    job.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/roles")
        .into_iter()
        .for_each(freeze);
    Ok(vec![("pipelines.yaml", pipeline), ("pipelineruns.yaml", run), ("trainingjobs.yaml", job)])
}

/// A pipeline within a run has no triggers: it is that run.
fn without_triggers(crd: &mut Value) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/pipeline";
    let Some(pipeline) = crd.pointer_mut(path) else { return };
    for field in ["triggers", "concurrency", "retryFailedRevision", "rerunToken", "suspend", "retention"] {
        pipeline["properties"].as_object_mut().and_then(|properties| properties.remove(field));
    }
    if let Some(rules) = pipeline["x-kubernetes-validations"].as_array_mut() {
        rules.retain(|rule| !rule["rule"].as_str().is_some_and(|text| text.contains("self.triggers")));
    }
}

/// Fields of a job that may be changed. Values of `params` are of any type, which rules cannot compare: the admission policy does.
const CHANGEABLE: [&str; 4] = ["elastic", "params", "suspend", "ttl"];

/// Every other field of a job's spec stays as it was created: one rule a field, so that a new field cannot be forgotten.
fn fix_fields(crd: &mut Value) {
    let Some(spec) =
        crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec").and_then(Value::as_object_mut)
    else {
        return;
    };
    let fields: Vec<String> = spec["properties"].as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
    let Some(rules) = spec.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) else { return };
    for field in fields.iter().filter(|field| !CHANGEABLE.contains(&field.as_str())) {
        rules.push(json!({
            "rule": format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"),
            "message": format!("{field} cannot be changed: create another job"),
            "fieldPath": format!(".{field}"),
        }));
    }
}

/// Drops `nullable` (an absent field and a null one mean the same here) and gives `status` the default that kstatus needs.
fn tidy(mut crd: Value) -> Value {
    strip(&mut crd);
    if let Some(status) =
        crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status").and_then(Value::as_object_mut)
    {
        status.insert("default".into(), json!({ "observedGeneration": -1 }));
        status.insert("description".into(), json!("What the operator has seen and done."));
    }
    crd
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            drop_number_formats(map);
            join_lines(map);
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `uint32` and the like are formats that the API server warns of.
fn drop_number_formats(map: &mut Map<String, Value>) {
    let Some(format) = map.get("format").and_then(Value::as_str) else { return };
    let replacement = match format {
        "uint16" => "int32",
        "uint32" => "int64",
        "uint64" => "int64",
        _ => return,
    };
    map.insert("format".into(), json!(replacement));
}

/// A description's lines end where the source's do: `kubectl explain` breaks them for the reader's terminal instead.
fn join_lines(map: &mut Map<String, Value>) {
    let Some(Value::String(text)) = map.get_mut("description") else { return };
    let paragraphs: Vec<String> = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
    *text = paragraphs.join("\n\n");
}

/// Rules on and below `spec.pipeline` of a run are checked when it is created and not again at every status write: runs are
/// immutable. (All lists with rules below them are maps, in which the API server knows the old item of a new one.)
fn freeze_rules(crd: &mut Value) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/pipeline";
    crd.pointer_mut(path).into_iter().for_each(freeze);
}

fn freeze(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let rules = map.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut);
            rules.into_iter().flatten().filter_map(Value::as_object_mut).for_each(freeze_rule);
            map.values_mut().for_each(freeze);
        }
        Value::Array(items) => items.iter_mut().for_each(freeze),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn freeze_rule(rule: &mut Map<String, Value>) {
    let Some(text) = rule.get("rule").and_then(Value::as_str) else { return };
    let frozen = format!("oldSelf.hasValue() || ({text})");
    rule.insert("rule".into(), json!(frozen));
    rule.insert("optionalOldSelf".into(), json!(true));
}

/// The rules on the order of stages compare every stage with every other. A Pipeline's spec may change, so they stay; but a write of its
/// status, of which there is one whenever a run begins or ends, leaves the spec as it was when they held.
fn skip_unchanged(crd: &mut Value) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations";
    let rules = crd.pointer_mut(path).and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        let Some(text) = rule.get("rule").and_then(Value::as_str).filter(|text| text.contains(ORDERED)) else {
            continue;
        };
        let changed = format!("{UNCHANGED} || ({text})");
        rule.insert("rule".into(), json!(changed));
        rule.insert("optionalOldSelf".into(), json!(true));
    }
}

/// The rules on paths of volumes go through long texts, and the API server estimates them for 200 stages of 8 roles with 32 volumes
/// each: four and six times what a rule may cost. So of roles of a training stage the operator holds them, when a run is accepted; and
/// the API server again, when the stage's job is created.
fn leave_to_the_operator(crd: &mut Value, pipeline: &str) {
    for field in ["stages", "finally"] {
        let path = format!(
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec{pipeline}/properties/{field}/items/properties/trainingJob/\
             properties/roles/items/properties/pod/properties/volumes/items/x-kubernetes-validations"
        );
        if let Some(rules) = crd.pointer_mut(&path).and_then(Value::as_array_mut) {
            rules.retain(|rule| !rule["fieldPath"].as_str().is_some_and(is_path) || !is_long(rule));
        }
    }
}

/// Whether a rule is on a path of a volume.
fn is_path(field: &str) -> bool {
    matches!(field, ".mountPath" | ".subPath")
}

/// Whether a rule goes through the whole of a text.
fn is_long(rule: &Value) -> bool {
    rule["rule"].as_str().is_some_and(|rule| rule.contains(".contains("))
}

/// What is in a rule on the order of stages.
const ORDERED: &str = "transformList";
/// Whether the spec is as it was.
const UNCHANGED: &str = "(oldSelf.hasValue() && oldSelf.value() == self)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_fits_the_apply_annotation() {
        for (name, crd) in all().unwrap() {
            let size = serde_json::to_string(&crd).unwrap().len();
            println!("{name}: {size} bytes");
            assert!(size < APPLY_LIMIT * 3 / 4, "{name} has {size} bytes");
        }
    }

    #[test]
    fn every_list_map_and_text_of_the_spec_has_a_bound() {
        for (name, crd) in all().unwrap() {
            let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
            bounded(name, "spec", spec);
        }
    }

    #[test]
    fn a_status_write_of_a_run_evaluates_no_rule_on_its_pipeline() {
        let (_, run) = all().unwrap().into_iter().find(|(name, _)| *name == "pipelineruns.yaml").unwrap();
        let pipeline =
            run.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/pipeline").unwrap();
        let mut rules = Vec::new();
        collect(pipeline, &mut rules);
        assert!(rules.len() > 20, "{} rules", rules.len());
        for rule in rules {
            assert!(rule["rule"].as_str().unwrap().starts_with("oldSelf.hasValue() || "), "{rule}");
            assert_eq!(rule["optionalOldSelf"], true, "{rule}");
        }
    }

    #[test]
    fn two_rules_on_volumes_of_roles_are_the_operators_where_there_are_many() {
        let rules = |file: &str, above: &str| {
            let (_, crd) = all().unwrap().into_iter().find(|(name, _)| *name == file).unwrap();
            let volumes = "/properties/roles/items/properties/pod/properties/volumes/items/x-kubernetes-validations";
            let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/spec{above}{volumes}");
            crd.pointer(&path).unwrap().as_array().unwrap().len()
        };
        assert_eq!(rules("trainingjobs.yaml", ""), 4);
        for field in ["stages", "finally"] {
            let training = format!("/properties/{field}/items/properties/trainingJob");
            assert_eq!(rules("pipelines.yaml", &training), 2);
            assert_eq!(rules("pipelineruns.yaml", &format!("/properties/pipeline{training}")), 2);
        }
    }

    #[test]
    fn a_status_write_of_a_pipeline_compares_no_stages() {
        let (_, pipeline) = all().unwrap().remove(0);
        let spec = pipeline.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        let mut rules = Vec::new();
        collect(spec, &mut rules);
        let ordered: Vec<_> = rules.iter().filter(|rule| rule["rule"].as_str().unwrap().contains(ORDERED)).collect();
        assert_eq!(ordered.len(), 3);
        for rule in ordered {
            assert!(rule["rule"].as_str().unwrap().starts_with(UNCHANGED), "{rule}");
            assert_eq!(rule["optionalOldSelf"], true, "{rule}");
        }
    }

    fn collect<'a>(schema: &'a Value, rules: &mut Vec<&'a Value>) {
        rules.extend(schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten());
        match schema {
            Value::Object(map) => map.values().for_each(|child| collect(child, rules)),
            Value::Array(items) => items.iter().for_each(|child| collect(child, rules)),
            _ => {}
        }
    }

    fn bounded(crd: &str, path: &str, schema: &Value) {
        let kind = schema.get("type").and_then(Value::as_str);
        let has = |key: &str| schema.get(key).is_some();
        match kind {
            Some("array") => assert!(has("maxItems"), "{crd}: {path} has no maxItems"),
            // The API server's rules know how long a time is.
            Some("string") if schema["format"] == "date-time" => {}
            Some("string") => assert!(has("maxLength") || has("enum"), "{crd}: {path} has no maxLength"),
            Some("object") if has("additionalProperties") => {
                assert!(has("maxProperties"), "{crd}: {path} has no maxProperties")
            }
            _ => {}
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, child) in properties {
                assert!(child.get("description").is_some_and(|d| d != ""), "{crd}: {path}.{name} has no description");
                bounded(crd, &format!("{path}.{name}"), child);
            }
        }
        if let Some(items) = schema.get("items") {
            bounded(crd, &format!("{path}[]"), items);
        }
    }
}
