//! L1 and L2: short Pods look at data one at a time, each look has one, and none is left behind.

use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version, is_task};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The Pods that have looked, every version of each.
fn looks(evidence: Evidence<'_>) -> Vec<&Version> {
    let pods = evidence.history.versions(Kind::Pod);
    let known: BTreeSet<&str> = pods.iter().filter(|pod| is_task(&pod.object)).map(|pod| pod.uid()).collect();
    pods.into_iter().filter(|pod| known.contains(pod.uid())).collect()
}

/// The revisions at which the Pipeline's status told of another look.
fn told(evidence: Evidence<'_>) -> Vec<u64> {
    let (mut before, mut told) = (&Value::Null, Vec::new());
    for pipeline in evidence.history.versions(Kind::Pipeline) {
        let checked = &pipeline.object["status"]["triggers"][0]["data"]["checked"];
        if checked != before {
            (before, told) = (checked, [told, vec![pipeline.revision()]].concat());
        }
    }
    told
}

/// L1: no two look at once, and a look whose word the status has told is not begun again. One whose Pod is gone before its word was told
/// is.
pub(super) fn each_look_has_one_pod(evidence: Evidence<'_>) -> Vec<Violation> {
    let (mut found, told) = (Vec::new(), told(evidence));
    let mut live: BTreeSet<&str> = BTreeSet::new();
    let mut begun: BTreeMap<&str, u64> = BTreeMap::new();
    for pod in looks(evidence) {
        let is_over = pod.change == Change::Deleted || pod.object["metadata"]["ownerReferences"].is_null();
        let changed = if is_over { live.remove(pod.uid()) } else { live.insert(pod.uid()) };
        if changed && live.len() > 1 {
            found.push(Violation::new("L1", format!("{} Pods looked at revision {}", live.len(), pod.revision())));
        }
        if pod.change != Change::Added {
            continue;
        }
        let again = begun.insert(pod.name(), pod.revision());
        if again.is_some_and(|before| told.iter().any(|at| (before..pod.revision()).contains(at))) {
            found.push(Violation::new("L1", format!("Pod {} looked again after its word was told", pod.name())));
        }
    }
    found
}

/// L2: in the end there is no Pod of a look but the one that has begun since the status told of the last.
pub(super) fn no_look_is_left_behind(evidence: Evidence<'_>) -> Vec<Violation> {
    let told = told(evidence).pop().unwrap_or_default();
    let mut last: BTreeMap<&str, (u64, &Version)> = BTreeMap::new();
    for pod in looks(evidence) {
        last.entry(pod.uid()).or_insert((pod.revision(), pod)).1 = pod;
    }
    let left = last.into_values().filter(|(begun, pod)| {
        let metadata = &pod.object["metadata"];
        let goes = pod.change == Change::Deleted || !metadata["deletionTimestamp"].is_null();
        // Whose owner was removed is nobody's.
        *begun < told && !goes && !metadata["ownerReferences"].is_null()
    });
    left.map(|(_, pod)| Violation::new("L2", format!("Pod {} is left behind", pod.name()))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use crate::faults::history::Change;

    fn count(world: &World, invariant: &str) -> usize {
        world.check().iter().filter(|violation| violation.invariant == invariant).count()
    }

    #[test]
    fn a_look_after_the_other_is_in_order() {
        let mut world = World::chain();
        for (uid, checked) in [("a", "2026-01-01T00:00:00Z"), ("b", "2026-01-01T00:01:00Z")] {
            world.look(uid, uid, Change::Added);
            world.look(uid, uid, Change::Deleted);
            world.looked(checked);
        }
        world.look("c", "c", Change::Added);
        assert_eq!((count(&world, "L1"), count(&world, "L2")), (0, 0));
    }

    #[test]
    fn two_at_once_and_one_that_is_left_are_seen() {
        let mut world = World::chain();
        world.look("a", "a", Change::Added);
        world.look("b", "b", Change::Added);
        assert!(one(&world.check(), "L1").starts_with("2 Pods looked at revision"));
        world.look("b", "b", Change::Deleted);
        assert_eq!(count(&world, "L2"), 0);
        world.looked("2026-01-01T00:00:00Z");
        assert_eq!(one(&world.check(), "L2"), "Pod a is left behind");
    }

    #[test]
    fn a_look_is_begun_again_only_if_its_word_was_not_told() {
        let again = |told: bool| {
            let mut world = World::chain();
            world.look("a", "first", Change::Added);
            world.look("a", "first", Change::Deleted);
            if told {
                world.looked("2026-01-01T00:00:00Z");
            }
            world.look("a", "second", Change::Added);
            count(&world, "L1")
        };
        assert_eq!((again(false), again(true)), (0, 1));
    }
}
