//! T4 and T5: what is on record when something is done, and that restarts are counted exactly.

use super::super::pods::{is_over, phase};
use super::super::status::has_ended;
use super::super::{Evidence, Violation};
use super::{Rank, attempts, jobs, number, ranks};
use crate::faults::history::{Kind, Reply, Request, Version, What, revision};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// T4: the attempt is on record and open when one of its Pods is created, and has ended on record when one is deleted.
///
/// What is on record is what the API server has answered to a write or shown by then. A Pod that has lost our label may go at once:
/// nothing would ever show it again.
pub(super) fn before_and_after(evidence: Evidence<'_>) -> Vec<Violation> {
    let refused: BTreeSet<u64> = evidence
        .history
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Reply(Reply { id, status, .. }) if !(200..300).contains(status) => Some(*id),
            _ => None,
        })
        .collect();
    let mut known: BTreeMap<&str, (Rank, bool)> = BTreeMap::new();
    let mut job = &Value::Null;
    let mut found = Vec::new();
    for entry in &evidence.history.entries {
        match &entry.what {
            What::Version(Version { kind: Kind::Job, object, .. }) if revision(object) > revision(job) => job = object,
            What::Reply(Reply { body, .. }) if body["kind"] == "TrainingJob" && revision(body) > revision(job) => {
                job = body;
            }
            What::Version(version) if version.kind == Kind::Pod => match Rank::of(&version.object) {
                Some(rank) => drop(known.insert(version.name(), (rank, true))),
                None => drop(known.get_mut(version.name()).map(|(_, labelled)| *labelled = false)),
            },
            What::Request(request) if request.write.is_some() && !refused.contains(&request.id) => {
                if let Some(wrong) = wrong(request, job, &known) {
                    found.push(Violation::new("T4", wrong));
                }
            }
            _ => {}
        }
    }
    found
}

/// What selects the Pods of a run's other stages.
const OF_A_RUN: &str = "trainyard.dev%2Frun-uid%3D";

/// Why this write should not have been, as the job stands on record.
fn wrong(request: &Request, job: &Value, known: &BTreeMap<&str, (Rank, bool)>) -> Option<String> {
    let last = request.path.rsplit('/').next().unwrap_or_default();
    let status = &job["status"];
    let current = number(&status["attempt"]);
    let ended =
        |attempt: u32| attempt < current || attempts(job).iter().any(|ended| number(&ended["number"]) == attempt);
    match (request.method.as_str(), last) {
        ("POST", "pods") => {
            let Rank { attempt, rank, .. } = Rank::of(&request.body)?;
            let state = if has_ended(job) { "the job had ended" } else { "it was not the open attempt on record" };
            (attempt != current || ended(attempt) || has_ended(job))
                .then(|| format!("the Pod of rank {rank} of attempt {attempt} was created although {state}"))
        }
        // The run of a stage's job deletes the Pods of its other stages.
        ("DELETE", "pods") => (!job.is_null() && !has_ended(job) && !request.query.contains(OF_A_RUN))
            .then(|| "Pods were deleted before the job's end was on record".to_owned()),
        ("DELETE", name) if request.path.contains("/pods/") => {
            let (Rank { attempt, .. }, labelled) = known.get(name)?;
            (*labelled && !ended(*attempt) && !has_ended(job))
                .then(|| format!("Pod {name} was deleted before the end of attempt {attempt} was on record"))
        }
        _ => None,
    }
}

/// T5: every attempt ends once and before the next, and restarts are those failed attempts that did not end the job. So they are
/// neither more nor fewer, and never go back.
pub(super) fn restarts_are_exact(evidence: Evidence<'_>) -> Vec<Violation> {
    // Each ended attempt as it was first recorded, and whether the job ended with it.
    let mut ended: BTreeMap<u32, (&Value, bool)> = BTreeMap::new();
    let mut current = 0;
    let mut found = Vec::new();
    for job in jobs(evidence) {
        let (at, status) = (job.revision(), &job.object["status"]);
        let mut say = |what: String| found.push(Violation::new("T5", format!("at revision {at}, {what}")));
        for attempt in attempts(&job.object) {
            let (first, _) = ended.entry(number(&attempt["number"])).or_insert((attempt, has_ended(&job.object)));
            if *first != attempt {
                say(format!("the record of attempt {} went from {first} to {attempt}", attempt["number"]));
            }
        }
        let attempt = number(&status["attempt"]);
        if attempt < current || attempt > current + 1 {
            say(format!("the attempt went from {current} to {attempt}"));
        }
        current = attempt;
        if let Some(missing) = (1..attempt).find(|number| !ended.contains_key(number)) {
            say(format!("attempt {attempt} has begun and the end of {missing} is not on record"));
        }
        let failed = ended.values().filter(|(attempt, last)| attempt["outcome"] == "Failed" && !last);
        let expected = u32::try_from(failed.count()).unwrap_or(u32::MAX);
        let restarts = number(&status["restarts"]);
        if restarts != expected {
            say(format!("there were {restarts} restarts and {expected} failed attempts that others follow"));
        }
        let limit = evidence.workload.training().map_or(0, |job| job.limit);
        let own = ended.values().filter(|(attempt, last)| attempt["firstFailure"]["class"] == "User" && !last);
        if own.count() > limit as usize {
            say(format!("more than {limit} failures of the training's own were followed by another attempt"));
        }
    }
    found
}

