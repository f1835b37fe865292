//! T6 and T7: what a job's status says, and what lies in the store.

use super::super::pods::phase;
use super::super::status::{difference, has_ended};
use super::super::{Evidence, Violation};
use super::{Rank, jobs, number, ranks};
use crate::faults::history::{Version, Write};
use crate::faults::store::Commit;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// T6: an ended job keeps its status.
pub(super) fn the_end_is_final(evidence: Evidence<'_>) -> Vec<Violation> {
    let jobs = jobs(evidence);
    let changed = jobs.windows(2).filter_map(|pair| {
        let [before, after] = pair else { return None };
        let (old, new) = (&before.object["status"], &after.object["status"]);
        let same = before.uid() != after.uid() || !has_ended(&before.object) || old == new;
        let at = after.revision();
        (!same).then(|| {
            Violation::new(
                "T6",
                format!("the status of an ended job changed at revision {at}: {}", difference(old, new)),
            )
        })
    });
    changed.collect()
}

/// T6: what status says of the ranks was so, and its conditions agree with its phase.
pub(super) fn status_is_true(evidence: Evidence<'_>) -> Vec<Violation> {
    let pods = ranks(evidence);
    let mut found = Vec::new();
    for job in jobs(evidence) {
        if let Some(wrong) = untrue(job, &pods) {
            found.push(Violation::new("T6", format!("at revision {}, {wrong}", job.revision())));
        }
    }
    found
}

/// What a status says that was not so by then.
fn untrue(job: &Version, pods: &[(Rank, &Version)]) -> Option<String> {
    let status = &job.object["status"];
    let (attempt, wanted) = (number(&status["attempt"]), number(&status["ranks"]));
    let before = || pods.iter().filter(|(rank, pod)| rank.attempt == attempt && pod.revision() < job.revision());
    let created: BTreeSet<u32> = before().map(|(rank, _)| rank.rank).collect();
    let ran: BTreeSet<u32> =
        before().filter(|(_, pod)| phase(&pod.object) != "Pending").map(|(rank, _)| rank.rank).collect();
    let all = |ranks: &BTreeSet<u32>| (0..wanted).all(|rank| ranks.contains(&rank));
    if status["launched"] == true && wanted > 0 && !all(&created) {
        return Some(format!("all {wanted} ranks of attempt {attempt} are launched, but only {created:?} had been"));
    }
    if status["started"] == true && wanted > 0 && !all(&ran) {
        return Some(format!("all {wanted} ranks of attempt {attempt} have started, but only {ran:?} had run"));
    }
    let ready = status["ready"].as_str().and_then(|text| text.split('/').next()?.parse::<usize>().ok());
    if let Some(ready) = ready.filter(|ready| *ready > ran.len()) {
        return Some(format!("{ready} ranks are ready, but only {ran:?} had run"));
    }
    let conditions: BTreeMap<&str, &str> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|condition| Some((condition["type"].as_str()?, condition["status"].as_str()?)))
        .collect();
    let phase = status["phase"].as_str().unwrap_or_default();
    let expected = [
        ("Finished", matches!(phase, "Succeeded" | "Failed")),
        ("Succeeded", phase == "Succeeded"),
        ("Suspended", phase == "Suspended"),
    ];
    expected.into_iter().find_map(|(kind, expected)| {
        let is = *conditions.get(kind)?;
        (is != if expected { "True" } else { "False" }).then(|| format!("the job is {phase} and condition {kind} {is}"))
    })
}

/// The record that the job has committed: rank 0's, and no other rank's. It lies with the job's own, or with those of the run whose
/// stage it is.
fn commit<'a>(evidence: Evidence<'a>, job: &Value) -> Option<&'a Commit> {
    let label = |name: &str| job["metadata"]["labels"][format!("trainyard.dev/{name}")].as_str();
    let uid = job["metadata"]["uid"].as_str().unwrap_or_default();
    let (uid, stage) = (label("run-uid").unwrap_or(uid), label("stage").unwrap_or("train"));
    let is_its = |commit: &&Commit| commit.run_uid == uid && commit.stage == stage && !commit.key.contains("/ranks/");
    evidence.commits.iter().find(is_its)
}

