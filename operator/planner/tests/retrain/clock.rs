//! Schedules: time zones, changes of the clocks, instants that nobody saw.

use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{Cause, RevisionPhase, RunPhase};
use trainyard_planner::retrain::check;

use crate::world::{World, spec, time};

fn nightly(cron: &str, zone: &str, more: Value) -> World {
    let mut schedule = json!({"cron": cron, "timeZone": zone});
    for (field, value) in more.as_object().unwrap() {
        schedule[field] = value.clone();
    }
    World::new(json!({"triggers": [{"name": "nightly", "schedule": schedule}], "concurrency": "Allow"}))
}

/// Instants that were started from one time to another, looked at whenever the decision asks for it.
fn started(world: &mut World, from: &str, to: &str) -> Vec<String> {
    world.now = time(from);
    let until = time(to);
    while world.now <= until {
        world.settle();
        world.end(RunPhase::Succeeded);
        world.now = world.wake.unwrap();
    }
    let instant = |cause: &Cause| match cause {
        Cause::Schedule { instant } => instant.0.to_string(),
        other => panic!("{other:?}"),
    };
    world.trained.iter().map(|(_, cause)| instant(cause)).collect()
}

#[test]
fn a_nightly_run_keeps_to_the_clock_of_its_zone() {
    let mut world = nightly("0 3 * * *", "Europe/Berlin", json!({}));
    assert_eq!(
        started(&mut world, "2026-01-31T00:00:00Z", "2026-02-02T00:00:00Z"),
        ["2026-01-31T02:00:00Z", "2026-02-01T02:00:00Z"]
    );
    let mut world = nightly("0 3 * * *", "UTC", json!({}));
    assert_eq!(started(&mut world, "2026-01-31T00:00:00Z", "2026-01-31T12:00:00Z"), ["2026-01-31T03:00:00Z"]);
}

