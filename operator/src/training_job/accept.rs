//! A job is parsed, and whose work it does; or it is refused with a reason. Pure: no client.

use jiff::Timestamp;
use kube::ResourceExt;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{ResolvedJob, Store, TrainingJob, TrainingJobStatus};
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
    let (name, uid) = (job.name_any(), job.uid().unwrap_or_default());
    Ok(Parsed { job: parsed, origin: Origin::alone(&name, &uid), attempts_before: 0 })
}

/// The first status of a job.
pub(super) fn first(job: &TrainingJob, parsed: &Parsed, now: Timestamp) -> TrainingJobStatus {
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
    let resolved = ResolvedJob {
        artifacts: format!("{base}/{prefix}/"),
        spec_digest: parsed.job.digest().to_owned(),
        service: job.name_any(),
        service_account_name: job.spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
        store: job.spec.store.is_none().then(|| store.clone()),
    };
    initial(resolved, job.metadata.generation.unwrap_or_default(), now)
}
