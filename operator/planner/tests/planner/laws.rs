//! The laws of the planner (architecture, section 2), over random pipelines, outcomes, orders and crashes.
//!
//! What must hold at every single create and write is checked by the world itself, see `world/checks.rs`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use trainyard_crds::v1alpha1::{RunPhase, RunState, StagePhase};

use crate::case::{Case, cases};
use crate::world::World;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// The operator looks at the run, with or without a reason, and crashes before its n-th effect.
    Look(Option<usize>),
    /// It looks, acts, and its status is not written.
    LookInVain,
    /// It hears of one Pod.
    Hear(usize),
    /// One Pod moves.
    Pod(usize),
    /// Time passes.
    Wait,
    Crash,
    /// People.
    Cancel,
    Terminate,
    Suspend(bool),
    /// Somebody deletes a Pod.
    Delete(usize),
}

/// What does not change how a run ends.
fn moves() -> impl Strategy<Value = Vec<Move>> {
    let any = prop_oneof![
        6 => Just(Move::Look(None)),
        3 => (0..6_usize).prop_map(|at| Move::Look(Some(at))),
        1 => Just(Move::LookInVain),
        6 => (0..8_usize).prop_map(Move::Hear),
        6 => (0..8_usize).prop_map(Move::Pod),
        1 => Just(Move::Wait),
        1 => Just(Move::Crash),
        1 => any::<bool>().prop_map(Move::Suspend),
    ];
    proptest::collection::vec(any, 0..120)
}

/// What people and fate may do besides.
fn trouble() -> impl Strategy<Value = Vec<Move>> {
    let any = prop_oneof![
        1 => Just(Move::Cancel),
        1 => Just(Move::Terminate),
        2 => (0..8_usize).prop_map(Move::Delete),
    ];
    proptest::collection::vec((any, 0..60_usize), 0..4).prop_flat_map(|trouble| (Just(trouble), moves())).prop_map(
        |(trouble, mut moves)| {
            for (one, at) in trouble {
                moves.insert(at.min(moves.len()), one);
            }
            moves
        },
    )
}

fn apply(world: &mut World, one: Move) {
    match one {
        Move::Look(crash) => {
            world.crash_before = crash.map(|after| world.effects + after);
            world.reconcile();
            world.crash_before = None;
        }
        Move::LookInVain => {
            world.fail_write = true;
            world.reconcile();
        }
        Move::Hear(which) => {
            let late = world.late();
            if !late.is_empty() {
                world.deliver(&late[which % late.len()]);
            }
        }
        Move::Pod(which) => {
            let keys: Vec<_> = world.pods.keys().filter(|key| world.can_move(key)).cloned().collect();
            if !keys.is_empty() {
                world.progress(&keys[which % keys.len()]);
            }
        }
        Move::Wait => {
            let at = world.requeue_at().unwrap_or(world.now).max(world.now);
            world.now = at;
        }
        Move::Crash => world.crash(),
        Move::Cancel => world.set_state(RunState::Cancelled),
        Move::Terminate => world.set_state(RunState::Terminated),
        Move::Suspend(suspend) => world.set_suspend(suspend),
        Move::Delete(which) => {
            let keys: Vec<_> = world.pods.keys().cloned().collect();
            if !keys.is_empty() {
                world.delete_pod(&keys[which % keys.len()], |_| true);
            }
        }
    }
}

/// A row as nobody would write it.
fn nonsense() -> impl Strategy<Value = (StagePhase, Option<u32>, String, Option<i64>)> {
    let phase = proptest::sample::select(vec![
        StagePhase::Waiting,
        StagePhase::Pending,
        StagePhase::Running,
        StagePhase::Retrying,
        StagePhase::Succeeded,
        StagePhase::Failed,
        StagePhase::Skipped,
        StagePhase::Cancelled,
    ]);
    let attempt = proptest::option::of(prop_oneof![0..4_u32, Just(u32::MAX)]);
    let reason = proptest::sample::select(vec!["", "ImagePullFailed", "Disrupted", "?"]).prop_map(str::to_owned);
    (phase, attempt, reason, proptest::option::of(-1_000_000_000_000..1_000_000_000_000_i64))
}

