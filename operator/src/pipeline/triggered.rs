//! Runs that triggers start: what is seen of them, and their creation.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{
    Cause, Pipeline, PipelineReference, PipelineRun, PipelineRunSpec, Revision, RevisionPhase, RunPhase, RunState,
};
use trainyard_planner::retrain::{NewRun, SeenRun, creates, unsettled};
use trainyard_planner::{Note, NoteKind};

use super::orphans;
use crate::apply::{CreatedRun, WriteError, Writer};
use crate::context::Context;

type Runs = BTreeMap<String, Arc<PipelineRun>>;

/// What is seen of the runs whose end the ledger does not know: in memory, or by a live read where they have left the watch, or have not
/// come into it. The second are those that were read, by name.
pub(super) async fn seen(
    context: &Context,
    namespace: &str,
    revisions: &[Revision],
    active: &Runs,
) -> Result<(BTreeMap<String, SeenRun>, Runs), WriteError> {
    let writer = Writer::new(context.client.clone());
    let (mut seen, mut live) = (BTreeMap::new(), Runs::new());
    for name in unsettled(revisions) {
        let entry = revisions.iter().find(|entry| entry.run == name);
        let key = entry.map_or("", |entry| entry.key.as_str());
        let refusal = || context.memory.refusal(namespace, name);
        let starts = entry.is_some_and(|entry| entry.phase == RevisionPhase::Starting);
        let look = match active.get(name) {
            Some(run) => of(run, key),
            None => match writer.read_run(namespace, name).await? {
                Some(run) if run.metadata.deletion_timestamp.is_none() => {
                    let seen = of(&run, key);
                    live.insert(name.to_owned(), Arc::new(run));
                    seen
                }
                _ if starts => refusal().map_or(SeenRun::Missing, SeenRun::Refused),
                _ => SeenRun::Missing,
            },
        };
        seen.insert(name.to_owned(), look);
    }
    Ok((seen, live))
}

fn of(run: &PipelineRun, key: &str) -> SeenRun {
    if run.annotations().get(labels::RUN_KEY).map(String::as_str) != Some(key) {
        return SeenRun::Foreign;
    }
    let status = run.status.clone().unwrap_or_default();
    SeenRun::Ours {
        phase: status.phase.unwrap_or_default(),
        message: if status.phase == Some(RunPhase::Succeeded) { String::new() } else { status.message },
        reason: status.reason,
        completed: status.completion_time.map(|time| time.0),
    }
}

/// Creates the runs that a status on record says to create. Returns whether one was refused for good, which the status does not say yet.
pub(super) async fn create(
    context: &Context,
    pipeline: &Pipeline,
    revisions: &[Revision],
    runs: &BTreeMap<String, SeenRun>,
) -> Result<bool, WriteError> {
    let writer = Writer::new(context.client.clone());
    let mut refused = false;
    for new in creates(&pipeline.spec, revisions, runs) {
        let run = build(pipeline, &new);
        let created = writer.create_run(&run).await?;
        if !matches!(created, CreatedRun::Refused(_)) {
            context.memory.taken(&run.namespace().unwrap_or_default(), &new.name);
        }
        match created {
            CreatedRun::New => {
                tracing::info!(run = %new.name, trigger = %new.trigger, "created a run");
                let message = format!("run {} was started by {}", new.name, words(&new));
                context.events.note(pipeline, Note { kind: NoteKind::Normal, reason: "RunCreated", message });
            }
            CreatedRun::Exists => tracing::debug!(run = %new.name, "the run is there already"),
            CreatedRun::Later(reason, message) => {
                let message = format!("run {} cannot be created now: {message}", new.name);
                context.events.note(pipeline, Note { kind: NoteKind::Warning, reason: reason.as_str(), message });
            }
            CreatedRun::Refused(message) => {
                context.memory.refused(&pipeline.namespace().unwrap_or_default(), &new.name, &message);
                refused = true;
                let (reason, message) =
                    (Reason::RunRefused, format!("the API server refuses run {}: {message}", new.name));
                context.events.note(pipeline, Note { kind: NoteKind::Warning, reason: reason.as_str(), message });
            }
        }
    }
    Ok(refused)
}

