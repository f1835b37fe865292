//! Triggers by data.

use serde_json::json;
use trainyard_crds::v1alpha1::{Cause, RunPhase};
use trainyard_planner::retrain::{FoundData, SeenData, looks};

use crate::world::{World, rate};

fn world(more: serde_json::Value) -> World {
    let mut data = json!({"uri": "s3://bucket/raw/", "poll": "1m"});
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    World::new(json!({"triggers": [{"name": "data", "data": data}]}))
}

/// A look shows this.
fn look(world: &mut World, digest: &str, age: u64, marker: Option<bool>) {
    world.pass(60);
    let found = FoundData { digest: digest.into(), objects: 3, bytes: 9, age_seconds: Some(age), marker };
    world.data.insert("data".into(), SeenData { checked: world.now, found: Ok(found) });
    world.settle();
    world.data.clear();
    world.settle();
}

#[test]
fn what_is_there_first_starts_nothing_and_each_change_one_run() {
    let mut world = world(json!({}));
    look(&mut world, "one", 100, None);
    look(&mut world, "one", 160, None);
    assert_eq!((world.created.len(), world.trigger("data").data.as_ref().unwrap().objects), (0, Some(3)));
    for _ in 0..3 {
        look(&mut world, "two", 5, None);
        world.end(RunPhase::Succeeded);
    }
    assert_eq!(world.trained.len(), 1);
    assert_eq!(world.trained[0].1, Cause::Data { fingerprint: "two".into() });
    look(&mut world, "three", 5, None);
    assert_eq!(world.trained.len(), 2);
}

#[test]
fn what_returns_to_what_was_trained_starts_nothing_until_the_spec_is_another() {
    let mut world = world(json!({}));
    for digest in ["one", "two", "three", "two"] {
        look(&mut world, digest, 5, None);
        world.end(RunPhase::Succeeded);
    }
    assert_eq!((world.trained.len(), world.trigger("data").reason.as_str()), (2, "AlreadyRun"));
    rate(&mut world.spec, 0.9);
    for digest in ["three", "two"] {
        look(&mut world, digest, 5, None);
        world.end(RunPhase::Succeeded);
    }
    assert_eq!(world.trained.len(), 4);
}

#[test]
fn what_is_half_written_is_waited_for() {
    let mut world = world(json!({"settle": "2m"}));
    look(&mut world, "one", 500, None);
    look(&mut world, "two", 5, None);
    assert_eq!((world.created.len(), world.trigger("data").reason.as_str()), (0, "DataSettling"));
    let due = looks(&world.spec, &world.status)[0].at;
    assert_eq!(due, world.now.saturating_add(jiff::SignedDuration::from_secs(60)).unwrap());
    look(&mut world, "two and a half", 60, None);
    look(&mut world, "three", 121, None);
    assert_eq!(world.trained, [(world.created[0].clone(), Cause::Data { fingerprint: "three".into() })]);
    assert_eq!(world.trigger("data").reason, "");
}

#[test]
fn nothing_starts_before_its_marker_is_there() {
    let mut world = world(json!({"marker": "_SUCCESS"}));
    look(&mut world, "nothing", 5, Some(false));
    look(&mut world, "half", 5, Some(false));
    assert_eq!((world.created.len(), world.trigger("data").reason.as_str()), (0, "MarkerMissing"));
    look(&mut world, "whole", 5, Some(true));
    assert_eq!((world.created.len(), world.trigger("data").reason.as_str()), (1, ""));
}

#[test]
fn a_look_that_fails_says_why_and_loses_nothing() {
    let mut world = world(json!({}));
    look(&mut world, "one", 5, None);
    world.pass(60);
    world
        .data
        .insert("data".into(), SeenData { checked: world.now, found: Err("the store refused the credentials".into()) });
    world.settle();
    world.data.clear();
    assert_eq!(world.trigger("data").reason, "FingerprintFailed");
    assert!(world.trigger("data").message.contains("s3://bucket/raw/: the store refused"));
    look(&mut world, "two", 5, None);
    assert_eq!((world.created.len(), world.trigger("data").reason.as_str()), (1, ""));
}

#[test]
fn what_changed_while_suspended_starts_a_run_afterwards() {
    let mut world = world(json!({}));
    look(&mut world, "one", 5, None);
    world.spec.suspend = Some(true);
    world.settle();
    assert_eq!((world.trigger("data").reason.as_str(), looks(&world.spec, &world.status).len()), ("Suspended", 0));
    world.spec.suspend = None;
    world.settle();
    look(&mut world, "two", 5, None);
    assert_eq!(world.created.len(), 1);
}

#[test]
fn what_cannot_start_now_is_found_again() {
    let mut world = world(json!({}));
    world.spec.concurrency = Some(trainyard_crds::v1alpha1::Concurrency::Allow);
    look(&mut world, "begin", 5, None);
    for n in 0..20 {
        look(&mut world, &format!("d{n}"), 5, None);
    }
    look(&mut world, "last", 5, None);
    assert_eq!((world.created.len(), world.trigger("data").reason.as_str()), (20, "PipelineBusy"));
    world.end(RunPhase::Succeeded);
    look(&mut world, "last", 5, None);
    assert_eq!(world.created.len(), 21);
}

#[test]
fn another_prefix_begins_anew() {
    let mut world = world(json!({}));
    look(&mut world, "one", 5, None);
    let other = json!({"name": "data", "data": {"uri": "s3://bucket/other/", "poll": "1m"}});
    world.spec.triggers = vec![serde_json::from_value(other).unwrap()];
    world.settle();
    assert_eq!(looks(&world.spec, &world.status)[0].since, "");
    look(&mut world, "two", 5, None);
    assert_eq!(world.created.len(), 0);
    look(&mut world, "three", 5, None);
    assert_eq!(world.created.len(), 1);
}
