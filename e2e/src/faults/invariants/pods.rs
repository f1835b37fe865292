//! I1 to I4: which Pods there may be, and when.

use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version};
use crate::faults::monkey::FOREIGN;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use step_protocol::Outcome;

/// Attempts that the infrastructure may cost before a stage fails.
const INFRA_BUDGET: u32 = 5;

/// A Pod as an attempt, by its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub run_uid: String,
    pub stage: String,
    pub number: u32,
}

impl Attempt {
    /// Labels are written out here: that the operator's words are these is part of what is tested.
    pub(super) fn of(pod: &Value) -> Option<Self> {
        let labels = &pod["metadata"]["labels"];
        if labels[FOREIGN] == "true" {
            return None;
        }
        let label = |name: &str| labels[format!("trainyard.dev/{name}")].as_str();
        Some(Self {
            run_uid: label("run-uid")?.to_owned(),
            stage: label("stage")?.to_owned(),
            number: label("attempt")?.parse().ok()?,
        })
    }
}

/// Every version of a Pod of ours, in the API server's order. A Pod stays the attempt that it was created as, whatever becomes of
/// its labels.
fn versions<'a>(evidence: Evidence<'a>) -> Vec<(Attempt, &'a Version)> {
    let mut known: BTreeMap<&str, Attempt> = BTreeMap::new();
    let mut found = Vec::new();
    for version in evidence.history.versions(Kind::Pod) {
        if let Some(attempt) = Attempt::of(&version.object) {
            known.entry(version.uid()).or_insert(attempt);
        }
        if let Some(attempt) = known.get(version.uid()) {
            found.push((attempt.clone(), version));
        }
    }
    found
}

/// The names of Pods end with 80 bits of hash in base32: 16 characters.
pub(super) fn names_carry_their_hash(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found: Vec<Violation> = versions(evidence)
        .into_iter()
        .filter(|(_, version)| {
            let hash = version.name().rsplit('-').next().unwrap_or_default();
            hash.len() != 16 || !hash.chars().all(|c| c.is_ascii_lowercase() || ('2'..='7').contains(&c))
        })
        .map(|(_, version)| {
            Violation::new("I1", format!("the name of Pod {} does not end with its hash", version.name()))
        })
        .collect();
    found.dedup();
    found
}

/// A Pod of others is not deleted.
pub(super) fn others_are_left_alone(evidence: Evidence<'_>) -> Vec<Violation> {
    let touched = evidence.history.versions(Kind::Pod).into_iter().filter(|version| {
        let metadata = &version.object["metadata"];
        metadata["labels"][FOREIGN] == "true"
            && (version.change == Change::Deleted || !metadata["deletionTimestamp"].is_null())
    });
    touched.map(|version| Violation::new("foreign", format!("Pod {} of others was deleted", version.name()))).collect()
}

pub(super) fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or("Pending")
}

/// Whether the Pod's containers have ended for good, or it is no longer its run's.
pub(super) fn is_over(version: &Version) -> bool {
    version.change == Change::Deleted
        || version.object["metadata"]["ownerReferences"].is_null()
        || matches!(phase(&version.object), "Succeeded" | "Failed")
}

/// I1: at most one Pod UID ever for each run, stage and attempt.
pub(super) fn one_uid_per_attempt(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut uids: BTreeMap<Attempt, BTreeSet<&str>> = BTreeMap::new();
    for (attempt, version) in versions(evidence) {
        uids.entry(attempt).or_default().insert(version.uid());
    }
    let several = uids.into_iter().filter(|(_, uids)| uids.len() > 1);
    several
        .map(|(attempt, uids)| Violation::new("I1", format!("{attempt:?} had {} Pods: {uids:?}", uids.len())))
        .collect()
}

/// I2: at most one live Pod for each stage of a run. One that is being deleted lives until it is gone.
pub(super) fn one_live_pod_per_stage(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut live: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for (attempt, version) in versions(evidence) {
        let alive = live.entry((attempt.run_uid, attempt.stage.clone())).or_default();
        let changed = if is_over(version) { alive.remove(version.name()) } else { alive.insert(version.name()) };
        if changed && alive.len() > 1 {
            let at = version.revision();
            found.push(Violation::new(
                "I2",
                format!("stage {} had live Pods {alive:?} at revision {at}", attempt.stage),
            ));
        }
    }
    found
}

