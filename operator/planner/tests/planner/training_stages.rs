//! Stages that train: what their run does with their jobs, and what a job is told to do.

use insta::assert_snapshot;
use serde_json::json;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{OutputStatus, RunPhase, RunState, StagePhase, TrainingJobSpec};
use trainyard_planner::training::Job;
use trainyard_planner::{Class, Graph, StepProblem, job_spec};

use crate::story::{Story, spec};
use crate::world::{Outcome, World};

const FIT: &str = "
stages:
- {name: prepare, container: {command: [x]}, outputs: [{name: table}]}
- name: fit
  trainingJob: {framework: Torch, roles: [{name: worker, replicas: 2, container: {command: [x]}}]}
  inputs: [{name: table, from: prepare.table}]
  outputs: [{name: model}]
  metrics: [loss]
- {name: evaluate, container: {command: [x]}, inputs: [{name: model, from: fit.model}]}
";

const ONE: &str = "
stages:
- {name: fit, trainingJob: {framework: None, roles: [{name: worker, replicas: 2, container: {command: [x]}}]}}
";

fn fit() -> (String, u32) {
    ("fit".to_owned(), 1)
}

/// A run whose training is running.
fn running() -> Story {
    let mut story = Story::new(ONE);
    story.frame("");
    story.pod("fit", 1);
    story
}

#[test]
fn a_training_is_one_job_and_its_end_is_the_stages() {
    let mut story = Story::new(FIT);
    story.play();
    let row = story.world.row("fit");
    let training = row.training.as_ref().unwrap();
    assert_eq!((row.pod.as_str(), training.job.as_str()), ("", names::job("iris-1", "run-uid", "fit", 1).as_str()));
    assert_eq!(row.metrics["loss"], json!(1.0));
    assert_snapshot!(story.text());
}

#[test]
fn a_training_that_failed_is_not_repeated_by_the_run() {
    let failed = Outcome::fails(
        Class::Fatal,
        "UserError",
        "the training failed after 4 attempts: worker-1 ended with UserError",
    );
    assert_snapshot!(Story::new(FIT).ends("fit", 1, failed).whole());
}

#[test]
fn a_job_that_was_deleted_is_followed_by_another() {
    let mut story = running();
    story.world.delete_pod(&fit(), |_| true);
    story.world.deliver(&fit());
    story.frame("somebody deletes the job");
    assert_snapshot!(story.whole());
}

#[test]
fn what_a_deleted_job_had_published_is_the_stages() {
    let mut story = Story::new(FIT).ends("fit", 1, Outcome::VanishesCommitted { metric: 0.5 });
    story.play();
    let row = story.world.row("fit");
    assert_eq!((row.phase, row.attempt), (StagePhase::Succeeded, Some(2)));
    assert!(row.outputs[0].uri.contains("/fit/1/model/"), "{row:?}");
}

#[test]
fn a_suspended_run_suspends_its_training_and_goes_on_with_it() {
    let mut story = running();
    story.world.set_suspend(true);
    story.frame("spec.suspend: true");
    assert_eq!(story.world.status.phase, Some(RunPhase::Running), "its ranks are being stopped");
    story.pod("fit", 1);
    assert_eq!(story.world.status.phase, Some(RunPhase::Suspended));
    story.world.set_suspend(false);
    story.frame("spec.suspend: false");
    assert_snapshot!(story.whole());
}

#[test]
fn what_others_have_suspended_they_let_go_on() {
    let mut world = World::new(spec(ONE));
    world.settle();
    world.progress(&fit());
    let suspended = |world: &World| world.pods[&fit()].job.unwrap().suspend;
    world.pods.get_mut(&fit()).unwrap().job.as_mut().unwrap().suspend = true;
    world.deliver(&fit());
    world.settle();
    assert!(suspended(&world), "a person or a queue holds it");
    for suspend in [true, false] {
        world.set_suspend(suspend);
        world.settle();
        assert!(suspended(&world), "the run is suspended: {suspend}");
    }
    // A cancelled run needs no more than that it is suspended.
    world.set_state(RunState::Cancelled);
    world.finish();
    assert_eq!(world.row("fit").phase, StagePhase::Cancelled);
}

#[test]
fn a_cancelled_run_asks_its_training_to_stop_and_waits_for_that() {
    let mut story = running();
    story.world.set_state(RunState::Cancelled);
    story.frame("spec.state: Cancelled");
    assert!(!story.world.ended(), "its ranks are alive");
    assert_snapshot!(story.whole());
}

#[test]
fn a_training_that_was_suspended_is_cancelled_at_once() {
    let mut story = running();
    story.world.set_suspend(true);
    story.frame("");
    story.pod("fit", 1);
    story.world.set_state(RunState::Terminated);
    story.frame("spec.state: Terminated");
    assert_eq!(story.world.row("fit").phase, StagePhase::Cancelled);
    assert!(story.world.ended() && story.world.pods.is_empty());
}

#[test]
fn a_training_that_ends_while_it_is_being_stopped_has_ended_as_it_says() {
    let mut world = World::new(spec(ONE));
    world.settle();
    world.progress(&fit());
    world.deliver(&fit());
    world.settle();
    // It commits just before it hears of the cancel.
    world.progress(&fit());
    world.set_state(RunState::Cancelled);
    world.finish();
    assert_eq!(world.row("fit").phase, StagePhase::Succeeded);
}

#[test]
fn a_crash_between_the_create_and_the_status_meets_the_same_job() {
    let mut world = World::new(spec(ONE));
    // The create is its first effect, the write of the status the second.
    world.crash_before = Some(1);
    world.settle();
    assert_eq!((world.pods.len(), world.row("fit").attempt), (1, Some(1)));
    world.finish();
    assert_eq!(world.row("fit").phase, StagePhase::Succeeded);
}

