//! Triggers by what another pipeline has made.

use serde_json::json;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Cause, RunPhase};
use trainyard_planner::retrain::{FoundOutput, SeenUpstream, check, watched};

use crate::world::{World, rate, time};

fn world() -> World {
    World::new(json!({
        "params": [{"name": "rate", "type": "number", "default": 0.5}, {"name": "table", "default": ""}],
        "triggers": [{
            "name": "clean", "upstream": {"pipeline": "clean", "output": "clean.table"},
            "params": {"table": "$(trigger.uri) of $(trigger.run): $(trigger.digest)"},
        }],
    }))
}

/// The run that has succeeded last wrote this.
fn sees(world: &mut World, run: &str, digest: &str) {
    let output = FoundOutput { digest: digest.into(), uri: format!("s3://bucket/{run}/table/") };
    let created = Some(time("2026-01-01T00:00:00Z"));
    looks(world, SeenUpstream { run: run.into(), created, found: Ok(Some(output)) });
}

fn looks(world: &mut World, seen: SeenUpstream) {
    world.upstream.insert("clean".into(), seen);
    world.settle();
    world.upstream.clear();
    world.settle();
}

#[test]
fn what_is_there_first_starts_nothing_and_each_change_one_run_that_knows_it() {
    let mut world = world();
    sees(&mut world, "clean-1", "one");
    assert_eq!(world.created.len(), 0);
    for _ in 0..3 {
        sees(&mut world, "clean-2", "two");
        world.end(RunPhase::Succeeded);
    }
    assert_eq!(world.trained.len(), 1);
    let cause = Cause::Upstream { pipeline: "clean".into(), output: "clean.table".into(), digest: "two".into() };
    assert_eq!(world.trained[0].1, cause);
    let run = &world.runs[&world.created[0]];
    assert_eq!(json!(run.params), json!({"table": "s3://bucket/clean-2/table/ of clean-2: two"}));
}

#[test]
fn the_first_run_of_a_pipeline_that_had_none_is_a_change() {
    let mut world = world();
    looks(&mut world, SeenUpstream { run: String::new(), created: None, found: Ok(None) });
    sees(&mut world, "clean-1", "one");
    assert_eq!(world.trained.len(), 1);
}

#[test]
fn the_same_output_again_starts_nothing_and_says_so() {
    let mut world = world();
    sees(&mut world, "clean-1", "one");
    sees(&mut world, "clean-2", "one");
    let trigger = world.trigger("clean");
    assert_eq!((world.created.len(), trigger.reason.as_str()), (0, "OutputUnchanged"));
    assert_eq!(trigger.message, "run clean-2 has written the same clean.table as the one before");
    assert_eq!(trigger.upstream.as_ref().unwrap().run, "clean-2", "it is not read again");
}

#[test]
fn what_returns_to_what_was_trained_starts_nothing_until_the_spec_is_another() {
    let mut world = world();
    for (run, digest) in [("a", "one"), ("b", "two"), ("c", "three"), ("d", "two")] {
        sees(&mut world, run, digest);
        world.end(RunPhase::Succeeded);
    }
    assert_eq!((world.trained.len(), world.trigger("clean").reason.as_str()), (2, "AlreadyRun"));
    rate(&mut world.spec, 0.9);
    for (run, digest) in [("e", "three"), ("f", "two")] {
        sees(&mut world, run, digest);
        world.end(RunPhase::Succeeded);
    }
    assert_eq!(world.trained.len(), 4);
}

#[test]
fn another_output_begins_anew_and_is_looked_for() {
    let mut world = world();
    sees(&mut world, "clean-1", "one");
    let known = |world: &World| {
        watched(&world.spec, &world.status).map(|known| known.run.map(|(run, _)| run.to_owned())).next().unwrap()
    };
    assert_eq!(known(&world).as_deref(), Some("clean-1"));
    let other = json!({"name": "clean", "upstream": {"pipeline": "clean", "output": "clean.other"}});
    world.spec.triggers[0] = serde_json::from_value(other).unwrap();
    assert_eq!(known(&world), None);
    sees(&mut world, "clean-1", "two");
    assert_eq!(world.created.len(), 0);
}

#[test]
fn what_was_not_found_at_first_is_a_change_when_it_comes() {
    let mut world = world();
    let gone = (Reason::UpstreamNotFound, "there is no Pipeline clean".to_owned());
    looks(&mut world, SeenUpstream { run: String::new(), created: None, found: Err(gone) });
    sees(&mut world, "clean-1", "one");
    assert_eq!(world.trained.len(), 1);
}

#[test]
fn what_is_not_found_is_told_and_what_has_changed_by_then_is_not_lost() {
    let mut world = world();
    sees(&mut world, "clean-1", "one");
    let gone = (Reason::UpstreamNotFound, "there is no Pipeline clean".to_owned());
    looks(&mut world, SeenUpstream { run: String::new(), created: None, found: Err(gone) });
    let trigger = world.trigger("clean");
    assert_eq!((trigger.reason.as_str(), trigger.message.as_str()), ("UpstreamNotFound", "there is no Pipeline clean"));
    sees(&mut world, "clean-2", "two");
    assert_eq!((world.trained.len(), world.trigger("clean").reason.as_str()), (1, ""));
}

#[test]
fn what_a_suspended_or_a_busy_pipeline_cannot_run_it_runs_later() {
    let mut world = world();
    sees(&mut world, "clean-1", "one");
    world.spec.suspend = Some(true);
    sees(&mut world, "clean-2", "two");
    assert_eq!((world.created.len(), world.trigger("clean").reason.as_str()), (0, "Suspended"));
    world.spec.suspend = None;
    world.runnable = false;
    sees(&mut world, "clean-2", "two");
    world.runnable = true;
    sees(&mut world, "clean-2", "two");
    assert_eq!(world.trained.len(), 1);
}

#[test]
fn when_all_runs_are_gone_what_was_seen_is_known() {
    let mut world = world();
    sees(&mut world, "clean-1", "one");
    looks(&mut world, SeenUpstream { run: String::new(), created: None, found: Ok(None) });
    sees(&mut world, "clean-2", "one");
    assert_eq!(world.created.len(), 0);
}

#[test]
fn what_was_left_out_for_a_newer_one_is_run_when_it_comes_back() {
    let mut world = world();
    for (run, digest) in [("a", "one"), ("b", "two"), ("c", "three"), ("d", "four")] {
        // The second is active, the third waits, and the fourth takes its place.
        sees(&mut world, run, digest);
    }
    world.end(RunPhase::Succeeded);
    world.settle();
    world.end(RunPhase::Succeeded);
    sees(&mut world, "e", "three");
    let digests: Vec<&str> = world
        .trained
        .iter()
        .map(|(_, cause)| match cause {
            Cause::Upstream { digest, .. } => digest.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(digests, ["two", "four", "three"]);
}

#[test]
fn a_pipeline_does_not_follow_itself() {
    let own = json!({"triggers": [{"name": "loop", "upstream": {"pipeline": "iris", "output": "train.model"}}]});
    let problem = check("iris", &crate::world::spec(own), &[]).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "spec.triggers[0].upstream.pipeline: a pipeline cannot start itself by what it makes: name another one"
    );
}
