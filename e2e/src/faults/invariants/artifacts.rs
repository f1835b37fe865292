//! I5: what counts as a result is what lies in the store.

use super::pods::Attempt;
use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind};
use crate::faults::kubelet;
use serde_json::Value;
use std::collections::BTreeMap;
use step_protocol::InputSource;

/// The rows of a run's status.
pub(super) fn rows(run: &Value) -> &[Value] {
    run["status"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A stage has succeeded exactly when its commit record is there, names what status names, and leads to those bytes.
pub(super) fn succeeded_means_committed(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found: Vec<Violation> = evidence
        .commits
        .iter()
        .filter_map(|commit| Some(Violation::new("I5", format!("{}: {}", commit.key, commit.flaw.as_ref()?))))
        .collect();
    let Some(run) = evidence.history.versions(Kind::Run).into_iter().rfind(|run| run.change != Change::Deleted) else {
        return found;
    };
    for row in rows(&run.object) {
        let name = row["name"].as_str().unwrap_or_default();
        let commit = evidence.commit(run.uid(), name);
        let succeeded = row["phase"] == "Succeeded" && row["cachedFrom"].is_null();
        match commit {
            None if succeeded => {
                found.push(Violation::new("I5", format!("stage {name} succeeded without a commit record")))
            }
            // It was somebody else's Pod by then.
            Some(_) if row["reason"] == "NameConflict" => {}
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
