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
            ledger: ledger(job, pipeline),
        };
        (ours && names).then(|| (origin, names::attempts_before(number)))
    };
    stage().unwrap_or_else(|| (Origin::alone(&name, &uid), 0))
}

/// The key of the revision that the job's run was started for, in the store's ledger, if the job is to ask for it.
fn ledger(job: &TrainingJob, pipeline: &str) -> Option<String> {
    let note = |key: &str| job.annotations().get(key);
    let key = note(labels::RUN_KEY).filter(|key| key.len() == 64 && key.chars().all(|c| c.is_ascii_hexdigit()))?;
    let retries: u32 = note(labels::RUN_RETRIES)?.parse().ok()?;
    Some(step_protocol::paths::ledger_key(&job.namespace().unwrap_or_default(), pipeline, key, retries))
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
    let Origin { pipeline, run, run_uid, stage, .. } = &parsed.origin;
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
        store: job.spec.store.is_none().then(|| parsed.job.store().clone()),
    };
    initial(resolved, job.metadata.generation.unwrap_or_default(), now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The job of the second attempt of a stage, whose first job was deleted.
    fn stage() -> TrainingJob {
        serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {
                "name": "iris-1-fit-x", "namespace": "team", "uid": "j",
                "labels": {labels::RUN_UID: "0b6f", labels::STAGE: "fit", labels::ATTEMPT: "2"},
                "annotations": {labels::PIPELINE: "iris.v2"},
                "ownerReferences": [{"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": "iris-1", "uid": "0b6f", "controller": true}],
            },
            "spec": {
                "framework": "None", "store": {"uri": "s3://bucket"},
                "roles": [{"name": "worker", "replicas": 4, "container": {"image": "i", "command": ["x"]}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_stages_job_publishes_where_its_stage_does_and_counts_on() {
        let job = stage();
        let parsed = parse(&job, None).unwrap();
        assert_eq!(artifacts(&job, &parsed), "s3://bucket/team/iris.v2/iris-1.0b6f/fit/");
        assert_eq!(parsed.attempts_before, 10_000);
        let mut alone = job;
        alone.metadata.owner_references = None;
        let parsed = parse(&alone, None).unwrap();
        assert_eq!(parsed.origin, Origin::alone("iris-1-fit-x", "j"));
        assert_eq!(parsed.attempts_before, 0);
    }

    #[test]
    fn the_job_of_a_first_stage_asks_for_the_revision_of_its_run() {
        let asks = |key: &str, retries: &str| {
            let mut job = stage();
            job.annotations_mut().insert(labels::RUN_KEY.into(), key.into());
            job.annotations_mut().insert(labels::RUN_RETRIES.into(), retries.into());
            parse(&job, None).unwrap().origin.ledger
        };
        assert_eq!(parse(&stage(), None).unwrap().origin.ledger, None);
        let key = "a1".repeat(32);
        assert_eq!(asks(&key, "2"), Some(format!("team/iris.v2/ledger/{key}-2.json")));
        for (key, retries) in [("../../x", "0"), (&*"../".repeat(21), "0"), (&*key, "x"), (&*key, "-1")] {
            assert_eq!(asks(key, retries), None, "{key} {retries}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_make_it_nobodys() {
        for pipeline in ["../other", "a/b", "", "..", "A"] {
            let mut job = stage();
            job.annotations_mut().insert(labels::PIPELINE.into(), pipeline.into());
            assert_eq!(parse(&job, None).unwrap().origin, Origin::alone("iris-1-fit-x", "j"), "{pipeline}");
        }
    }

    #[test]
    fn a_job_does_not_publish_elsewhere_once_it_was_accepted() {
        let mut job = stage();
        let parsed = parse(&job, None).unwrap();
        job.status = Some(first(&job, &parsed, Timestamp::UNIX_EPOCH));
        assert!(parse(&job, None).is_ok());
        job.labels_mut().insert(labels::STAGE.into(), "other".into());
        let Err(problem) = parse(&job, None) else { panic!("it was taken") };
        assert_eq!(problem.reason, Reason::SpecChanged);
    }
}
