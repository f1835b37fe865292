//! Runs from their first moment to their last, each a snapshot: what people see, word for word.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use insta::assert_snapshot;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{CachedFrom, PipelineRunStatus, RunState};
use trainyard_planner::{Class, Ended, refused, reuse};

use crate::story::{Story, spec};
use crate::world::{BEGIN, Outcome, Refusal, World};

const CHAIN: &str = "
stages:
- {name: prepare, container: {command: [x]}, outputs: [{name: table}]}
- {name: train, container: {command: [x]}, inputs: [{name: table, from: prepare.table}], outputs: [{name: model}]}
- {name: deploy, container: {command: [x]}, inputs: [{name: model, from: train.model}]}
";

const ONE: &str = "stages: [{name: train, container: {command: [x]}, retry: {limit: 1, infraLimit: 1}}]";

#[test]
fn a_chain_succeeds() {
    assert_snapshot!(Story::new(CHAIN).whole());
}

#[test]
fn an_early_report_starts_the_next_stage_while_the_pod_still_runs() {
    let mut story = Story::new(
        "stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}, dependsOn: [a]}]",
    )
    .ends("a", 1, Outcome::Succeeds { metric: 1.0, early: true });
    story.frame("");
    story.pod("a", 1);
    story.pod("a", 1);
    assert!(story.world.pods[&("a".to_owned(), 1)].is_live());
    assert_snapshot!(story.whole());
}

#[test]
fn a_diamond_joins() {
    assert_snapshot!(
        Story::new(
            "
stages:
- {name: prepare, container: {command: [x]}}
- {name: left, container: {command: [x]}, dependsOn: [prepare]}
- {name: right, container: {command: [x]}, dependsOn: [prepare]}
- {name: join, container: {command: [x]}, dependsOn: [left, right]}
"
        )
        .whole()
    );
}

#[test]
fn a_fan_out_keeps_to_its_limit() {
    assert_snapshot!(
        Story::new(
            "
parallel: 2
stages:
- {name: a, container: {command: [x]}}
- {name: b, container: {command: [x]}}
- {name: c, container: {command: [x]}}
- {name: join, container: {command: [x]}, dependsOn: [a, b, c]}
"
        )
        .whole()
    );
}

#[test]
fn a_failure_skips_what_needs_it_and_finally_knows() {
    let pipeline = format!(
        "{CHAIN}finally:
- {{name: report, container: {{command: [x, $(run.phase), $(stages.train.phase)]}}}}
- {{name: alarm, when: run.phase == 'Failed', container: {{command: [x]}}}}
- {{name: party, when: run.phase == 'Succeeded', container: {{command: [x]}}}}
"
    );
    assert_snapshot!(Story::new(&pipeline).ends("train", 1, Outcome::exits(1)).whole());
}

#[test]
fn a_failure_that_is_allowed_leaves_the_run_a_success() {
    assert_snapshot!(
        Story::new(
            "
stages:
- {name: lint, allowFailure: true, container: {command: [x]}}
- {name: fix, dependsOn: [lint], container: {command: [x]}}
- {name: train, container: {command: [x]}}
"
        )
        .ends("lint", 1, Outcome::exits(1))
        .whole()
    );
}

#[test]
fn a_branch_waits_for_a_failure() {
    let branches = "
stages:
- {name: train, container: {command: [x]}}
- {name: rescue, after: [{stage: train, phases: [Failed]}], container: {command: [x]}}
- {name: deploy, after: [{stage: train, phases: [Succeeded]}], container: {command: [x]}}
";
    assert_snapshot!("a_branch_that_is_taken", Story::new(branches).ends("train", 1, Outcome::exits(1)).whole());
    assert_snapshot!("a_branch_that_is_not_taken", Story::new(branches).whole());
}

#[test]
fn a_stage_is_skipped_for_its_root_cause() {
    let pipeline = "
stages:
- {name: off, when: params.production == true, container: {command: [x]}}
- {name: bad, container: {command: [x]}}
- {name: both, dependsOn: [off, bad], container: {command: [x]}}
params: [{name: production, type: boolean, default: false}]
";
    assert_snapshot!(Story::new(pipeline).ends("bad", 1, Outcome::exits(1)).whole());
}

#[test]
fn a_condition_over_metrics_decides() {
    let pipeline = "
stages:
- {name: evaluate, metrics: [accuracy], results: [{name: rows, type: integer}], container: {command: [x]}}
- {name: deploy, when: stages.evaluate.metrics.accuracy >= 0.9 && stages.evaluate.results.rows > 100, container: {command: [x]}}
- {name: explain, when: stages.evaluate.metrics.accuracy < 0.9, container: {command: [x]}}
";
    let bad = Outcome::Succeeds { metric: 0.7, early: false };
    assert_snapshot!("a_condition_over_metrics_that_are_good", Story::new(pipeline).whole());
    assert_snapshot!("a_condition_over_metrics_that_are_bad", Story::new(pipeline).ends("evaluate", 1, bad).whole());
    assert_snapshot!(
        "a_condition_over_metrics_that_there_are_not",
        Story::new(pipeline).ends("evaluate", 1, Outcome::exits(1)).whole()
    );
}

