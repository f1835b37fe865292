//! What holds whatever happens: see the checks at every request in `world`.

use proptest::prelude::*;
use trainyard_crds::v1alpha1::JobPhase;
use trainyard_planner::{AttemptState, Class};

use crate::world::{Crash, World};

#[derive(Clone, Debug)]
enum Happens {
    Start(u32),
    Commit(u32),
    Fail(u32, Class),
    Delete(u32),
    Vanish(u32),
    LoseNode(u32),
    Kubelet,
    Suspend(bool),
    Later(i64),
    /// The operator dies at the nth request from now.
    Die(usize, bool),
}

fn happens() -> impl Strategy<Value = Happens> {
    let rank = 0u32..3;
    let class =
        prop_oneof![Just(Class::User), Just(Class::Infra), Just(Class::User), Just(Class::Infra), Just(Class::Fatal)];
    prop_oneof![
        6 => rank.clone().prop_map(Happens::Start),
        1 => rank.clone().prop_map(Happens::Commit),
        2 => (rank.clone(), class).prop_map(|(rank, class)| Happens::Fail(rank, class)),
        1 => rank.clone().prop_map(Happens::Delete),
        1 => rank.clone().prop_map(Happens::Vanish),
        1 => rank.prop_map(Happens::LoseNode),
        4 => Just(Happens::Kubelet),
        1 => any::<bool>().prop_map(Happens::Suspend),
        4 => (0i64..400).prop_map(Happens::Later),
        3 => (0usize..6, any::<bool>()).prop_map(|(request, after)| Happens::Die(request, after)),
    ]
}

fn happen(world: &mut World, what: Happens) {
    let there = |world: &World, rank: u32| {
        let pod = world.pods.get(&(world.attempt(), rank));
        pod.is_some_and(|pod| !matches!(pod.state, AttemptState::Ended(_)))
    };
    match what {
        Happens::Start(rank) if there(world, rank) => world.start(rank),
        Happens::Commit(rank) if there(world, rank) => world.commit(rank),
        Happens::Fail(rank, class) if there(world, rank) => world.fail(rank, class, "Reason", Some(1)),
        Happens::Delete(rank) if there(world, rank) => world.delete(rank),
        // Before all Pods are there another rank than 0 that nobody saw cannot be told from one that never was: rank 0's gate tells it.
        Happens::Vanish(rank) if there(world, rank) && (world.status.launched || rank == 0) => world.vanish(rank),
        Happens::LoseNode(rank) if there(world, rank) => world.lose_node(rank),
        Happens::Kubelet => world.kubelet(),
        Happens::Suspend(suspend) if !world.phase().is_terminal() => world.suspend = suspend,
        Happens::Later(seconds) => world.later(seconds),
        Happens::Die(request, after) => world.crash = Some(Crash { request: world.requests + request, after }),
        _ => {}
    }
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_the_laws_hold_and_the_job_comes_to_an_end(
        story in proptest::collection::vec(happens(), 0..60),
        elastic in any::<bool>(),
    ) {
        let more = if elastic { "elastic: {min: 1, max: 3}, restart: {limit: 2}" } else { "restart: {limit: 2}" };
        let mut world = World::of(3, more);
        world.settle();
        for what in story {
            happen(&mut world, what);
        }
        // Then nothing bad happens any more.
        world.crash = None;
        world.suspend = false;
        for _ in 0..40 {
            if world.phase().is_terminal() {
                break;
            }
            world.settle();
            world.kubelet();
            world.later(400);
            world.settle();
            for rank in 0..world.status.ranks.unwrap_or(0) {
                if world.pods.get(&(world.attempt(), rank)).is_some_and(|pod| matches!(pod.state, AttemptState::Pending(_)) && pod.due.is_none()) {
                    world.start(rank);
                }
            }
            world.settle();
            if world.phase() == JobPhase::Running {
                world.commit(0);
                world.settle();
            }
        }
        prop_assert!(world.phase().is_terminal(), "{:?} {:?}", world.status, world.journal);
        let failed = world.status.attempts.iter().filter(|ended| ended.first_failure.is_some()).count();
        let last_failed = world.phase() == JobPhase::Failed && world.status.attempts.last().is_some_and(|ended| ended.first_failure.is_some());
        if world.status.attempts.len() < 10 {
            let expected = u32::try_from(failed - usize::from(last_failed)).unwrap();
            prop_assert_eq!(world.status.restarts, expected, "each failed attempt but the last is followed by one restart");
        }
        prop_assert!(world.condition("Finished"));
        prop_assert!(world.condition("Succeeded") != world.condition("Stalled"), "exclusive");
    }
}