/// Whose budget the end of an attempt is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    User,
    Infra,
    /// It is never repeated.
    Fatal,
}

/// What an ended Pod costs. One that vanished without a word is the infrastructure's.
fn cost(last: &Version) -> Cost {
    if last.object["metadata"]["ownerReferences"].is_null() {
        return Cost::Infra;
    }
    let state = &last.object["status"]["containerStatuses"][0]["state"]["terminated"];
    let Some(code) = state["exitCode"].as_i64() else { return Cost::Infra };
    let has_commit = state["message"].as_str().is_some_and(|message| message.contains("\"commit\""));
    match Outcome::from_exit_code(i32::try_from(code).unwrap_or(-1)) {
        Some(Outcome::Succeeded) if has_commit => Cost::Nothing,
        None | Some(Outcome::Succeeded | Outcome::Disrupted | Outcome::StoreUnavailable | Outcome::RunnerError) => {
            Cost::Infra
        }
        Some(
            Outcome::UserError
            | Outcome::OOMKilled
            | Outcome::Timeout
            | Outcome::OutputMissing
            | Outcome::OutputUnsafe
            | Outcome::ResultInvalid
            | Outcome::DiskFull
            | Outcome::ArtifactCorrupt,
        ) => Cost::User,
        Some(
            Outcome::StartError
            | Outcome::StoreAccessDenied
            | Outcome::StoreUnsupported
            | Outcome::InputMissing
            | Outcome::ConfigError,
        ) => Cost::Fatal,
    }
}

/// I3: attempt n+1 only after attempt n has ended, in a way that is repeated, and while there is budget.
pub(super) fn attempts_follow_each_other(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut last: BTreeMap<Attempt, &Version> = BTreeMap::new();
    let mut found = Vec::new();
    for (attempt, version) in versions(evidence) {
        if version.change == Change::Added && attempt.number > 1 {
            let earlier: Vec<_> =
                (1..attempt.number).map(|number| last.get(&Attempt { number, ..attempt.clone() }).copied()).collect();
            if let Some(wrong) = refusal(evidence, &attempt, &earlier) {
                let Attempt { stage, number, .. } = &attempt;
                found.push(Violation::new("I3", format!("attempt {number} of stage {stage} began although {wrong}")));
            }
        }
        last.insert(attempt, version);
    }
    found
}

/// Why this attempt should not have begun, given the state of all before it.
fn refusal(evidence: Evidence<'_>, attempt: &Attempt, earlier: &[Option<&Version>]) -> Option<String> {
    let (mut user, mut infra) = (0, 0);
    for (number, version) in (1..).zip(earlier) {
        let Some(version) = version else { return Some(format!("attempt {number} never was")) };
        if !is_over(version) {
            return Some(format!("attempt {number} was {}", phase(&version.object)));
        }
        match cost(version) {
            Cost::Nothing => return Some(format!("attempt {number} had succeeded")),
            Cost::Fatal => return Some(format!("attempt {number} ended in a way that is never repeated")),
            Cost::User => user += 1,
            Cost::Infra => infra += 1,
        }
    }
    let retries = evidence.workload.stage(&attempt.stage).map_or(0, |stage| stage.retries);
    if user > retries {
        return Some(format!("{user} attempts had failed by its own fault, of which {retries} are repeated"));
    }
    (infra > INFRA_BUDGET).then(|| format!("{infra} attempts had failed by the infrastructure's fault"))
}