#[test]
fn a_condition_that_has_no_value_fails_its_stage() {
    let pipeline = "
stages:
- {name: evaluate, metrics: [accuracy, silent], results: [{name: large}], container: {command: [x]}}
- {name: deploy, when: stages.evaluate.metrics.silent > 0.9, container: {command: [x]}}
- {name: result, when: stages.evaluate.results.large == 'x', container: {command: [x]}}
- {name: text, when: stages.evaluate.phase, container: {command: [x]}}
";
    assert_snapshot!(Story::new(pipeline).whole());
}

#[test]
fn a_program_fails_and_its_repetition_succeeds() {
    assert_snapshot!(Story::new(ONE).ends("train", 1, Outcome::exits(1)).whole());
}

#[test]
fn a_program_fails_too_often() {
    assert_snapshot!(Story::new(ONE).ends("train", 1, Outcome::exits(1)).ends("train", 2, Outcome::exits(137)).whole());
}

#[test]
fn failures_of_the_infrastructure_have_their_own_budget() {
    assert_snapshot!(
        Story::new("stages: [{name: train, container: {command: [x]}, retry: {limit: 1, infraLimit: 2}}]")
            .ends(
                "train",
                1,
                Outcome::fails(Class::Infra, "Disrupted", "the Pod was taken away: EvictionByEvictionAPI")
            )
            .ends("train", 2, Outcome::exits(1))
            .ends("train", 3, Outcome::Vanishes)
            .whole()
    );
}

#[test]
fn exit_codes_have_rules() {
    let pipeline = "
stages:
- name: train
  container: {command: [x]}
  retry: {limit: 3, rules: [{exitCodes: [42], action: Fail}, {exitCodes: [75], action: RetryInfra}]}
";
    assert_snapshot!(
        Story::new(pipeline).ends("train", 1, Outcome::exits(75)).ends("train", 2, Outcome::exits(42)).whole()
    );
}

#[test]
fn an_image_that_is_not_there_fails_the_stage_once_its_verdict_is_written() {
    assert_snapshot!(Story::new(ONE).ends("train", 1, Outcome::image_missing()).whole());
}

#[test]
fn a_verdict_outlives_what_the_deleted_pod_says() {
    // The world's second Pod says how it ended before it goes, as a kubelet does with Pods that are deleted before they start.
    let pipeline = "stages: [{name: a, container: {command: [x]}}, {name: train, container: {command: [x]}}]";
    let mut story = Story::new(pipeline).ends("train", 1, Outcome::image_missing());
    story.play();
    assert_eq!(story.world.row("train").reason, "ImagePullFailed");
    assert!(story.text().contains("train a1 has ended"));
}

#[test]
fn a_container_that_cannot_be_started_is_the_infrastructures_fault() {
    assert_snapshot!(Story::new(ONE).ends("train", 1, Outcome::start_fails()).whole());
}

#[test]
fn an_unschedulable_pod_stays_pending() {
    let mut story = Story::new(ONE);
    story.frame("");
    story.world.waits("train", 1, "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.");
    story.frame("no node has room");
    story.wait(3600);
    story.world.waits("train", 1, "Starting", "");
    story.frame("a node has room");
    assert_snapshot!(story.whole());
}

#[test]
fn a_pod_that_does_not_start_says_where_to_look() {
    let mut story = Story::new(ONE);
    story.frame("");
    story.world.is_late("train", 1, "its volumes are not there after 20 s");
    story.frame("a volume is missing");
    story.wait(10);
    story.wait(10);
    story.wait(3600);
    assert_snapshot!(story.whole());
}

#[test]
fn a_stage_on_a_lost_node_is_repeated_only_when_its_pod_is_gone() {
    let mut story = Story::new(ONE);
    story.frame("");
    story.pod("train", 1);
    story.world.lose_node("train", 1);
    story.frame("its node does not answer");
    story.wait(3600);
    story.world.delete_by_force("train", 1);
    story.frame("somebody deletes the Pod");
    assert_snapshot!(story.whole());
}

