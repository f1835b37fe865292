//! The rules of a training job, each by its name.

use step_protocol::{CheckpointName, ProgressReport};
use trainyard_crds::v1alpha1::{AttemptOutcome, Elastic, FailureClass, JobPhase};
use trainyard_planner::Class;

use crate::world::{Crash, UID, World};

/// A job of so many ranks, all of which run.
fn running(replicas: u32, more: &str) -> World {
    let mut world = World::of(replicas, more);
    world.settle();
    world.start_all();
    world.settle();
    assert_eq!(world.phase(), JobPhase::Running);
    world
}

#[test]
fn rule_1_a_pod_of_another_attempt_is_stale_and_goes() {
    let mut world = running(2, "");
    let mut stray = world.pods[&(1, 1)].clone();
    stray.uid = "stray".into();
    world.pods.insert((7, 1), stray);
    world.show();
    world.settle();
    assert_eq!(world.journal.last().unwrap(), "delete 7/1");
    assert_eq!((world.phase(), world.status.restarts), (JobPhase::Running, 0), "it is never counted");
}

#[test]
fn rule_2_the_attempt_is_on_record_before_any_pod() {
    let mut world = World::of(2, "");
    world.settle();
    let expected = ["status Pending", "service", "create 1/0", "create 1/1", "status Pending"];
    assert_eq!(world.journal, expected);
    assert!(world.status.launched);
}

#[test]
fn rule_3_names_follow_from_what_they_stand_for() {
    let world = World::of(2, "");
    let name = |attempt, rank| world.job.pod_name("iris", UID, 2, attempt, rank);
    assert_eq!(name(1, 0), name(1, 0));
    let all: std::collections::BTreeSet<_> = [name(1, 0), name(1, 1), name(2, 0), name(2, 1)].into();
    assert_eq!(all.len(), 4);
}

#[test]
fn rule_4_no_pod_of_an_attempt_is_there_when_the_next_begins() {
    let mut world = running(2, "restart: {limit: 1, backoff: {initial: 0s}}");
    world.fail(1, Class::User, "UserError", Some(1));
    world.settle();
    assert_eq!((world.attempt(), world.phase()), (1, JobPhase::Restarting));
    assert!(world.journal.ends_with(&["status Restarting".into(), "delete 1/0".into(), "delete 1/1".into()]));
    world.later(20);
    world.settle();
    assert_eq!(world.attempt(), 1, "their Pods are still there");
    world.kubelet();
    world.settle();
    let begun: Vec<_> = world.journal.iter().skip_while(|line| *line != "clear 1").map(String::as_str).collect();
    let expected = ["clear 1", "status Restarting", "create 2/0", "create 2/1", "status Restarting"];
    assert_eq!(begun, expected, "a live look has the last word");
}

#[test]
fn rule_4_what_has_ended_or_has_no_node_may_be_held_by_somebody_else() {
    // A queue such as Kueue holds Pods by a finalizer until all of the group have ended.
    let queued = |more: &str| {
        let mut world = World::of(2, more);
        world.queue = true;
        world
    };
    let mut world = queued("restart: {limit: 1, backoff: {initial: 0s}}");
    world.settle();
    world.start_all();
    world.settle();
    world.fail(1, Class::User, "UserError", Some(1));
    world.settle();
    assert_eq!(world.attempt(), 1, "the other one still runs");
    world.fail(0, Class::User, "UserError", Some(143));
    world.settle();
    assert_eq!((world.attempt(), world.pods.len()), (2, 4), "their objects are there, and nothing of them runs");

    let mut world = queued("");
    world.settle();
    world.wait(0, "Queued");
    world.wait(1, "Queued");
    world.suspend = true;
    world.settle();
    // The watch shows that they are being deleted.
    world.show();
    world.settle();
    assert_eq!((world.phase(), world.pods.len()), (JobPhase::Suspended, 2));
}

