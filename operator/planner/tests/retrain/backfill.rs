//! Backfills.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{Cause, RevisionPhase, RunPhase};
use trainyard_planner::retrain::check;

use crate::world::{World, rate, spec, time};

/// A backfill of January 2026, day by day.
fn world(more: Value) -> World {
    let mut backfill = json!({"cron": "0 0 * * *", "from": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"});
    backfill.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    World::new(json!({"triggers": [{"name": "history", "backfill": backfill}]}))
}

/// Lets it go on until nothing is left, and ends its runs. Returns the most runs that were active at once.
fn work(world: &mut World, phase: RunPhase) -> usize {
    let mut most = 0;
    for _ in 0..200 {
        world.settle();
        let active = world.runs.values().filter(|run| !run.phase.is_terminal()).count();
        if active == 0 {
            return most;
        }
        most = most.max(active);
        world.end(phase);
    }
    panic!("it does not come to its end");
}

fn instants(world: &World) -> Vec<String> {
    let instant = |(_, cause): &(String, Cause)| match cause {
        Cause::Backfill { instant } => instant.0.to_string(),
        other => panic!("{other:?}"),
    };
    world.trained.iter().map(instant).collect()
}

fn progress(world: &World) -> (u32, u32, u32) {
    let progress = world.trigger("history").backfill.as_ref().unwrap();
    (progress.instants, progress.succeeded, progress.failed)
}

#[test]
fn each_instant_of_the_range_is_one_run_the_oldest_first() {
    let mut world = world(json!({}));
    assert_eq!(work(&mut world, RunPhase::Succeeded), 1);
    let instants = instants(&world);
    assert_eq!((instants.len(), instants[0].as_str()), (31, "2026-01-01T00:00:00Z"));
    assert_eq!(instants[30], "2026-01-31T00:00:00Z", "until is not in the range");
    assert!(instants.is_sorted());
    assert_eq!((progress(&world), world.trigger("history").next.clone()), ((31, 31, 0), None));
    world.pass(86_400);
    assert_eq!(work(&mut world, RunPhase::Succeeded), 0, "it is over");
    assert_eq!(world.status.revisions.len(), 20, "the ledger does not grow");
}

#[test]
fn no_more_are_active_than_it_says() {
    let mut world = world(json!({"maxActive": 4}));
    assert_eq!(work(&mut world, RunPhase::Succeeded), 4);
    assert_eq!(instants(&world).len(), 31);
}

#[test]
fn a_run_that_fails_is_counted_and_the_backfill_goes_on() {
    let mut world = world(json!({}));
    world.settle();
    world.end(RunPhase::Failed);
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (31, (31, 30, 1)));
}

#[test]
fn it_neither_waits_for_other_runs_nor_do_they_wait_for_it() {
    for policy in ["QueueLatest", "Replace", "Forbid", "Allow"] {
        let mut world = world(json!({"maxActive": 2}));
        world.spec.concurrency = serde_json::from_value(json!(policy)).unwrap();
        let git = serde_json::from_value(json!({"name": "git", "specChange": {}})).unwrap();
        world.spec.triggers.push(git);
        world.settle();
        let active: Vec<&str> = world.runs.values().map(|run| run.trigger.as_str()).collect();
        assert_eq!(active.len(), 3, "{policy}");
        assert_eq!((active.iter().filter(|name| **name == "history").count(), world.cancelled.len()), (2, 0));
    }
}

#[test]
fn the_spec_as_it_is_runs_and_what_was_run_is_not_run_again_unless_it_begins_anew() {
    let mut world = world(json!({}));
    for _ in 0..10 {
        world.settle();
        world.end(RunPhase::Succeeded);
    }
    rate(&mut world.spec, 0.9);
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (31, (31, 31, 0)));
    world.spec.rerun_token = Some("again".into());
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (62, (31, 31, 0)));
}

#[test]
fn a_longer_range_goes_on_where_it_was() {
    let mut world = world(json!({"until": "2026-01-11T00:00:00Z"}));
    work(&mut world, RunPhase::Succeeded);
    assert_eq!(progress(&world), (10, 10, 0));
    let longer = json!({"cron": "0 0 * * *", "from": "2026-01-01T00:00:00Z", "until": "2026-01-21T00:00:00Z"});
    let trigger = json!({"name": "history", "backfill": longer});
    world.spec.triggers[0] = serde_json::from_value(trigger).unwrap();
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (20, (20, 20, 0)));
}

#[test]
fn what_lies_in_the_future_comes_when_it_is_time() {
    let mut world = world(json!({"from": "2026-02-27T12:00:00Z", "until": "2026-03-04T00:00:00Z"}));
    work(&mut world, RunPhase::Succeeded);
    assert_eq!(instants(&world), ["2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"], "it is midnight");
    assert_eq!(world.wake, Some(time("2026-03-02T00:00:00Z")));
    world.pass(86_400);
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (3, (4, 3, 0)));
}

#[test]
fn it_is_held_and_goes_on_and_what_waits_goes_with_its_trigger() {
    let mut world = world(json!({}));
    world.settle();
    world.spec.suspend = Some(true);
    world.end(RunPhase::Succeeded);
    world.settle();
    assert_eq!((instants(&world).len(), world.trigger("history").reason.as_str()), (1, "Suspended"));
    world.spec.suspend = None;
    world.write();
    // The next one is on record and not created yet, and another spec comes, which does not have the trigger.
    world.spec.triggers.clear();
    rate(&mut world.spec, 0.9);
    work(&mut world, RunPhase::Succeeded);
    assert_eq!(instants(&world).len(), 1);
    assert!(world.phases().iter().all(|phase| phase.is_terminal()), "{:?}", world.phases());
}