#[test]
fn a_night_in_which_the_clocks_go_forward_has_one_run() {
    // On 2026-03-29 in Berlin 02:00 is followed by 03:00.
    let mut world = nightly("30 2 * * *", "Europe/Berlin", json!({}));
    assert_eq!(
        started(&mut world, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z"),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_night_in_which_the_clocks_go_back_has_one_run() {
    // On 2026-10-25 in Berlin 02:30 comes twice.
    let mut world = nightly("30 2 * * *", "Europe/Berlin", json!({}));
    assert_eq!(
        started(&mut world, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
}

#[test]
fn what_comes_every_half_hour_does_so_also_while_the_clocks_change() {
    for (from, to) in
        [("2026-03-28T23:59:30Z", "2026-03-29T03:00:00Z"), ("2026-10-24T23:59:30Z", "2026-10-25T03:00:00Z")]
    {
        let mut world = nightly("*/30 * * * *", "Europe/Berlin", json!({}));
        assert_eq!(started(&mut world, from, to).len(), 7, "{from}");
    }
}

/// Looked at on the 1st, then again ten days later at noon.
fn missed(policy: Value) -> World {
    let mut world = nightly("0 3 * * *", "UTC", policy);
    world.settle();
    world.now = time("2026-03-11T12:00:00Z");
    world.settle();
    world
}

fn instants(world: &World) -> Vec<String> {
    let words =
        |cause: &Cause| serde_json::to_value(cause).unwrap()["schedule"]["instant"].as_str().unwrap().to_owned();
    world.trained.iter().map(|(_, cause)| words(cause)).collect()
}

#[test]
fn of_missed_instants_the_last_one_starts_a_run_unless_the_schedule_says_otherwise() {
    let world = missed(json!({}));
    assert_eq!(instants(&world), ["2026-03-11T03:00:00Z"]);
    assert_eq!(world.trigger("nightly").next.as_ref().unwrap().0, time("2026-03-12T03:00:00Z"));

    let world = missed(json!({"missedRuns": "Skip"}));
    assert_eq!(instants(&world), [""; 0]);
    assert_eq!(world.trigger("nightly").reason, "MissedRuns");

    let mut world = missed(json!({"missedRuns": "CatchUp", "catchUpLimit": 3}));
    let mut last = instants(&world);
    last.sort();
    assert_eq!(last, ["2026-03-09T03:00:00Z", "2026-03-10T03:00:00Z", "2026-03-11T03:00:00Z"]);
    world.now = time("2026-03-12T03:00:10Z");
    world.settle();
    assert_eq!(world.trained.len(), 4, "and then it goes on as before");
}

#[test]
fn what_is_a_few_seconds_late_was_not_missed() {
    let mut world = nightly("0 3 * * *", "UTC", json!({"missedRuns": "Skip"}));
    world.settle();
    world.now = time("2026-03-01T03:00:45Z");
    world.settle();
    assert_eq!(instants(&world), ["2026-03-01T03:00:00Z"]);
    assert_eq!(world.newest().run, world.trigger("nightly").run);
}

#[test]
fn a_clock_that_jumps_starts_nothing_twice_and_does_not_stop_the_schedule() {
    let mut world = nightly("0 3 * * *", "UTC", json!({}));
    world.settle();
    world.now = time("2026-03-05T03:00:00Z");
    world.settle();
    // Back by two days, and forward again: the 4th comes now, the 5th is on record.
    for now in ["2026-03-03T12:00:00Z", "2026-03-04T03:00:05Z", "2026-03-05T03:00:05Z", "2026-03-06T03:00:05Z"] {
        world.now = time(now);
        world.settle();
    }
    assert_eq!(instants(&world), ["2026-03-05T03:00:00Z", "2026-03-04T03:00:00Z", "2026-03-06T03:00:00Z"]);
}

#[test]
fn a_new_schedule_and_one_that_was_edited_begin_now() {
    let mut world = nightly("0 3 * * *", "UTC", json!({}));
    world.now = time("2026-03-01T10:00:00Z");
    world.settle();
    assert_eq!(world.created.len(), 0);
    world.spec = spec(json!({"triggers": [{"name": "nightly", "schedule": {"cron": "0 9 * * *"}}]}));
    world.settle();
    assert_eq!(world.created.len(), 0);
    assert_eq!(world.wake, Some(time("2026-03-02T09:00:00Z")));
}

#[test]
fn instants_that_pass_while_it_is_suspended_start_nothing() {
    let mut world = nightly("0 3 * * *", "UTC", json!({"missedRuns": "CatchUp"}));
    world.settle();
    world.spec.suspend = Some(true);
    world.settle();
    assert_eq!((world.trigger("nightly").reason.as_str(), world.wake), ("Suspended", None));
    world.now = time("2026-03-09T12:00:00Z");
    world.settle();
    world.spec.suspend = Some(false);
    world.settle();
    assert_eq!(world.created.len(), 0);
    assert_eq!(world.trigger("nightly").reason, "");
    world.now = time("2026-03-10T03:00:00Z");
    world.settle();
    assert_eq!(world.created.len(), 1);
}

#[test]
fn a_schedule_that_cannot_be_followed_says_why_and_stops_no_other() {
    let mut world = World::new(json!({"triggers": [
        {"name": "bad", "schedule": {"cron": "0 3 * * *", "timeZone": "Europe/Atlantis"}},
        {"name": "never", "schedule": {"cron": "0 0 30 2 *"}},
        {"name": "seconds", "schedule": {"cron": "0 0 3 * * *"}},
        {"name": "good", "schedule": {"cron": "0 3 * * *"}},
    ]}));
    world.settle();
    world.now = time("2026-03-01T03:00:00Z");
    world.settle();
    let said: Vec<(&str, &str)> = ["bad", "never", "seconds"]
        .map(|name| world.trigger(name))
        .map(|status| (status.reason.as_str(), status.message.as_str()))
        .to_vec();
    assert_eq!(said[0].0, "UnknownTimeZone");
    assert!(
        said[0].1.starts_with("spec.triggers[0].schedule: there is no time zone \"Europe/Atlantis\""),
        "{}",
        said[0].1
    );
    let never = "spec.triggers[1].schedule: cron \"0 0 30 2 *\" never comes: no date of any year matches it";
    assert_eq!(said[1], ("InvalidSchedule", never));
    assert_eq!(said[2].0, "InvalidSchedule");
    assert_eq!(world.phases(), [RevisionPhase::Running]);
    let problem = check("iris", &world.spec, &[]).unwrap_err();
    assert!(problem.to_string().starts_with("spec.triggers[0].schedule: there is no time zone"), "{problem}");
}