/// T5: no failure is invented. The Pod of the rank that failed first had ended, was going or was no longer the job's by then.
pub(super) fn failures_have_causes(evidence: Evidence<'_>) -> Vec<Violation> {
    let pods = ranks(evidence);
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for job in jobs(evidence) {
        for ended in attempts(&job.object) {
            let failure = &ended["firstFailure"];
            let Some(name) = failure["pod"].as_str().filter(|_| seen.insert(number(&ended["number"]))) else {
                continue;
            };
            // Such a Pod never was ours.
            if matches!(failure["reason"].as_str(), Some("NameConflict" | "PodRejected")) {
                continue;
            }
            let mut versions =
                pods.iter().filter(|(_, pod)| pod.name() == name && pod.revision() < job.revision()).peekable();
            let was = versions.peek().is_some();
            let fails = |pod: &Version| {
                let metadata = &pod.object["metadata"];
                let altered = metadata["labels"]["trainyard.dev/job-uid"].is_null();
                is_over(pod) || altered || !metadata["deletionTimestamp"].is_null() || phase(&pod.object) == "Failed"
            };
            if !versions.any(|(_, pod)| fails(pod)) {
                let state = if was { "nothing had happened to it" } else { "it had never been" };
                let what =
                    format!("attempt {} failed with {} of Pod {name}, but {state}", ended["number"], failure["reason"]);
                found.push(Violation::new("T5", what));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::super::world::{one, some};
    use super::super::world::World;
    use crate::faults::history::Change;

    #[test]
    fn a_pod_before_its_attempt_is_on_record_is_seen() {
        let mut world = World::new();
        world.create(1, 0);
        assert!(one(&world.check(), "T4").contains("rank 0 of attempt 1 was created although it was not the open"));
    }

    #[test]
    fn a_pod_of_an_ended_attempt_or_job_is_seen() {
        let mut world = World::running();
        world.fail(1, 2);
        world.again(1, 2);
        assert!(one(&world.check(), "T4").ends_with("it was not the open attempt on record"));
        let mut world = World::failed();
        world.create(2, 0);
        assert!(one(&world.check(), "T4").ends_with("the job had ended"));
    }

    #[test]
    fn a_pod_that_is_deleted_before_the_end_is_on_record_is_seen() {
        let mut world = World::running();
        world.pod(1, 2, Change::Modified, "Failed");
        world.delete(1, 0);
        assert!(one(&world.check(), "T4").ends_with("was deleted before the end of attempt 1 was on record"));

        let mut world = World::running();
        world.delete_all();
        assert_eq!(one(&world.check(), "T4"), "Pods were deleted before the job's end was on record");
        world.last_delete().query = "&labelSelector=trainyard.dev%2Frun-uid%3Du".to_owned();
        assert!(world.check().iter().all(|violation| violation.invariant != "T4"));
    }

    #[test]
    fn a_pod_that_has_lost_its_label_may_go_at_once() {
        let mut world = World::running();
        world.pod(1, 2, Change::Modified, "Running")["metadata"]["labels"]["trainyard.dev/job-uid"] = ().into();
        world.delete(1, 2);
        assert!(world.check().iter().all(|violation| violation.invariant != "T4"));
    }

    #[test]
    fn a_restart_that_is_not_counted_and_one_that_counts_twice_are_seen() {
        for (restarts, words) in [(0, "there were 0 restarts and 1"), (2, "there were 2 restarts and 1")] {
            let mut world = World::restarted();
            world.last_job()["status"]["restarts"] = restarts.into();
            assert!(one(&world.check(), "T5").contains(words));
        }
    }

    #[test]
    fn a_record_that_changes_or_is_missing_is_seen() {
        let mut world = World::restarted();
        world.last_job()["status"]["attempts"][0]["firstFailure"]["index"] = 3.into();
        assert!(one(&world.check(), "T5").contains("the record of attempt 1 went from"));

        let mut world = World::running();
        world.begin(2);
        assert!(one(&world.check(), "T5").ends_with("attempt 2 has begun and the end of 1 is not on record"));
        world.status(&[("attempt", 1.into())]);
        assert!(some(&world.check(), "the attempt went from 2 to 1"));
    }

    #[test]
    fn more_restarts_than_the_limit_are_seen() {
        let mut world = World::running();
        for attempt in 1..=4 {
            world.fail(attempt, 2);
            world.leave(attempt);
            world.begin(attempt + 1);
            world.run_all(attempt + 1);
        }
        assert!(some(&world.check(), "more than 3 failures of the training's own were followed by another attempt"));
    }

    #[test]
    fn a_failure_without_a_cause_is_seen() {
        let mut world = World::running();
        world.record_failure(1, 2);
        assert!(one(&world.check(), "T5").ends_with("but nothing had happened to it"));
        let mut world = World::new();
        world.begin(1);
        world.record_failure(1, 2);
        assert!(one(&world.check(), "T5").ends_with("but it had never been"));
    }
}
