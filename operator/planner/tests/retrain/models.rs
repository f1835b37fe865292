//! A spec that returns to what it was: the models of then become champions again, and nothing is trained.

use serde_json::json;
use trainyard_crds::v1alpha1::{Cause, ModelReference, RevisionPhase, RunPhase};
use trainyard_planner::Published;
use trainyard_planner::retrain::{PublishedBy, champions, register};

use crate::world::{World, rate};

fn world() -> World {
    World::new(json!({"triggers": [{"name": "git", "specChange": {}}]}))
}

/// Every active run ends well; those that train publish the next version, the others promote what they are to.
fn publish(world: &mut World) {
    let runs: Vec<_> = world
        .runs
        .iter()
        .filter(|(_, run)| !run.phase.is_terminal())
        .map(|(name, run)| (name.clone(), run.clone()))
        .collect();
    for (name, run) in runs {
        let known = world.status.models.first();
        let next = known.and_then(|model| model.versions.first()).map_or(1, |version| version.version + 1);
        let sequence = known.map_or(1, |model| model.sequence + 1);
        let version = run.promotes.first().map_or(next, |model| model.version);
        let published = Published {
            model: "iris".into(),
            version,
            sequence,
            previous: known.map(|model| model.champion),
            digest: format!("sha256:{version}"),
            uri: format!("s3://bucket/{version}/"),
            bytes: 1,
            metrics: [("evaluate.accuracy".to_owned(), json!(0.5))].into(),
            key: None,
        };
        register(
            &mut world.status.models,
            &published,
            PublishedBy { run: &name, uid: &name, key: &run.key },
            world.now,
        );
    }
    world.end(RunPhase::Succeeded);
}

fn change(world: &mut World, to: f64) {
    world.pass(60);
    rate(&mut world.spec, to);
    world.settle();
    publish(world);
    world.settle();
}

fn champion(world: &World) -> u64 {
    world.status.models[0].champion
}

#[test]
fn a_return_promotes_what_was_published_and_trains_nothing() {
    let mut world = world();
    for to in [0.1, 0.2] {
        change(&mut world, to);
    }
    assert_eq!((champion(&world), world.trained.len()), (2, 2));
    world.pass(60);
    rate(&mut world.spec, 0.1);
    world.settle();
    let newest = world.newest().clone();
    assert_eq!(newest.promotes, [ModelReference { model: "iris".into(), version: 1 }]);
    assert_eq!(
        (newest.phase, newest.rollbacks, newest.cause.clone()),
        (RevisionPhase::Running, 1, Cause::SpecChange {})
    );
    publish(&mut world);
    world.settle();
    assert_eq!((champion(&world), world.trained.len(), world.created.len()), (1, 2, 3));
    assert_eq!((world.newest().phase, world.newest().promotes.len()), (RevisionPhase::Succeeded, 0));
    assert_eq!(world.trigger("git").run, newest.run);
    // And forth and back again, each time by a run of another name.
    change(&mut world, 0.2);
    assert_eq!(champion(&world), 2);
    change(&mut world, 0.1);
    assert_eq!((champion(&world), world.trained.len()), (1, 2));
    let names: std::collections::BTreeSet<_> = world.created.iter().collect();
    assert_eq!((names.len(), world.created.len()), (5, 5));
}

#[test]
fn a_return_to_what_the_ledger_has_forgotten_is_a_return_too() {
    let mut world = world();
    change(&mut world, 0.1);
    change(&mut world, 0.2);
    let trained = world.trained.len();
    let newest = world.newest().key.clone();
    world.status.revisions.retain(|entry| entry.key == newest);
    change(&mut world, 0.1);
    assert_eq!((champion(&world), world.trained.len(), world.newest().rollbacks), (1, trained, 1));
    world.status.revisions.clear();
    world.status.triggers.clear();
    world.settle();
    assert_eq!((world.trigger("git").reason.as_str(), world.trained.len()), ("AlreadyRun", trained));
}

#[test]
fn a_return_to_the_champion_starts_nothing() {
    let mut world = world();
    change(&mut world, 0.1);
    change(&mut world, 0.2);
    // The gate stops it.
    world.pass(60);
    rate(&mut world.spec, 0.3);
    world.settle();
    world.end(RunPhase::Failed);
    world.settle();
    let created = world.created.len();
    change(&mut world, 0.2);
    assert_eq!((champion(&world), world.created.len()), (2, created));
    assert_eq!(world.trigger("git").reason, "AlreadyRun");
}

#[test]
fn a_return_that_is_overtaken_is_made_up_for_later() {
    let mut world = world();
    change(&mut world, 0.1);
    change(&mut world, 0.2);
    world.pass(60);
    rate(&mut world.spec, 0.1);
    world.write();
    rate(&mut world.spec, 0.2);
    world.settle();
    assert_eq!((champion(&world), world.trained.len()), (2, 2));
    change(&mut world, 0.1);
    assert_eq!((champion(&world), world.trained.len()), (1, 2));
}

#[test]
fn a_return_that_fails_is_tried_again_as_a_return() {
    let mut world =
        World::new(json!({"triggers": [{"name": "git", "specChange": {}}], "retryFailedRevision": "Backoff"}));
    change(&mut world, 0.1);
    change(&mut world, 0.2);
    world.pass(60);
    rate(&mut world.spec, 0.1);
    world.settle();
    world.end(RunPhase::Failed);
    world.settle();
    world.pass(120);
    world.settle();
    publish(&mut world);
    world.settle();
    assert_eq!((champion(&world), world.trained.len()), (1, 2));
}

#[test]
fn a_version_that_is_told_late_or_twice_changes_no_champion() {
    let mut models = Vec::new();
    let published = |version: u64, sequence: u64| Published {
        model: "iris".into(),
        version,
        sequence,
        previous: None,
        digest: String::new(),
        uri: String::new(),
        bytes: 0,
        metrics: [("evaluate.accuracy".to_owned(), json!(0.5))].into(),
        key: Some("k".into()),
    };
    let by = PublishedBy { run: "r", uid: "u", key: "" };
    let now = jiff::Timestamp::UNIX_EPOCH;
    assert_eq!(register(&mut models, &published(2, 2), by, now), None);
    assert_eq!(register(&mut models, &published(1, 1), by, now), None);
    assert_eq!((models[0].champion, models[0].versions.len()), (2, 2));
    // What the store knows of a version is known again when it is taken up: its metrics and its revision.
    assert_eq!((models[0].versions[0].key.as_str(), models[0].versions[0].metrics.len()), ("k", 1));
    let before = models.clone();
    register(&mut models, &published(2, 2), by, now);
    assert_eq!(models, before);
    let told = register(&mut models, &published(1, 3), by, now).unwrap();
    assert_eq!(
        told,
        "model iris: version 1 of 1970-01-01 00:00 UTC is champion again, in place of version 2, by run r"
    );
    for version in 3..60 {
        register(&mut models, &published(version, version + 1), by, now);
    }
    register(&mut models, &published(1, 99), by, now);
    let versions: Vec<u64> = models[0].versions.iter().map(|version| version.version).collect();
    assert_eq!((versions.len(), versions[0], versions[19]), (20, 59, 1));
    assert_eq!(champions(&models)["iris"].version, 1);
}
