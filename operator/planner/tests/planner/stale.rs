//! What is shown may be older than what is known: found by the fault sweep, each first as a case there.

use jiff::SignedDuration;
use trainyard_crds::v1alpha1::{RunState, StagePhase};
use trainyard_planner::{Action, AttemptState, Waiting};

use crate::story::spec;
use crate::world::{Outcome, World};

const TWICE: &str = "stages: [{name: train, container: {command: [x]}, retry: {limit: 2, backoff: {initial: 10s}}}]";

fn key(attempt: u32) -> (String, u32) {
    ("train".to_owned(), attempt)
}

/// A world in which the first attempt has failed, on record, and waits for its repetition.
fn waits_for_the_second() -> World {
    let mut world = World::new(spec(TWICE));
    world.script.insert(key(1), Outcome::exits(3));
    world.settle();
    while world.row("train").phase != StagePhase::Retrying {
        world.progress(&key(1));
        world.deliver(&key(1));
        world.settle();
    }
    world
}

#[test]
fn a_failure_on_record_is_not_counted_again_when_its_pod_is_shown_as_before() {
    let mut world = waits_for_the_second();
    let failures = world.row("train").failures;
    let mut earlier = world.observed.attempt("train", 1).unwrap().clone();
    for state in [AttemptState::Pending(Waiting::default()), AttemptState::Running(world.now)] {
        earlier.state = state;
        world.observed.insert("train", earlier.clone());
        let plan = world.plan();
        assert_eq!((plan.actions.as_slice(), plan.rows.as_slice()), ([].as_slice(), [].as_slice()));
    }
    assert_eq!(world.row("train").failures, failures);
}

#[test]
fn an_attempt_whose_failure_is_on_record_is_no_stray() {
    let mut world = waits_for_the_second();
    let mut earlier = world.observed.attempt("train", 1).unwrap().clone();
    earlier.state = AttemptState::Running(world.now);
    world.now = world.now.saturating_add(SignedDuration::from_secs(60)).unwrap();
    world.reconcile();
    world.settle();
    assert_eq!(world.row("train").attempt, Some(2));
    world.observed.insert("train", earlier);
    assert!(world.plan().actions.is_empty(), "the Pod of the first attempt stays, for its log");
}

#[test]
fn a_pod_that_vanished_before_it_was_on_record_is_asked_for_and_counts_as_lost() {
    let mut world = World::new(spec(TWICE));
    let mut other = World::new(spec(TWICE));
    other.settle();
    // The Pod was created and shown, and the status that says so is not written yet.
    let attempt = other.observed.attempt("train", 1).unwrap().clone();
    world.observed.insert("train", attempt);
    world.observed.remove("train", 1);
    let mut actions = world.plan().actions;
    actions.retain(|action| !matches!(action, Action::Emit(_)));
    assert!(matches!(actions.as_slice(), [Action::Confirm { attempt: 1, .. }]), "{actions:?}");
    world.observed.confirm_gone("train", 1);
    let plan = world.plan();
    let (_, row) = &plan.rows[0];
    assert_eq!((row.phase, row.attempt, row.reason.as_str()), (StagePhase::Retrying, Some(1), "Disrupted"));
    assert!(!plan.actions.iter().any(|action| matches!(action, Action::Launch { .. })));
}

#[test]
fn a_stage_that_may_have_begun_is_asked_for_before_it_counts_as_cancelled() {
    let mut world = World::new(spec(TWICE));
    world.set_state(RunState::Cancelled);
    let asked = world.plan().actions;
    assert!(matches!(asked.as_slice(), [Action::Confirm { attempt: 1, .. }]), "{asked:?}");
    world.observed.confirm_gone("train", 1);
    assert_eq!(world.plan().rows[0].1.phase, StagePhase::Cancelled);

    let mut world = waits_for_the_second();
    world.now = world.now.saturating_add(SignedDuration::from_secs(1)).unwrap();
    world.set_state(RunState::Cancelled);
    let asked = world.plan().actions;
    assert!(matches!(asked.as_slice(), [Action::Confirm { attempt: 2, .. }]), "{asked:?}");
}

const CHAIN: &str = "stages: [{name: a, container: {command: [x]}}, {name: b, dependsOn: [a], container: {command: [x]}}, {name: c, dependsOn: [b], container: {command: [x]}}]";

/// A world in which the first of three stages runs, and the run is to be cancelled. An operator before this one may have known by an
/// early report that the stage has succeeded, and created the Pod of the second as the last thing that it did.
fn cancelled_in_the_first() -> World {
    let mut world = World::new(spec(CHAIN));
    world.settle();
    world.progress(&("a".to_owned(), 1));
    world.deliver(&("a".to_owned(), 1));
    world.settle();
    assert_eq!((world.row("a").phase, world.row("b").phase), (StagePhase::Running, StagePhase::Waiting));
    world.set_state(RunState::Cancelled);
    world
}

#[test]
fn a_stage_that_an_early_report_may_have_started_is_asked_for_before_it_counts_as_cancelled() {
    let mut world = cancelled_in_the_first();
    let plan = world.plan();
    let asked: Vec<usize> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Confirm { node, attempt: 1, .. } => Some(*node),
            _ => None,
        })
        .collect();
    assert_eq!((asked, plan.rows.len()), (vec![1], 0), "the third is asked for only if the second is there");
    world.observed.confirm_gone("b", 1);
    let phases: Vec<_> = world.plan().rows.iter().map(|(node, row)| (*node, row.phase)).collect();
    assert_eq!(phases, [(1, StagePhase::Cancelled), (2, StagePhase::Cancelled)]);
}

#[test]
fn a_pod_of_a_stage_that_was_cancelled_is_stopped_whenever_it_is_seen() {
    let mut world = cancelled_in_the_first();
    let mut late = world.observed.attempt("a", 1).unwrap().clone();
    world.settle();
    assert_eq!((world.row("b").phase, world.ended()), (StagePhase::Cancelled, false));
    (late.pod, late.uid, late.deleting) = ("late".into(), "uid-late".into(), false);
    world.observed.insert("b", late);
    let stopped =
        |action: &Action| matches!(action, Action::Stop { node: 1, attempt: 1, uid, .. } if uid == "uid-late");
    assert!(world.plan().actions.iter().any(stopped), "{:?}", world.plan().actions);
}