#[test]
fn a_spec_that_cannot_run_costs_no_instant() {
    let mut world = world(json!({}));
    world.runnable = false;
    world.settle();
    world.runnable = true;
    work(&mut world, RunPhase::Succeeded);
    assert_eq!(instants(&world).len(), 31);
}

#[test]
fn a_run_that_found_another_spec_is_run_again_and_counted_once() {
    let mut world = world(json!({}));
    world.write();
    let late = world.to_create();
    rate(&mut world.spec, 0.9);
    for new in late {
        world.create(new);
    }
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (31, (31, 31, 0)));
    assert_eq!(instants(&world).into_iter().collect::<BTreeSet<_>>().len(), 31);
}

#[test]
fn the_ledger_keeps_what_other_triggers_did_rather_than_a_backfill() {
    let mut world = world(json!({}));
    let git = serde_json::from_value(json!({"name": "git", "specChange": {}})).unwrap();
    world.spec.triggers.push(git);
    work(&mut world, RunPhase::Succeeded);
    let kept = world.status.revisions.iter().filter(|entry| entry.trigger == "git").count();
    assert_eq!((world.status.revisions.len(), kept, world.phases()[0]), (20, 1, RevisionPhase::Succeeded));
}

#[test]
fn a_range_that_says_nothing_or_too_much_is_told() {
    let problem = |backfill: Value| {
        let problem =
            check("iris", &spec(json!({"triggers": [{"name": "history", "backfill": backfill}]})), &[]).unwrap_err();
        format!("{} {problem}", problem.reason)
    };
    let range = |cron: &str, until: &str| json!({"cron": cron, "from": "2026-01-01T00:00:00Z", "until": until});
    let wrong = problem(range("0 0 * *", "2026-02-01T00:00:00Z"));
    assert!(wrong.starts_with("InvalidSchedule spec.triggers[0].backfill: cron \"0 0 * *\" is not minute"), "{wrong}");
    assert_eq!(
        problem(range("0 0 * * *", "2025-02-01T00:00:00Z")),
        "InvalidSchedule spec.triggers[0].backfill: from must be before until"
    );
    assert_eq!(
        problem(range("0 0 1 7 *", "2026-02-01T00:00:00Z")),
        "InvalidSchedule spec.triggers[0].backfill: no instant of cron lies between from and until"
    );
    assert_eq!(
        problem(range("* * * * *", "2026-02-01T00:00:00Z")),
        "InvalidSchedule spec.triggers[0].backfill: more than 10000 instants lie between from and until: use a shorter range, or several triggers"
    );
}

#[test]
fn an_active_instant_that_a_new_pass_comes_to_is_counted_once() {
    let mut world = world(json!({}));
    for _ in 0..4 {
        world.settle();
        world.end(RunPhase::Succeeded);
    }
    world.settle();
    // The fifth of January runs, and the range begins with it now.
    let range = json!({"cron": "0 0 * * *", "from": "2026-01-05T00:00:00Z", "until": "2026-01-08T00:00:00Z"});
    world.spec.triggers[0] = serde_json::from_value(json!({"name": "history", "backfill": range})).unwrap();
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((instants(&world).len(), progress(&world)), (7, (3, 3, 0)));
}

#[test]
fn a_trigger_that_is_renamed_while_its_run_is_not_accepted_runs_the_instant_all_the_same() {
    let mut world = world(json!({"until": "2026-01-03T00:00:00Z"}));
    world.write();
    world.spec.triggers[0].name = "past".into();
    work(&mut world, RunPhase::Succeeded);
    let past = world.trigger("past").backfill.clone().unwrap();
    assert_eq!((instants(&world).len(), past.succeeded, past.failed), (2, 2, 0));
}

#[test]
fn what_the_store_knows_to_have_been_run_counts_as_run() {
    let mut world = world(json!({"until": "2026-01-03T00:00:00Z"}));
    world.settle();
    let run = world.runs.values_mut().next().unwrap();
    (run.phase, run.reason) = (RunPhase::Failed, "AlreadyRun".into());
    work(&mut world, RunPhase::Succeeded);
    assert_eq!(progress(&world), (2, 2, 0));
}

#[test]
fn a_run_that_is_refused_is_tried_again_and_holds_the_others_up() {
    let mut world = world(json!({"until": "2026-01-03T00:00:00Z"}));
    world.write();
    let name = world.to_create()[0].name.clone();
    world.refused.insert(name.clone(), "a policy says no".into());
    world.settle();
    assert_eq!((world.newest().run.clone(), world.newest().phase), (name, RevisionPhase::Starting));
    assert_eq!(world.newest().message, "the API server refuses the run, and it is tried again: a policy says no");
    assert_eq!((world.created.len(), progress(&world)), (0, (2, 0, 0)));
    // What was refused is forgotten after a while.
    world.refused.clear();
    work(&mut world, RunPhase::Succeeded);
    assert_eq!((progress(&world), world.newest().message.as_str()), ((2, 2, 0), ""));
}
