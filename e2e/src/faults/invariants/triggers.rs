//! R1 to R4: what starts a run starts one, no more are active than may be, the ledger knows each, and what the spec says last is run.

use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version};
use crate::faults::kubelet;
use crate::faults::user::{During, has_ended};
use crate::faults::workload::Starts;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The key that a run carries.
fn key(run: &Value) -> &str {
    run["metadata"]["annotations"]["trainyard.dev/run-key"].as_str().unwrap_or_default()
}

/// The last version of every run, by its UID, as it was seen before it was deleted, if it was.
pub(super) fn last_of_each(evidence: Evidence<'_>) -> BTreeMap<&str, &Version> {
    evidence.history.versions(Kind::Run).into_iter().map(|run| (run.uid(), run)).collect()
}

/// R1: however often it is seen, what starts a run starts one; every run has its key, and no two have the same.
pub(super) fn one_run_for_each_key(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.starts == Starts::Run {
        return Vec::new();
    }
    let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for run in evidence.history.versions(Kind::Run) {
        keys.entry(key(&run.object)).or_default().insert(run.uid());
    }
    let mut found = Vec::new();
    let any_failed = last_of_each(evidence).values().any(|run| run.object["status"]["phase"] == "Failed");
    let causes = evidence.workload.runs(any_failed);
    if keys.len() != causes {
        found.push(Violation::new("R1", format!("{causes} causes have led to runs of {} keys", keys.len())));
    }
    for (key, uids) in keys {
        if key.len() != 64 {
            found.push(Violation::new("R1", format!("a run has the key {key:?}")));
        }
        if uids.len() != 1 {
            found.push(Violation::new("R1", format!("key {key} has {} runs", uids.len())));
        }
    }
    found
}

