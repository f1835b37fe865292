//! What the operator remembers of Pipelines: what their statuses say of runs, and what was done for them.

use std::time::{Duration, Instant};

use trainyard_crds::v1alpha1::{LastRun, PipelineRun, RunPhase};

use super::{Memory, lock};
use crate::pace::Pace;

/// Why the API server does not take a run of a trigger.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    since: Instant,
    message: String,
}

/// What the status of a Pipeline says of its runs.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    last: LastRun,
    succeeded: Option<LastRun>,
}

/// Ended runs are counted so often in any case.
const NOW_AND_THEN: Duration = Duration::from_secs(600);
/// How long a refusal of a run counts.
const REFUSED: Duration = Duration::from_secs(50);

/// Whether a run has made what other pipelines may wait for: one that promotes models has made nothing.
pub(crate) fn counts_as_success(run: &PipelineRun) -> bool {
    let phase = run.status.as_ref().and_then(|status| status.phase);
    phase == Some(RunPhase::Succeeded) && run.spec.promote.is_empty()
}

impl Memory {
    /// Remembers what a Pipeline's status says of its last run, and of the last one that has succeeded.
    pub(crate) fn recorded(&self, namespace: &str, pipeline: &str, last: &LastRun, succeeded: Option<&LastRun>) {
        let recorded = Recorded { last: last.clone(), succeeded: succeeded.cloned() };
        lock(&self.recorded).insert((namespace.to_owned(), pipeline.to_owned()), recorded);
    }

    /// Whether the runs of a Pipeline are to be brought to the deletionPolicy of this generation of it: once, and again a while after that
    /// did not succeed.
    pub(crate) fn follows(&self, pipeline: &str, generation: i64) -> bool {
        const AGAIN: Duration = Duration::from_secs(50);
        match lock(&self.policies).get(pipeline) {
            None => true,
            Some(Ok(known)) => *known != generation,
            Some(Err(failed)) => failed.elapsed() >= AGAIN,
        }
    }

    /// Remembers whether the runs of a Pipeline were brought to the deletionPolicy of this generation.
    pub(crate) fn followed(&self, pipeline: &str, generation: Option<i64>) {
        /// More than there are Pipelines in a cluster that anybody has: what is forgotten is asked again.
        const MOST: usize = 10_000;
        let mut policies = lock(&self.policies);
        if policies.len() >= MOST {
            policies.clear();
        }
        policies.insert(pipeline.to_owned(), generation.ok_or_else(Instant::now));
    }

    /// Remembers why the API server refuses a run of a trigger.
    pub(crate) fn refused(&self, namespace: &str, run: &str, message: &str) {
        let mut refusals = lock(&self.refusals);
        refusals.retain(|_, refusal| refusal.since.elapsed() < REFUSED);
        let refusal = Refusal { since: Instant::now(), message: message.to_owned() };
        refusals.insert((namespace.to_owned(), run.to_owned()), refusal);
    }

    /// Forgets that a run was refused: it is there.
    pub(crate) fn taken(&self, namespace: &str, run: &str) {
        lock(&self.refusals).remove(&(namespace.to_owned(), run.to_owned()));
    }

    /// Why the API server refuses a run of a trigger, if it has of late: then it is asked again.
    pub(crate) fn refusal(&self, namespace: &str, run: &str) -> Option<String> {
        let refusals = lock(&self.refusals);
        let refusal = refusals.get(&(namespace.to_owned(), run.to_owned()));
        refusal.filter(|refusal| refusal.since.elapsed() < REFUSED).map(|refusal| refusal.message.clone())
    }

    /// How long until the status of the Pipeline of this UID may be written again; `None` when it may be now.
    pub(crate) fn rest(&self, pipeline: &str, now: Instant) -> Option<Duration> {
        lock(&self.paces).get(pipeline)?.rest(now)
    }

    /// Notes a write of a Pipeline's status.
    pub(crate) fn paced(&self, pipeline: &str, pace: Pace, now: Instant) {
        let mut paces = lock(&self.paces);
        paces.retain(|_, pace| pace.rest(now).is_some());
        paces.insert(pipeline.to_owned(), pace);
    }

