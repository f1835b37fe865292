//! What is kept of runs that have ended: the runs themselves, and by a short Pod their artifacts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use step_protocol::{CollectSpec, Outcome, Task, TaskSpec, paths};
use trainyard_crds::v1alpha1::{ArtifactsStatus, Pipeline, PipelineRun, PipelineStatus, Retention};
use trainyard_crds::{labels, names};
use trainyard_planner::retrain::{EndedRun, collection, expired};
use trainyard_planner::{Note, NoteKind, store_spec};

use super::is_of;
use super::look::Looked;
use super::orphans::started_by;
use super::task::{GLANCE, Progress, Tasks};
use crate::apply::{WriteError, Writer};
use crate::context::Context;

/// Seconds that a look through the artifacts may take.
const LIMIT_SECONDS: u64 = 1800;
/// After this time runs that could not be listed are listed again.
const AGAIN: Duration = Duration::from_secs(60);

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
    let uid = pipeline.uid().unwrap_or_default();
    let ended = status.revisions.iter().filter(|entry| entry.phase.is_terminal()).count();
    if !context.memory.counts(&uid, ended, Instant::now()) {
        return Ok(());
    }
    let done = delete_expired(context, writer, (pipeline, retention), status, now).await;
    let later = match done {
        Ok(true) => None,
        Ok(false) => Some(AGAIN),
        Err(_) => Some(Duration::ZERO),
    };
    if let Some(later) = later {
        context.memory.counts_again(&uid, later, Instant::now());
    }
    done.map(|_| ())
}

/// Does so now. Returns whether it is known which runs there are.
async fn delete_expired(
    context: &Context,
    writer: &Writer,
    (pipeline, retention): (&Pipeline, &Retention),
    status: &PipelineStatus,
    now: Timestamp,
) -> Result<bool, WriteError> {
    let uid = pipeline.uid().unwrap_or_default();
    let label = format!("{}={}", labels::PIPELINE, labels::value(&pipeline.name_any()));
    let Some(listed) = list(context, writer, pipeline, &label).await else { return Ok(false) };
    let ours: Vec<PipelineRun> = listed
        .into_iter()
        .filter(|run| started_by(run) == Some(uid.as_str()))
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
    Ok(true)
}

/// The runs of a label in the Pipeline's namespace. If they cannot be listed, or one of them cannot be read, nothing is deleted, people are
/// told, and all else that the Pipeline does goes on.
async fn list(context: &Context, writer: &Writer, pipeline: &Pipeline, label: &str) -> Option<Vec<PipelineRun>> {
    match writer.list_runs(&pipeline.namespace().unwrap_or_default(), label).await {
        Ok(runs) => Some(runs),
        Err(error) => {
            let message = format!("nothing is deleted now, and it is tried again: {error}");
            context.events.note(pipeline, Note { kind: NoteKind::Warning, reason: "RetentionFailed", message });
            None
        }
    }
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

/// Name of the Pod that looks through the artifacts, now or when it is due.
pub(super) fn pod(pipeline: &Pipeline, status: &PipelineStatus) -> Option<String> {
    let due = collection(&pipeline.spec, status)?;
    Some(names::collect_pod(&pipeline.name_any(), &pipeline.uid().unwrap_or_default(), &due.since))
}

/// Has artifacts looked through when that is due: begins, waits, or has what came of it.
pub(super) async fn artifacts(
    tasks: &Tasks<'_>,
    status: &PipelineStatus,
    looked: &mut Looked,
) -> Result<Option<ArtifactsStatus>, WriteError> {
    let (pipeline, now) = (tasks.pipeline, tasks.now);
    let Some(due) = collection(&pipeline.spec, status).filter(|due| due.at <= now) else { return Ok(None) };
    let Some(name) = pod(pipeline, status) else { return Ok(None) };
    let progress = match tasks.find(&name, LIMIT_SECONDS, &mut looked.done).await? {
        Some(progress) => progress,
        None => {
            let (namespace, writer) =
                (pipeline.namespace().unwrap_or_default(), Writer::new(tasks.context.client.clone()));
            let Some(runs) = list(tasks.context, &writer, pipeline, "").await else {
                looked.again(AGAIN);
                return Ok(None);
            };
            let task = TaskSpec {
                version: step_protocol::VERSION,
                store: store_spec(tasks.store),
                task: Task::Collect(CollectSpec {
                    prefix: paths::pipeline_prefix(&namespace, &pipeline.name_any()),
                    runs: kept(&runs, &pipeline.name_any()),
                    grace_seconds: due.grace_seconds,
                    dry_run: due.dry_run,
                }),
                timeout_seconds: LIMIT_SECONDS,
            };
            // As it was asked for when the Pod was made: what becomes of artifacts must not be decided by an old spec.
            let is_due = |live: &Pipeline| {
                live.spec.retention == pipeline.spec.retention
                    && pod(live, &live.status.clone().unwrap_or_default()).as_ref() == Some(&name)
            };
            tasks.begin(&name, &task, &mut looked.done, is_due).await?
        }
    };
    let Progress::Ended(said) = progress else {
        looked.again(GLANCE);
        return Ok(None);
    };
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
