//! Models that a run publishes, in the status of its Pipeline; and those that gates compare with, from there.

use jiff::Timestamp;
use kube::ResourceExt;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::PipelineRun;
use trainyard_planner::retrain::{self, PublishedBy};
use trainyard_planner::{Champions, Note, NoteKind, Published, Run};

use super::RunError;
use crate::apply::{WriteError, Writer};
use crate::context::Context;
use crate::status_patch;

/// Others write the status too: so often it is read and written again before the run is looked at later.
const TRIES: usize = 8;

/// The champions of the run's Pipeline now; none if it has no Pipeline.
pub(super) async fn champions(context: &Context, run: &Run<'_>) -> Result<Champions, RunError> {
    let pipeline = Writer::new(context.client.clone()).read_pipeline(run.namespace, run.pipeline).await?;
    let models = pipeline.and_then(|pipeline| pipeline.status).map(|status| status.models).unwrap_or_default();
    Ok(retrain::champions(&models))
}

/// Takes a version into the status of the run's Pipeline, however often it is called. One that is gone has no models any more.
pub(super) async fn register(
    context: &Context,
    run: &PipelineRun,
    pipeline: &str,
    published: &Published,
) -> Result<(), RunError> {
    if run.spec.pipeline.is_some() {
        return Ok(());
    }
    let writer = Writer::new(context.client.clone());
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let uid = run.uid().unwrap_or_default();
    let key = run.annotations().get(labels::RUN_KEY).map(String::as_str).unwrap_or_default();
    let mut conflict = WriteError::Conflict(format!("Pipeline {namespace}/{pipeline}"));
    for _ in 0..TRIES {
        let Some(live) = writer.read_pipeline(&namespace, pipeline).await? else { return Ok(()) };
        let mut models = live.status.as_ref().map(|status| status.models.clone()).unwrap_or_default();
        let before = models.clone();
        let by = PublishedBy { run: &name, uid: &uid, key };
        let rolled_back = retrain::register(&mut models, published, by, Timestamp::now());
        if models == before {
            return Ok(());
        }
        let value = serde_json::to_value(&models).map_err(|error| RunError::Internal(error.to_string()))?;
        let version = live.resource_version().unwrap_or_default();
        let patch = status_patch::models_patch(&version, live.status.is_some(), value);
        match writer.patch_pipeline_status(&live, patch).await {
            Ok(_) => {
                tracing::info!(model = %published.model, version = published.version, "champion");
                if let Some(message) = rolled_back {
                    context.events.note(&live, Note { kind: NoteKind::Normal, reason: "RolledBack", message });
                }
                return Ok(());
            }
            Err(error @ WriteError::Conflict(_)) => conflict = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(conflict.into())
}
