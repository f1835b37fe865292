//! `deletionPolicy`: whether the runs that triggers have started go with their Pipeline. No finalizer: those that go have it as their
//! owner, and those that stay have its UID in a label.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{Pipeline, RunDeletion};
use trainyard_planner::{Note, NoteKind};

use crate::apply::{WriteError, Writer};
use crate::context::Context;

/// Whether runs stay when the Pipeline goes.
pub(super) fn outlive(pipeline: &Pipeline) -> bool {
    pipeline.spec.deletion_policy.as_ref().and_then(|policy| policy.runs) == Some(RunDeletion::Orphan)
}

/// The Pipeline as the owner of a run.
pub(super) fn owner(pipeline: &Pipeline) -> OwnerReference {
    let mut owner = pipeline.controller_owner_ref(&()).unwrap_or_default();
    owner.block_owner_deletion = Some(false);
    owner
}

/// UID of the Pipeline whose trigger, or annotation, has started a run; `None` of a run that somebody created.
pub(crate) fn started_by(run: &impl ResourceExt) -> Option<&str> {
    let owner = run.owner_references().iter().find(|owner| owner.controller == Some(true) && owner.kind == "Pipeline");
    owner.map(|owner| owner.uid.as_str()).or_else(|| run.labels().get(labels::PIPELINE_UID).map(String::as_str))
}

/// Has the runs that there are follow the policy of a Pipeline, once for each of its generations. Where it says nothing they stay as they
/// were started. What does not succeed is told and tried again, and all else that the Pipeline does goes on.
pub(super) async fn follow_policy(context: &Context, writer: &Writer, pipeline: &Pipeline) {
    if pipeline.spec.deletion_policy.as_ref().and_then(|policy| policy.runs).is_none() {
        return;
    }
    let (uid, generation) = (pipeline.uid().unwrap_or_default(), pipeline.metadata.generation.unwrap_or_default());
    if !context.memory.follows(&uid, generation) {
        return;
    }
    let followed = follow(writer, pipeline, &uid).await;
    context.memory.followed(&uid, followed.is_ok().then_some(generation));
    if let Err(error) = followed {
        let message =
            format!("deletionPolicy is not yet followed by runs that are there, and it is tried again: {error}");
        context.events.note(pipeline, Note { kind: NoteKind::Warning, reason: "DeletionPolicyFailed", message });
    }
}

/// Changes the owners of all runs that are to be changed, also when that of one cannot be.
async fn follow(writer: &Writer, pipeline: &Pipeline, uid: &str) -> Result<(), WriteError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let label = format!("{}={}", labels::PIPELINE, labels::value(&pipeline.name_any()));
    let stay = outlive(pipeline);
    let mut all = Ok(());
    for run in writer.list_run_metadata(&namespace, &label).await? {
        let ours = |owner: &OwnerReference| owner.uid == uid && owner.kind == "Pipeline";
        let mut owners = run.owner_references().to_vec();
        if started_by(&run) != Some(uid) || owners.iter().any(ours) != stay {
            continue;
        }
        owners.retain(|owner| !ours(owner));
        if !stay {
            owners.push(owner(pipeline));
        }
        all = all.and(writer.own_run(&run.metadata, owners, stay.then_some(uid)).await);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use trainyard_crds::v1alpha1::PipelineRun;

    #[test]
    fn who_started_a_run_is_its_controller_or_in_its_label() {
        let run = |metadata: Value| -> PipelineRun {
            let run = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "metadata": metadata, "spec": {}});
            serde_json::from_value(run).unwrap()
        };
        let owner = |controller: bool, kind: &str| {
            json!([{"apiVersion": "trainyard.dev/v1alpha1", "kind": kind, "name": "iris", "uid": "u",
            "controller": controller}])
        };
        assert_eq!(started_by(&run(json!({"ownerReferences": owner(true, "Pipeline")}))), Some("u"));
        assert_eq!(started_by(&run(json!({"labels": {"trainyard.dev/pipeline-uid": "u"}}))), Some("u"));
        assert_eq!(started_by(&run(json!({"ownerReferences": owner(false, "Pipeline")}))), None);
        assert_eq!(started_by(&run(json!({"ownerReferences": owner(true, "Application")}))), None);
        assert_eq!(started_by(&run(json!({}))), None);
    }
}