    /// Whether the ended runs of a Pipeline are to be counted: when another revision has ended, and now and then.
    pub(crate) fn counts(&self, pipeline: &str, ended: usize, now: Instant) -> bool {
        let mut counted = lock(&self.counted);
        counted.retain(|_, (at, _)| now.duration_since(*at) < NOW_AND_THEN);
        if counted.get(pipeline).is_some_and(|(_, before)| *before == ended) {
            return false;
        }
        counted.insert(pipeline.to_owned(), (now, ended));
        true
    }

    /// Has the ended runs of a Pipeline counted again, since what was to be done about them was not: `later` is how long from now. Each time
    /// lists them all.
    pub(crate) fn counts_again(&self, pipeline: &str, later: Duration, now: Instant) {
        if let Some((at, _)) = lock(&self.counted).get_mut(pipeline) {
            *at = (now + later).checked_sub(NOW_AND_THEN).unwrap_or(now);
        }
    }

    /// Whether the status of an ended run's Pipeline names its end, or a later run; and of one that has succeeded its success, or a later
    /// one, since that may be what others wait for.
    pub(crate) fn is_recorded(&self, run: &PipelineRun) -> bool {
        let Some(status) = &run.status else { return false };
        let pipeline = (run.metadata.namespace.clone().unwrap_or_default(), status.pipeline.clone());
        let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // As the Pipeline's status chooses: the newest, of two of one second the one with the later name.
        let names =
            |known: &LastRun| (Some(known.created.0), Some(&known.name)).cmp(&(created, run.metadata.name.as_ref()));
        lock(&self.recorded).get(&pipeline).is_some_and(|recorded| {
            let last = match names(&recorded.last) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => recorded.last.phase.is_terminal(),
                std::cmp::Ordering::Less => false,
            };
            last && (!counts_as_success(run) || recorded.succeeded.as_ref().is_some_and(|known| names(known).is_ge()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ended_runs_are_counted_when_one_more_has_ended_and_every_ten_minutes() {
        let (memory, begin) = (Memory::default(), Instant::now());
        let counts = |ended: usize, seconds: u64| memory.counts("p", ended, begin + Duration::from_secs(seconds));
        assert!(counts(1, 0) && !counts(1, 60) && counts(2, 61));
        // However often it is asked in between.
        assert!((62..661).step_by(60).all(|second| !counts(2, second)));
        assert!(counts(2, 662));
        // Or soon, when what was to be done could not be.
        memory.counts_again("p", Duration::from_secs(50), begin + Duration::from_secs(662));
        assert!(!counts(2, 700) && counts(2, 712) && !counts(2, 713));
        memory.counts_again("p", Duration::ZERO, begin + Duration::from_secs(713));
        assert!(counts(2, 713));
    }

    #[test]
    fn an_ended_run_is_recorded_when_its_pipeline_names_its_end_or_a_later_run() {
        let run = |name: &str, created: &str| -> PipelineRun {
            serde_json::from_value(json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun",
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": created}, "spec": {},
                "status": {"pipeline": "p", "phase": "Succeeded"}}))
            .unwrap()
        };
        let last = |name: &str, created: &str, phase: &str| -> LastRun {
            serde_json::from_value(json!({"name": name, "phase": phase, "created": created})).unwrap()
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z");
        let memory = Memory::default();
        assert!(!memory.is_recorded(&run("b", early)));
        for (known, expected) in [
            (last("b", early, "Running"), false),
            (last("b", early, "Succeeded"), true),
            (last("a", early, "Succeeded"), false),
            (last("c", early, "Running"), true),
            (last("a", late, "Running"), true),
        ] {
            memory.recorded("n", "p", &known, Some(&last("b", early, "Succeeded")));
            assert_eq!(memory.is_recorded(&run("b", early)), expected, "{known:?}");
        }
        // Its success is what others wait for, also when a later run is there.
        for (succeeded, expected) in [(None, false), (Some("a"), false), (Some("b"), true), (Some("c"), true)] {
            let succeeded = succeeded.map(|name| last(name, early, "Succeeded"));
            memory.recorded("n", "p", &last("z", late, "Running"), succeeded.as_ref());
            assert_eq!(memory.is_recorded(&run("b", early)), expected, "{succeeded:?}");
        }
    }
}
