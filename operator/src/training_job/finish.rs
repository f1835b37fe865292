//! What is left to do for an ended job: succeeded Pods go after a while, the job itself after its time to live, and a job that needs
//! no more work leaves the watch.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action as Requeue;
use trainyard_crds::v1alpha1::{TrainingJob, duration_seconds};

use super::memory::JobMemory;
use super::{JobError, LIVENESS};
use crate::apply::Writer;
use crate::context::Context;
use crate::memory::lock;

/// Between two looks at Pods that are asked to go.
const LOOK: Duration = Duration::from_secs(5);

/// Looks after an ended job whose Pods have been asked to go.
pub(super) async fn finish(
    context: &Context,
    memory: &Mutex<JobMemory>,
    job: &TrainingJob,
) -> Result<Requeue, JobError> {
    if lock(memory).finished {
        // Its last events, before it leaves the watch.
        return Ok(Requeue::await_change());
    }
    let writer = Writer::new(context.client.clone());
    let now = Timestamp::now();
    let ended = job.status.as_ref().and_then(|status| status.completion_time.as_ref()).map_or(now, |time| time.0);
    let age = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
    let lives = job.spec.ttl.as_deref().and_then(duration_seconds).map(Duration::from_secs);
    if let Some(lives) = lives
        && age >= lives
    {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        writer.delete_job(&namespace, &name, &job.uid().unwrap_or_default()).await?;
        tracing::info!(ttl_seconds = lives.as_secs(), "deleted: its time to live is over");
        return Ok(Requeue::await_change());
    }
    if lock(memory).ranks.iter().any(|pod| !pod.has_ended() && !pod.attempt.uid.is_empty()) {
        return Ok(Requeue::requeue(LOOK));
    }
    if let Some(lives) = lives {
        // Such a job goes by itself, with its Pods, and stays in the watch until then.
        return Ok(Requeue::requeue(lives.saturating_sub(age).min(LIVENESS)));
    }
    let pods_live = context.settings.pod_ttl;
    let had_pods = job.status.as_ref().is_some_and(|status| status.attempt.is_some());
    if had_pods && age < pods_live {
        return Ok(Requeue::requeue(pods_live.saturating_sub(age).min(LIVENESS)));
    }
    if had_pods {
        let (namespace, uid) = (job.namespace().unwrap_or_default(), job.uid().unwrap_or_default());
        if writer.has_live_job_pods(&namespace, &uid).await? {
            return Ok(Requeue::requeue(LIVENESS));
        }
        writer.delete_succeeded_job_pods(&namespace, &uid).await?;
    }
    writer.label_job_finished(job).await?;
    lock(memory).finished = true;
    Ok(Requeue::await_change())
}
