//! T8: a training that is a stage of a run has one job for each attempt of the stage, no sooner and no later than a Pod would be.

use super::super::status::has_ended;
use super::super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version, What, revision};
use serde_json::Value;
use std::collections::BTreeMap;

/// At most one job ever for each attempt, none before all that its stage needs has committed, none after the run has ended, and the
/// run is stopped only when its job has no Pods.
pub(super) fn one_job_per_attempt(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut created: BTreeMap<(&str, &str, &str), &str> = BTreeMap::new();
    let mut found = Vec::new();
    let versions = evidence.history.versions(Kind::Job);
    for job in versions.into_iter().filter(|version| version.change == Change::Added) {
        let label = |name: &str| job.object["metadata"]["labels"][format!("trainyard.dev/{name}")].as_str();
        let (Some(run), Some(stage), Some(attempt)) = (label("run-uid"), label("stage"), label("attempt")) else {
            continue;
        };
        if created.insert((run, stage, attempt), job.uid()).is_some_and(|before| before != job.uid()) {
            let what = format!("attempt {attempt} of stage {stage} had another job than {}", job.name());
            found.push(Violation::new("T8", what));
        }
    }
    found.extend(nothing_too_early_or_too_late(evidence));
    found
}

fn nothing_too_early_or_too_late(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for write in evidence.history.writes() {
        let is_create = write.request.method == "POST" && write.request.path.ends_with("/trainingjobs");
        let labels = &write.request.body["metadata"]["labels"];
        let (Some(run), Some(stage)) =
            (labels["trainyard.dev/run-uid"].as_str(), labels["trainyard.dev/stage"].as_str())
        else {
            continue;
        };
        if !is_create || !write.is_done() {
            continue;
        }
        let needs = evidence.workload.stage(stage).map(|stage| stage.needs.as_slice()).unwrap_or_default();
        for needed in needs {
            if evidence.commit(run, needed).is_none_or(|commit| commit.at > write.at) {
                let what = format!("the job of stage {stage} was created before {needed} had committed");
                found.push(Violation::new("T8", what));
            }
        }
    }
    let (mut run, mut job): (&Value, Option<&Version>) = (&Value::Null, None);
    for entry in &evidence.history.entries {
        let What::Version(version) = &entry.what else { continue };
        match version.kind {
            Kind::Run if revision(&version.object) > revision(run) => {
                run = &version.object;
                let lives = job.is_some_and(|job| {
                    let phase = job.object["status"]["phase"].as_str();
                    job.change != Change::Deleted && !matches!(phase, Some("Succeeded" | "Failed" | "Suspended"))
                });
                if has_ended(run) && lives {
                    let what = format!("the run is {} and its job goes on", run["status"]["phase"]);
                    found.push(Violation::new("T8", what));
                }
            }
            Kind::Job if version.change == Change::Added && has_ended(run) => {
                let what = format!("job {} was created after the run had ended", version.name());
                found.push(Violation::new("T8", what));
            }
            Kind::Job => job = Some(version),
            Kind::Pod | Kind::Run | Kind::Pipeline => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::super::world::one;
    use super::super::world::World;

    #[test]
    fn a_second_job_of_an_attempt_is_seen() {
        assert!(one(&World::twins().check(), "T8").contains("had another job"));
    }
}