/// I4: no Pod before all it depends on has committed, none after the run has ended.
pub(super) fn nothing_too_early_or_too_late(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for write in evidence.history.writes() {
        let is_create = write.request.method == "POST" && write.request.path.ends_with("/pods") && write.is_done();
        let Some(attempt) = is_create.then(|| Attempt::of(&write.request.body)).flatten() else { continue };
        let needs = evidence.workload.stage(&attempt.stage).map(|stage| stage.needs.as_slice()).unwrap_or_default();
        for needed in needs {
            let there = evidence.commit(&attempt.run_uid, needed).is_some_and(|commit| commit.at <= write.at);
            if !there {
                let what = format!("the Pod of stage {} was created before {needed} had committed", attempt.stage);
                found.push(Violation::new("I4", what));
            }
        }
    }
    let runs = evidence.history.versions(Kind::Run);
    for (attempt, version) in versions(evidence).into_iter().filter(|(_, version)| version.change == Change::Added) {
        let ended = runs.iter().find(|run| run.uid() == attempt.run_uid && super::status::has_ended(&run.object));
        if ended.is_some_and(|run| run.revision() < version.revision()) {
            let what = format!("Pod {} of stage {} was created after the run had ended", version.name(), attempt.stage);
            found.push(Violation::new("I4", what));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn two_pods_of_one_attempt_are_seen_even_if_one_is_gone() {
        let mut world = World::chain();
        world.pod("first", 1, "uid-again", Change::Added, "Pending", Value::Null);
        world.pod("first", 1, "uid-again", Change::Deleted, "Pending", Value::Null);
        assert!(one(&world.check(), "I1").contains("had 2 Pods"));
    }

    #[test]
    fn two_live_pods_of_one_stage_are_seen() {
        let mut world = World::before_the_end();
        world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
        let found = world.check();
        assert!(one(&found, "I2").starts_with("stage second had live Pods"));
        assert!(one(&found, "I3").ends_with("attempt 1 was Running"));
    }

    #[test]
    fn a_pod_that_is_being_deleted_still_lives() {
        let mut world = World::before_the_end();
        let deleting = world.pod("second", 1, "uid-second-1", Change::Modified, "Running", Value::Null);
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
        one(&world.check(), "I2");
    }

    #[test]
    fn what_has_succeeded_or_may_not_be_repeated_is_not_repeated() {
        let attempt_two_after = |phase: &str, code: i64, message: &str| {
            let mut world = World::before_the_end();
            let state = json!({"exitCode": code, "message": message});
            world.pod("second", 1, "uid-second-1", Change::Modified, phase, state);
            world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
            world.check()
        };
        assert!(one(&attempt_two_after("Succeeded", 0, "{\"commit\":\"x\"}"), "I3").ends_with("had succeeded"));
        assert!(one(&attempt_two_after("Failed", 73, ""), "I3").ends_with("never repeated"));
        assert!(one(&attempt_two_after("Failed", 64, ""), "I3").contains("of which 0 are repeated"));
        for (phase, code) in [("Failed", 71), ("Failed", 137), ("Succeeded", 0)] {
            let found = attempt_two_after(phase, code, "");
            assert!(found.iter().all(|violation| violation.invariant == "I8"), "{code}: {found:?}");
        }
    }

    #[test]
    fn attempts_are_not_skipped_and_the_budget_ends() {
        let mut world = World::before_the_end();
        world.pod("second", 1, "uid-second-1", Change::Deleted, "Running", Value::Null);
        world.pod("second", 3, "uid-s3", Change::Added, "Pending", Value::Null);
        assert!(one(&world.check(), "I3").ends_with("attempt 2 never was"));

        let mut world = World::before_the_end();
        world.pod("second", 1, "uid-second-1", Change::Deleted, "Running", Value::Null);
        for number in 2..=7 {
            let uid = format!("uid-{number}");
            world.pod("second", number, &uid, Change::Added, "Pending", Value::Null);
            world.pod("second", number, &uid, Change::Deleted, "Pending", Value::Null);
        }
        assert!(one(&world.check(), "I3").starts_with("attempt 7 of stage second began although 6 attempts"));
    }

    #[test]
    fn a_pod_before_its_inputs_is_seen() {
        let mut world = World::chain();
        world.commits[0].at = Duration::from_secs(3600);
        let found: Vec<_> = world.check().into_iter().filter(|violation| violation.invariant == "I4").collect();
        assert_eq!(found, [Violation::new("I4", "the Pod of stage second was created before first had committed")]);
    }

    #[test]
    fn a_pod_after_the_end_is_seen() {
        let mut world = World::chain();
        world.pod("second", 2, "uid-late", Change::Added, "Pending", Value::Null);
        assert!(one(&world.check(), "I4").contains("after the run had ended"));
    }
}