fn job(world: &World, stage: &str) -> Result<TrainingJobSpec, StepProblem> {
    let node = world.graph.position(stage).unwrap();
    job_spec(&world.graph, &world.run(), &world.status.stages, node, Some("trainer"), Some(60))
}

const REFERENCES: &str = "
code: {configMapName: iris-code}
params: [{name: rate, type: number, default: 0.1}, {name: text, default: 'a $(params.rate) $$('}]
stages:
- {name: prepare, container: {command: [x]}, outputs: [{name: table}], results: [{name: rows, type: integer}]}
- name: fit
  inputs: [{name: table, from: prepare.table}, {name: raw, uri: s3://bucket/raw/}]
  outputs: [{name: model, type: Model}]
  results: [{name: epochs, type: integer}]
  metrics: [loss]
  gracePeriod: 1m
  trainingJob:
    framework: Torch
    restart: {limit: 1}
    checkpoint: {interval: 1m}
    roles:
    - name: chief
      replicas: 1
      container:
        command: [train, $(inputs.table.path), '$(params.rate)']
        args: [$(stages.prepare.results.rows), $(outputs.model.path)]
        env: [{name: TEXT, value: '$(params.text)'}, {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: RUN, value: $(run.name)}]
    - {name: worker, replicas: 3, container: {image: other:1, script: '#!/bin/sh', args: ['$$(params.rate)']}, pod: {runAsUser: 7}}
";

fn ready() -> World {
    let mut world = World::new(spec(REFERENCES));
    let row = &mut world.status.stages[0];
    (row.phase, row.attempt) = (StagePhase::Succeeded, Some(1));
    row.outputs = vec![OutputStatus {
        name: "table".into(),
        uri: String::new(),
        digest: format!("sha256:{}", "0".repeat(64)),
        bytes: 1,
    }];
    row.results.insert("rows".into(), json!(150));
    world
}

#[test]
fn a_job_is_the_frozen_stage_with_every_reference_replaced() {
    let spec = job(&ready(), "fit").unwrap();
    insta::assert_json_snapshot!(spec);
    // A job by itself takes it, and no text of a user is read as a reference again.
    Job::new(&spec, None).unwrap();
}

#[test]
fn a_result_that_only_the_store_has_is_named() {
    let mut world = ready();
    world.status.stages[0].results.clear();
    let problem = job(&world, "fit").unwrap_err();
    assert_eq!(problem.reason().as_str(), "ResultTooLarge");
    assert!(problem.to_string().contains("stages.prepare.results.rows"), "{problem}");
}

#[test]
fn a_stage_that_trains_has_no_other_way_to_begin_again() {
    for (field, path) in [("retry: {limit: 1}", "spec.stages[0].retry"), ("pod: {runAsUser: 7}", "spec.stages[0].pod")]
    {
        let stage = ONE.replace("name: fit,", &format!("name: fit, {field},"));
        let problem = Graph::new(&spec(&stage), None).unwrap_err();
        assert_eq!((problem.reason.as_str(), problem.path.as_str()), ("InvalidPipeline", path));
    }
    // A pipeline's own defaults are for its other stages.
    let defaults = "defaults: {container: {image: i}, retry: {limit: 3}, timeout: 2h, resources: {requests: {cpu: 1}}}";
    let yaml = format!("store: {{uri: s3://bucket}}\n{defaults}\n{ONE}");
    let graph = Graph::new(&serde_saphyr::from_str(&yaml).unwrap(), None).unwrap();
    let stage = graph.nodes()[0].stage();
    assert_eq!((&stage.retry, stage.timeout.as_deref()), (&None, Some("2h")));
    let text = serde_json::to_string(stage).unwrap();
    assert!(text.contains(r#""image":"i""#) && text.contains(r#""cpu""#), "{text}");
}

#[test]
fn paths_of_a_roles_volumes_are_held_where_the_schema_cannot() {
    let place = |volume: &str| {
        let pod = format!("container: {{command: [x]}}, pod: {{volumes: [{{name: v, emptyDir: {{}}, {volume}}}]}}");
        Graph::new(&spec(&ONE.replace("container: {command: [x]}", &pod)), None).err().map(|problem| problem.path)
    };
    let volume = "spec.stages[0].trainingJob.roles[0].pod.volumes[0]";
    for path in ["/a/../b", "/a/..", "/a/./b", "/.."] {
        assert_eq!(place(&format!("mountPath: {path}")), Some(format!("{volume}.mountPath")), "{path}");
    }
    for path in ["/a", "a/../b", ".."] {
        assert_eq!(place(&format!("mountPath: /a, subPath: {path}")), Some(format!("{volume}.subPath")), "{path}");
    }
    assert_eq!(place("mountPath: /a/..b/c..d, subPath: a/..b"), None);
}

#[test]
fn a_mistake_in_a_role_names_its_place() {
    let place = |container: &str| {
        let stage = ONE.replace("container: {command: [x]}", container);
        Graph::new(&spec(&stage), None).unwrap_err().path
    };
    assert_eq!(place("container: {command: ['$(params.q)']}"), "spec.stages[0].trainingJob.roles[0].container");
    assert_eq!(place("container: {command: [x, '$(']}"), "spec.stages[0].trainingJob.roles[0].container.command[1]");
    let yaml = format!("store: {{uri: s3://bucket}}\n{ONE}");
    let problem = Graph::new(&serde_saphyr::from_str(&yaml).unwrap(), None).unwrap_err();
    assert_eq!(problem.path, "spec.stages[0].trainingJob.roles[0].container.image");
}
