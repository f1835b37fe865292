//! T1 to T8: what must hold of a training job beside what holds of any run. The numbers follow the rules of its design.
//!
//! | | says | file |
//! |---|---|---|
//! | T1 | at most one Pod UID ever for each (job, attempt, rank) | `pods` |
//! | T2 | one live attempt: no Pod of an attempt is alive when one of another is created, none while the job is suspended | `pods` |
//! | T3 | all ranks of an attempt have one spec, and a place each | `pods` |
//! | T4 | an attempt is on record before its Pods are created, and its end before they are deleted | `record` |
//! | T5 | restarts are exactly the failed attempts that others followed, each with a cause and within its limit | `record` |
//! | T6 | the end is final, and status never shows what was not true | `status` |
//! | T7 | the job's commit record is there exactly if it succeeded | `status` |
//! | T8 | a job that is a stage of a run is there once for each attempt, not before what the stage needs, and not after the run | `stage` |

mod pods;
mod record;
mod stage;
mod status;
#[cfg(test)]
mod world;

use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version};
use crate::faults::monkey::FOREIGN;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is wrong with the jobs of a case.
pub(super) fn check(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = pods::one_uid_per_rank(evidence);
    found.extend(pods::one_live_attempt(evidence));
    found.extend(pods::one_spec_per_attempt(evidence));
    found.extend(record::before_and_after(evidence));
    found.extend(record::restarts_are_exact(evidence));
    found.extend(record::failures_have_causes(evidence));
    found.extend(status::the_end_is_final(evidence));
    found.extend(status::status_is_true(evidence));
    found.extend(status::succeeded_means_committed(evidence));
    found.extend(stage::one_job_per_attempt(evidence));
    found.dedup();
    found
}

/// A Pod as a rank, by its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    job_uid: String,
    attempt: u32,
    rank: u32,
}

impl Rank {
    /// Labels are written out here: that the operator's words are these is part of what is tested.
    fn of(pod: &Value) -> Option<Self> {
        let labels = &pod["metadata"]["labels"];
        if labels[FOREIGN] == "true" {
            return None;
        }
        let label = |name: &str| labels[format!("trainyard.dev/{name}")].as_str();
        Some(Self {
            job_uid: label("job-uid")?.to_owned(),
            attempt: label("attempt")?.parse().ok()?,
            rank: label("rank")?.parse().ok()?,
        })
    }
}

/// Every version of a Pod of a rank, in the API server's order. A Pod stays the rank that it was created as, whatever becomes of its
/// labels.
fn ranks(evidence: Evidence<'_>) -> Vec<(Rank, &Version)> {
    let mut known: BTreeMap<&str, Rank> = BTreeMap::new();
    let mut found = Vec::new();
    for version in evidence.history.versions(Kind::Pod) {
        if let Some(rank) = Rank::of(&version.object) {
            known.entry(version.uid()).or_insert(rank);
        }
        if let Some(rank) = known.get(version.uid()) {
            found.push((rank.clone(), version));
        }
    }
    found
}

/// How many ranks of attempts after the first had a Pod.
pub(super) fn ranks_again(evidence: Evidence<'_>) -> usize {
    let again = ranks(evidence).into_iter().map(|(rank, _)| rank).filter(|rank| rank.attempt > 1);
    again.collect::<BTreeSet<_>>().len()
}

/// Every version of a job as long as it is there, in the API server's order.
fn jobs(evidence: Evidence<'_>) -> Vec<&Version> {
    evidence.history.versions(Kind::Job).into_iter().filter(|job| job.change != Change::Deleted).collect()
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

/// The ended attempts that a job's status remembers.
fn attempts(job: &Value) -> &[Value] {
    job["status"]["attempts"].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::world::World;

    #[test]
    fn good_histories_have_no_violation() {
        assert_eq!(World::restarted().check(), []);
        assert_eq!(World::failed().check(), []);
    }
}
