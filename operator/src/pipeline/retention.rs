//! What is kept of runs that have ended: the runs themselves, and by a short Pod their artifacts.

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use step_protocol::{CollectSpec, Outcome, Task, TaskSpec, paths};
use trainyard_crds::v1alpha1::{ArtifactsStatus, Pipeline, PipelineRun, PipelineStatus, Store};
use trainyard_crds::{labels, names};
use trainyard_planner::retrain::{EndedRun, collection, expired};
use trainyard_planner::store_spec;

use super::is_of;
use super::look::{Looked, create, report};
use crate::apply::{WriteError, Writer};
use crate::context::Context;

/// Seconds that a look through the artifacts may take.
const LIMIT_SECONDS: u64 = 1800;

/// Deletes the runs that are not kept. The status that says how they ended is on record.
pub(super) async fn runs(
    context: &Context,
    writer: &Writer,
    pipeline: &Pipeline,
    status: &PipelineStatus,
    now: Timestamp,
) -> Result<(), WriteError> {
    let Some(retention) = &pipeline.spec.retention else { return Ok(()) };
    if retention.succeeded.is_none() && retention.failed.is_none() && retention.ttl.is_none() {
        return Ok(());
    }
    let (namespace, uid) = (pipeline.namespace().unwrap_or_default(), pipeline.uid().unwrap_or_default());
    let ended = status.revisions.iter().filter(|entry| entry.phase.is_terminal()).count();
    if !context.memory.counts(&uid, ended, Instant::now()) {
        return Ok(());
    }
    let label = format!("{}={}", labels::PIPELINE, labels::value(&pipeline.name_any()));
    let ours: Vec<PipelineRun> = writer
        .list_runs(&namespace, &label)
        .await?
        .into_iter()
        .filter(|run| run.owner_references().iter().any(|owner| owner.uid == uid && owner.controller == Some(true)))
        // Whose end the ledger does not know, it looks for.
        .filter(|run| !status.revisions.iter().any(|entry| entry.run == run.name_any() && !entry.phase.is_terminal()))
        .collect();
    let all: Vec<EndedRun> = ours.iter().filter_map(ended_run).collect();
    for name in expired(retention, &all, now) {
        if let Some(run) = ours.iter().find(|run| run.name_any() == name) {
            tracing::info!(run = %name, "retention");
            writer.delete_run(run).await?;
        }
    }
    Ok(())
}

fn ended_run(run: &PipelineRun) -> Option<EndedRun> {
    let status = run.status.as_ref()?;
    Some(EndedRun {
        name: run.name_any(),
        phase: status.phase.filter(|phase| phase.is_terminal())?,
        completed: status.completion_time.as_ref()?.0,
        pinned: run.annotations().contains_key(labels::PIN),
    })
}

/// Has artifacts looked through when that is due: begins, waits, or has what came of it.
pub(super) async fn artifacts(
    context: &Context,
    pipeline: &Pipeline,
    store: Option<&Store>,
    status: &PipelineStatus,
    now: Timestamp,
    looked: &mut Looked,
) -> Result<Option<ArtifactsStatus>, WriteError> {
    let (Some(store), Some(due)) = (store, collection(&pipeline.spec, status)) else { return Ok(None) };
    if due.at > now {
        return Ok(None);
    }
    let writer = Writer::new(context.client.clone());
    let namespace = pipeline.namespace().unwrap_or_default();
    let name = names::collect_pod(&pipeline.name_any(), &pipeline.uid().unwrap_or_default(), &due.since);
    let pod = match writer.read_pod(&namespace, &name).await? {
        Some(pod) => Some(pod),
        None => {
            let task = TaskSpec {
                version: step_protocol::VERSION,
                store: store_spec(store),
                task: Task::Collect(CollectSpec {
                    prefix: paths::pipeline_prefix(&namespace, &pipeline.name_any()),
                    runs: kept(&writer.list_runs(&namespace, "").await?, &pipeline.name_any()),
                    grace_seconds: due.grace_seconds,
                    dry_run: due.dry_run,
                }),
                timeout_seconds: LIMIT_SECONDS,
            };
            create(context, &writer, pipeline, store, &task, &name, "retention").await?
        }
    };
    let Some(said) = pod.as_ref().and_then(report) else {
        looked.again(super::look::GLANCE);
        return Ok(None);
    };
    looked.done.extend(pod.map(|pod| (name, pod.uid().unwrap_or_default())));
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (collected, message) = match said {
        Ok(report) => {
            let message = match report.outcome {
                Outcome::Succeeded => String::new(),
                outcome => format!("{}: {}", outcome.as_str(), report.message),
            };
            (report.collected.unwrap_or_default(), message)
        }
        Err(message) => (Default::default(), message),
    };
    Ok(Some(ArtifactsStatus {
        checked: Time(now),
        dry_run: due.dry_run,
        runs: number(collected.runs),
        objects: number(collected.objects),
        bytes: number(collected.bytes),
        kept: number(collected.kept),
        message,
    }))
}

/// UIDs of the runs of a Pipeline that exist, and of those that any of the namespace was built on.
fn kept(runs: &[PipelineRun], pipeline: &str) -> Vec<String> {
    let own = runs.iter().filter(|run| is_of(run, pipeline)).filter_map(ResourceExt::uid);
    let rows = runs.iter().filter_map(|run| run.status.as_ref()).flat_map(|status| &status.stages);
    let built_on = rows.filter_map(|row| row.cached_from.as_ref()).map(|from| from.uid.clone());
    let mut uids: Vec<String> = own.chain(built_on).collect();
    uids.sort_unstable();
    uids.dedup();
    uids
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_artifacts_of_runs_that_exist_are_kept_and_of_those_that_others_were_built_on() {
        let run = |uid: &str, pipeline: &str, from: Option<&str>| -> PipelineRun {
            let from = from.map(|uid| json!({"run": "r", "uid": uid, "pipeline": "iris"}));
            serde_json::from_value(json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": uid, "uid": uid},
                "spec": {"pipelineRef": {"name": pipeline}},
                "status": {"pipeline": pipeline, "stages": [{"name": "a", "phase": "Succeeded", "cachedFrom": from}]}}))
            .unwrap()
        };
        let runs = [run("b", "iris", Some("gone")), run("a", "iris", None), run("x", "other", Some("theirs"))];
        assert_eq!(kept(&runs, "iris"), ["a", "b", "gone", "theirs"]);
    }
}
