//! What becomes of what is due: the ledger, and the policies of concurrency and repetition.

use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{RevisionPhase, RunPhase};

use crate::world::{World, rate, time};
use RevisionPhase::{Cancelled, Deleted, Failed, Queued, Running, Skipped, Succeeded, Superseded};

fn git(more: Value) -> World {
    let mut fields = json!({"triggers": [{"name": "git", "specChange": {}}]});
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    World::new(fields)
}

#[test]
fn each_change_of_the_spec_starts_one_run_and_what_is_no_change_none() {
    let mut world = git(json!({}));
    world.settle();
    assert_eq!(world.phases(), [Running]);
    assert_eq!(world.newest().run.len(), "iris-".len() + 10);
    world.end(RunPhase::Succeeded);
    world.settle();
    world.spec.description = Some("a comment".into());
    world.settle();
    assert_eq!(world.phases(), [Succeeded]);
    rate(&mut world.spec, 0.25);
    world.settle();
    world.end(RunPhase::Failed);
    world.settle();
    assert_eq!(world.phases(), [Failed, Succeeded]);
    assert_eq!(world.created.len(), 2);
}

#[test]
fn a_revision_that_was_run_before_is_not_run_again_also_when_its_run_is_gone() {
    let mut world = git(json!({}));
    world.settle();
    world.end(RunPhase::Succeeded);
    world.settle();
    rate(&mut world.spec, 0.25);
    world.settle();
    world.end(RunPhase::Failed);
    world.settle();
    world.runs.clear();

    rate(&mut world.spec, 0.5);
    world.settle();
    let git = world.trigger("git");
    assert_eq!(git.reason, "AlreadyRun");
    assert!(git.message.starts_with("this revision has succeeded as run iris-"), "{}", git.message);
    rate(&mut world.spec, 0.25);
    world.settle();
    assert!(world.trigger("git").message.contains("set another rerunToken"), "{}", world.trigger("git").message);
    assert_eq!(world.created.len(), 2);

    world.spec.rerun_token = Some("again".into());
    world.settle();
    assert_eq!((world.created.len(), world.phases()), (3, vec![Running, Failed, Succeeded]));
    assert_eq!(world.trigger("git").reason, "");
}

#[test]
fn of_two_changes_in_quick_succession_the_newest_runs_and_the_other_is_superseded() {
    let mut world = git(json!({}));
    world.settle();
    for value in [0.1, 0.2, 0.3] {
        rate(&mut world.spec, value);
        world.settle();
    }
    assert_eq!(world.phases(), [Queued, Superseded, Superseded, Running]);
    assert!(world.newest().message.starts_with("waits for the end of iris-"));
    world.end(RunPhase::Succeeded);
    world.settle();
    assert_eq!(world.phases(), [Running, Superseded, Superseded, Succeeded]);
    // What was not run is run when it is wanted again.
    world.end(RunPhase::Succeeded);
    rate(&mut world.spec, 0.2);
    world.settle();
    assert_eq!(world.phases(), [Running, Succeeded, Superseded, Succeeded]);
}

#[test]
fn with_allow_all_go_on() {
    let mut world = git(json!({"concurrency": "Allow"}));
    for value in [0.1, 0.2, 0.3] {
        rate(&mut world.spec, value);
        world.settle();
    }
    assert_eq!(world.phases(), [Running, Running, Running]);
}

#[test]
fn with_replace_the_active_run_ends_first() {
    let mut world = git(json!({"concurrency": "Replace"}));
    world.settle();
    let first = world.newest().run.clone();
    rate(&mut world.spec, 0.1);
    world.settle();
    assert_eq!(world.phases(), [Queued, Running]);
    assert_eq!(world.cancelled.iter().collect::<Vec<_>>(), [&first]);
    world.end(RunPhase::Cancelled);
    world.settle();
    assert_eq!(world.phases(), [Running, Cancelled]);
    assert_eq!(world.cancelled.len(), 1);
}

#[test]
fn with_forbid_an_instant_is_left_out_and_a_change_of_the_spec_waits() {
    let mut world = git(json!({"concurrency": "Forbid",
        "triggers": [{"name": "git", "specChange": {}}, {"name": "nightly", "schedule": {"cron": "0 3 * * *"}}]}));
    world.settle();
    world.now = time("2026-03-01T03:00:00Z");
    world.settle();
    assert_eq!(world.phases(), [Skipped, Running]);
    assert_eq!(world.trigger("nightly").reason, "Skipped");
    rate(&mut world.spec, 0.1);
    world.settle();
    assert_eq!(world.trigger("git").reason, "PipelineBusy");
    world.end(RunPhase::Succeeded);
    world.settle();
    assert_eq!(world.phases(), [Running, Skipped, Succeeded]);
    assert_eq!(world.trigger("git").reason, "");
}

#[test]
fn a_request_by_annotation_starts_one_run_whether_it_stays_or_not() {
    let mut world = World::new(json!({}));
    world.settle();
    assert_eq!(world.created.len(), 0);
    world.request = Some("2026-03-01".into());
    world.settle();
    world.end(RunPhase::Succeeded);
    world.settle();
    world.request = None;
    world.settle();
    world.request = Some("2026-03-01".into());
    world.settle();
    assert_eq!(world.created.len(), 1);
    world.request = Some("2026-03-02".into());
    world.settle();
    assert_eq!((world.created.len(), world.newest().trigger.as_str()), (2, ""));
}

