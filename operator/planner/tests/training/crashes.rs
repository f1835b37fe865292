//! The operator dies at every request of a story, before or after what it does, and the story ends the same.

use trainyard_crds::v1alpha1::JobPhase;
use trainyard_planner::Class;

use crate::world::{Crash, World};

/// What happens to a job of two ranks.
type Story = fn(&mut World);

const STORIES: [(&str, &str, Story); 5] = [
    ("succeeds", "", |world| {
        begin(world);
        world.commit(0);
        world.settle();
        world.later(10);
        world.settle();
    }),
    ("a rank fails once", "restart: {limit: 1, backoff: {initial: 10s}}", |world| {
        begin(world);
        world.fail(1, Class::User, "UserError", Some(1));
        again(world);
        world.commit(0);
        world.settle();
    }),
    ("a rank vanishes, another fails", "restart: {limit: 1, backoff: {initial: 0s}}", |world| {
        begin(world);
        world.vanish(0);
        again(world);
        world.fail(1, Class::User, "UserError", Some(1));
        again(world);
        world.commit(0);
        world.settle();
    }),
    ("suspended and resumed", "", |world| {
        begin(world);
        world.suspend = true;
        world.settle();
        world.kubelet();
        world.settle();
        world.suspend = false;
        begin(world);
        world.commit(0);
        world.settle();
    }),
    ("fails for good", "restart: {limit: 0}", |world| {
        begin(world);
        world.fail(0, Class::User, "UserError", Some(1));
        world.settle();
        world.kubelet();
        world.settle();
    }),
];

fn begin(world: &mut World) {
    world.settle();
    world.start_all();
    world.settle();
}

fn again(world: &mut World) {
    world.settle();
    world.kubelet();
    world.later(10);
    begin(world);
}

fn told(spec: &str, story: Story, crash: Option<Crash>) -> World {
    let mut world = World::of(2, spec);
    world.crash = crash;
    story(&mut world);
    world
}

#[test]
fn an_operator_that_dies_at_any_request_changes_nothing() {
    let mut cases = 0;
    for (name, spec, story) in STORIES {
        let undisturbed = told(spec, story, None);
        for request in 0..undisturbed.requests {
            for after in [false, true] {
                let crash = Crash { request, after };
                let world = told(spec, story, Some(crash));
                let (expected, found) = (&undisturbed.status, &world.status);
                assert_eq!(found.phase, expected.phase, "{name}, {crash:?}");
                assert_eq!(found.restarts, expected.restarts, "{name}, {crash:?}: restarts");
                assert_eq!(found.attempt, expected.attempt, "{name}, {crash:?}: attempts");
                assert_eq!(found.failures, expected.failures, "{name}, {crash:?}: failures");
                let ended = |world: &World| {
                    let ended = world.status.attempts.iter();
                    ended.map(|ended| (ended.number, ended.outcome, ended.first_failure.clone())).collect::<Vec<_>>()
                };
                assert_eq!(ended(&world), ended(&undisturbed), "{name}, {crash:?}: what is told of the attempts");
                cases += 1;
            }
        }
    }
    assert!(cases >= 100, "{cases} cases are too few to say anything");
}

#[test]
fn each_story_ends_as_it_says() {
    let ends = STORIES.map(|(_, spec, story)| {
        let world = told(spec, story, None);
        (world.phase(), world.attempt(), world.status.restarts)
    });
    let expected = [
        (JobPhase::Succeeded, 1, 0),
        (JobPhase::Succeeded, 2, 1),
        (JobPhase::Succeeded, 3, 2),
        (JobPhase::Succeeded, 2, 0),
        (JobPhase::Failed, 1, 0),
    ];
    assert_eq!(ends, expected);
}