/// T7: the job's commit record is there exactly if it has succeeded, since before it said so, and says what status says. A job that
/// another rank has ended may have one, too: rank 0 may have been at it just then.
pub(super) fn succeeded_means_committed(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for write in evidence.history.writes().into_iter().filter(Write::is_done) {
        let Some(job) = write.reply.map(|reply| &reply.body).filter(|body| body["kind"] == "TrainingJob") else {
            continue;
        };
        let there = commit(evidence, job);
        if job["status"]["phase"] == "Succeeded" && there.is_none_or(|commit| commit.at > write.at) {
            found.push(Violation::new("T7", "the job was Succeeded before its commit record was there"));
            break;
        }
    }
    let Some(job) = jobs(evidence).into_iter().next_back() else { return found };
    let status = &job.object["status"];
    let succeeded = status["phase"] == "Succeeded";
    match commit(evidence, &job.object) {
        None if succeeded => found.push(Violation::new("T7", "the job succeeded without a commit record")),
        Some(commit) if !succeeded && ended_by_another(&job.object, commit.attempt) => {}
        Some(_) if !succeeded && has_ended(&job.object) && status["reason"] != "NameConflict" => {
            found.push(Violation::new("T7", format!("the job has a commit record and is {}", status["phase"])));
        }
        Some(commit) if succeeded => {
            let digest = |output: &Value| Some((output["name"].as_str()?.into(), output["digest"].as_str()?.into()));
            let shown: BTreeMap<String, String> =
                status["outputs"].as_array().into_iter().flatten().filter_map(digest).collect();
            if shown != commit.outputs || number(&status["winner"]) != commit.attempt {
                let what = format!(
                    "the job shows {shown:?} of attempt {}, and its record says {:?} of attempt {}",
                    status["winner"], commit.outputs, commit.attempt
                );
                found.push(Violation::new("T7", what));
            }
        }
        _ => {}
    }
    found
}

/// Whether the job has failed in this attempt, and by another rank than the one that commits.
fn ended_by_another(job: &Value, attempt: u32) -> bool {
    let last = super::attempts(job).iter().next_back();
    last.is_some_and(|last| {
        let first = &last["firstFailure"];
        has_ended(job) && number(&last["number"]) == attempt && first["index"].as_u64().is_some_and(|index| index > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::world::one;
    use super::super::world::World;
    use std::time::Duration;

    #[test]
    fn an_ended_job_that_changes_is_seen() {
        let mut world = World::restarted();
        world.status(&[("message", "another".into())]);
        assert!(one(&world.check(), "T6").starts_with("the status of an ended job changed"));
    }

    #[test]
    fn what_was_not_so_is_seen() {
        let mut world = World::new();
        world.begin(1);
        world.create(1, 0);
        world.status(&[("launched", true.into())]);
        assert!(one(&world.check(), "T6").ends_with("are launched, but only {0} had been"));

        let mut world = World::new();
        world.begin(1);
        for rank in 0..4 {
            world.create(1, rank);
        }
        world.status(&[("started", true.into())]);
        assert!(one(&world.check(), "T6").ends_with("have started, but only {} had run"));
        world.last_job()["status"]["started"] = false.into();
        world.last_job()["status"]["ready"] = "2/4".into();
        assert!(one(&world.check(), "T6").ends_with("2 ranks are ready, but only {} had run"));
    }

    #[test]
    fn conditions_that_disagree_with_the_phase_are_seen() {
        let mut world = World::restarted();
        world.last_job()["status"]["conditions"][0]["status"] = "False".into();
        assert!(one(&world.check(), "T6").ends_with("the job is Succeeded and condition Finished False"));
    }

    #[test]
    fn success_without_a_record_a_record_without_success_and_another_record_are_seen() {
        let mut world = World::restarted();
        world.commits.clear();
        let found = world.check();
        assert!(found.iter().all(|violation| violation.invariant == "T7") && found.len() == 2, "{found:?}");

        let mut world = World::failed();
        world.commit(1);
        assert!(world.check().iter().all(|violation| violation.invariant != "T7"), "rank 2 ended it");
        world.last_job()["status"]["attempts"][0]["firstFailure"]["index"] = 0.into();
        assert_eq!(one(&world.check(), "T7"), "the job has a commit record and is \"Failed\"");

        let mut world = World::restarted();
        world.last_job()["status"]["outputs"][0]["digest"] = "sha256:other".into();
        assert!(one(&world.check(), "T7").contains("sha256:other"));
    }

    #[test]
    fn success_that_was_foreseen_is_seen() {
        let mut world = World::restarted();
        world.commits[0].at = Duration::from_secs(3600);
        assert_eq!(one(&world.check(), "T7"), "the job was Succeeded before its commit record was there");
    }

    #[test]
    fn what_another_rank_has_committed_is_not_the_jobs() {
        let mut world = World::failed();
        world.commit(1);
        world.commits[0].key = "n/trainingjobs/run.job-uid/train/ranks/1/worker-1/COMMIT".into();
        assert_eq!(world.check(), []);
    }
}
