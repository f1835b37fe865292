//! A status as a JSON Patch of what changed, with the resourceVersion that it was made from as precondition. Pure.

use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation, jsonptr::PointerBuf,
};
use serde_json::{Map, Value};
use trainyard_crds::v1alpha1::{PipelineRunStatus, StageStatus, TrainingJobStatus};
use trainyard_planner::without_rows;

/// The patch from one status to another: the head's fields that differ, and these rows.
///
/// `before` is the status that the server has; `None` or one without rows is replaced as a whole.
pub(crate) fn run_patch(
    resource_version: &str,
    before: Option<&PipelineRunStatus>,
    after: &PipelineRunStatus,
    rows: &[(usize, StageStatus)],
) -> Result<Patch, serde_json::Error> {
    let mut operations = vec![test(resource_version)];
    match before {
        Some(before) if before.stages.len() == after.stages.len() && !before.stages.is_empty() => {
            let old = head(before)?;
            let new = head(after)?;
            fields(&old, new, &mut operations);
            for (index, row) in rows {
                let path = PointerBuf::from_tokens(["status", "stages", &index.to_string()]);
                operations.push(PatchOperation::Replace(ReplaceOperation { path, value: serde_json::to_value(row)? }));
            }
        }
        Some(_) | None => operations.push(whole(serde_json::to_value(after)?)),
    }
    Ok(Patch(operations))
}

/// The patch from one status of a training job to another: the fields that differ.
pub(crate) fn job_patch(
    resource_version: &str,
    before: Option<&TrainingJobStatus>,
    after: &TrainingJobStatus,
) -> Result<Patch, serde_json::Error> {
    let mut operations = vec![test(resource_version)];
    match before {
        Some(before) => fields(&map(serde_json::to_value(before)?), map(serde_json::to_value(after)?), &mut operations),
        None => operations.push(whole(serde_json::to_value(after)?)),
    }
    Ok(Patch(operations))
}

/// The patch that replaces a status as a whole.
pub(crate) fn whole_patch(resource_version: &str, status: Value) -> Patch {
    Patch(vec![test(resource_version), whole(status)])
}

/// The patch that replaces the models in a Pipeline's status, and nothing else.
pub(crate) fn models_patch(resource_version: &str, has_status: bool, models: Value) -> Patch {
    let path = PointerBuf::from_tokens(["status", "models"]);
    let change = match has_status {
        true => PatchOperation::Add(AddOperation { path, value: models }),
        false => whole(serde_json::json!({ "observedGeneration": -1, "models": models })),
    };
    Patch(vec![test(resource_version), change])
}

fn test(resource_version: &str) -> PatchOperation {
    let path = PointerBuf::from_tokens(["metadata", "resourceVersion"]);
    PatchOperation::Test(TestOperation { path, value: Value::from(resource_version) })
}

fn whole(status: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(["status"]), value: status })
}

fn head(status: &PipelineRunStatus) -> Result<Map<String, Value>, serde_json::Error> {
    Ok(map(serde_json::to_value(without_rows(status))?))
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn fields(old: &Map<String, Value>, new: Map<String, Value>, operations: &mut Vec<PatchOperation>) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        let path = PointerBuf::from_tokens(["status", name.as_str()]);
        operations.push(PatchOperation::Remove(RemoveOperation { path }));
    }
    for (name, value) in new {
        if old.get(&name) != Some(&value) {
            let path = PointerBuf::from_tokens(["status", name.as_str()]);
            operations.push(PatchOperation::Add(AddOperation { path, value }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_crds::v1alpha1::{RunPhase, StagePhase};

    fn status(rows: usize) -> PipelineRunStatus {
        let stages = (0..rows).map(|i| StageStatus { name: format!("s{i}"), ..StageStatus::default() }).collect();
        PipelineRunStatus {
            phase: Some(RunPhase::Running),
            reason: "Starting".into(),
            stages,
            ..PipelineRunStatus::default()
        }
    }

    fn apply(patch: &Patch, before: &PipelineRunStatus) -> Value {
        let mut object = serde_json::json!({ "metadata": { "resourceVersion": "7" }, "status": before });
        json_patch::patch(&mut object, patch).unwrap();
        object["status"].clone()
    }

    #[test]
    fn the_patch_leads_from_one_status_to_the_other() {
        let before = status(1000);
        let mut after = before.clone();
        after.reason = String::new();
        after.progress = "1/1000".into();
        after.stages[3].phase = StagePhase::Succeeded;
        let rows = [(3, after.stages[3].clone())];
        let patch = run_patch("7", Some(&before), &after, &rows).unwrap();
        assert_eq!(apply(&patch, &before), serde_json::to_value(&after).unwrap());
        assert!(serde_json::to_string(&patch).unwrap().len() < 500, "bytes do not grow with the run");
    }

    #[test]
    fn it_applies_to_the_version_it_was_made_from_alone() {
        let before = status(1);
        let patch = run_patch("8", Some(&before), &before, &[]).unwrap();
        let mut object = serde_json::json!({ "metadata": { "resourceVersion": "7" }, "status": before });
        assert!(json_patch::patch(&mut object, &patch).is_err());
    }

    #[test]
    fn a_jobs_status_is_patched_field_by_field() {
        let before =
            TrainingJobStatus { reason: "Starting".into(), ready: "0/4".into(), ..TrainingJobStatus::default() };
        let after = TrainingJobStatus { reason: String::new(), ready: "4/4".into(), ..before.clone() };
        let patch = job_patch("7", Some(&before), &after).unwrap();
        let mut object = serde_json::json!({ "metadata": { "resourceVersion": "7" }, "status": before });
        json_patch::patch(&mut object, &patch).unwrap();
        assert_eq!(object["status"], serde_json::to_value(&after).unwrap());
        assert_eq!(patch.0.len(), 3, "a test, a removal and a change: {patch}");
    }

    #[test]
    fn a_first_status_is_written_whole() {
        let after = status(2);
        let patch = run_patch("7", None, &after, &[]).unwrap();
        assert_eq!(apply(&patch, &PipelineRunStatus::default()), serde_json::to_value(&after).unwrap());
    }
}
