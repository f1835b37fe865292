//! What is left to do for an ended run: succeeded Pods go after a while, the run itself after its time to live, and a run that
//! needs no more work leaves the watch.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action as Requeue;
use kube::runtime::reflector::ObjectRef;
use trainyard_crds::v1alpha1::{PipelineRun, duration_seconds};

use super::{LIVENESS, RunError};
use crate::apply::Writer;
use crate::context::Context;
use crate::memory::{RunMemory, lock};

/// How long an ended run waits for its Pipeline's status to name its end. A Pipeline that was deleted never does.
const PIPELINE_PATIENCE: Duration = Duration::from_secs(150);
/// Between the first two looks at that.
const PIPELINE_LOOK: Duration = Duration::from_millis(250);

/// Looks after an ended run.
pub(super) async fn finish(
    context: &Context,
    memory: &Mutex<RunMemory>,
    run: &PipelineRun,
) -> Result<Requeue, RunError> {
    if lock(memory).finished {
        // Its last events, before it leaves the watch.
        return Ok(Requeue::await_change());
    }
    let writer = Writer::new(context.client.clone());
    let now = Timestamp::now();
    let ended = run.status.as_ref().and_then(|status| status.completion_time.as_ref()).map_or(now, |time| time.0);
    let age = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
    let lives = run.spec.ttl.as_deref().and_then(duration_seconds).map(Duration::from_secs);
    if let Some(lives) = lives
        && age >= lives
    {
        writer.delete_run(run).await?;
        tracing::info!(ttl_seconds = lives.as_secs(), "deleted: its time to live is over");
        return Ok(Requeue::await_change());
    }
    let pods_live = context.settings.pod_ttl;
    let pods_go = age >= pods_live;
    if pods_go && lives.is_none() && !is_recorded(context, run, age) {
        // A run that has left the watch is not seen by its Pipeline any more.
        return Ok(Requeue::requeue(next_look(age)));
    }
    let had_pods = run
        .status
        .as_ref()
        .is_some_and(|status| status.stages.iter().any(|row| !row.pod.is_empty() || row.training.is_some()));
    if pods_go && had_pods && lives.is_none() {
        let (namespace, uid) = (run.namespace().unwrap_or_default(), run.uid().unwrap_or_default());
        if writer.has_live_pods(&namespace, &uid).await? {
            // The runner has reported, and the kubelet has not shown it yet: nobody would come back for this Pod.
            return Ok(Requeue::requeue(LIVENESS));
        }
        writer.delete_succeeded_pods(&namespace, &uid).await?;
    }
    match lives {
        // Such a run goes by itself, with its Pods, and stays in the watch until then.
        Some(lives) => Ok(Requeue::requeue(lives.saturating_sub(age).min(LIVENESS))),
        None if pods_go || !had_pods => {
            writer.label_finished(run).await?;
            lock(memory).finished = true;
            Ok(Requeue::await_change())
        }
        None => Ok(Requeue::requeue(pods_live.saturating_sub(age).min(LIVENESS))),
    }
}

/// How long until the next look at whether the Pipeline has heard, so long after the run's end: a Pipeline of many runs, or one on a slow
/// API server, is written seldom, and a run that asks at the same rate all the while costs both of them a look each time.
fn next_look(age: Duration) -> Duration {
    PIPELINE_LOOK.max(age / 2)
}

/// Whether the Pipeline of an ended run names its end, as far as it is waited for. If it does not, it is told again.
fn is_recorded(context: &Context, run: &PipelineRun, age: Duration) -> bool {
    if run.spec.pipeline_ref.is_none() || age >= PIPELINE_PATIENCE || context.memory.is_recorded(run) {
        return true;
    }
    if let Some(status) = &run.status {
        let namespace = run.namespace().unwrap_or_default();
        context.pipelines.send(ObjectRef::new(&status.pipeline).within(&namespace)).ok();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_that_takes_its_time_is_asked_ever_less_often() {
        let looks = |until: u64| {
            let (mut age, mut looks) = (Duration::ZERO, 0);
            while age < Duration::from_secs(until) {
                (age, looks) = (age + next_look(age), looks + 1);
            }
            looks
        };
        assert_eq!([1, 5, 150].map(looks), [4, 8, 17]);
    }
}
