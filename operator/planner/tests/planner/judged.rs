//! Gates and approvals: what they find, word for word, and that nothing follows from them before it is written.

use jiff::SignedDuration;
use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{CachedFrom, ModelVersion, PipelineSpec, RunPhase, RunState, StagePhase, Verdict};
use trainyard_planner::{Graph, reuse};

use crate::world::{BEGIN, Outcome, World};

/// A training whose model is compared, approved and published.
fn pipeline(gate: Value, approval: Value) -> PipelineSpec {
    let stages = json!([
        {"name": "train", "container": {"image": "i", "command": ["x"]}, "metrics": ["m"], "outputs": [{"name": "o"}],
         "results": [{"name": "rows", "type": "integer"}, {"name": "words", "type": "string"}]},
        {"name": "gate", "gate": gate},
        {"name": "approve", "dependsOn": ["gate"], "approval": approval},
        {"name": "publish", "dependsOn": ["approve"], "publish": {"model": "iris", "from": "train.o"}},
        {"name": "rescue", "after": [{"stage": "gate", "phases": ["Failed"]}], "container": {"image": "i", "command": ["x"]}},
    ]);
    let params = json!([{"name": "least", "type": "number", "default": 0.5}, {"name": "text", "default": "x"}]);
    serde_json::from_value(json!({"store": {"uri": "s3://bucket"}, "params": params, "stages": stages})).unwrap()
}

fn world(checks: Value, metric: f64) -> World {
    let mut world = World::new(pipeline(json!({ "checks": checks }), json!({})));
    world.script.insert(("train".into(), 1), Outcome::Succeeds { metric, early: false });
    world
}

/// The version of the model that is champion.
fn champion(world: &mut World, metric: f64) {
    let version = json!({"version": 3, "digest": "d", "uri": "u", "bytes": 1, "run": "iris-0", "runUid": "r",
        "metrics": {"train.m": metric}, "created": "2025-12-01T00:00:00Z"});
    world.champions.insert("iris".into(), serde_json::from_value::<ModelVersion>(version).unwrap());
}

/// Until nothing happens any more by itself.
fn goes_on(world: &mut World) {
    world.settle();
    while !world.ended() && world.row("approve").reason != "AwaitingApproval" && world.advance() {
        world.settle();
    }
}

/// What a gate finds of a training with this metric: whether it passes, and its sentence.
fn verdict(checks: Value, metric: f64, theirs: Option<f64>) -> (bool, String) {
    let mut world = world(checks, metric);
    if let Some(theirs) = theirs {
        champion(&mut world, theirs);
    }
    goes_on(&mut world);
    let row = world.row("gate");
    let said = row.checks.iter().map(|check| check.message.clone()).find(|message| !message.is_empty());
    (row.phase == StagePhase::Succeeded, said.unwrap_or_else(|| row.message.clone()))
}

#[test]
fn a_check_holds_between_its_bounds_and_at_them() {
    let between = || json!([{"metric": "train.m", "min": 0.5, "max": "$(params.least)"}]);
    assert_eq!(verdict(between(), 0.5, None), (true, "1 of 1 checks hold".into()));
    assert_eq!(verdict(between(), 0.4, None), (false, "train.m is 0.4, less than 0.5".into()));
    assert_eq!(verdict(between(), 0.6, None), (false, "train.m is 0.6, more than 0.5".into()));
    assert_eq!(verdict(between(), f64::NAN, None), (false, "train.m is null and not a number".into()));
}

#[test]
fn an_improvement_is_counted_from_the_champion() {
    let better = |by: f64| json!([{"metric": "train.m", "minImprovement": by}]);
    assert!(verdict(better(0.0), 0.9, Some(0.9)).0);
    assert_eq!(
        verdict(better(0.0), 0.89, Some(0.9)),
        (false, "train.m is 0.89, version 3 of model iris has 0.9, and it must not be worse".into())
    );
    // As doubles 0.94 - 0.93 is less than 0.01.
    assert!(verdict(better(0.01), 0.94, Some(0.93)).0);
    assert_eq!(
        verdict(better(0.01), 0.935, Some(0.93)),
        (false, "train.m is 0.935, version 3 of model iris has 0.93, and it must be better by 0.01".into())
    );
    let less = json!([{"metric": "train.m", "minImprovement": 0.1, "goal": "Minimize"}]);
    assert!(verdict(less.clone(), 0.4, Some(0.5)).0);
    assert!(!verdict(less, 0.45, Some(0.5)).0);
}

