//! Attempts become Pods or TrainingJobs, and what the API server says to that becomes an observation.

use std::sync::Mutex;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::TrainingJob;
use trainyard_planner::{Attempt, AttemptState, Blocked, Class, Ended};

use super::RunError;
use super::build::Request;
use super::observe::{self, Observation};
use crate::apply::{Created, CreatedJob, TOGETHER, Writer};
use crate::context::Context;
use crate::memory::{RunMemory, lock};
use crate::mutant;

/// After this long a namespace without quota is asked again.
const QUOTA_WAIT: SignedDuration = SignedDuration::from_secs(15);
/// After this long an API server that does not let the operator is asked again: mostly it has just been started.
const RIGHTS_WAIT: SignedDuration = SignedDuration::from_secs(3);

/// Creates the Pods, or TrainingJobs, of these attempts. Returns whether all of them exist now; if not, the world has changed and the plan with it.
pub(super) async fn launch(
    context: &Context,
    memory: &Mutex<RunMemory>,
    requests: Vec<Request<'_>>,
    now: Timestamp,
) -> Result<bool, RunError> {
    // None is given up because another one failed: a request that was sent may have been done.
    let mut pending = FuturesUnordered::new();
    let mut all = Ok(true);
    let mut requests = requests.into_iter();
    loop {
        while pending.len() < TOGETHER
            && let Some(request) = requests.next()
        {
            pending.push(async move {
                match request.trains() {
                    true => create_job(context, memory, request, now).await,
                    false => create(context, memory, request, now).await,
                }
            });
        }
        match (pending.next().await, &mut all) {
            (None, _) => return all,
            (Some(Ok(exists)), Ok(all)) => *all &= exists,
            (Some(Err(error)), Ok(_)) => all = Err(error),
            (Some(_), Err(_)) => {}
        }
    }
}

async fn create(
    context: &Context,
    memory: &Mutex<RunMemory>,
    request: Request<'_>,
    now: Timestamp,
) -> Result<bool, RunError> {
    let stage = request.stage();
    let name = request.name();
    let pod = match request.pod(&context.settings) {
        Ok(pod) => pod,
        Err(error) => {
            hopeless(memory, &request, &name, error.reason(), error.to_string(), now);
            return Ok(false);
        }
    };
    let writer = Writer::new(context.client.clone());
    match writer.create_pod(&pod).await? {
        Created::New(created) => {
            context.metrics.pod_created();
            tracing::info!(stage, attempt = request.attempt, pod = %name, "launched");
            Ok(!mutant::is("read-from-cache") && seen(memory, &created))
        }
        Created::Existing(_) if mutant::is("read-from-cache") => Ok(false),
        Created::Existing(existing) if is_ours(&existing, &request) => Ok(seen(memory, &existing)),
        Created::Existing(existing) if is_ours_altered(&existing, &request) => {
            if let Some(attempt) = observe::observe_named(&existing, request.run.uid, request.attempt) {
                lock(memory).observe_altered(stage, attempt);
            }
            Ok(true)
        }
        Created::Existing(_) => {
            let message = format!(
                "Pod {name} exists and belongs to somebody else: it is left alone; rename or delete it, then rerun"
            );
            hopeless(memory, &request, &name, Reason::NameConflict, message, now);
            Ok(false)
        }
        Created::Later(reason, message) => {
            block(memory, stage, reason, message, now);
            Ok(false)
        }
        Created::Refused(message) => {
            let message = format!("the API server refuses the Pod: {message}");
            hopeless(memory, &request, &name, Reason::PodRejected, message, now);
            Ok(false)
        }
    }
}

