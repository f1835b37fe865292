//! I5: what counts as a result is what lies in the store.

use super::pods::Attempt;
use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version};
use crate::faults::kubelet;
use serde_json::Value;
use std::collections::BTreeMap;
use step_protocol::InputSource;

/// The rows of a run's status.
pub(super) fn rows(run: &Value) -> &[Value] {
    run["status"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a row is that of a gate or an approval, which have nothing to commit: the verdict is in the status alone.
pub(super) fn has_no_pod(row: &Value) -> bool {
    row["checks"].is_array() || row["approval"].is_object()
}

/// A stage has succeeded exactly when its commit record is there, names what status names, and leads to those bytes.
pub(super) fn succeeded_means_committed(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found: Vec<Violation> = evidence
        .commits
        .iter()
        .filter_map(|commit| Some(Violation::new("I5", format!("{}: {}", commit.key, commit.flaw.as_ref()?))))
        .collect();
    let mut last: BTreeMap<&str, &Version> = BTreeMap::new();
    for run in evidence.history.versions(Kind::Run).into_iter().filter(|run| run.change != Change::Deleted) {
        last.insert(run.uid(), run);
    }
    let all = last.into_values().flat_map(|run| rows(&run.object).iter().map(move |row| (run, row)));
    for (run, row) in all {
        let name = row["name"].as_str().unwrap_or_default();
        let commit = evidence.commit(run.uid(), name);
        let succeeded = row["phase"] == "Succeeded" && row["cachedFrom"].is_null();
        match commit {
            None if has_no_pod(row) => {}
            None if succeeded => {
                found.push(Violation::new("I5", format!("stage {name} succeeded without a commit record")))
            }
            // It was somebody else's Pod by then.
            Some(_) if row["reason"] == "NameConflict" => {}
            Some(_) if row["phase"] == "Cancelled" && ended_while_it_was_cancelled(evidence, run.uid(), name) => {}
            Some(commit) if a_later_attempt_could_not_be(evidence, row, commit.attempt) => {}
            Some(_) if !succeeded && super::status::has_ended(&run.object) => {
                found.push(Violation::new("I5", format!("stage {name} has a commit record and is {}", row["phase"])));
            }
            Some(commit) if succeeded => {
                let shown: BTreeMap<String, String> = row["outputs"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|output| Some((output["name"].as_str()?.into(), output["digest"].as_str()?.into())))
                    .collect();
                if shown != commit.outputs {
                    let what = format!("stage {name} shows {shown:?} and its record says {:?}", commit.outputs);
                    found.push(Violation::new("I5", what));
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a stage failed since the API server refused the Pod of an attempt after the one that committed. An attempt whose Pod is gone
/// before anybody saw it succeed is repeated; the repetition would have found the record.
fn a_later_attempt_could_not_be(evidence: Evidence<'_>, row: &Value, committed: u32) -> bool {
    let mut reasons = evidence.strikes.iter().flat_map(|strike| strike.fault.may_fail_for());
    row["phase"] == "Failed"
        && reasons.any(|reason| row["reason"] == *reason)
        && row["attempt"].as_u64().is_some_and(|attempt| attempt > u64::from(committed))
}

/// Whether the Pod of a stage was being deleted before anybody could see that it had succeeded, and the operator was struck
/// meanwhile: by the time that it looks again the Pod is gone, and the store is not the operator's to read.
fn ended_while_it_was_cancelled(evidence: Evidence<'_>, run_uid: &str, stage: &str) -> bool {
    let is_struck = !evidence.strikes.is_empty() && evidence.workload.cancels();
    let being_deleted = evidence.history.versions(Kind::Pod).into_iter().any(|pod| {
        let is_its = Attempt::of(&pod.object).is_some_and(|pod| pod.run_uid == run_uid && pod.stage == stage);
        is_its && !pod.object["metadata"]["deletionTimestamp"].is_null() && !super::pods::is_over(pod)
    });
    is_struck && being_deleted
}

/// Whether a stage counts as cancelled, has a commit record, and that is as it may be.
pub(super) fn any_ended_while_it_was_cancelled(evidence: Evidence<'_>) -> bool {
    evidence.history.versions(Kind::Run).iter().any(|run| {
        rows(&run.object).iter().filter(|row| row["phase"] == "Cancelled").any(|row| {
            let name = row["name"].as_str().unwrap_or_default();
            evidence.commit(run.uid(), name).is_some() && ended_while_it_was_cancelled(evidence, run.uid(), name)
        })
    })
}

/// The digest that a Pod is told to expect of an input is that of the output.
pub(super) fn consumers_get_what_producers_made(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let versions = evidence.history.versions(Kind::Pod);
    for version in versions.into_iter().filter(|version| version.change == Change::Added) {
        let Some(attempt) = Attempt::of(&version.object) else { continue };
        let step = match kubelet::step(&version.object) {
            Ok(step) => step,
            Err(error) => {
                found.push(Violation::new("I5", format!("Pod {} has no step: {error}", version.name())));
                continue;
            }
        };
        for input in &step.inputs {
            let InputSource::Stage { commit: key, output, digest: Some(told) } = &input.source else { continue };
            let made =
                evidence.commits.iter().find(|commit| commit.key == *key).and_then(|commit| commit.outputs.get(output));
            if made != Some(told) {
                let what = format!(
                    "input {} of stage {} was to be {told}, and {key} says {made:?}",
                    input.name, attempt.stage
                );
                found.push(Violation::new("I5", what));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use super::*;
    use crate::faults::fault::{Fault, Place, Strike};

    #[test]
    fn success_without_a_record_is_seen() {
        let mut world = World::chain();
        world.commits.remove(1);
        assert_eq!(one(&world.check(), "I5"), "stage second succeeded without a commit record");
    }

    #[test]
    fn a_record_without_success_is_seen() {
        let mut world = World::chain();
        world.last_run()["status"]["stages"][1]["phase"] = "Failed".into();
        assert_eq!(one(&world.check(), "I5"), "stage second has a commit record and is \"Failed\"");
    }

    #[test]
    fn a_record_of_an_attempt_that_nobody_saw_may_be_followed_by_a_pod_that_is_refused() {
        let failed = |attempt: u32, reason: &str, fault: Fault| {
            let mut world = World::chain();
            world.strikes = vec![Strike { place: Place::Write(7), fault }];
            let row = &mut world.last_run()["status"]["stages"][1];
            (row["phase"], row["reason"], row["attempt"]) = ("Failed".into(), reason.into(), attempt.into());
            world.check().iter().filter(|violation| violation.invariant == "I5").count()
        };
        assert_eq!(failed(2, "PodRejected", Fault::Invalid), 0);
        assert_eq!(failed(1, "PodRejected", Fault::Invalid), 1);
        assert_eq!(failed(2, "UserError", Fault::Invalid), 1);
        assert_eq!(failed(2, "PodRejected", Fault::Conflict), 1);
    }

    #[test]
    fn a_stage_that_ends_while_it_is_cancelled_may_be_cancelled() {
        let cancelled = |deleting: bool, strikes: &[Strike]| {
            let mut world = World::before_the_end();
            world.cancelled_by_its_user();
            world.strikes = strikes.to_vec();
            let pod = world.pod("second", 1, "uid-second-1", Change::Modified, "Running", Value::Null);
            if deleting {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            world.commit("second");
            world.run(World::status("Cancelled", &[("first", "Succeeded", 1), ("second", "Cancelled", 1)]));
            world.check().iter().filter(|violation| violation.invariant == "I5").count()
        };
        let strike = Strike { place: Place::Write(7), fault: Fault::KillAfterCommit };
        assert_eq!(cancelled(true, &[strike]), 0);
        assert_eq!(cancelled(false, &[strike]), 1);
        assert_eq!(cancelled(true, &[]), 1);
    }

    #[test]
    fn another_digest_in_status_is_seen() {
        let mut world = World::chain();
        world.last_run()["status"]["stages"][1]["outputs"][0]["digest"] = "sha256:other".into();
        assert!(one(&world.check(), "I5").contains("sha256:other"));
    }

    #[test]
    fn bytes_that_are_not_those_of_the_record_are_seen() {
        let mut world = World::chain();
        world.commits[0].flaw = Some("output text: text has 1 bytes, not 2".into());
        assert_eq!(one(&world.check(), "I5"), "n/p/r.run-uid/first/COMMIT: output text: text has 1 bytes, not 2");
    }

    #[test]
    fn an_input_that_is_not_the_producers_output_is_seen() {
        let mut world = World::chain();
        world.commits[0].outputs.insert("text".into(), "sha256:another".into());
        assert!(
            world.check().iter().any(|violation| violation.what.starts_with("input before of stage second was to be"))
        );
    }
}
