//! I6: what has ended stays as it is, and status never shows what was not true.

use super::artifacts::rows;
use super::pods::{is_over, phase};
use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) use crate::faults::user::has_ended;

fn row_has_ended(row: &Value) -> bool {
    matches!(row["phase"].as_str(), Some("Succeeded" | "Failed" | "Skipped" | "Cancelled"))
}

/// An ended run keeps its status, an ended stage its row, and attempts only count up.
pub(super) fn the_end_is_final(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut last: BTreeMap<&str, &Version> = BTreeMap::new();
    let mut found = Vec::new();
    for after in of_runs(evidence) {
        let Some(before) = last.insert(after.uid(), after) else { continue };
        let (old, new) = (&before.object["status"], &after.object["status"]);
        let at = after.revision();
        if has_ended(&before.object) {
            if old != new {
                found.push(Violation::new(
                    "I6",
                    format!("the status of an ended run changed at revision {at}: {}", difference(old, new)),
                ));
            }
            continue;
        }
        for (old, new) in rows(&before.object).iter().zip(rows(&after.object)) {
            let name = old["name"].as_str().unwrap_or_default();
            if row_has_ended(old) && old != new {
                let what = format!("the row of ended stage {name} changed at revision {at}: {}", difference(old, new));
                found.push(Violation::new("I6", what));
            }
            if new["attempt"].as_u64() < old["attempt"].as_u64() {
                let what =
                    format!("stage {name} went from attempt {} to {} at revision {at}", old["attempt"], new["attempt"]);
                found.push(Violation::new("I6", what));
            }
        }
    }
    found
}

fn of_runs(evidence: Evidence<'_>) -> Vec<&Version> {
    evidence.history.versions(Kind::Run).into_iter().filter(|run| run.change != Change::Deleted).collect()
}