#[test]
fn rule_5_restarts_and_executions_are_two_counters() {
    let mut world = running(2, "");
    world.suspend = true;
    world.settle();
    world.kubelet();
    world.settle();
    world.suspend = false;
    world.settle();
    world.start_all();
    world.settle();
    assert_eq!((world.attempt(), world.status.restarts, world.phase()), (2, 0, JobPhase::Running));
}

#[test]
fn rule_6_the_first_failure_ends_the_attempt_for_all() {
    let mut world = running(4, "");
    world.fail(2, Class::User, "UserError", Some(3));
    world.later(2);
    world.fail(0, Class::User, "UserError", Some(1));
    world.settle();
    let [ended] = world.status.attempts.as_slice() else { unreachable!("{:?}", world.status.attempts) };
    let failure = ended.first_failure.as_ref().unwrap();
    assert_eq!((ended.number, ended.outcome, ended.ranks), (1, AttemptOutcome::Failed, 4));
    assert_eq!((failure.role.as_str(), failure.index, failure.exit_code), ("worker", Some(2), Some(3)));
    assert_eq!((failure.class, failure.last_lines.as_str()), (FailureClass::User, "the end"));
    assert_eq!(world.journal.iter().filter(|line| line.starts_with("delete 1/")).count(), 4);
    assert_eq!(world.status.restarts, 1);
    assert_eq!(world.status.message, "worker-2 ended with UserError: it failed; attempt 2 follows at 22:13:32 UTC");
}

#[test]
fn rule_6_a_rank_that_vanished_ends_the_attempt_for_all() {
    let mut world = running(2, "");
    world.vanish(1);
    world.settle();
    let failure = world.status.attempts[0].first_failure.as_ref().unwrap();
    assert_eq!((failure.reason.as_str(), failure.class, failure.index), ("Disrupted", FailureClass::Infra, Some(1)));
    assert_eq!((world.status.restarts, world.status.failures.unwrap().infra), (1, 1));
}

#[test]
fn rule_6_a_rank_0_that_vanished_while_the_operator_was_away_ends_the_attempt_for_all() {
    let mut world = World::of(3, "");
    // It dies before it is on record that all Pods have been created.
    world.crash = Some(Crash { request: 5, after: false });
    while world.look().is_ok() {}
    assert_eq!(world.journal, ["status Pending", "service", "create 1/0", "create 1/1", "create 1/2"]);
    world.pods.remove(&(1, 0));
    world.begin_again();
    world.settle();
    assert_eq!((world.status.restarts, world.status.attempts.len(), world.attempt()), (1, 1, 1));
    assert!(!world.journal[5..].iter().any(|line| line.starts_with("create 1/")), "{:?}", world.journal);
}

#[test]
fn rule_6_an_operator_that_dies_while_it_creates_pods_costs_no_restart() {
    for request in 2..6 {
        for after in [false, true] {
            let mut world = World::of(3, "");
            world.crash = Some(Crash { request, after });
            world.settle();
            assert_eq!((world.status.restarts, world.status.launched, world.pods.len()), (0, true, 3));
        }
    }
}

#[test]
fn rule_6_a_rank_that_is_being_deleted_ends_the_attempt_at_once() {
    let mut world = running(2, "");
    world.delete(1);
    world.settle();
    assert_eq!((world.phase(), world.status.restarts), (JobPhase::Restarting, 1));
    assert_eq!(world.journal.last().unwrap(), "delete 1/0", "the one that goes already is not deleted again");
}

#[test]
fn rule_7_the_first_terminal_container_counts_though_its_pod_is_there() {
    let mut world = World::of(2, "");
    world.settle();
    world.start(0);
    world.fail(1, Class::User, "UserError", Some(1));
    world.settle();
    assert_eq!((world.phase(), world.status.restarts), (JobPhase::Restarting, 1), "rank 0 still runs");
}

#[test]
fn rule_8_a_rank_that_stalled_restarts_the_group() {
    let mut world = running(2, "");
    world.fail(1, Class::User, "Stalled", None);
    world.settle();
    let failure = world.status.attempts[0].first_failure.as_ref().unwrap();
    assert_eq!(
        (failure.reason.as_str(), world.status.restarts, world.status.reason.as_str()),
        ("Stalled", 1, "Stalled")
    );
}

