//! A new run is frozen, or refused with a reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{
    CachedFrom, Cause, ModelReference, PipelineRun, PipelineRunStatus, PipelineSpec, Publish, RerunStages, Resolved,
    Stage, StageKind, StageStatus,
};
use trainyard_planner::retrain::{given, run_key};
use trainyard_planner::{SpecProblem, initial, params_digest, resolve_params, reuse};

use super::RunError;
use crate::apply::Writer;
use crate::context::Context;
use crate::memory::{Frozen, RunMemory, lock};
use crate::revisions::Definition;

/// Whether a run can go on.
pub(super) enum Accepted {
    /// With this pipeline; for a new run also its first status.
    Yes { frozen: Arc<Frozen>, first: Option<Box<PipelineRunStatus>> },
    /// It has failed for this reason.
    No(Reason, String),
}

/// What a ControllerRevision keeps: the pipeline as it was when the run was accepted, and the store that it got.
#[derive(Serialize, Deserialize)]
struct Revision {
    pipeline: String,
    spec: PipelineSpec,
    /// The parameters as given, only of a rerun: they may come from runs that will be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given: Option<BTreeMap<String, Value>>,
}

/// The frozen pipeline of a run that was accepted before, or the first status of one that is accepted now.
pub(super) async fn accept(
    context: &Context,
    memory: &Mutex<RunMemory>,
    run: &PipelineRun,
    now: Timestamp,
) -> Result<Accepted, RunError> {
    let status = run.status.as_ref().filter(|status| !status.stages.is_empty());
    let frozen = lock(memory).frozen.clone();
    match (frozen, status) {
        (Some(frozen), Some(_)) => Ok(Accepted::Yes { frozen, first: None }),
        (_, Some(status)) => recover(context, memory, run, status).await,
        (_, None) => first(context, memory, run, now).await,
    }
}

/// A run that was accepted before this process began: its revision says as what.
async fn recover(
    context: &Context,
    memory: &Mutex<RunMemory>,
    run: &PipelineRun,
    status: &PipelineRunStatus,
) -> Result<Accepted, RunError> {
    let writer = Writer::new(context.client.clone());
    let namespace = run.namespace().unwrap_or_default();
    let definition = match context.revisions.known(&namespace, &status.revision) {
        Some(definition) => definition,
        None => {
            let Some(revision) = read(&writer, &namespace, &status.revision).await? else {
                let message = format!(
                    "ControllerRevision {} is gone, which kept the pipeline of this run: create another run",
                    status.revision
                );
                return Ok(Accepted::No(Reason::PipelineNotFound, message));
            };
            match Definition::new(&revision.spec, revision.given) {
                Ok(definition) => context.revisions.share(&namespace, &status.revision, definition),
                Err(problem) => return Ok(Accepted::No(problem.reason, problem.to_string())),
            }
        }
    };
    let given = definition.given.as_ref().unwrap_or(&run.spec.params);
    let frozen = match resolve_params(&definition.params, given) {
        Ok(params) => Frozen { definition, params },
        Err(problem) => return Ok(Accepted::No(problem.reason, problem.to_string())),
    };
    let accepted_as = status.resolved.as_ref().map(|resolved| resolved.params_digest.as_str()).unwrap_or_default();
    if params_digest(&frozen.params) != accepted_as {
        let message = "spec.params was edited after the run had been accepted: create another run";
        return Ok(Accepted::No(Reason::ParametersChanged, message.into()));
    }
    let frozen = Arc::new(frozen);
    lock(memory).frozen = Some(Arc::clone(&frozen));
    Ok(Accepted::Yes { frozen, first: None })
}

/// A run's own parameters, and for a rerun those of the run that it builds on, as far as the pipeline still declares them.
async fn given_params(
    writer: &Writer,
    run: &PipelineRun,
    spec: &PipelineSpec,
) -> Result<BTreeMap<String, Value>, RunError> {
    let mut given = run.spec.params.clone();
    let mut rerun = run.spec.rerun.clone();
    let namespace = run.namespace().unwrap_or_default();
    // A rerun of a rerun of a run: bounded, since each is older than the one before.
    for _ in 0..32 {
        let Some(source) = rerun else { break };
        let Some(source) = writer.read_run(&namespace, &source.of).await? else { break };
        for (name, value) in source.spec.params {
            if spec.params.iter().any(|param| param.name == name) {
                given.entry(name).or_insert(value);
            }
        }
        rerun = source.spec.rerun;
    }
    Ok(given)
}