/// What started a run, in words.
fn words(new: &NewRun) -> String {
    if !new.promotes.is_empty() {
        let trigger = &new.trigger;
        return format!(
            "trigger {trigger}: the spec has returned to a revision whose models are there, and nothing is trained"
        );
    }
    match &new.cause {
        Cause::SpecChange {} => format!("trigger {}: the spec has changed", new.trigger),
        Cause::Schedule { instant } => format!("trigger {}: it is {}", new.trigger, instant.0),
        Cause::Data { .. } => format!("trigger {}: its data has changed", new.trigger),
        Cause::Upstream { pipeline, output, .. } => {
            format!("trigger {}: pipeline {pipeline} has written another {output}", new.trigger)
        }
        Cause::Backfill { instant } => format!("trigger {}: it is the turn of {}", new.trigger, instant.0),
        Cause::Request { value } => format!("the annotation {}: {value}", labels::RERUN_REQUESTED_AT),
    }
}

/// The run. Of the Pipeline's own labels and annotations, such as those of the tool that applies it, it carries none.
fn build(pipeline: &Pipeline, new: &NewRun) -> PipelineRun {
    let name = pipeline.name_any();
    let mut run = PipelineRun::new(
        &new.name,
        PipelineRunSpec {
            pipeline_ref: Some(PipelineReference { name: name.clone() }),
            promote: new.promotes.clone(),
            params: new.params.clone(),
            ..PipelineRunSpec::default()
        },
    );
    run.metadata.namespace = pipeline.namespace();
    let mut tags = BTreeMap::from([
        (labels::PIPELINE.to_owned(), labels::value(&name)),
        (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
    ]);
    if !new.trigger.is_empty() {
        tags.insert(labels::TRIGGER.to_owned(), new.trigger.clone());
    }
    match orphans::outlive(pipeline) {
        true => {
            tags.insert(labels::PIPELINE_UID.to_owned(), pipeline.uid().unwrap_or_default());
        }
        false => run.metadata.owner_references = Some(vec![orphans::owner(pipeline)]),
    }
    run.metadata.labels = Some(tags);
    run.metadata.annotations = Some(BTreeMap::from([
        (labels::RUN_KEY.to_owned(), new.key.clone()),
        (labels::CAUSE.to_owned(), serde_json::to_string(&new.cause).unwrap_or_default()),
        (labels::RUN_RETRIES.to_owned(), new.retries.to_string()),
    ]));
    if let Some(upstream) = new.upstream.as_ref().and_then(|upstream| serde_json::to_string(upstream).ok()) {
        run.annotations_mut().insert(labels::UPSTREAM.to_owned(), upstream);
    }
    run
}

/// Cancels active runs that give way to a newer one, each once.
pub(super) async fn cancel(writer: &Writer, names: &[String], active: &Runs) -> Result<(), WriteError> {
    for run in names.iter().filter_map(|name| active.get(name)) {
        if run.spec.state.unwrap_or_default() == RunState::Active {
            writer.cancel_run(run).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Pipeline",
            "metadata": {
                "name": "iris", "namespace": "team", "uid": "u",
                "labels": {"app.kubernetes.io/instance": "iris", "kustomize.toolkit.fluxcd.io/name": "apps", "helm.sh/chart": "a-1"},
                "annotations": {"argocd.argoproj.io/tracking-id": "a:b/c", "meta.helm.sh/release-name": "a"},
            },
            "spec": {"stages": [{"name": "a", "container": {"image": "i", "command": ["x"]}}]},
        }))
        .unwrap()
    }

    fn new() -> NewRun {
        NewRun {
            name: "iris-abc".into(),
            key: "k".repeat(64),
            trigger: "git".into(),
            cause: Cause::SpecChange {},
            retries: 0,
            promotes: Vec::new(),
            params: BTreeMap::new(),
            upstream: None,
        }
    }

    #[test]
    fn a_run_carries_what_started_it_and_nothing_of_the_tool_that_applied_its_pipeline() {
        insta::assert_json_snapshot!(build(&pipeline(), &new()));
    }

    #[test]
    fn a_run_that_outlives_its_pipeline_has_no_owner_and_is_known_as_started_by_it() {
        let mut pipeline = pipeline();
        pipeline.spec.deletion_policy = serde_json::from_value(json!({"runs": "Orphan"})).unwrap();
        let run = build(&pipeline, &new());
        assert_eq!((run.metadata.owner_references.clone(), orphans::started_by(&run)), (None, Some("u")));
    }

    #[test]
    fn a_run_is_ours_by_its_key_and_not_by_its_name() {
        let run = build(&pipeline(), &new());
        assert!(matches!(of(&run, &new().key), SeenRun::Ours { phase: RunPhase::Pending, .. }));
        assert_eq!(of(&run, "another"), SeenRun::Foreign);
    }
}