#[test]
fn without_a_champion_a_check_holds_unless_it_says_otherwise() {
    let check = |more: Value| {
        let mut check = json!({"metric": "train.m", "minImprovement": 0});
        check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([check])
    };
    assert_eq!(
        verdict(check(json!({})), 0.1, None),
        (true, "model iris has no champion: nothing to compare with".into())
    );
    assert_eq!(
        verdict(check(json!({"noBaseline": "Fail"})), 0.1, None),
        (false, "model iris has no champion, and noBaseline is Fail".into())
    );
    assert_eq!(
        verdict(check(json!({})), 0.1, Some(f64::NAN)),
        (true, "version 3 of model iris has no train.m: nothing to compare with".into())
    );
}

#[test]
fn a_gate_that_fails_fails_the_run_with_all_that_was_compared() {
    let checks = json!([{"metric": "train.m", "min": 0.3, "minImprovement": 0.1}, {"metric": "train.m", "max": 0.2}]);
    let mut world = world(checks, 0.4);
    champion(&mut world, 0.35);
    goes_on(&mut world);
    assert_eq!((world.status.phase, world.status.reason.as_str()), (Some(RunPhase::Failed), "GateFailed"));
    insta::assert_json_snapshot!("a_gate_that_fails", world.row("gate"));
    assert_eq!(world.row("publish").phase, StagePhase::Skipped);
    assert_eq!(world.row("rescue").phase, StagePhase::Succeeded);
    insta::assert_snapshot!("what_a_failed_gate_says", world.status.message);
}

#[test]
fn an_approval_waits_and_says_so_and_the_word_of_a_person_ends_it() {
    for (decision, phase, reason) in
        [(Verdict::Approved, RunPhase::Succeeded, ""), (Verdict::Denied, RunPhase::Failed, "ApprovalDenied")]
    {
        let mut world = world(json!([{"metric": "train.m", "min": 0}]), 1.0);
        goes_on(&mut world);
        assert_eq!(
            (world.row("approve").phase, world.row("approve").reason.as_str()),
            (StagePhase::Waiting, "AwaitingApproval")
        );
        assert_eq!((world.status.reason.as_str(), world.status.stage.as_str()), ("AwaitingApproval", "approve"));
        let condition = world.status.conditions.iter().find(|condition| condition.type_ == "Suspended").unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "AwaitingApproval"));
        assert!(!world.pods.contains_key(&("publish".to_owned(), 1)));
        world.decide("approve", decision);
        goes_on(&mut world);
        let approval = world.row("approve").approval.clone().unwrap();
        assert_eq!((approval.decision, approval.by.as_str()), (decision, "ada"));
        assert_eq!((world.status.phase, world.status.reason.as_str()), (Some(phase), reason));
        let condition = world.status.conditions.iter().find(|condition| condition.type_ == "Suspended");
        assert!(condition.is_none_or(|condition| condition.status == "False"));
    }
}

#[test]
fn an_approval_that_nobody_gives_in_time_fails() {
    let mut world = World::new(pipeline(
        json!({"checks": [{"metric": "train.m", "min": 0}]}),
        json!({"message": "Ship it?", "timeout": "24h"}),
    ));
    goes_on(&mut world);
    insta::assert_snapshot!("what_an_approval_says", world.status.message);
    let due = world.requeue_at().unwrap();
    assert_eq!(
        due,
        world.row("approve").start.as_ref().unwrap().0.saturating_add(SignedDuration::from_hours(24)).unwrap()
    );
    world.now = due;
    goes_on(&mut world);
    assert_eq!((world.status.phase, world.status.reason.as_str()), (Some(RunPhase::Failed), "ApprovalTimeout"));
    assert!(world.status.message.contains("within 24h00m"), "{}", world.status.message);
}

#[test]
fn the_time_of_an_approval_outlives_the_operator() {
    let mut world =
        World::new(pipeline(json!({"checks": [{"metric": "train.m", "min": 0}]}), json!({"timeout": "1h"})));
    goes_on(&mut world);
    let due = world.requeue_at().unwrap();
    world.now = BEGIN.saturating_add(SignedDuration::from_mins(30)).unwrap();
    world.crash();
    goes_on(&mut world);
    assert_eq!(world.requeue_at(), Some(due));
}

#[test]
fn what_was_approved_before_it_was_asked_does_not_wait() {
    let mut world = world(json!([{"metric": "train.m", "min": 0}]), 1.0);
    world.decide("approve", Verdict::Approved);
    goes_on(&mut world);
    assert_eq!(world.status.phase, Some(RunPhase::Succeeded));
}

