//! A job is parsed, and whose work it does; or it is refused with a reason. Pure: no client.

use jiff::Timestamp;
use kube::ResourceExt;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{ResolvedJob, Store, TrainingJob, TrainingJobStatus};
use trainyard_crds::{labels, names};
use trainyard_planner::SpecProblem;
use trainyard_planner::training::{Job, Origin, initial};

use super::memory::Parsed;

/// The job as it was accepted, or as it is accepted now.
pub(super) fn parse(job: &TrainingJob, default_store: Option<&Store>) -> Result<Parsed, SpecProblem> {
    let resolved = job.status.as_ref().and_then(|status| status.resolved.as_ref());
    // The installation's default may have changed since: what the job got first is what it keeps.
    let store = resolved.and_then(|resolved| resolved.store.as_ref()).or(default_store);
    let parsed = Job::new(&job.spec, store)?;
    if let Some(resolved) = resolved.filter(|resolved| resolved.spec_digest != parsed.digest()) {
        let message = "the spec was edited after the job had been accepted: create another job";
        return Err(SpecProblem {
            reason: Reason::SpecChanged,
            path: format!("spec ({} was accepted)", resolved.spec_digest),
            message: message.into(),
        });
    }
    let (origin, attempts_before) = origin(job);
    let parsed = Parsed { job: parsed, origin, attempts_before };
    if resolved.is_some_and(|resolved| resolved.artifacts != artifacts(job, &parsed)) {
        let message = "the labels or the owner that say whose stage the job is were changed after it had been accepted: \
                       create another job";
        let (reason, path) = (Reason::SpecChanged, "metadata".to_owned());
        return Err(SpecProblem { reason, path, message: message.into() });
    }
    Ok(parsed)
}

/// Whose work a job does, and the number before that of its first attempt: a stage's if a run controls it and its labels and
/// annotation say which, else its own.
fn origin(job: &TrainingJob) -> (Origin, u32) {
    let (name, uid) = (job.name_any(), job.uid().unwrap_or_default());
    let stage = || {
        let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        let label = |key: &str| job.labels().get(key).cloned();
        let pipeline = job.annotations().get(labels::PIPELINE)?;
        let number: u32 = label(labels::ATTEMPT)?.parse().ok()?;
        let ours = owner.kind == "PipelineRun" && label(labels::RUN_UID)? == owner.uid;
        // They become a part of keys in the store.
        let names = [&owner.name, &owner.uid, pipeline].into_iter().all(|name| is_name(name));
        let origin = Origin {
            pipeline: pipeline.clone(),
            run: owner.name.clone(),
            run_uid: owner.uid.clone(),
            stage: label(labels::STAGE)?,
        };
        (ours && names).then(|| (origin, names::attempts_before(number)))
    };
    stage().unwrap_or_else(|| (Origin::alone(&name, &uid), 0))
}

/// Whether a text can be the name of an object.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=253).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('.') && !text.contains("..")
}

/// Prefix of a job's artifacts, for people.
fn artifacts(job: &TrainingJob, parsed: &Parsed) -> String {
    let store = parsed.job.store();
    let base = match (&store.uri, &store.volume) {
        (Some(uri), _) => uri.trim_end_matches('/').to_owned(),
        (None, Some(volume)) => {
            let path = volume.sub_path.as_deref().unwrap_or_default().trim_matches('/');
            format!("volume:{}/{path}", volume.claim_name).trim_end_matches('/').to_owned()
        }
        (None, None) => String::new(),
    };
    let Origin { pipeline, run, run_uid, stage } = &parsed.origin;
    let namespace = job.namespace().unwrap_or_default();
    let prefix = step_protocol::paths::stage_prefix(&namespace, pipeline, run, run_uid, stage);
    format!("{base}/{prefix}/")
}

/// The first status of a job.
pub(super) fn first(job: &TrainingJob, parsed: &Parsed, now: Timestamp) -> TrainingJobStatus {
    let resolved = ResolvedJob {
        artifacts: artifacts(job, parsed),
        spec_digest: parsed.job.digest().to_owned(),
        service: job.name_any(),
        service_account_name: job.spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
        store: job.spec.store.is_none().then(|| store.clone()),
    };
    initial(resolved, job.metadata.generation.unwrap_or_default(), now)
}
