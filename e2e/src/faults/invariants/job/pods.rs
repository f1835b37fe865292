//! T1 to T3: which Pods there may be, and when.

use super::super::pods::{have_several_made, is_over};
use super::super::{Evidence, Violation};
use super::{Rank, jobs, number, ranks};
use crate::faults::history::{Change, Version, What};
use crate::faults::kubelet;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// T1: at most one Pod UID ever for each job, attempt and rank.
///
/// One exception: an operator that is started before it is on record that all Pods were created cannot know of a Pod that is gone.
/// It may create another one, but not of rank 0, which comes before the others.
pub(super) fn one_uid_per_rank(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut first: BTreeMap<Rank, &Version> = BTreeMap::new();
    let mut found = Vec::new();
    for (rank, version) in ranks(evidence).into_iter().filter(|(_, version)| version.change == Change::Added) {
        let Some(before) = first.insert(rank.clone(), version) else { continue };
        if before.uid() != version.uid() && !may_be_unknown(evidence, &rank, before, version) {
            let what = format!("{rank:?} had Pod {} after {}", version.uid(), before.uid());
            found.push(Violation::new("T1", what));
        }
    }
    found
}

/// Whether the operator that created the second Pod of a rank could not know of the first one.
fn may_be_unknown(evidence: Evidence<'_>, rank: &Rank, before: &Version, after: &Version) -> bool {
    let on_record = jobs(evidence).iter().any(|job| {
        let status = &job.object["status"];
        let attempt = number(&status["attempt"]);
        let launched = attempt > rank.attempt || (attempt == rank.attempt && status["launched"] == true);
        job.revision() < after.revision() && launched
    });
    let place = |version: &Version| {
        let is = |what: &What| matches!(what, What::Version(seen) if seen == version);
        evidence.history.entries.iter().position(|entry| is(&entry.what))
    };
    let (Some(from), Some(to)) = (place(before), place(after)) else { return false };
    let restarted = evidence.history.entries.get(from..to).unwrap_or_default();
    let restarted = restarted.iter().any(|entry| matches!(entry.what, What::Started(_)))
        || have_several_made(evidence, before.name());
    rank.rank != 0 && restarted && !on_record
}

/// T2: no Pod of an attempt is alive when one of another attempt is created, and none when the job says that it is suspended. One
/// that is being deleted lives until it is gone.
pub(super) fn one_live_attempt(evidence: Evidence<'_>) -> Vec<Violation> {
    let suspended: BTreeSet<u64> = jobs(evidence)
        .into_iter()
        .filter(|job| job.object["status"]["phase"] == "Suspended")
        .map(Version::revision)
        .collect();
    let mut alive: BTreeMap<&str, (u32, &str)> = BTreeMap::new();
    let mut found = Vec::new();
    let mut last = 0;
    for (rank, version) in ranks(evidence) {
        let at = version.revision();
        if let Some((_, name)) = alive.values().next()
            && let Some(suspended) = suspended.range(last..at).next()
        {
            found.push(Violation::new("T2", format!("Pod {name} was alive when the job was Suspended at {suspended}")));
        }
        last = at;
        if is_over(version) {
            alive.remove(version.uid());
            continue;
        }
        if version.change == Change::Added
            && let Some((attempt, name)) = alive.values().find(|(attempt, _)| *attempt != rank.attempt)
        {
            let what = format!(
                "Pod {} of attempt {} was created while {name} of attempt {attempt} was alive",
                version.name(),
                rank.attempt
            );
            found.push(Violation::new("T2", what));
        }
        alive.insert(version.uid(), (rank.attempt, version.name()));
    }
    found
}

/// T3: what all ranks of an attempt are told is the same, and each has a place of its own among so many.
pub(super) fn one_spec_per_attempt(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut told: BTreeMap<(String, u32), (Value, &str)> = BTreeMap::new();
    let mut found = Vec::new();
    for (rank, version) in ranks(evidence).into_iter().filter(|(_, version)| version.change == Change::Added) {
        let common = match common(&rank, &version.object) {
            Ok(common) => common,
            Err(wrong) => {
                found.push(Violation::new("T3", format!("Pod {} {wrong}", version.name())));
                continue;
            }
        };
        let known = told.entry((rank.job_uid, rank.attempt)).or_insert_with(|| (common.clone(), version.name()));
        if known.0 != common {
            let (seen, other) = (version.name(), known.1);
            let what = format!("Pod {seen} is told {common}, and {other} of the same attempt {}", known.0);
            found.push(Violation::new("T3", what));
        }
    }
    found
}

