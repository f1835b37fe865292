//! R1 and R2: what starts a run starts one, and the ledger knows it.

use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind};
use crate::faults::workload::Starts;
use std::collections::{BTreeMap, BTreeSet};

/// R1: however often it is seen, what starts a run starts one; every run has its key, and no two have the same.
pub(super) fn one_run_for_each_key(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.starts == Starts::Run {
        return Vec::new();
    }
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for run in evidence.history.versions(Kind::Run) {
        let key = run.object["metadata"]["annotations"]["trainyard.dev/run-key"].as_str().unwrap_or_default();
        keys.entry(key.to_owned()).or_default().insert(run.uid().to_owned());
    }
    let mut found = Vec::new();
    if keys.len() != 1 {
        found.push(Violation::new("R1", format!("one cause has led to runs of {} keys", keys.len())));
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

/// R2: in the end the ledger has one entry, which names the run, its key and how it ended; and an entry that has ended stays as it is.
pub(super) fn the_ledger_is_true(evidence: Evidence<'_>) -> Vec<Violation> {
    if evidence.workload.starts == Starts::Run {
        return Vec::new();
    }
    let pipelines = evidence.history.versions(Kind::Pipeline);
    let mut found = Vec::new();
    let mut ended: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for pipeline in &pipelines {
        for entry in pipeline.object["status"]["revisions"].as_array().into_iter().flatten() {
            let key = entry["key"].as_str().unwrap_or_default().to_owned();
            match ended.get(&key) {
                Some(known) if known != entry => {
                    found.push(Violation::new("R2", format!("an entry that had ended went from {known} to {entry}")));
                }
                _ => {}
            }
            if !entry["completed"].is_null() {
                ended.insert(key, entry.clone());
            }
        }
    }
    let runs = evidence.history.versions(Kind::Run);
    let run = runs.iter().rfind(|run| run.change != Change::Deleted).map(|run| &run.object);
    let entries = pipelines.last().and_then(|pipeline| pipeline.object["status"]["revisions"].as_array());
    let (Some(run), Some(entries)) = (run, entries) else {
        found.push(Violation::new("R2", "there is no run, or no ledger"));
        return found;
    };
    let [entry] = entries.as_slice() else {
        found.push(Violation::new("R2", format!("the ledger has {} entries", entries.len())));
        return found;
    };
    let seen = [&entry["run"], &entry["key"], &entry["phase"]];
    let meta = &run["metadata"];
    let expected = [&meta["name"], &meta["annotations"]["trainyard.dev/run-key"], &run["status"]["phase"]];
    if seen != expected {
        found.push(Violation::new("R2", format!("the ledger says {seen:?}, and the run is {expected:?}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
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
        assert_eq!(one(&world.check(), "R1"), "one cause has led to runs of 2 keys");
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
}
