//! What must hold at every create and every write, said in the words of the spec and not with the planner's own graph.

use std::collections::BTreeSet;

use trainyard_crds::v1alpha1::{Branch, FailureCounts, PipelineRunStatus, RunState, Stage, StageKind, StagePhase};

use super::World;

/// What a stage needs: the name of another, and in which ways that may have ended.
pub fn needs(world: &World, stage: &Stage) -> Vec<(String, BTreeSet<Branch>)> {
    let any = || BTreeSet::from([Branch::Succeeded, Branch::Failed, Branch::Skipped]);
    let succeeded = || BTreeSet::from([Branch::Succeeded]);
    let mut needs: Vec<(String, BTreeSet<Branch>)> =
        stage.depends_on.iter().map(|name| (name.clone(), succeeded())).collect();
    for after in &stage.after {
        let on = if after.phases.is_empty() { any() } else { after.phases.iter().copied().collect() };
        needs.push((after.stage.clone(), on));
    }
    for input in &stage.inputs {
        if let Some((name, _)) = input.from.as_ref().and_then(|from| from.split_once('.')) {
            let optional = input.optional == Some(true) || input.default.is_some();
            needs.push((name.to_owned(), if optional { any() } else { succeeded() }));
        }
    }
    if let StageKind::Gate(gate) = &stage.kind {
        let checked = gate.checks.iter().filter_map(|check| check.metric.as_ref()?.split_once('.'));
        needs.extend(checked.map(|(name, _)| (name.to_owned(), succeeded())));
    }
    if let Some(when) = &stage.when {
        let read = world.spec.stages.iter().filter(|other| when.contains(&format!("stages.{}.", other.name)));
        needs.extend(read.map(|other| (other.name.clone(), any())));
    }
    needs
}

impl World {
    pub(super) fn check_create(&mut self, node: usize, attempt: u32) {
        let graph = std::rc::Rc::clone(&self.graph);
        let name = graph.nodes()[node].name();
        let is_main = node < self.spec.stages.len();
        let what = format!("created {name} a{attempt}");
        assert!(!self.ended(), "{what} after the run had ended");
        assert!(!self.suspend, "{what} while suspended");
        assert!(!self.skipped.contains(name), "{what} though others were started because it would not");
        assert!(
            self.state == RunState::Active || (self.state == RunState::Cancelled && !is_main),
            "{what} while stopping"
        );
        let twin = self.pods.iter().find(|(key, pod)| key.0 == name && pod.is_live());
        assert!(twin.is_none(), "{what} while {twin:?} is alive");
        let row = &self.status.stages[node];
        assert!(!row.phase.is_terminal(), "{what} though it had ended");
        if attempt > 1 {
            let before = attempt - 1;
            let recorded = row.phase == StagePhase::Retrying && row.attempt == Some(before);
            assert!(recorded, "{what} before the failure of a{before} was persisted: {row:?}");
            let FailureCounts { user, infra } = row.failures.unwrap_or_default();
            assert_eq!(user + infra, before, "{what}: failures do not add up");
            let stage = self.graph.nodes()[node].stage();
            let retry = stage.retry.clone().unwrap_or_default();
            assert!(
                user <= retry.limit.unwrap_or(0) && infra <= retry.infra_limit.unwrap_or(5),
                "{what} over the budget"
            );
        }
        for (other, on) in needs(self, graph.nodes()[node].stage()) {
            assert!(self.ended_in(&other, &on), "{what} before {other} had ended in one of {on:?}");
        }
        if !is_main {
            for other in &std::rc::Rc::clone(&self.spec).stages {
                let on = BTreeSet::from([Branch::Succeeded, Branch::Failed, Branch::Skipped]);
                assert!(self.ended_in(&other.name, &on), "{what} before {} had ended", other.name);
            }
        }
        if let Some(limit) = self.spec.parallel {
            let alive =
                self.pods.iter().filter(|(key, pod)| pod.is_live() && !self.commits.contains_key(&key.0)).count();
            assert!(alive < limit as usize, "{what} over the limit of {limit}");
        }
    }