/// What a rank must have in common with all others of its attempt.
fn common(rank: &Rank, pod: &Value) -> Result<Value, String> {
    let step = kubelet::step(pod).map_err(|error| format!("has no step: {error}"))?;
    let spec = step.rank.ok_or("is told of no other ranks")?;
    if (spec.rank, spec.execution, step.identity.attempt) != (rank.rank, rank.attempt, rank.attempt) {
        return Err(format!("is labelled {rank:?} and told rank {} of execution {}", spec.rank, spec.execution));
    }
    if spec.rank >= spec.world_size || spec.hosts.len() != spec.world_size as usize {
        return Err(format!("is told rank {} of {} at {:?}", spec.rank, spec.world_size, spec.hosts));
    }
    if spec.rendezvous_id != format!("{}-{}", rank.job_uid, rank.attempt) {
        return Err(format!("meets the others as {}", spec.rendezvous_id));
    }
    let key = kubelet::variable(pod, step_protocol::paths::ENV_GANG_KEY).ok_or("has no key of its attempt")?;
    Ok(json!({
        "specHash": pod["metadata"]["annotations"]["trainyard.dev/spec-hash"],
        "key": key,
        "hosts": spec.hosts,
        "roles": spec.roles,
        "framework": spec.framework,
        "ports": [spec.port, spec.gate_port],
        "script": step.script,
        "command": step.command,
        "env": step.env,
        "params": step.params,
        "store": step.store,
        "inputs": step.inputs,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::super::world::{one, some};
    use super::super::world::World;
    use super::*;

    #[test]
    fn a_rank_that_is_replaced_alone_is_seen() {
        let mut world = World::running();
        world.pod(1, 2, Change::Deleted, "Running");
        world.again(1, 2);
        assert!(one(&world.check(), "T1").contains("had Pod uid-1-2-again after uid-1-2"));
    }

    #[test]
    fn a_second_pod_is_excused_only_for_who_could_not_know_of_the_first() {
        let second = |rank: u32, restarted: bool, launched: bool| {
            let mut world = World::new();
            world.begin(1);
            for rank in 0..4 {
                world.create(1, rank);
            }
            if launched {
                world.status(&[("launched", true.into())]);
            }
            world.pod(1, rank, Change::Deleted, "Running");
            if restarted {
                world.push(What::Started(2));
            }
            world.again(1, rank);
            world.check().iter().filter(|violation| violation.invariant == "T1").count()
        };
        assert_eq!(second(2, true, false), 0);
        assert_eq!([second(0, true, false), second(2, false, false), second(2, true, true)], [1, 1, 1]);
    }

    #[test]
    fn two_live_attempts_are_seen() {
        let mut world = World::running();
        world.fail(1, 2);
        world.begin(2);
        world.create(2, 0);
        // The Pod of rank 2 has ended, those of the others live.
        assert!(some(&world.check(), "of attempt 1 was alive"));
    }

    #[test]
    fn a_pod_that_is_being_deleted_still_lives() {
        let mut world = World::running();
        world.fail(1, 2);
        for rank in [0, 1, 2] {
            world.delete(1, rank);
            world.pod(1, rank, Change::Deleted, "Failed");
        }
        world.delete(1, 3);
        world.begin(2);
        world.create(2, 0);
        assert_eq!(world.check().iter().filter(|violation| violation.invariant == "T2").count(), 1);
    }

    #[test]
    fn a_pod_of_a_suspended_job_is_seen() {
        let mut world = World::running();
        world.status(&[("phase", "Suspended".into())]);
        world.pod(1, 1, Change::Modified, "Running");
        assert!(one(&world.check(), "T2").contains("was alive when the job was Suspended"));
    }

    #[test]
    fn ranks_that_are_told_different_things_are_seen() {
        let mut world = World::new();
        world.begin(1);
        world.create(1, 0);
        world.create(1, 1)["metadata"]["annotations"]["trainyard.dev/spec-hash"] = "another".into();
        assert!(one(&world.check(), "T3").contains("another"));

        let mut world = World::new();
        world.begin(1);
        world.create(1, 0);
        world.create(1, 1)["metadata"]["labels"]["trainyard.dev/rank"] = "3".into();
        assert!(some(&world.check(), "and told rank 1 of execution 1"));
    }
}