async fn create_job(
    context: &Context,
    memory: &Mutex<RunMemory>,
    request: Request<'_>,
    now: Timestamp,
) -> Result<bool, RunError> {
    let (stage, name) = (request.stage(), request.name());
    let job = match request.job(&context.settings) {
        Ok(job) => job,
        Err(error) => {
            hopeless(memory, &request, &name, error.reason(), error.to_string(), now);
            return Ok(false);
        }
    };
    match Writer::new(context.client.clone()).create_job(&job).await? {
        CreatedJob::New(created) => {
            tracing::info!(stage, attempt = request.attempt, job = %name, "launched");
            Ok(seen_job(memory, &created))
        }
        CreatedJob::Existing(existing) if is_our_job(&existing, &request) => Ok(seen_job(memory, &existing)),
        CreatedJob::Existing(_) => {
            let message = format!(
                "TrainingJob {name} exists and belongs to somebody else, or its labels were changed: it is left alone; delete it, then rerun"
            );
            hopeless(memory, &request, &name, Reason::NameConflict, message, now);
            Ok(false)
        }
        CreatedJob::Later(reason, message) => {
            block(memory, stage, reason, message, now);
            Ok(false)
        }
        CreatedJob::Refused(message) => {
            let message = format!("the API server refuses the TrainingJob: {message}");
            hopeless(memory, &request, &name, Reason::PodRejected, message, now);
            Ok(false)
        }
    }
}

fn block(memory: &Mutex<RunMemory>, stage: &str, reason: Reason, message: String, now: Timestamp) {
    let wait = if reason == Reason::Forbidden { RIGHTS_WAIT } else { QUOTA_WAIT };
    let until = now.saturating_add(wait).unwrap_or(now);
    let blocked = Blocked { reason: reason.as_str().into(), message, until };
    lock(memory).observed.block(stage, blocked);
}

fn seen_job(memory: &Mutex<RunMemory>, job: &TrainingJob) -> bool {
    let Some(observation) = observe::observe_job(job) else { return false };
    lock(memory).observe_created(observation);
    true
}

/// Whether a job of our name is this attempt: of this run by UID, of this stage and attempt, and made for the same definition.
fn is_our_job(job: &TrainingJob, request: &Request<'_>) -> bool {
    observe::observe_job(job).is_some_and(|seen| is_attempt(&seen, request))
}

fn is_attempt(seen: &Observation, request: &Request<'_>) -> bool {
    seen.run_uid == request.run.uid
        && seen.stage == request.stage()
        && seen.attempt.number == request.attempt
        && seen.spec_hash == request.spec_hash()
}

fn seen(memory: &Mutex<RunMemory>, pod: &Pod) -> bool {
    let Some(observation) = observe::observe(pod) else { return false };
    lock(memory).observe_created(observation);
    true
}

/// Whether a Pod of our name is this attempt: of this run by UID, of this stage and attempt, and made for the same definition.
fn is_ours(pod: &Pod, request: &Request<'_>) -> bool {
    if mutant::is("adopt-by-label") {
        return observe::observe(pod).is_some();
    }
    observe::observe(pod).is_some_and(|seen| is_attempt(&seen, request))
}

/// The same for a Pod whose labels were changed: its owner and what it was made for still say it.
fn is_ours_altered(pod: &Pod, request: &Request<'_>) -> bool {
    let made_for = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(labels::SPEC_HASH));
    made_for == Some(&request.spec_hash()) && observe::observe_named(pod, request.run.uid, request.attempt).is_some()
}

/// The attempt has failed before it began, and repeating it cannot help.
fn hopeless(
    memory: &Mutex<RunMemory>,
    request: &Request<'_>,
    object: &str,
    reason: Reason,
    message: String,
    now: Timestamp,
) {
    let ended = Ended { end: Some(now), ..Ended::failure(Class::Fatal, reason.as_str(), message) };
    let attempt = Attempt {
        number: request.attempt,
        pod: object.to_owned(),
        uid: String::new(),
        created: now,
        deleting: false,
        lost_node: None,
        state: AttemptState::Ended(ended),
        child: None,
    };
    lock(memory).observed.insert(request.stage(), attempt);
}