#[test]
fn rule_9_all_pods_are_created_at_once() {
    let mut world = World::of(3, "");
    // The attempt is on record.
    world.status = running(3, "").status;
    world.status.launched = false;
    world.ranks.know(1);
    assert_eq!(world.plan().actions.len(), 2, "the Service, and rank 0");
    assert!(world.look().is_ok());
    assert_eq!(world.plan().actions.len(), 2, "the two others, who meet at its gate");
}

#[test]
fn rule_9_why_it_has_not_started_stands_in_status() {
    let mut world = World::of(2, "");
    world.settle();
    world.start(0);
    world.wait(1, "Unschedulable");
    world.settle();
    assert_eq!((world.status.reason.as_str(), world.status.ready.as_str()), ("Unschedulable", "1/2"));
    assert_eq!(world.status.message, "worker-1: Unschedulable of 1");
}

#[test]
fn rule_10_ranks_that_do_not_come_together_in_time_all_go() {
    let mut world = World::of(2, "startTimeout: 5m, restart: {backoff: {initial: 10s}}");
    world.settle();
    world.start(0);
    world.wait(1, "Unschedulable");
    world.later(299);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Pending);
    world.later(1);
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str()), (JobPhase::Restarting, "GangTimeout"));
    assert!(world.events.last().unwrap().starts_with(
        "GangTimeout: attempt 1: GangTimeout: 1 of 2 ranks had started within startTimeout (5m00s): worker-1"
    ));
    assert_eq!(world.status.failures.unwrap_or_default().infra, 0, "it counts toward no limit");
}

#[test]
fn rule_10_a_queue_may_take_its_time() {
    let mut world = World::of(2, "startTimeout: 5m");
    world.settle();
    world.wait(0, "Queued");
    world.wait(1, "Queued");
    world.settle();
    world.later(86_400);
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str(), world.attempt()), (JobPhase::Pending, "Queued", 1));
    // It has let them go: from now on they have their time.
    world.wait(0, "Unschedulable");
    world.start(1);
    world.settle();
    world.later(299);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Pending);
    world.later(1);
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str()), (JobPhase::Restarting, "GangTimeout"));
}

#[test]
fn rule_11_each_class_has_its_budget() {
    let mut world = running(1, "restart: {limit: 0, infraLimit: 1}");
    world.fail(0, Class::Infra, "Disrupted", None);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Restarting);
    world.kubelet();
    world.settle();
    world.start_all();
    world.fail(0, Class::User, "OOMKilled", None);
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str()), (JobPhase::Failed, "OOMKilled"));
    assert_eq!(world.status.restarts, 1);
}

#[test]
fn rule_11_a_fatal_failure_fails_now_and_a_rule_makes_one_fatal() {
    let mut world = running(1, "");
    world.fail(0, Class::Fatal, "StartError", None);
    world.settle();
    assert_eq!((world.phase(), world.status.restarts), (JobPhase::Failed, 0));
    let mut world = running(1, "restart: {limit: 5, rules: [{exitCodes: [42], action: Fail}]}");
    world.fail(0, Class::User, "UserError", Some(42));
    world.settle();
    assert_eq!(
        (world.phase(), world.status.attempts[0].first_failure.as_ref().unwrap().class),
        (JobPhase::Failed, FailureClass::Fatal)
    );
}

#[test]
fn rule_11_what_a_pod_waits_for_is_never_a_failure() {
    let mut world = World::of(1, "startTimeout: 1d, timeout: 1h");
    world.settle();
    world.wait(0, "ImagePull");
    world.later(3599);
    world.settle();
    assert_eq!(
        (world.phase(), world.status.reason.as_str(), world.status.attempts.len()),
        (JobPhase::Pending, "ImagePull", 0)
    );
    world.later(1);
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str()), (JobPhase::Failed, "Timeout"), "the deadline bounds it");
}

