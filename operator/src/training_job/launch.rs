//! Ranks become Pods, and what the API server says to that becomes an observation.

use std::sync::Mutex;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::TrainingJob;
use trainyard_planner::training::{Blocked, RankPod};
use trainyard_planner::{Attempt, AttemptState, Class, Ended};

use super::build::{self, Request};
use super::memory::JobMemory;
use super::{JobError, observe};
use crate::apply::{Created, CreatedService, TOGETHER, Writer};
use crate::context::Context;
use crate::gang::Gang;
use crate::memory::lock;

/// After this long a namespace without quota is asked again.
const QUOTA_WAIT: SignedDuration = SignedDuration::from_secs(15);
/// After this long rights that the operator does not have are tried again.
const RIGHTS_WAIT: SignedDuration = SignedDuration::from_secs(3);

/// Creates the Service of a job, or finds that it is there.
pub(super) async fn service(
    context: &Context,
    memory: &Mutex<JobMemory>,
    object: &TrainingJob,
) -> Result<bool, JobError> {
    let service = build::service(object);
    let name = service.name_any();
    match Writer::new(context.client.clone()).create_service(&service).await? {
        CreatedService::New => tracing::info!(service = %name, "created"),
        CreatedService::Existing(existing) if build::is_ours(&existing, object) => {}
        CreatedService::Existing(_) => {
            let message = format!(
                "Service {name} exists and belongs to somebody else, and the ranks need one of the job's name: delete it, or name the job otherwise"
            );
            lock(memory).ranks.give_up(Reason::NameConflict, message);
            return Ok(false);
        }
        CreatedService::Later(reason, message) => {
            block(memory, reason, message, Timestamp::now());
            return Ok(false);
        }
        CreatedService::Refused(message) => {
            let message = format!("the API server refuses Service {name}: {message}");
            lock(memory).ranks.give_up(Reason::PodRejected, message);
            return Ok(false);
        }
    }
    lock(memory).ranks.has_service();
    Ok(true)
}

/// Creates the group in which a scheduler places the Pods of an attempt together, or finds that it is there.
pub(super) async fn pod_group(
    context: &Context,
    memory: &Mutex<JobMemory>,
    gang: &Gang,
    object: &TrainingJob,
    (attempt, ranks): (u32, u32),
) -> Result<bool, JobError> {
    let group = build::pod_group(gang, object, attempt, ranks);
    match Writer::new(context.client.clone()).create_pod_group(&group, &gang.kind()).await? {
        None => Ok(true),
        Some((reason, message)) => {
            block(memory, reason, message, Timestamp::now());
            Ok(false)
        }
    }
}

fn block(memory: &Mutex<JobMemory>, reason: Reason, message: String, now: Timestamp) {
    let wait = if reason == Reason::Forbidden { RIGHTS_WAIT } else { QUOTA_WAIT };
    let until = now.saturating_add(wait).unwrap_or(now);
    lock(memory).ranks.block(Blocked { reason: reason.as_str().into(), message, until });
}

/// Creates the Pods of these ranks. Returns whether all of them exist now; if not, the world has changed and the plan with it.
pub(super) async fn launch(
    context: &Context,
    memory: &Mutex<JobMemory>,
    requests: Vec<Request<'_>>,
    now: Timestamp,
) -> Result<bool, JobError> {
    // None is given up because another one failed: a request that was sent may have been done.
    let mut pending = FuturesUnordered::new();
    let mut all = Ok(true);
    let mut requests = requests.into_iter();
    loop {
        while pending.len() < TOGETHER
            && let Some(request) = requests.next()
        {
            pending.push(create(context, memory, request, now));
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
    memory: &Mutex<JobMemory>,
    request: Request<'_>,
    now: Timestamp,
) -> Result<bool, JobError> {
    let name = request.name();
    let pod = match request.pod(&context.settings) {
        Ok(pod) => pod,
        Err(error) => {
            hopeless(memory, &request, &name, Reason::PodRejected, error.to_string(), now);
            return Ok(false);
        }
    };
    match Writer::new(context.client.clone()).create_pod(&pod).await? {
        Created::New(created) => {
            context.metrics.pod_created();
            tracing::info!(attempt = request.attempt, rank = request.rank, pod = %name, "launched");
            Ok(seen(memory, &request, &created))
        }
        Created::Existing(existing) => match ours(&existing, &request) {
            true => Ok(seen(memory, &request, &existing)),
            false => {
                let message = format!(
                    "Pod {name} exists and belongs to somebody else: it is left alone; delete it, then create the job again"
                );
                hopeless(memory, &request, &name, Reason::NameConflict, message, now);
                Ok(false)
            }
        },
        Created::Later(reason, message) => {
            block(memory, reason, message, now);
            Ok(false)
        }
        Created::Refused(message) => {
            let message = format!("the API server refuses the Pod: {message}");
            hopeless(memory, &request, &name, Reason::PodRejected, message, now);
            Ok(false)
        }
    }
}

fn seen(memory: &Mutex<JobMemory>, request: &Request<'_>, pod: &Pod) -> bool {
    let Some(observation) = observe::observe_named(pod, request.run.uid, request.attempt, request.rank) else {
        return false;
    };
    let labelled = observe::observe(pod).is_some();
    let mut memory = lock(memory);
    if labelled {
        memory.observe_created(observation)
    } else {
        memory.observe_altered(observation)
    }
    true
}

/// Whether a Pod of our name is this rank: of this job by UID, and made for the same definition.
fn ours(pod: &Pod, request: &Request<'_>) -> bool {
    observe::observe_named(pod, request.run.uid, request.attempt, request.rank)
        .is_some_and(|seen| seen.spec_hash == request.spec_hash())
}

/// The rank has failed before it began, and another attempt cannot help.
fn hopeless(
    memory: &Mutex<JobMemory>,
    request: &Request<'_>,
    pod: &str,
    reason: Reason,
    message: String,
    now: Timestamp,
) {
    let ended = Ended { end: Some(now), ..Ended::failure(Class::Fatal, reason.as_str(), message) };
    let attempt = Attempt {
        number: request.attempt,
        pod: pod.to_owned(),
        uid: String::new(),
        created: now,
        deleting: false,
        lost_node: None,
        state: AttemptState::Ended(ended),
        child: None,
    };
    lock(memory).ranks.insert(RankPod {
        rank: request.rank,
        attempt,
        bound: false,
        held: false,
        due: None,
        disruption: None,
    });
}