/// The clock of the node is ten minutes ahead of the API server's, or behind it, and the stage takes 40 seconds.
#[test]
fn a_clock_that_is_wrong_makes_no_duration_wrong() {
    for skew in [-600, 600] {
        let node = |seconds: i64| BEGIN.saturating_add(SignedDuration::from_secs(skew + seconds)).unwrap();
        let ended = Ended { start: Some(node(5)), end: Some(node(45)), ..Ended::failure(Class::User, "UserError", "") };
        // Once seen while it ran, by the kubelet's clock, and once only at its end.
        for seen in [true, false] {
            let mut story = Story::new("stages: [{name: a, container: {command: [x]}}]").ends(
                "a",
                1,
                Outcome::Fails(ended.clone()),
            );
            story.frame("");
            let key = ("a".to_owned(), 1);
            story.world.starts("a", 1, node(5));
            if seen {
                story.world.deliver(&key);
                story.frame("it runs");
            }
            story.world.now = story.world.now.saturating_add(SignedDuration::from_secs(45)).unwrap();
            story.world.progress(&key);
            story.world.deliver(&key);
            story.frame("it has ended");
            let row = story.world.row("a");
            let (start, end) = (row.start.as_ref().unwrap().0, row.end.as_ref().unwrap().0);
            assert_eq!(end.duration_since(start), SignedDuration::from_secs(40), "skew {skew}, seen {seen}");
            assert_eq!(story.world.status.duration, "45s", "skew {skew}, seen {seen}");
        }
    }
}

#[test]
fn a_full_quota_is_waited_for() {
    let mut story = Story::new(
        "stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}, dependsOn: [a]}]",
    );
    story.world.refusals.insert("b".into(), Refusal::Quota(SignedDuration::from_secs(10)));
    story.frame("");
    story.pod("a", 1);
    story.pod("a", 1);
    story.wait(5);
    story.wait(5);
    story.world.refusals.clear();
    story.wait(10);
    assert_snapshot!(story.whole());
}

#[test]
fn a_foreign_pod_with_our_name_is_left_alone() {
    let mut story = Story::new(CHAIN);
    story.world.refusals.insert("train".into(), Refusal::Conflict);
    assert_snapshot!(story.whole());
}

#[test]
fn a_pod_that_the_api_server_refuses_fails_its_stage() {
    let mut story = Story::new(ONE);
    story.world.refusals.insert("train".into(), Refusal::Rejected);
    assert_snapshot!(story.whole());
}

#[test]
fn a_pod_that_vanished_after_its_commit_is_adopted() {
    assert_snapshot!(Story::new(CHAIN).ends("train", 1, Outcome::VanishesCommitted { metric: 1.0 }).whole());
}

#[test]
fn a_timeout_and_a_lack_of_memory_are_the_stages_own_fault() {
    let timeout = Outcome::fails(Class::User, "Timeout", "the stage's timeout of 30m passed");
    let memory = Outcome::fails(
        Class::User,
        "OOMKilled",
        "a process of the stage was killed for lack of memory: limit 2Gi, peak 2Gi; raise resources.limits.memory",
    );
    assert_snapshot!(Story::new(ONE).ends("train", 1, timeout).ends("train", 2, memory).whole());
}

const WITH_FINALLY: &str = "
stages:
- {name: a, container: {command: [x]}}
- {name: b, container: {command: [x]}, dependsOn: [a]}
- {name: c, container: {command: [x]}, dependsOn: [b]}
finally: [{name: report, container: {command: [x]}}]
";

fn stopped(state: RunState) -> Story {
    let mut story = Story::new(WITH_FINALLY);
    story.frame("");
    story.pod("a", 1);
    story.pod("a", 1);
    story.pod("b", 1);
    story.world.set_state(state);
    story.frame(&format!("people say {state:?}"));
    story
}

#[test]
fn a_cancelled_run_stops_its_stages_and_runs_finally() {
    assert_snapshot!(stopped(RunState::Cancelled).whole());
}

#[test]
fn a_terminated_run_stops_everything() {
    assert_snapshot!(stopped(RunState::Terminated).whole());
}

#[test]
fn a_cancel_between_two_attempts_is_at_once() {
    let mut story = Story::new(ONE).ends("train", 1, Outcome::exits(1));
    story.frame("");
    story.pod("train", 1);
    story.pod("train", 1);
    story.world.set_state(RunState::Cancelled);
    assert_snapshot!(story.whole());
}

#[test]
fn a_cancel_after_the_last_success_changes_nothing() {
    let mut story = Story::new(ONE);
    story.frame("");
    story.pod("train", 1);
    story.world.progress(&("train".to_owned(), 1));
    story.world.deliver(&("train".to_owned(), 1));
    story.world.set_state(RunState::Cancelled);
    assert_snapshot!(story.whole());
}

