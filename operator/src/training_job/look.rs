//! Live looks at a job's Pods, before what cannot be taken back (P4).

use std::collections::BTreeSet;
use std::sync::Mutex;

use futures::{StreamExt, TryStreamExt};
use kube::ResourceExt;
use trainyard_planner::Attempt;
use trainyard_planner::training::JobRun;

use super::memory::{JobMemory, Parsed};
use super::{JobError, observe};
use crate::apply::{TOGETHER, Writer};
use crate::context::Context;
use crate::memory::lock;

/// What is there of an attempt's Pods. Returns the ranks that are gone.
pub(super) async fn look(
    context: &Context,
    memory: &Mutex<JobMemory>,
    parsed: &Parsed,
    run: &JobRun<'_>,
    attempt: u32,
    ranks: u32,
) -> Result<Vec<u32>, JobError> {
    let writer = Writer::new(context.client.clone());
    list(&writer, memory, run).await?;
    let missing: Vec<u32> = {
        let memory = lock(memory);
        // Of an attempt whose Pods have not all been created, only those that were there can be gone.
        let had_pod = |rank: u32| memory.ranks.had_pod(attempt, rank, run.status.launched);
        (0..ranks).filter(|rank| memory.ranks.pod(attempt, *rank).is_none() && had_pod(*rank)).collect()
    };
    let gone = by_name(&writer, memory, parsed, run, attempt, ranks, missing).await?;
    lock(memory).ranks.know(attempt);
    Ok(gone)
}

/// Whether Pods of this attempt or an earlier one are left. Those that no listing shows are asked for by their names, but for those
/// that have been shown to go.
pub(super) async fn clear(
    context: &Context,
    memory: &Mutex<JobMemory>,
    parsed: &Parsed,
    run: &JobRun<'_>,
    (attempt, ranks): (u32, u32),
    fenced: &[String],
) -> Result<(), JobError> {
    let writer = Writer::new(context.client.clone());
    list(&writer, memory, run).await?;
    let unsure: Vec<u32> = {
        let memory = lock(memory);
        (0..ranks)
            .filter(|rank| memory.ranks.pod(attempt, *rank).is_none() && !memory.is_gone(attempt, *rank))
            .collect()
    };
    by_name(&writer, memory, parsed, run, attempt, ranks, unsure).await?;
    let mut memory = lock(memory);
    let left = memory.ranks.iter().any(|pod| {
        let Attempt { number, uid, .. } = &pod.attempt;
        *number <= attempt && !uid.is_empty() && pod.is_alive() && !fenced.contains(uid)
    });
    if !left {
        memory.forget_attempts(attempt);
    }
    Ok(())
}

/// Takes in every Pod with the job's label; those in memory that are not shown are gone or not shown any more.
pub(super) async fn list(writer: &Writer, memory: &Mutex<JobMemory>, run: &JobRun<'_>) -> Result<(), JobError> {
    let pods = writer.list_job_pods(run.namespace, run.uid).await?;
    let mut memory = lock(memory);
    let mut shown = BTreeSet::new();
    for observation in pods.iter().filter_map(observe::observe).filter(|seen| seen.job_uid == run.uid) {
        shown.insert((observation.pod.attempt.number, observation.pod.rank));
        memory.observe(observation);
    }
    let known: Vec<(u32, u32)> = memory
        .ranks
        .iter()
        .filter(|pod| !pod.attempt.uid.is_empty())
        .map(|pod| (pod.attempt.number, pod.rank))
        .filter(|key| !shown.contains(key))
        .collect();
    for (attempt, rank) in known {
        memory.ranks.remove(attempt, rank);
    }
    Ok(())
}

/// Reads the Pods of these ranks by their names. Returns the ranks that have none.
async fn by_name(
    writer: &Writer,
    memory: &Mutex<JobMemory>,
    parsed: &Parsed,
    run: &JobRun<'_>,
    attempt: u32,
    ranks: u32,
    wanted: Vec<u32>,
) -> Result<Vec<u32>, JobError> {
    let reads = futures::stream::iter(wanted).map(|rank| async move {
        let name = parsed.job.pod_name(run.name, run.uid, ranks, attempt, rank);
        writer.read_pod(run.namespace, &name).await.map(|pod| (rank, pod))
    });
    let read: Vec<_> = reads.buffer_unordered(TOGETHER).try_collect().await?;
    let mut missing = Vec::new();
    for (rank, pod) in read {
        let seen = pod.as_ref().and_then(|pod| observe::observe_named(pod, run.uid, attempt, rank));
        match (seen, pod) {
            // No listing has shown it yet.
            (Some(seen), Some(pod)) if observe::observe(&pod).is_some() => lock(memory).observe(seen),
            (Some(mut seen), Some(pod)) => {
                tracing::warn!(rank, attempt, pod = %pod.name_any(), "the labels of the Pod were changed: it is read by its name, and goes");
                if !seen.pod.has_ended() {
                    let uid = pod.uid().unwrap_or_default();
                    writer.delete_pod(run.namespace, &pod.name_any(), &uid).await?;
                    seen.pod.attempt.deleting = true;
                    seen.pod.disruption = Some(format!("the labels of Pod {} were changed", pod.name_any()));
                }
                lock(memory).observe_altered(seen);
            }
            _ => missing.push(rank),
        }
    }
    Ok(missing)
}
