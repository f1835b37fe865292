//! What is kept of runs that have ended.

use jiff::{SignedDuration, Timestamp};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{
    ArtifactRetention, PipelineSpec, PipelineStatus, Retention, RunPhase, duration_seconds,
};

use crate::SpecProblem;

/// Seconds that artifacts are kept after the last write where the pipeline does not say.
const GRACE: u64 = 86_400;
/// Least such time: a run that begins while artifacts are looked through is not known to whoever does that.
const LEAST_GRACE: u64 = 600;
/// Longest time between two looks through the artifacts.
const LONGEST: u64 = 86_400;

/// A run that a trigger started and that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRun {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub phase: RunPhase,
    /// When.
    pub completed: Timestamp,
    /// Whether somebody has pinned it.
    pub pinned: bool,
}

/// The names of the runs that are not kept.
#[must_use]
pub fn expired(retention: &Retention, runs: &[EndedRun], now: Timestamp) -> Vec<String> {
    let ttl = retention.ttl.as_deref().and_then(duration_seconds);
    let mut newest: Vec<&EndedRun> = runs.iter().filter(|run| !run.pinned && run.phase.is_terminal()).collect();
    newest.sort_by(|a, b| (b.completed, &b.name).cmp(&(a.completed, &a.name)));
    let (mut succeeded, mut failed) = (0_u32, 0_u32);
    let mut names = Vec::new();
    for run in newest {
        let (count, limit) = match run.phase {
            RunPhase::Succeeded => (&mut succeeded, retention.succeeded),
            _ => (&mut failed, retention.failed),
        };
        *count += 1;
        let too_many = limit.is_some_and(|limit| *count > limit);
        let too_old = ttl.is_some_and(|ttl| later(run.completed, ttl) <= now);
        if too_many || too_old {
            names.push(run.name.clone());
        }
    }
    names
}

/// When artifacts are to be looked through, and how: `None` if they are all kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// When they were looked through before; empty for the first time. Part of the name of whoever does it.
    pub since: String,
    /// When it is due.
    pub at: Timestamp,
    /// Seconds that they are kept after the last write.
    pub grace_seconds: u64,
    /// Whether nothing is deleted.
    pub dry_run: bool,
}

/// What is to be done about artifacts of runs that do not exist any more.
#[must_use]
pub fn collection(spec: &PipelineSpec, status: &PipelineStatus) -> Option<Collection> {
    let retention = spec.retention.as_ref()?;
    let dry_run = match retention.artifacts.unwrap_or_default() {
        ArtifactRetention::Retain => return None,
        ArtifactRetention::DryRun => true,
        ArtifactRetention::Delete => false,
    };
    let grace_seconds = retention.grace.as_deref().and_then(duration_seconds).unwrap_or(GRACE).max(LEAST_GRACE);
    let since = status.artifacts.as_ref().map(|artifacts| artifacts.checked.0);
    let at = since.map_or(Timestamp::UNIX_EPOCH, |since| later(since, grace_seconds.min(LONGEST)));
    Some(Collection { since: since.map(|since| since.to_string()).unwrap_or_default(), at, grace_seconds, dry_run })
}

/// What is wrong with a retention.
pub(super) fn check(spec: &PipelineSpec) -> Result<(), SpecProblem> {
    let grace = spec.retention.as_ref().and_then(|retention| retention.grace.as_ref());
    match grace {
        Some(text) if duration_seconds(text).is_none_or(|seconds| seconds < LEAST_GRACE) => Err(SpecProblem::new(
            Reason::InvalidPipeline,
            "spec.retention.grace",
            format!("{text} is not a time of at least 10m, such as 30m, 12h or 7d"),
        )),
        _ => Ok(()),
    }
}

fn later(since: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    since.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &str, phase: RunPhase, second: i64) -> EndedRun {
        EndedRun { name: name.into(), phase, completed: Timestamp::from_second(second).unwrap(), pinned: false }
    }

    fn of(retention: serde_json::Value, runs: &[EndedRun], now: i64) -> Vec<String> {
        expired(&serde_json::from_value(retention).unwrap(), runs, Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn the_newest_of_each_kind_are_kept_and_what_is_pinned_or_active() {
        use RunPhase::{Cancelled, Failed, Running, Succeeded};
        let mut runs = vec![
            run("s1", Succeeded, 1),
            run("s2", Succeeded, 2),
            run("s3", Succeeded, 3),
            run("f1", Failed, 1),
            run("f2", Cancelled, 2),
            run("a", Running, 0),
        ];
        assert_eq!(of(json!({}), &runs, 9), [""; 0]);
        assert_eq!(of(json!({"succeeded": 1}), &runs, 9), ["s2", "s1"]);
        assert_eq!(of(json!({"failed": 0}), &runs, 9), ["f2", "f1"]);
        assert_eq!(of(json!({"ttl": "7s"}), &runs, 9), ["s2", "f2", "s1", "f1"]);
        runs[0].pinned = true;
        assert_eq!(of(json!({"succeeded": 1, "failed": 1}), &runs, 9), ["s2", "f1"]);
    }

    #[test]
    fn artifacts_are_looked_through_as_often_as_their_grace_is_long() {
        let spec = |retention: serde_json::Value| -> PipelineSpec {
            serde_json::from_value(json!({"stages": [], "retention": retention})).unwrap()
        };
        let never = PipelineStatus::default();
        assert_eq!(collection(&spec(json!({})), &never), None);
        let first = collection(&spec(json!({"artifacts": "DryRun"})), &never).unwrap();
        assert_eq!(
            (first.at, first.dry_run, first.grace_seconds, first.since.as_str()),
            (Timestamp::UNIX_EPOCH, true, 86_400, "")
        );
        let checked = json!({"checked": "2026-01-01T00:00:00Z", "runs": 0, "objects": 0, "bytes": 0, "kept": 0});
        let status: PipelineStatus =
            serde_json::from_value(json!({"observedGeneration": 1, "artifacts": checked})).unwrap();
        let next = collection(&spec(json!({"artifacts": "Delete", "grace": "1h"})), &status).unwrap();
        assert_eq!((next.at.to_string().as_str(), next.dry_run), ("2026-01-01T01:00:00Z", false));
        assert!(check(&spec(json!({"artifacts": "Delete", "grace": "9m"}))).is_err());
        assert!(check(&spec(json!({"artifacts": "Delete", "grace": "10m"}))).is_ok());
    }
}