    /// Whether a stage has ended for good in one of these ways: a success stands in its commit record, a failure in the status. That
    /// one is skipped follows from those, and shows later.
    fn ended_in(&mut self, name: &str, on: &BTreeSet<Branch>) -> bool {
        let row = self.row(name);
        let branch = match row.phase {
            StagePhase::Failed | StagePhase::Cancelled => Branch::Failed,
            StagePhase::Skipped => Branch::Skipped,
            StagePhase::Succeeded => Branch::Succeeded,
            _ if self.commits.contains_key(name) => Branch::Succeeded,
            StagePhase::Waiting if !self.pods.keys().any(|key| key.0 == name) => {
                self.skipped.insert(name.to_owned());
                Branch::Skipped
            }
            _ => return false,
        };
        on.contains(&branch)
    }

    pub(super) fn check_write(&self, new: &PipelineRunStatus) {
        let old = &self.status;
        assert!(!self.ended(), "the status of an ended run was written");
        assert_eq!(old.stages.len(), new.stages.len());
        for (before, after) in old.stages.iter().zip(&new.stages) {
            assert_eq!(before.name, after.name);
            assert!(!before.phase.is_terminal() || before == after, "an ended row changed: {before:?} {after:?}");
            // A cancel may come before the skip is written: what matters is that the stage does not run.
            let ran = matches!(after.phase, StagePhase::Succeeded | StagePhase::Failed) || after.attempt.is_some();
            assert!(!ran || !self.skipped.contains(&after.name), "others were started because of a skip: {after:?}");
            assert!(before.attempt <= after.attempt, "an attempt was taken back: {before:?} {after:?}");
            assert_eq!(after.retry_at.is_some(), after.phase == StagePhase::Retrying, "{after:?}");
            let job = after.training.as_ref().map(|training| &training.job);
            assert_eq!(job.unwrap_or(&after.pod).is_empty(), after.attempt.is_none(), "{after:?}");
            let judged = self.graph.position(&after.name).is_some_and(|node| self.graph.nodes()[node].is_judged());
            assert!(!judged || after.attempt.is_none(), "a stage without a Pod has an attempt: {after:?}");
            if after.phase == StagePhase::Succeeded && after.cached_from.is_none() && !judged {
                let record = self.commits.get(&after.name).unwrap_or_else(|| panic!("no record: {after:?}"));
                assert_eq!(after.metrics, record.metrics);
                let digests = |row: Vec<(&String, &String)>| {
                    row.into_iter().map(|(a, b)| (a.clone(), b.clone())).collect::<Vec<_>>()
                };
                assert_eq!(
                    digests(after.outputs.iter().map(|output| (&output.name, &output.digest)).collect()),
                    digests(record.outputs.iter().map(|output| (&output.name, &output.digest)).collect())
                );
            }
            if let (Some(start), Some(end)) = (&after.start, &after.end) {
                assert!(start.0 <= end.0, "ended before it started: {after:?}");
            }
        }
        if new.phase.is_some_and(trainyard_crds::v1alpha1::RunPhase::is_terminal) {
            assert!(new.stages.iter().all(|row| row.phase.is_terminal()), "{new:?}");
            let alive = self.pods.iter().find(|(key, pod)| pod.is_live() && !self.commits.contains_key(&key.0));
            assert!(alive.is_none(), "the run ends while {alive:?} is alive");
            assert!(new.completion_time.as_ref().is_some_and(|time| time.0 <= self.now));
        }
        let condition = |kind: &str| new.conditions.iter().find(|it| it.type_ == kind).map(|it| it.status == "True");
        assert!(!(condition("Reconciling") == Some(true) && condition("Stalled") == Some(true)));
    }
}