#[test]
fn a_suspended_run_lets_its_stages_end_and_starts_none() {
    let mut story = Story::new(WITH_FINALLY);
    story.frame("");
    story.world.set_suspend(true);
    story.frame("people suspend");
    story.pod("a", 1);
    story.pod("a", 1);
    story.wait(3600);
    story.world.set_suspend(false);
    story.frame("people resume");
    assert_snapshot!(story.whole());
}

#[test]
fn a_run_that_is_created_suspended_starts_later() {
    let mut story = Story::new(ONE);
    story.world.set_suspend(true);
    story.frame("");
    story.world.set_suspend(false);
    story.frame("people resume");
    assert_snapshot!(story.whole());
}

#[test]
fn an_input_that_may_be_absent_and_one_with_a_default_do_not_stop_a_stage() {
    let pipeline = "
stages:
- {name: old, container: {command: [x]}, outputs: [{name: model}]}
- {name: warm, container: {command: [x]}, inputs: [{name: model, from: old.model, optional: true}]}
- {name: base, container: {command: [x]}, inputs: [{name: model, from: old.model, default: 's3://bucket/base'}]}
- {name: needs, container: {command: [x]}, inputs: [{name: model, from: old.model}]}
";
    assert_snapshot!(Story::new(pipeline).ends("old", 1, Outcome::exits(1)).whole());
}

#[test]
fn a_rerun_takes_over_what_succeeded() {
    let mut first = Story::new(CHAIN).ends("train", 1, Outcome::exits(1));
    first.play();
    let from = CachedFrom { run: "iris-0".into(), uid: "uid-0".into(), pipeline: "iris".into() };
    let graph = &first.world.graph;
    let params = serde_json::Map::new();
    let rows = reuse(graph, &params, graph, &params, &first.world.status.stages, &from);
    assert_snapshot!("a_rerun_takes_over_what_succeeded", Story::of(World::rerun(spec(CHAIN), rows)).whole());

    // Other parameters may matter to any stage.
    let other = serde_json::Map::from_iter([("x".to_owned(), json!(1))]);
    let rows = reuse(graph, &other, graph, &params, &first.world.status.stages, &from);
    assert!(rows.iter().all(Option::is_none));
    // A stage that is defined otherwise runs again, and what needs it.
    let changed = World::new(spec(
        &CHAIN.replace("prepare, container: {command: [x]}", "prepare, container: {command: [other]}"),
    ));
    let rows = reuse(&changed.graph, &params, graph, &params, &first.world.status.stages, &from);
    assert!(rows.iter().all(Option::is_none));
}

#[test]
fn a_rerun_of_a_success_is_over_at_once() {
    let mut first = Story::new(CHAIN);
    first.play();
    let from = CachedFrom { run: "iris-0".into(), uid: "uid-0".into(), pipeline: "iris".into() };
    let params = serde_json::Map::new();
    let rows = reuse(&first.world.graph, &params, &first.world.graph, &params, &first.world.status.stages, &from);
    let mut second = Story::of(World::rerun(spec(CHAIN), rows));
    second.play();
    assert_eq!(second.world.effects, 1, "one status write");
    assert_snapshot!(second.text());
}

#[test]
fn an_operator_that_was_away_tells_the_true_times() {
    let mut story = Story::new(ONE);
    story.frame("");
    story.pod("train", 1);
    story.world.progress(&("train".to_owned(), 1));
    story.world.now = story.world.now.saturating_add(SignedDuration::from_secs(3600)).unwrap();
    story.world.crash();
    story.frame("an hour later the operator starts again");
    assert_snapshot!(story.text());
}

/// `kubectl describe` shows all of them, one below the other.
#[test]
fn conditions_do_not_repeat_each_other() {
    let told = |status: &PipelineRunStatus| -> String {
        let line = |it: &Condition| format!("{} {} {}: {}\n", it.type_, it.status, it.reason, it.message);
        let messages = || status.conditions.iter().map(|it| &it.message).filter(|text| !text.is_empty());
        assert_eq!(messages().count(), messages().collect::<BTreeSet<_>>().len(), "{:#?}", status.conditions);
        status.conditions.iter().map(line).collect()
    };
    let mut text = String::new();
    for (what, outcome) in [("succeeded", Outcome::default()), ("failed", Outcome::exits(1))] {
        let mut story = Story::new(CHAIN).ends("train", 1, outcome);
        story.play();
        writeln!(text, "{what}\n{}", told(&story.world.status)).unwrap();
    }
    let mut story = stopped(RunState::Terminated);
    story.play();
    writeln!(text, "terminated\n{}", told(&story.world.status)).unwrap();
    let message = "there is no Pipeline iris in namespace team: apply it, then create the run again";
    let status = refused(&PipelineRunStatus::default(), 1, Reason::PipelineNotFound, message, BEGIN);
    writeln!(text, "not accepted\n{}", told(&status)).unwrap();
    assert_snapshot!(text);
}
