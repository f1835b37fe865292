//! A Pipeline's status: a function of its spec, its runs and the time. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use trainyard_crds::condition::{ConditionType, Reason};
use trainyard_crds::v1alpha1::{LastRun, PipelineRun, PipelineStatus};
use trainyard_planner::retrain::Decision;
use trainyard_planner::{Graph, SpecProblem};

use crate::memory::counts_as_success;

/// What is known of a Pipeline now.
pub(super) fn status(
    prior: &PipelineStatus,
    generation: i64,
    graph: &Result<Graph, SpecProblem>,
    runs: &BTreeMap<String, Arc<PipelineRun>>,
    decision: Decision,
    now: Timestamp,
) -> PipelineStatus {
    let collided = decision.revisions.first().filter(|entry| entry.reason == Reason::NameCollision.as_str());
    let (good, reason, message) = match (graph, collided) {
        (Err(problem), _) => (false, problem.reason, problem.to_string()),
        (Ok(_), Some(entry)) => (false, Reason::NameCollision, entry.message.clone()),
        (Ok(_), None) => (true, Reason::Valid, String::new()),
    };
    let condition = |kind: ConditionType, value: bool| {
        let status = if value { "True" } else { "False" };
        let before =
            prior.conditions.iter().find(|condition| condition.type_ == kind.as_str() && condition.status == status);
        Condition {
            type_: kind.as_str().into(),
            status: status.into(),
            reason: reason.as_str().into(),
            message: message.clone(),
            observed_generation: Some(generation),
            last_transition_time: before.map_or_else(|| Time(now), |condition| condition.last_transition_time.clone()),
        }
    };
    let active = runs.values().filter(|run| !ended(run)).count();
    let newest = runs
        .values()
        .filter_map(|run| last_run(run))
        .max_by(|a, b| (a.created.0, &a.name).cmp(&(b.created.0, &b.name)));
    let last_run = match (newest, &prior.last_run) {
        // The one that was last may have left the watch since.
        (Some(newest), Some(known)) if newest.created.0 < known.created.0 => Some(known.clone()),
        (Some(newest), _) => Some(newest),
        (None, known) => known.clone(),
    };
    let succeeded = runs.values().filter(|run| counts_as_success(run)).filter_map(|run| self::last_run(run));
    let last_succeeded = succeeded
        .chain(prior.last_succeeded.clone())
        .max_by(|a, b| (a.created.0, &a.name).cmp(&(b.created.0, &b.name)));
    PipelineStatus {
        observed_generation: generation,
        conditions: vec![
            condition(ConditionType::Accepted, good),
            condition(ConditionType::Ready, good),
            condition(ConditionType::Reconciling, false),
            condition(ConditionType::Stalled, !good),
        ],
        stages: graph.as_ref().ok().and_then(|graph| u32::try_from(graph.nodes().len()).ok()),
        active_runs: u32::try_from(active).ok(),
        last_run,
        last_succeeded,
        next_run: decision.next_run.map(Time),
        rerun_requested_at: decision.request,
        triggers: decision.triggers,
        revisions: decision.revisions,
        models: prior.models.clone(),
        artifacts: prior.artifacts.clone(),
    }
}

fn ended(run: &PipelineRun) -> bool {
    run.status.as_ref().and_then(|status| status.phase).is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal)
}

/// A run as the last one of its Pipeline.
pub(super) fn last_run(run: &PipelineRun) -> Option<LastRun> {
    Some(LastRun {
        name: run.metadata.name.clone()?,
        phase: run.status.as_ref()?.phase.unwrap_or_default(),
        created: run.metadata.creation_timestamp.clone()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use trainyard_crds::v1alpha1::RunPhase;

    fn run(name: &str, created: &str, phase: &str) -> (String, Arc<PipelineRun>) {
        let run = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun",
            "metadata": {"name": name, "creationTimestamp": created}, "spec": {}, "status": {"phase": phase}});
        (name.to_owned(), Arc::new(serde_json::from_value(run).unwrap()))
    }

    fn graph(command: &str) -> Result<Graph, SpecProblem> {
        let spec = json!({"store": {"uri": "s3://b"}, "stages": [{"name": "a", "container": {"image": "i", "command": [command]}}]});
        Graph::new(&serde_json::from_value(spec).unwrap(), None)
    }

    #[test]
    fn ready_says_whether_it_can_run_and_not_how_its_runs_ended() {
        let runs =
            BTreeMap::from([run("a", "2026-01-01T00:00:00Z", "Failed"), run("b", "2026-01-02T00:00:00Z", "Running")]);
        let status =
            status(&PipelineStatus::default(), 3, &graph("x"), &runs, Decision::default(), Timestamp::UNIX_EPOCH);
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Valid"));
        assert_eq!((status.stages, status.active_runs, status.observed_generation), (Some(1), Some(1), 3));
        let last = status.last_run.unwrap();
        assert_eq!((last.name.as_str(), last.phase), ("b", RunPhase::Running));
    }

    #[test]
    fn the_last_that_succeeded_is_the_newest_that_has_made_something() {
        let mut promotes = run("d", "2026-01-04T00:00:00Z", "Succeeded");
        let mut promoting = (*promotes.1).clone();
        promoting.spec.promote = serde_json::from_value(json!([{"model": "m", "version": 1}])).unwrap();
        promotes.1 = Arc::new(promoting);
        let runs = BTreeMap::from([
            run("a", "2026-01-01T00:00:00Z", "Succeeded"),
            run("b", "2026-01-02T00:00:00Z", "Succeeded"),
            run("c", "2026-01-03T00:00:00Z", "Failed"),
            promotes,
        ]);
        let succeeded = |prior: &PipelineStatus, runs| {
            let status = status(prior, 1, &graph("x"), runs, Decision::default(), Timestamp::UNIX_EPOCH);
            status.last_succeeded.map(|run| run.name)
        };
        assert_eq!(succeeded(&PipelineStatus::default(), &runs).as_deref(), Some("b"));
        let (_, newer) = run("e", "2026-01-05T00:00:00Z", "Succeeded");
        let prior = PipelineStatus { last_succeeded: last_run(&newer), ..PipelineStatus::default() };
        assert_eq!(succeeded(&prior, &runs).as_deref(), Some("e"), "it has left the watch");
        assert_eq!(succeeded(&prior, &BTreeMap::new()).as_deref(), Some("e"));
    }

    #[test]
    fn a_wrong_pipeline_is_stalled_with_the_field_that_is_wrong() {
        let status = status(
            &PipelineStatus::default(),
            1,
            &graph("$(params.x)"),
            &BTreeMap::new(),
            Decision::default(),
            Timestamp::UNIX_EPOCH,
        );
        let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
        assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "UnknownReference"));
        assert!(stalled.message.starts_with("spec.stages[0].container: "), "{}", stalled.message);
    }

    #[test]
    fn a_last_run_that_left_the_watch_is_remembered() {
        let (_, newest) = run("new", "2026-02-01T00:00:00Z", "Succeeded");
        let prior = PipelineStatus { last_run: last_run(&newest), ..PipelineStatus::default() };
        let older = BTreeMap::from([run("old", "2026-01-01T00:00:00Z", "Running")]);
        let status = status(&prior, 1, &graph("x"), &older, Decision::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(status.last_run.unwrap().name, "new");
    }
}