/// R2: in the end the ledger has one entry for each run, which names it, its key and how it ended; and an entry that has ended stays as
/// it is.
pub(super) fn the_ledger_is_true(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.starts == Starts::Run {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut ended: BTreeMap<(&str, &str), &Value> = BTreeMap::new();
    let mut last: BTreeMap<&str, &[Value]> = BTreeMap::new();
    for pipeline in evidence.history.versions(Kind::Pipeline) {
        let entries = pipeline.object["status"]["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
        last.insert(pipeline.name(), entries);
        for entry in entries {
            let key = (pipeline.name(), entry["key"].as_str().unwrap_or_default());
            match ended.get(&key) {
                Some(known) if *known != entry => {
                    found.push(Violation::new("R2", format!("an entry that had ended went from {known} to {entry}")));
                }
                _ => {}
            }
            if !entry["completed"].is_null() {
                ended.insert(key, entry);
            }
        }
    }
    let runs = last_of_each(evidence);
    let entries: usize = last.values().map(|entries| entries.len()).sum();
    if runs.is_empty() || entries != runs.len() {
        found.push(Violation::new("R2", format!("there are {} runs, and {entries} entries in the ledger", runs.len())));
    }
    for run in runs.into_values() {
        let pipeline = run.object["spec"]["pipelineRef"]["name"].as_str().unwrap_or_default();
        let expected = json!([run.name(), key(&run.object), run.object["status"]["phase"]]);
        let mut entries = last.get(pipeline).copied().unwrap_or_default().iter();
        let said = entries.find(|entry| entry["run"] == run.name());
        let said = said.map_or(Value::Null, |entry| json!([entry["run"], entry["key"], entry["phase"]]));
        if said != expected {
            found.push(Violation::new("R2", format!("the ledger says {said}, and the run is {expected}")));
        }
    }
    found
}

/// R3: of a Pipeline's runs no more are active than may be: one is from its creation until its end.
pub(super) fn no_more_are_active_than_may_be(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.starts == Starts::Run {
        return Vec::new();
    }
    let (most, mut found) = (evidence.workload.together, Vec::new());
    let mut active: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for run in evidence.history.versions(Kind::Run) {
        let pipeline = run.object["spec"]["pipelineRef"]["name"].as_str().unwrap_or_default();
        let active = active.entry(pipeline).or_default();
        let is_over = run.change == Change::Deleted || has_ended(&run.object);
        let changed = if is_over { active.remove(run.uid()) } else { active.insert(run.uid()) };
        if changed && active.len() > most {
            let at = run.revision();
            found.push(Violation::new("R3", format!("{} runs were active at revision {at}, not {most}", active.len())));
        }
    }
    found
}

/// R4: a backfill says in the end how many instants it has, and how their runs have ended.
pub(super) fn a_backfill_counts_its_runs(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut triggers = evidence.workload.pipeline["triggers"].as_array().into_iter().flatten();
    if triggers.all(|trigger| trigger["backfill"].is_null()) {
        return Vec::new();
    }
    let runs = last_of_each(evidence);
    let of = |phase: &str| runs.values().filter(|run| run.object["status"]["phase"] == phase).count();
    let expected = json!({"instants": evidence.workload.runs, "succeeded": of("Succeeded"), "failed": of("Failed")});
    let pipelines = evidence.history.versions(Kind::Pipeline);
    let said = pipelines.last().map_or(&Value::Null, |last| &last.object["status"]["triggers"][0]["backfill"]);
    let counts = json!({"instants": said["instants"], "succeeded": said["succeeded"], "failed": said["failed"]});
    match counts == expected {
        true => Vec::new(),
        false => vec![Violation::new("R4", format!("the backfill says {said}, and its runs are {expected}"))],
    }
}

/// R4: where the spec is changed, the run that was created last is one of what it says in the end.
pub(super) fn what_the_spec_says_last_is_run(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.during != Some(During::Change) {
        return Vec::new();
    }
    let pipelines = evidence.history.versions(Kind::Pipeline);
    let wanted = pipelines.last().map_or(&Value::Null, |last| &last.object["spec"]["params"][0]);
    let runs = evidence.history.versions(Kind::Run);
    let newest = runs.iter().rfind(|run| run.change == Change::Added).map_or("", |run| run.uid());
    let pods = evidence.history.versions(Kind::Pod).into_iter();
    let of_it = pods.filter(|pod| pod.object["metadata"]["labels"]["trainyard.dev/run-uid"] == newest);
    let steps = of_it.filter(|pod| pod.change == Change::Added).filter_map(|pod| kubelet::step(&pod.object).ok());
    let given: BTreeSet<String> = steps
        .map(|step| step.params.get(wanted["name"].as_str().unwrap_or_default()).unwrap_or(&Value::Null).to_string())
        .collect();
    let expected = BTreeSet::from([wanted["default"].to_string()]);
    match given == expected {
        true => Vec::new(),
        false => vec![Violation::new("R4", format!("the spec says {expected:?}, and the last run was of {given:?}"))],
    }
}

/// R4: what a run of one Pipeline is said to follow is what a run of the other has written.
pub(super) fn what_is_followed_was_written(evidence: Evidence<'_>) -> Vec<Violation> {
    let Some(downstream) = &evidence.workload.downstream else { return Vec::new() };
    let output = &downstream["triggers"][0]["upstream"]["output"];
    let (stage, output) = output.as_str().and_then(|output| output.split_once('.')).unwrap_or_default();
    let causes = last_of_each(evidence).into_values().filter_map(|run| {
        let cause = run.object["metadata"]["annotations"]["trainyard.dev/cause"].as_str()?;
        let cause: Value = serde_json::from_str(cause).ok()?;
        cause["upstream"]["digest"].as_str().map(str::to_owned)
    });
    let is_written = |digest: &String| {
        let mut records = evidence.commits.iter().filter(|commit| commit.stage == stage);
        records.any(|commit| commit.outputs.get(output) == Some(digest))
    };
    let others = causes.filter(|digest| !is_written(digest));
    others.map(|digest| Violation::new("R4", format!("a run follows {digest}, which nobody has written"))).collect()
}

/// R5: of runs that have succeeded as many are kept as are to be, and none is deleted before the ledger knows its end.
pub(super) fn runs_are_kept(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.keeps() == usize::MAX {
        return Vec::new();
    }
    let (runs, pipelines) = (last_of_each(evidence), evidence.history.versions(Kind::Pipeline));
    let mut found = Vec::new();
    for run in runs.values().filter(|run| run.change == Change::Deleted) {
        let before = pipelines.iter().rfind(|pipeline| pipeline.revision() < run.revision());
        let mut entries = before.into_iter().filter_map(|last| last.object["status"]["revisions"].as_array()).flatten();
        if !entries.any(|entry| entry["run"] == run.name() && !entry["completed"].is_null()) {
            found.push(Violation::new("R5", format!("run {} was deleted before its end was on record", run.name())));
        }
    }
    let succeeded: Vec<_> = runs.values().filter(|run| run.object["status"]["phase"] == "Succeeded").collect();
    let kept = succeeded.iter().filter(|run| run.change != Change::Deleted).count();
    let wanted = succeeded.len().min(evidence.workload.keeps());
    if kept != wanted {
        found.push(Violation::new("R5", format!("{kept} runs that have succeeded are left, not {wanted}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use crate::faults::workload::Workload;
    use serde_json::json;

    #[test]
    fn one_run_of_one_key_that_the_ledger_knows_is_in_order() {
        let world = World::triggered();
        assert!(world.check().iter().all(|violation| !violation.invariant.starts_with('R')));
    }

    #[test]
    fn a_second_run_is_seen() {
        let mut world = World::triggered();
        world.another_run("other", &"a".repeat(64));
        assert!(one(&world.check(), "R1").ends_with("has 2 runs"));
        let mut world = World::triggered();
        world.another_run("other", &"b".repeat(64));
        assert_eq!(one(&world.check(), "R1"), "1 causes have led to runs of 2 keys");
        let mut world = World::triggered();
        world.workload.runs = 2;
        assert_eq!(one(&world.check(), "R1"), "2 causes have led to runs of 1 keys");
        let mut world = World::triggered();
        world.last_run()["metadata"]["annotations"] = json!({});
        assert!(world.check().iter().any(|violation| violation.what == "a run has the key \"\""));
    }

    #[test]
    fn a_ledger_that_is_wrong_or_changes_is_seen() {
        let entry = |phase: &str| json!({"key": "a".repeat(64), "run": "r", "phase": phase});
        for entries in [json!([]), json!([entry("Running")]), json!([entry("Succeeded"), entry("Failed")])] {
            let mut world = World::triggered();
            world.ledger(json!([]));
            world.ledger(entries);
            assert!(world.check().iter().any(|violation| violation.invariant == "R2"));
        }
        let mut world = World::triggered();
        world.ledger(
            json!([{"key": "a".repeat(64), "run": "r", "phase": "Succeeded", "completed": "2026-02-02T00:00:00Z"}]),
        );
        assert!(one(&world.check(), "R2").starts_with("an entry that had ended went from"));
    }

    #[test]
    fn every_run_has_an_entry_of_its_own() {
        let mut world = World::triggered();
        world.another_run("other", &"b".repeat(64));
        world.workload.runs = 2;
        let known =
            json!({"key": "a".repeat(64), "run": "r", "phase": "Succeeded", "completed": "2026-01-01T00:00:00Z"});
        let other = |run: &str| json!({"key": "b".repeat(64), "run": run, "phase": "Succeeded"});
        world.ledger(json!([known, other("other")]));
        assert!(world.check().iter().all(|violation| violation.invariant != "R2"));
        world.ledger(json!([known, other("third")]));
        assert!(one(&world.check(), "R2").starts_with("the ledger says null, and the run is [\"other\""));
    }

    #[test]
    fn two_active_runs_are_seen_where_one_may_be() {
        for (together, found) in [(1, 1), (2, 0)] {
            let mut world = World::triggered();
            world.workload.together = together;
            for uid in ["second", "third"] {
                world.another_run(uid, &"b".repeat(64));
                world.last_run()["status"]["phase"] = "Running".into();
            }
            assert_eq!(world.check().iter().filter(|violation| violation.invariant == "R3").count(), found);
        }
    }

    #[test]
    fn a_backfill_that_counts_wrongly_is_seen() {
        let counted = |succeeded: u32| {
            let mut world = World::triggered();
            world.workload.pipeline = Workload::named("backfill").unwrap().pipeline;
            let progress = json!({"instants": 1, "succeeded": succeeded, "failed": 0});
            world.pipeline(json!({"triggers": [{"name": "days", "backfill": progress}]}));
            world.check().into_iter().filter(|violation| violation.invariant == "R4").count()
        };
        assert_eq!((counted(1), counted(0), counted(2)), (0, 1, 1));
    }

    #[test]
    fn a_run_that_follows_what_nobody_wrote_is_seen() {
        let follows = |digest: &str| {
            let mut world = World::triggered();
            world.workload.downstream = Workload::named("upstream").unwrap().downstream;
            let cause = json!({"upstream": {"pipeline": "upstream", "output": "first.text", "digest": digest}});
            world.last_run()["metadata"]["annotations"]["trainyard.dev/cause"] = cause.to_string().into();
            world.check().into_iter().filter(|violation| violation.invariant == "R4").count()
        };
        assert_eq!((follows("sha256:first"), follows("sha256:second")), (0, 1));
    }

    #[test]
    fn a_run_that_goes_too_early_and_one_too_many_are_seen() {
        let world = |known: bool| {
            let mut world = World::triggered();
            world.workload.pipeline["retention"] = json!({"succeeded": 1});
            world.another_run("other", &"b".repeat(64));
            if !known {
                world.ledger(json!([]));
            }
            world
        };
        let found = |world: &World| world.check().into_iter().filter(|violation| violation.invariant == "R5").count();
        assert_eq!(one(&world(true).check(), "R5"), "2 runs that have succeeded are left, not 1");
        for (known, expected) in [(true, 0), (false, 1)] {
            let mut world = world(known);
            world.deleted_run("r");
            assert_eq!(found(&world), expected);
            world.deleted_run("other");
            assert!(found(&world) > expected);
        }
    }

    #[test]
    fn a_last_run_of_an_old_spec_is_seen() {
        let run_of = |word: &str| {
            let mut world = World::triggered();
            world.changed_by_its_user("after", word);
            world.check().into_iter().filter(|violation| violation.invariant == "R4").count()
        };
        assert_eq!((run_of("after"), run_of("before")), (0, 1));
    }
}