/// Every stage ended as it must, and so did the run.
pub fn assert_as_expected(case: &Case, world: &World) {
    let ends: Vec<_> = world.status.stages.iter().map(|row| (row.phase, row.reason.clone())).collect();
    assert_eq!(ends, case.expected());
    assert_eq!(world.status.phase, Some(case.expected_phase()));
    let nodes = world.graph.nodes().iter();
    for (row, _) in world.status.stages.iter().zip(nodes).filter(|(_, node)| !node.is_judged()) {
        assert_eq!(row.phase == StagePhase::Succeeded, world.commits.contains_key(&row.name), "{row:?}");
    }
    if world.status.phase == Some(RunPhase::Failed) {
        let first = world.row(&world.status.stage);
        assert_eq!((first.phase, &first.reason), (StagePhase::Failed, &world.status.reason));
    }
}

/// A run that has ended stays as it is, whatever is done to it.
fn assert_over(world: &mut World) {
    let status = world.status.clone();
    let effects = world.effects;
    world.crash();
    world.settle();
    world.set_state(RunState::Terminated);
    world.set_suspend(true);
    world.settle();
    assert_eq!((world.effects, &world.status), (effects, &status));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_and_any_crash_lead_to_the_same_end(case in cases(), moves in moves()) {
        let mut world = case.world();
        for one in moves {
            apply(&mut world, one);
        }
        world.fail_write = false;
        world.set_suspend(false);
        world.finish();
        assert_as_expected(&case, &world);
        assert_over(&mut world);
    }

    #[test]
    fn no_status_and_no_pod_makes_it_panic(
        case in cases(),
        rows in proptest::collection::vec(nonsense(), 11),
        moves in moves(),
    ) {
        let mut world = case.world();
        for one in moves {
            apply(&mut world, one);
        }
        let time = |seconds: i64| Time(Timestamp::from_second(seconds / 10).unwrap());
        for (row, (phase, attempt, reason, at)) in world.status.stages.iter_mut().zip(rows) {
            (row.phase, row.attempt, row.reason) = (phase, attempt, reason);
            (row.retry_at, row.start) = (at.map(time), at.map(|at| time(-at)));
        }
        for now in [Timestamp::MIN, world.now, Timestamp::MAX] {
            world.now = now;
            let plan = world.plan();
            prop_assert_eq!(&plan, &world.plan());
            let written = plan.status(&world.status);
            for (before, after) in world.status.stages.iter().zip(&written.stages) {
                prop_assert!(!before.phase.is_terminal() || before == after);
            }
        }
        world.status.stages.rotate_left(1);
        world.status.stages.pop();
        prop_assert_eq!(world.plan().head.reason, if world.ended() { &world.status.reason } else { "InternalError" });
    }

    #[test]
    fn whatever_people_do_the_run_ends_and_leaves_nothing_behind(case in cases(), moves in trouble()) {
        let mut world = case.world();
        for one in moves {
            apply(&mut world, one);
        }
        world.fail_write = false;
        world.set_suspend(false);
        world.finish();
        let alive = world.pods.values().filter(|pod| pod.is_live()).count();
        prop_assert_eq!(alive, 0);
        for row in &world.status.stages[case.stages.len()..] {
            let never = row.attempt.is_none() && row.phase != StagePhase::Failed;
            let declined = row.reason == "WhenFalse";
            prop_assert!(!never || declined || world.state == RunState::Terminated, "finally did not run: {:?}", row);
        }
        if world.state == RunState::Active {
            prop_assert!(world.status.stages.iter().all(|row| row.phase != StagePhase::Cancelled));
        }
        assert_over(&mut world);
    }

}

proptest! {
    // Some forty runs a case.
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_effect_changes_nothing(case in cases()) {
        let mut world = case.world();
        world.finish();
        assert_as_expected(&case, &world);
        let last = world.effects;
        for effect in 0..last {
            let mut world = world.again();
            world.crash_before = Some(effect);
            world.finish();
            assert_as_expected(&case, &world);
        }
    }
}