async fn first(
    context: &Context,
    memory: &Mutex<RunMemory>,
    run: &PipelineRun,
    now: Timestamp,
) -> Result<Accepted, RunError> {
    let writer = Writer::new(context.client.clone());
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let source = match &run.spec.rerun {
        Some(rerun) => match writer.read_run(&namespace, &rerun.of).await? {
            Some(source) if ended(&source) => Some(source),
            Some(_) => {
                let message = format!("run {} has not ended: wait for it, or cancel it with spec.state", rerun.of);
                return Ok(Accepted::No(Reason::RerunSourceUnavailable, message));
            }
            None => {
                let message = format!("there is no run {} in namespace {namespace} to build on", rerun.of);
                return Ok(Accepted::No(Reason::RerunSourceUnavailable, message));
            }
        },
        None => None,
    };
    let (pipeline, mut spec) = match definition(&writer, run, source.as_ref(), &namespace, &name).await? {
        Ok(definition) => definition,
        Err((reason, message)) => return Ok(Accepted::No(reason, message)),
    };
    if spec.store.is_none() {
        spec.store.clone_from(&context.settings.default_store);
    }
    // What starts runs, and what is kept of them, is no part of what a run is.
    (spec.triggers, spec.concurrency, spec.retry_failed_revision) = (Vec::new(), None, None);
    (spec.rerun_token, spec.suspend, spec.retention, spec.deletion_policy) = (None, None, None, None);
    let given = given_params(&writer, run, &spec).await?;
    let own = run.spec.rerun.is_some().then(|| given.clone());
    let mut frozen = match freeze(&spec, own, &given) {
        Ok(frozen) => frozen,
        Err(problem) => return Ok(Accepted::No(problem.reason, problem.to_string())),
    };
    let taken_over = match &source {
        Some(source)
            if run.spec.rerun.as_ref().is_some_and(|rerun| rerun.stages.unwrap_or_default() == RerunStages::Failed) =>
        {
            taken_over(&writer, &frozen, source, &namespace).await?
        }
        Some(_) | None => Vec::new(),
    };
    let content = Revision { pipeline, spec, given: run.spec.rerun.is_some().then_some(given) };
    let canonical = serde_json::to_string(&content).map_err(|error| RunError::Internal(error.to_string()))?;
    let mut owner = run.owner_ref(&()).unwrap_or_default();
    owner.block_owner_deletion = Some(false);
    let revision =
        context.revisions.keep(&writer, &namespace, (&content.pipeline, &canonical), &content, owner).await?;
    frozen.definition = context.revisions.share(&namespace, &revision, frozen.definition);
    let pipeline = content.pipeline;
    let resolved = Resolved {
        artifacts: artifacts(&frozen, &namespace, &pipeline, run),
        params_digest: params_digest(&frozen.params),
        service_account_name: run.spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
    };
    let first = initial(frozen.graph(), &pipeline, &revision, resolved, taken_over, now);
    let frozen = Arc::new(frozen);
    lock(memory).frozen = Some(Arc::clone(&frozen));
    Ok(Accepted::Yes { frozen, first: Some(Box::new(first)) })
}

fn ended(run: &PipelineRun) -> bool {
    run.status.as_ref().and_then(|status| status.phase).is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal)
}

/// Prefix of a run's artifacts, for people.
fn artifacts(frozen: &Frozen, namespace: &str, pipeline: &str, run: &PipelineRun) -> String {
    let store = frozen.graph().store();
    let base = match (&store.uri, &store.volume) {
        (Some(uri), _) => uri.trim_end_matches('/').to_owned(),
        (None, Some(volume)) => {
            format!("volume:{}/{}", volume.claim_name, volume.sub_path.as_deref().unwrap_or_default().trim_matches('/'))
        }
        (None, None) => String::new(),
    };
    format!(
        "{}/{namespace}/{pipeline}/{}.{}/",
        base.trim_end_matches('/'),
        run.name_any(),
        run.uid().unwrap_or_default()
    )
}

type Refusal = (Reason, String);

/// The pipeline that a run names, holds or repeats.
async fn definition(
    writer: &Writer,
    run: &PipelineRun,
    source: Option<&PipelineRun>,
    namespace: &str,
    name: &str,
) -> Result<Result<(String, PipelineSpec), Refusal>, RunError> {
    if let Some(spec) = &run.spec.pipeline {
        return Ok(Ok((name.to_owned(), spec.clone())));
    }
    if let Some(reference) = &run.spec.pipeline_ref {
        return Ok(match writer.read_pipeline(namespace, &reference.name).await? {
            Some(pipeline) => match superseded(run, &pipeline.spec) {
                Some(message) => Err((Reason::Superseded, message)),
                None => Ok((reference.name.clone(), promoting(pipeline.spec, &run.spec.promote))),
            },
            None => Err((
                Reason::PipelineNotFound,
                format!(
                    "there is no Pipeline {} in namespace {namespace}: apply it, then create the run again",
                    reference.name
                ),
            )),
        });
    }
    let Some(status) = source.and_then(|source| source.status.as_ref()) else {
        return Ok(Err((
            Reason::InvalidPipeline,
            "the run names no pipeline: set spec.pipelineRef, spec.pipeline or spec.rerun".into(),
        )));
    };
    Ok(match read(writer, namespace, &status.revision).await? {
        Some(revision) => Ok((revision.pipeline, revision.spec)),
        None => Err((
            Reason::RerunSourceUnavailable,
            format!(
                "run {} was never accepted, so there is nothing to build on: set spec.pipelineRef",
                source.map(ResourceExt::name_any).unwrap_or_default()
            ),
        )),
    })
}