#[test]
fn rule_12_how_ranks_end_that_we_delete_means_nothing() {
    let mut world = running(2, "restart: {limit: 1, backoff: {initial: 0s}}");
    world.fail(1, Class::User, "UserError", Some(1));
    world.settle();
    world.fail(0, Class::User, "UserError", Some(143));
    world.settle();
    world.kubelet();
    world.settle();
    assert_eq!((world.attempt(), world.status.restarts, world.status.failures.unwrap().user), (2, 1, 1));
}

#[test]
fn rule_13_the_wait_is_persisted_and_grows() {
    let mut world = running(1, "restart: {limit: 5, backoff: {initial: 10s, factor: 3, max: 1m}}");
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.fail(0, Class::User, "UserError", Some(1));
        world.settle();
        world.kubelet();
        let wait = world.status.retry_at.as_ref().unwrap().0.duration_since(world.now).as_secs();
        waits.push(wait);
        world.later(wait - 1);
        world.settle();
        assert_eq!(world.pods.len(), 0, "not before its time");
        world.later(1);
        world.settle();
        world.start_all();
        world.settle();
    }
    assert_eq!(waits, [10, 30, 60, 60]);
}

#[test]
fn rule_13_a_newer_checkpoint_forgives() {
    let mut world = running(1, "checkpoint: {}, restart: {limit: 1, backoff: {initial: 0s}}");
    for round in 1..=4 {
        let checkpoint = Some(CheckpointName { execution: world.attempt(), sequence: 1 });
        let report = ProgressReport { version: 1, checkpoint, ..ProgressReport::default() };
        assert!(world.ranks.report_progress(world.attempt(), report));
        world.fail(0, Class::User, "UserError", Some(1));
        world.settle();
        assert_eq!((world.phase(), world.status.restarts), (JobPhase::Restarting, round));
        assert_eq!(world.status.failures.unwrap().user, 1);
        world.kubelet();
        world.settle();
        world.start_all();
        world.settle();
    }
    // This attempt keeps none.
    world.fail(0, Class::User, "UserError", Some(1));
    world.settle();
    assert_eq!(world.phase(), JobPhase::Failed);
}

#[test]
fn rule_14_a_pod_on_a_lost_node_is_not_waited_for_for_ever() {
    let mut world = running(2, "");
    world.lose_node(1);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Running, "it may come back");
    world.delete(1);
    world.settle();
    let failure = world.status.attempts[0].first_failure.as_ref().unwrap();
    assert_eq!((failure.reason.as_str(), failure.class), ("NodeLost", FailureClass::Infra));
    world.kubelet();
    world.later(45 + 29);
    world.settle();
    assert_eq!((world.attempt(), world.pods.len()), (1, 1));
    world.later(1);
    world.settle();
    assert_eq!(world.attempt(), 2, "its time is over, and its attempt fences it");
}

#[test]
fn rule_15_rank_0_decides_and_the_others_have_a_moment() {
    let mut world = running(3, "");
    world.commit(2);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Running, "a worker that is done early is no end");
    world.commit(0);
    world.settle();
    assert_eq!((world.phase(), world.status.winner), (JobPhase::Succeeded, Some(1)));
    assert_eq!(world.journal.last().unwrap(), "status Succeeded");
    world.later(10);
    world.settle();
    assert_eq!(world.journal.last().unwrap(), "delete 1/1");
    assert!(world.condition("Succeeded") && world.condition("Ready") && !world.condition("Stalled"));
}

#[test]
fn rule_15_a_job_that_has_succeeded_is_at_its_end() {
    let mut world = running(1, "");
    let report =
        ProgressReport { version: 1, progress: Some(0.95), eta: Some("3 s".into()), ..ProgressReport::default() };
    assert!(world.ranks.report_progress(1, report));
    world.commit(0);
    world.settle();
    assert_eq!((world.status.progress.as_str(), world.status.eta.as_str()), ("100%", ""));
}