#[test]
fn a_request_may_be_of_any_length_and_is_remembered_by_its_beginning() {
    let mut world = World::new(json!({}));
    world.request = Some("ä".repeat(100_000));
    world.settle();
    world.settle();
    assert_eq!((world.created.len(), world.status.rerun_requested_at.clone()), (1, Some("ä".repeat(128))));
}

#[test]
fn a_request_for_a_pipeline_that_cannot_run_waits() {
    let mut world = git(json!({}));
    world.runnable = false;
    world.request = Some("now".into());
    world.settle();
    assert_eq!(world.created.len(), 0);
    world.runnable = true;
    world.settle();
    // The spec, and the request of which the newest counts.
    world.end(RunPhase::Succeeded);
    world.settle();
    world.end(RunPhase::Succeeded);
    world.settle();
    assert_eq!(world.status.rerun_requested_at.as_deref(), Some("now"));
    assert!(!world.created.is_empty());
}

#[test]
fn a_run_that_somebody_deletes_is_not_made_again() {
    let mut world = git(json!({}));
    world.settle();
    world.settle();
    world.runs.clear();
    world.settle();
    assert_eq!((world.phases(), world.created.len()), (vec![Deleted], 1));
}

#[test]
fn another_run_of_the_name_is_left_alone_and_said() {
    let mut world = git(json!({}));
    world.write();
    let mut new = world.to_create().remove(0);
    new.key = "0".repeat(64);
    world.create(new);
    world.settle();
    assert_eq!((world.phases(), world.newest().reason.as_str()), (vec![Failed], "NameCollision"));
}

#[test]
fn a_change_between_the_create_and_the_start_of_a_run_loses_no_instant_and_no_revision() {
    let mut world = git(json!({"triggers": [{"name": "nightly", "schedule": {"cron": "0 3 * * *"}}]}));
    world.settle();
    world.now = time("2026-03-01T03:00:00Z");
    world.write();
    let new = world.to_create();
    rate(&mut world.spec, 0.1);
    new.into_iter().for_each(|new| world.create(new));
    world.settle();
    assert_eq!(world.phases(), [Running, Superseded]);
    assert_eq!(world.trained.len(), 1);
}

#[test]
fn a_revision_that_fails_is_repeated_with_backoff_at_most_five_times() {
    let mut world = git(json!({"retryFailedRevision": "Backoff"}));
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.settle();
        world.end(RunPhase::Failed);
        world.settle();
        let Some(wake) = world.wake else { break };
        waits.push(wake.duration_since(world.now).as_secs());
        world.now = wake;
    }
    assert_eq!(waits, [60, 120, 240, 480, 960]);
    assert_eq!((world.created.len(), world.phases()), (6, vec![Failed]));
    assert_eq!(world.newest().retries, 5);
}

#[test]
fn the_ledger_has_a_bound_and_never_forgets_what_goes_on() {
    let mut world = git(json!({"concurrency": "Allow"}));
    for value in 0..30 {
        rate(&mut world.spec, f64::from(value));
        world.settle();
    }
    assert_eq!((world.phases(), world.trigger("git").reason.as_str()), (vec![Running; 20], "PipelineBusy"));
    world.end(RunPhase::Succeeded);
    world.settle();
    assert_eq!((world.phases().len(), world.phases()[0]), (20, Running));
}

#[test]
fn a_run_that_the_api_server_refuses_for_good_is_a_failure_that_says_why() {
    let mut world = World::new(json!({"triggers": [{"name": "git", "specChange": {}}]}));
    world.write();
    let new = world.to_create();
    world.refused.insert(new[0].name.clone(), "a policy says no".into());
    world.settle();
    let entry = world.newest();
    assert_eq!((entry.phase, entry.reason.as_str()), (RevisionPhase::Failed, "RunRefused"));
    assert_eq!(
        entry.message,
        "the API server refuses the run: a policy says no; when that is mended, set another rerunToken"
    );
    // Another spec is another attempt.
    rate(&mut world.spec, 0.9);
    world.settle();
    assert_eq!(world.trained.len(), 1);
}

#[test]
fn a_spec_that_returns_before_its_run_was_accepted_is_run() {
    let mut world = git(json!({}));
    world.write();
    let first = world.to_create();
    // The run comes while the spec is another one, and does nothing; then the spec is as it was.
    rate(&mut world.spec, 0.9);
    first.into_iter().for_each(|new| world.create(new));
    world.accept();
    rate(&mut world.spec, 0.5);
    world.settle();
    world.end(RunPhase::Succeeded);
    world.settle();
    assert_eq!((world.trained.len(), world.newest().phase, world.newest().retries), (1, Succeeded, 1));
}

#[test]
fn an_instant_whose_run_found_another_spec_is_run_also_when_that_returns() {
    let mut world = World::new(json!({"triggers": [{"name": "hourly", "schedule": {"cron": "0 * * * *"}}]}));
    world.settle();
    world.pass(3600);
    world.write();
    let first = world.to_create();
    rate(&mut world.spec, 0.9);
    first.into_iter().for_each(|new| world.create(new));
    world.accept();
    rate(&mut world.spec, 0.5);
    world.settle();
    assert_eq!(world.trained.len(), 1);
}