/// The fields that differ, with both values.
pub(super) fn difference(old: &Value, new: &Value) -> String {
    let empty = serde_json::Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
    let differing = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    differing
        .map(|name| format!("{name} from {} to {}", shown(old.get(name)), shown(new.get(name))))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Every row speaks of a Pod and a state that had been there, and the sums are those of the rows.
pub(super) fn status_is_true(evidence: Evidence<'_>) -> Vec<Violation> {
    let (pods, jobs) = (evidence.history.versions(Kind::Pod), evidence.history.versions(Kind::Job));
    let mut found = Vec::new();
    for run in of_runs(evidence) {
        let at = run.revision();
        for row in rows(&run.object) {
            let name = row["name"].as_str().unwrap_or_default();
            let wrong = match &row["training"] {
                Value::Null => untrue(row, &pods, at),
                training => untrue_of_job(row, training, &jobs, at),
            };
            if let Some(wrong) = wrong {
                found.push(Violation::new(
                    "I6",
                    format!("at revision {at}, stage {name} is {}, but {wrong}", row["phase"]),
                ));
            }
        }
        if let Some(wrong) = wrong_sums(&run.object["status"]) {
            found.push(Violation::new("I6", format!("at revision {at}, {wrong}")));
        }
    }
    found.extend(success_is_not_foreseen(evidence));
    found.extend(pipelines_do_not_forget(evidence));
    found.dedup();
    found
}

/// What a row says that no Pod had shown by then.
fn untrue(row: &Value, pods: &[&Version], at: u64) -> Option<String> {
    let said = row["phase"].as_str().unwrap_or_default();
    let pod = row["pod"].as_str().filter(|pod| !pod.is_empty());
    let judged = super::artifacts::has_no_pod(row);
    let needs_pod = matches!(said, "Pending" | "Running" | "Succeeded") && row["cachedFrom"].is_null() && !judged;
    let Some(pod) = pod else { return needs_pod.then(|| "no Pod is named".to_owned()) };
    let seen: Vec<&&Version> = pods.iter().filter(|version| version.name() == pod && version.revision() < at).collect();
    if seen.is_empty() {
        return needs_pod.then(|| format!("Pod {pod} had never been"));
    }
    let had_run = seen.iter().any(|version| phase(&version.object) != "Pending");
    if said == "Running" && !had_run {
        return Some(format!("Pod {pod} had never run"));
    }
    if said == "Retrying" && !seen.iter().any(|version| is_over(version)) {
        return Some(format!("Pod {pod} had not ended"));
    }
    None
}

/// What a row says of its TrainingJob that this had not said by then.
fn untrue_of_job(row: &Value, training: &Value, jobs: &[&Version], at: u64) -> Option<String> {
    let said = row["phase"].as_str().unwrap_or_default();
    let job = training["job"].as_str().unwrap_or_default();
    let seen: Vec<&Value> = jobs
        .iter()
        .filter(|version| version.name() == job && version.revision() < at)
        .map(|version| &version.object["status"])
        .collect();
    if seen.is_empty() {
        return matches!(said, "Pending" | "Running" | "Succeeded")
            .then(|| format!("TrainingJob {job} had never been"));
    }
    let had = |phase: &str| seen.iter().any(|status| status["phase"] == phase);
    let untrue = match said {
        "Running" => !had("Running") && !had("Restarting"),
        "Succeeded" => !seen.iter().any(|status| status["phase"] == "Succeeded" && status["results"] == row["results"]),
        "Failed" => !had("Failed") && row["reason"] == "UserError",
        _ => false,
    };
    untrue.then(|| format!("TrainingJob {job} had not said so"))
}

/// The first of counts and progress that is not the sum of the rows.
fn wrong_sums(status: &Value) -> Option<String> {
    let rows = status["stages"].as_array()?;
    let mut phases: BTreeMap<&str, u64> = BTreeMap::new();
    // A training without Pods does not count as running.
    for row in rows.iter().filter(|row| row["phase"] != "Pending" || row["reason"] != "Suspended") {
        *phases.entry(row["phase"].as_str().unwrap_or_default()).or_default() += 1;
    }
    let of = |names: &[&str]| names.iter().filter_map(|name| phases.get(name)).sum::<u64>();
    let counts = status["counts"].as_object()?;
    let sums = [
        ("total", rows.len() as u64),
        ("succeeded", of(&["Succeeded"])),
        ("failed", of(&["Failed"])),
        ("running", of(&["Pending", "Running"])),
        ("skipped", of(&["Skipped"])),
    ];
    let wrong = sums.into_iter().find(|(name, sum)| counts.get(*name).and_then(Value::as_u64) != Some(*sum));
    if let Some((name, sum)) = wrong {
        return Some(format!("counts.{name} is {:?} and {sum} rows are", counts.get(name)));
    }
    let progress = format!("{}/{}", of(&["Succeeded", "Failed", "Skipped", "Cancelled"]), rows.len());
    (status["progress"] != progress.as_str())
        .then(|| format!("progress is {} and the rows say {progress}", status["progress"]))
}

/// No status says `Succeeded` of a stage before its commit record was there.
fn success_is_not_foreseen(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for write in evidence.history.writes().into_iter().filter(super::super::history::Write::is_done) {
        let Some(run) = write.reply.map(|reply| &reply.body).filter(|body| body["kind"] == "PipelineRun") else {
            continue;
        };
        let uid = run["metadata"]["uid"].as_str().unwrap_or_default();
        for row in rows(run).iter().filter(|row| row["phase"] == "Succeeded" && row["cachedFrom"].is_null()) {
            let name = row["name"].as_str().unwrap_or_default();
            // That there is no record at all is I5's to say.
            if evidence.commit(uid, name).is_some_and(|commit| commit.at > write.at) {
                found.push(Violation::new(
                    "I6",
                    format!("stage {name} was Succeeded before its commit record was written"),
                ));
            }
        }
    }
    found.dedup();
    found
}

/// A Pipeline that has shown a run goes on to count it until it has ended.
fn pipelines_do_not_forget(evidence: Evidence<'_>) -> Vec<Violation> {
    let runs = of_runs(evidence);
    let mut found = Vec::new();
    for pipeline in evidence.history.versions(Kind::Pipeline) {
        let status = &pipeline.object["status"];
        let at = pipeline.revision();
        let run = runs.iter().rfind(|run| status["lastRun"]["name"] == run.name() && run.revision() < at);
        if status["activeRuns"] == 0 && run.is_some_and(|run| !has_ended(&run.object)) {
            found.push(Violation::new(
                "I6",
                format!("at revision {at}, the Pipeline counts no active run while its run is"),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one, some};
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_run_that_changes_after_its_end_is_seen() {
        let mut world = World::chain();
        let mut status = world.last_run()["status"].clone();
        status["phase"] = "Failed".into();
        world.run(status);
        let found = world.check();
        assert!(one(&found, "I6").ends_with("phase from \"Succeeded\" to \"Failed\""), "{found:?}");
    }

    #[test]
    fn an_ended_stage_that_changes_is_seen() {
        let mut world = World::before_the_end();
        let mut status = world.last_run()["status"].clone();
        status["stages"][0]["end"] = "2027-01-01T00:00:00Z".into();
        world.run(status);
        assert!(one(&world.check(), "I6").starts_with("the row of ended stage first changed"));
    }

    #[test]
    fn attempts_that_count_down_are_seen() {
        let mut world = World::before_the_end();
        for attempt in [2, 1] {
            let mut status = world.last_run()["status"].clone();
            status["stages"][1]["attempt"] = attempt.into();
            world.run(status);
        }
        assert!(one(&world.check(), "I6").starts_with("stage second went from attempt 2 to 1"));
    }

    #[test]
    fn a_pod_that_never_was_and_one_that_never_ran_are_seen() {
        let mut world = World::before_the_end();
        let mut status = world.last_run()["status"].clone();
        status["stages"][1]["pod"] = "r-second-a1-other".into();
        world.run(status);
        assert!(one(&world.check(), "I6").ends_with("Pod r-second-a1-other had never been"));

        let mut world = World::new();
        world.pod("first", 1, "uid-first-1", Change::Added, "Pending", Value::Null);
        world.run(World::status("Running", &[("first", "Running", 1), ("second", "Waiting", 0)]));
        assert!(one(&world.check(), "I6").ends_with("had never run"));
    }

    #[test]
    fn a_retry_before_the_end_is_seen() {
        let mut world = World::before_the_end();
        world.run(World::status("Running", &[("first", "Succeeded", 1), ("second", "Retrying", 1)]));
        assert!(some(&world.check(), "had not ended"));
    }

    #[test]
    fn sums_that_are_not_those_of_the_rows_are_seen() {
        let mut world = World::chain();
        world.last_run()["status"]["counts"]["succeeded"] = 1.into();
        assert!(one(&world.check(), "I6").contains("counts.succeeded"));
        let mut world = World::chain();
        world.last_run()["status"]["progress"] = "1/2".into();
        assert!(one(&world.check(), "I6").contains("progress is \"1/2\" and the rows say 2/2"));
    }

    #[test]
    fn a_pipeline_that_forgets_its_run_is_seen() {
        let mut world = World::before_the_end();
        for (active, phase) in [(0, Value::Null), (1, "Running".into()), (0, "Running".into())] {
            let last = if phase.is_null() { phase } else { serde_json::json!({"name": "r", "phase": phase}) };
            world.pipeline(serde_json::json!({"activeRuns": active, "lastRun": last}));
        }
        assert!(one(&world.check(), "I6").ends_with("the Pipeline counts no active run while its run is"));
    }

    #[test]
    fn success_that_was_foreseen_is_seen() {
        let mut world = World::chain();
        world.commits[1].at = Duration::from_secs(3600);
        assert!(one(&world.check(), "I6").starts_with("stage second was Succeeded before"));
    }
}