#[test]
fn rule_15_a_worker_that_fails_after_rank_0_does_not_matter() {
    let mut world = running(2, "");
    world.commit(0);
    world.fail(1, Class::User, "UserError", Some(1));
    world.settle();
    assert_eq!(world.phase(), JobPhase::Succeeded);
}

#[test]
fn rule_15_a_job_of_parts_needs_every_rank() {
    let mut world = running(2, "success: All");
    world.commit(0);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Running);
    world.commit(1);
    world.settle();
    assert_eq!((world.phase(), world.status.message.as_str()), (JobPhase::Succeeded, "all 2 ranks succeeded"));
}

#[test]
fn rule_16_terminal_status_is_written_before_pods_go_and_stays() {
    let mut world = running(2, "restart: {limit: 0}");
    world.fail(1, Class::User, "UserError", Some(1));
    world.settle();
    assert!(world.journal.ends_with(&["status Failed".into(), "delete 1/0".into()]), "{:?}", world.journal);
    let before = world.status.clone();
    world.kubelet();
    world.later(10_000);
    world.settle();
    assert_eq!(world.status, before);
    assert!(world.pods.contains_key(&(1, 1)), "the one that failed stays for people to look at");
    assert_eq!(
        world.status.message,
        "the training failed: worker-1 ended with UserError: it failed; its log: kubectl logs -n team iris-worker-1-a1"
    );
}

#[test]
fn rule_18_the_deadline_counts_from_the_persisted_start_and_anew_after_a_resume() {
    let mut world = running(1, "timeout: 1h");
    world.later(3000);
    world.suspend = true;
    world.settle();
    world.kubelet();
    world.settle();
    world.later(100_000);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Suspended, "no time runs while it is suspended");
    world.suspend = false;
    world.settle();
    world.start_all();
    world.later(3599);
    world.settle();
    assert_eq!(world.phase(), JobPhase::Running);
    world.later(1);
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str()), (JobPhase::Failed, "Timeout"));
}

#[test]
fn rule_19_suspended_is_said_when_the_pods_are_gone() {
    let mut world = running(2, "");
    world.suspend = true;
    world.settle();
    assert_eq!((world.phase(), world.status.reason.as_str()), (JobPhase::Running, "Suspending"));
    assert!(!world.condition("Suspended"));
    world.fail(1, Class::Infra, "Disrupted", Some(143));
    world.settle();
    world.kubelet();
    world.settle();
    assert!(world.condition("Suspended"));
    assert_eq!((world.phase(), world.status.restarts), (JobPhase::Suspended, 0));
    assert_eq!(world.status.attempts[0].outcome, AttemptOutcome::Suspended);
    world.suspend = false;
    world.settle();
    assert_eq!((world.attempt(), world.pods.len()), (2, 2));
    assert!(!world.condition("Suspended"));
}

#[test]
fn rule_19_a_job_that_is_created_suspended_waits() {
    let mut world = World::of(2, "suspend: true");
    world.settle();
    assert_eq!((world.phase(), world.pods.len(), world.status.attempt), (JobPhase::Suspended, 0, None));
    assert!(world.condition("Suspended"));
    world.suspend = false;
    world.settle();
    assert_eq!((world.attempt(), world.pods.len()), (1, 2));
}

#[test]
fn rule_20_the_next_attempt_has_the_ranks_that_can_be_placed_and_never_below_min() {
    let mut world = running(4, "elastic: {min: 2, max: 8}");
    for rank in [3, 2] {
        world.lose_node(rank);
        world.delete(rank);
    }
    world.settle();
    world.kubelet();
    world.later(100);
    world.settle();
    assert_eq!((world.attempt(), world.status.ranks), (2, Some(2)));
    world.elastic = Some(Elastic { min: 3, max: 8 });
    world.start_all();
    world.settle();
    world.lose_node(1);
    world.delete(1);
    world.settle();
    world.kubelet();
    world.later(100);
    world.settle();
    assert_eq!((world.attempt(), world.status.ranks), (3, Some(3)), "its bounds are those of now");
}