/// A pipeline that promotes versions of models instead of what it does, if there are any: each in a stage of its name, with what the
/// stage that publishes the model needs of its Pod.
fn promoting(mut spec: PipelineSpec, promote: &[ModelReference]) -> PipelineSpec {
    if promote.is_empty() {
        return spec;
    }
    let stage = |wanted: &ModelReference| {
        let publishes =
            |stage: &&Stage| matches!(&stage.kind, StageKind::Publish(known) if known.model == wanted.model);
        let known = spec.stages.iter().chain(&spec.finally).find(publishes);
        Stage {
            name: wanted.model.clone(),
            kind: StageKind::Publish(Publish {
                model: wanted.model.clone(),
                from: None,
                version: Some(wanted.version),
            }),
            inputs: Vec::new(),
            outputs: Vec::new(),
            results: Vec::new(),
            metrics: Vec::new(),
            depends_on: Vec::new(),
            after: Vec::new(),
            when: None,
            retry: known.and_then(|known| known.retry.clone()),
            allow_failure: None,
            timeout: known.and_then(|known| known.timeout.clone()),
            grace_period: known.and_then(|known| known.grace_period.clone()),
            pod: known.and_then(|known| known.pod.clone()),
        }
    };
    let stages = promote.iter().map(stage).collect();
    (spec.stages, spec.finally, spec.params, spec.code) = (stages, Vec::new(), Vec::new(), None);
    spec
}

/// Why a run that a trigger started does not run: the Pipeline is not any more as it was when the run was meant, or was not when it was
/// created.
fn superseded(run: &PipelineRun, spec: &PipelineSpec) -> Option<String> {
    let note = |name: &str| run.annotations().get(name);
    let (meant, cause) = (note(labels::RUN_KEY)?, serde_json::from_str::<Cause>(note(labels::CAUSE)?).ok()?);
    let trigger = run.labels().get(labels::TRIGGER).map(String::as_str).unwrap_or_default();
    let upstream = note(labels::UPSTREAM).and_then(|json| serde_json::from_str(json).ok());
    let told = run.spec.promote.is_empty() && given(spec, trigger, &cause, upstream.as_ref()) != run.spec.params;
    (told || run_key(spec, trigger, &cause) != *meant)
        .then(|| "the Pipeline was changed before the run began: another run takes its place".to_owned())
}

async fn read(writer: &Writer, namespace: &str, revision: &str) -> Result<Option<Revision>, RunError> {
    if revision.is_empty() {
        return Ok(None);
    }
    let Some(data) = writer.read_revision(namespace, revision).await? else { return Ok(None) };
    let revision: Revision = serde_json::from_value(data).map_err(|error| {
        RunError::Internal(format!("ControllerRevision {namespace}/{revision} is not a pipeline: {error}"))
    })?;
    Ok(Some(revision))
}

/// A pipeline with the parameters that were given. `kept` are those that its revision keeps.
fn freeze(
    spec: &PipelineSpec,
    kept: Option<BTreeMap<String, Value>>,
    given: &BTreeMap<String, Value>,
) -> Result<Frozen, SpecProblem> {
    let definition = Arc::new(Definition::new(spec, kept)?);
    let params = resolve_params(&spec.params, given)?;
    Ok(Frozen { definition, params })
}

/// The rows that a rerun takes over.
async fn taken_over(
    writer: &Writer,
    frozen: &Frozen,
    source: &PipelineRun,
    namespace: &str,
) -> Result<Vec<Option<StageStatus>>, RunError> {
    let Some(status) = &source.status else { return Ok(Vec::new()) };
    let Some(revision) = read(writer, namespace, &status.revision).await? else { return Ok(Vec::new()) };
    let given = revision.given.as_ref().unwrap_or(&source.spec.params);
    let Ok(earlier) = freeze(&revision.spec, None, given) else { return Ok(Vec::new()) };
    let from =
        CachedFrom { run: source.name_any(), uid: source.uid().unwrap_or_default(), pipeline: revision.pipeline };
    Ok(reuse(frozen.graph(), &frozen.params, earlier.graph(), &earlier.params, &status.stages, &from))
}