#[test]
fn a_stopped_run_waits_for_nobody() {
    for state in [RunState::Cancelled, RunState::Terminated] {
        let mut world = world(json!([{"metric": "train.m", "min": 0}]), 1.0);
        goes_on(&mut world);
        world.set_state(state);
        goes_on(&mut world);
        assert_eq!(world.status.phase, Some(RunPhase::Cancelled));
        assert_eq!(world.row("approve").phase, StagePhase::Cancelled);
    }
}

#[test]
fn a_suspended_run_decides_nothing() {
    let mut world = world(json!([{"metric": "train.m", "min": 0}]), 1.0);
    goes_on(&mut world);
    world.set_suspend(true);
    world.decide("approve", Verdict::Approved);
    world.settle();
    assert_eq!((world.row("approve").phase, world.status.phase), (StagePhase::Waiting, Some(RunPhase::Suspended)));
    world.set_suspend(false);
    goes_on(&mut world);
    assert_eq!(world.status.phase, Some(RunPhase::Succeeded));
}

#[test]
fn a_pod_that_says_to_be_of_an_approval_is_no_approval() {
    let mut world = world(json!([{"metric": "train.m", "min": 0}]), 1.0);
    goes_on(&mut world);
    let forged = world.pods[&("train".to_owned(), 1)].attempt(1);
    world.observed.insert("approve", forged);
    let plan = world.plan();
    assert!(!plan.changes(&world.status), "{plan:?}");
}

/// The operator dies before each of its effects, one after the other, and each time the end is the same.
#[test]
fn a_crash_at_any_moment_changes_no_verdict() {
    for theirs in [0.3, 0.9] {
        let run = |crash: Option<usize>| {
            let mut world = world(json!([{"metric": "train.m", "minImprovement": 0}]), 0.5);
            champion(&mut world, theirs);
            world.decide("approve", Verdict::Approved);
            world.crash_before = crash;
            goes_on(&mut world);
            let phases: Vec<StagePhase> = world.status.stages.iter().map(|row| row.phase).collect();
            (world.effects, world.status.phase, phases)
        };
        let (effects, phase, phases) = run(None);
        assert_eq!(phase, Some(if theirs < 0.5 { RunPhase::Succeeded } else { RunPhase::Failed }));
        for crash in 0..effects {
            let (_, after, ends) = run(Some(crash));
            assert_eq!((after, &ends), (phase, &phases), "crash before effect {crash}");
        }
    }
}

#[test]
fn a_rerun_takes_a_verdict_over_and_asks_for_approval_again() {
    let mut world = world(json!([{"metric": "train.m", "min": 0}]), 1.0);
    world.decide("approve", Verdict::Approved);
    goes_on(&mut world);
    let spec = pipeline(json!({"checks": [{"metric": "train.m", "min": 0}]}), json!({}));
    let graph = Graph::new(&spec, None).unwrap();
    let from = CachedFrom { run: "iris-1".into(), uid: "run-uid".into(), pipeline: "iris".into() };
    let taken = reuse(&graph, &world.params, &world.graph, &world.params, &world.status.stages, &from);
    let taken: Vec<bool> = taken.iter().map(Option::is_some).collect();
    assert_eq!(taken, [true, true, false, false, false]);
}

#[test]
fn what_a_gate_cannot_check_is_refused_with_its_field() {
    let refused = |checks: Value| {
        let problem = Graph::new(&pipeline(json!({ "checks": checks }), json!({})), None).unwrap_err();
        problem.to_string()
    };
    let found = [
        refused(json!([{"metric": "train.loss", "min": 0}])),
        refused(json!([{"metric": "tune.m", "min": 0}])),
        refused(json!([{"metric": "publish.m", "min": 0}])),
        refused(json!([{"result": "train.words", "min": 0}])),
        refused(json!([{"result": "train.lines", "min": 0}])),
        refused(json!([{"metric": "train.m", "min": "$(params.text)"}])),
        refused(json!([{"metric": "train.m", "min": "$(params.most)"}])),
        refused(json!([{"metric": "train.m", "min": "0.5"}])),
        refused(json!([{"metric": "train.m", "min": true}])),
        refused(json!([{"metric": "train.m"}])),
        refused(json!([{"result": "train.rows", "minImprovement": 0}])),
        refused(json!([{"metric": "train.m", "min": 0, "goal": "Minimize"}])),
    ];
    insta::assert_snapshot!("what_a_gate_cannot_check", found.join("\n"));
    let mut spec = pipeline(json!({"checks": [{"metric": "train.m", "minImprovement": 0}]}), json!({}));
    spec.stages.remove(3);
    assert!(Graph::new(&spec, None).unwrap_err().to_string().contains("set gate.model"));
}
