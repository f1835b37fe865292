//! When a job has succeeded (rule 15).

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::v1alpha1::{AttemptOutcome, JobPhase, OutputStatus};

use super::plan::Pass;
use crate::observed::{AttemptState, Committed};
use crate::step::store_uri;

/// How long the other ranks may end by themselves after rank 0 has succeeded.
pub(super) const DRAIN: SignedDuration = SignedDuration::from_secs(10);

/// Rank 0 decides: it has ended well and its outputs are committed. In a job of parts every rank must have.
pub(super) fn succeeded(pass: &mut Pass<'_>, attempt: u32, ranks: u32) -> bool {
    let committed = |rank: u32| match &pass.ranks.pod(attempt, rank)?.attempt.state {
        AttemptState::Ended(ended) => ended.committed.as_ref().map(|committed| (committed, ended.end)),
        AttemptState::Pending(_) | AttemptState::Running(_) => None,
    };
    let Some((rank0, end)) = committed(0) else { return false };
    let (mut rank0, mut end) = (rank0.clone(), end);
    if pass.job.is_scatter() {
        for rank in 1..ranks {
            let Some((_, other)) = committed(rank) else { return false };
            end = end.max(other);
        }
    }
    let outputs = outputs(pass, &rank0);
    pass.end(attempt, ranks, AttemptOutcome::Succeeded, None);
    let (now, start) = (pass.now, pass.run.status.start_time.as_ref().map_or(pass.now, |time| time.0));
    let status = &mut pass.status;
    status.phase = Some(JobPhase::Succeeded);
    status.outputs = outputs;
    status.winner = Some(rank0.winner);
    status.results = std::mem::take(&mut rank0.results);
    // What was told last stays where the record has nothing, as with a rank that found the record of an earlier one.
    status.metrics.append(&mut rank0.metrics);
    // When rank 0 ended, though the operator may have been away: unless the clocks disagree.
    let completion = end.filter(|end| (start..=now).contains(end)).unwrap_or(now);
    status.completion_time = Some(Time(completion));
    if !status.progress.is_empty() {
        // What was told last is some seconds old.
        "100%".clone_into(&mut status.progress);
    }
    status.eta.clear();
    status.reason = String::new();
    status.message =
        if pass.job.is_scatter() { format!("all {ranks} ranks succeeded") } else { "rank 0 succeeded".to_owned() };
    status.retry_at = None;
    true
}

fn outputs(pass: &Pass<'_>, committed: &Committed) -> Vec<OutputStatus> {
    let prefix = pass.run.prefix();
    let uri = |name: &str| {
        let below = step_protocol::paths::output_prefix(&prefix, committed.winner, name);
        format!("{}/{below}/", store_uri(pass.job.store()))
    };
    let outputs = committed.outputs.iter().map(|output| OutputStatus {
        name: output.name.clone(),
        uri: uri(&output.name),
        digest: output.digest.clone(),
        bytes: i64::try_from(output.bytes).unwrap_or(i64::MAX),
    });
    outputs.collect()
}
