//! What a stage's Pod is told to do.

use serde_json::{Map, Value, json};
use step_protocol::{EnvVar, InputSource, Segment, StepSpec, Text};
use trainyard_crds::v1alpha1::{CachedFrom, OutputStatus, StagePhase, StageStatus};
use trainyard_planner::{StepContext, StepProblem, artifact_uri, step_spec};

use crate::story::spec;
use crate::world::World;

const CONTEXT: StepContext<'static> = StepContext { report_url: None, default_timeout: None };

/// A run of this pipeline whose stages of these names have succeeded.
fn world(yaml: &str, succeeded: &[&str]) -> World {
    let mut world = World::new(spec(yaml));
    for row in &mut world.status.stages {
        if succeeded.contains(&row.name.as_str()) {
            row.phase = StagePhase::Succeeded;
            row.attempt = Some(1);
        }
    }
    world
}

fn row<'a>(world: &'a mut World, name: &str) -> &'a mut StageStatus {
    let node = world.graph.position(name).unwrap();
    &mut world.status.stages[node]
}

fn try_step(world: &World, stage: &str, context: StepContext<'_>) -> Result<StepSpec, StepProblem> {
    let node = world.graph.position(stage).unwrap();
    step_spec(&world.graph, &world.run(), &world.status.stages, node, 2, context)
}

fn step(world: &World, stage: &str) -> StepSpec {
    try_step(world, stage, CONTEXT).unwrap()
}

fn known(texts: &[&str]) -> Vec<Text> {
    texts.iter().map(|text| Text::from(*text)).collect()
}

#[test]
fn a_step_says_who_it_is_and_carries_the_whole_contract() {
    let world = world(
        "
code: {configMapName: iris-code}
params: [{name: rate, type: number, default: 0.1}]
stages:
- name: train
  container: {script: '#!/bin/sh', args: [--rate, $(params.rate)], env: [{name: RATE, value: $(params.rate)}]}
  outputs: [{name: model, type: Model}]
  results: [{name: rows, type: integer}, {name: note}]
  metrics: [accuracy]
  timeout: 1h30m
  gracePeriod: 5s
",
        &[],
    );
    let context = StepContext { report_url: Some("http://trainyard:8081/report"), default_timeout: Some(60) };
    insta::assert_json_snapshot!(try_step(&world, "train", context).unwrap());
}

#[test]
fn references_become_text_each_within_its_own_element() {
    let mut world = world(
        "
params:
- {name: text, default: 'a b; $(rm -rf /) $(params.list) {{x}}'}
- {name: list, type: list, default: [1, 'two']}
- {name: number, type: number, default: 0.25}
- {name: yes, type: boolean, default: true}
stages:
- {name: a, container: {command: [x]}, outputs: [{name: o}], results: [{name: n, type: integer}, {name: s}, {name: l, type: list}]}
- name: b
  inputs: [{name: i, from: a.o}]
  outputs: [{name: out}]
  container:
    command: [x, '$(params.text)', 'n=$(params.number),$(params.yes)', '$(params.list)', $(inputs.i.path)/x, $(outputs.out.path)]
    args: [$(stages.a.results.n), $(stages.a.results.s), $(stages.a.results.l), '$(run.name) $(run.namespace) $(run.uid) $(run.pipeline)', '$$(params.text)', '$HOME $$ ${X}']
    env: [{name: COUNT, value: 'rows: $(stages.a.results.n)'}, {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}}]
",
        &["a"],
    );
    row(&mut world, "a").results =
        [("n", json!(150)), ("s", json!("$(params.text) \"quoted\"\n")), ("l", json!([1, null]))]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
    let step = step(&world, "b");
    assert_eq!(
        step.command,
        known(&[
            "x",
            "a b; $(rm -rf /) $(params.list) {{x}}",
            "n=0.25,true",
            "[1,\"two\"]",
            "/trainyard/in/i/x",
            "/trainyard/out/out",
            "150",
            "$(params.text) \"quoted\"\n",
            "[1,null]",
            "iris-1 team run-uid iris",
            "$(params.text)",
            "$HOME $$ ${X}",
        ])
    );
    // Variables with a source are the Pod's own business.
    assert_eq!(step.env, [EnvVar { name: "COUNT".into(), value: "rows: 150".into() }]);
}

#[test]
fn a_result_that_the_status_does_not_have_is_left_to_the_runner() {
    let world = world(
        "
stages:
- {name: a, container: {command: [x]}, results: [{name: big}]}
- {name: b, container: {command: ['--text=$(stages.a.results.big)!', $(stages.a.results.big)]}}
",
        &["a"],
    );
    let result = || Segment::Result {
        commit: "team/iris/iris-1.run-uid/a/COMMIT".into(),
        stage: "a".into(),
        name: "big".into(),
    };
    let literal = |text: &str| Segment::Literal(text.to_owned());
    assert_eq!(
        step(&world, "b").command,
        [Text::Segments(vec![literal("--text="), result(), literal("!")]), Text::Segments(vec![result()])]
    );
}

#[test]
fn inputs_are_found_by_commit_record_with_the_digest_that_is_known() {
    let mut world = world(
        "
stages:
- {name: a, container: {command: [x]}, outputs: [{name: o}]}
- name: b
  container: {command: [x]}
  inputs: [{name: i, from: a.o}, {name: raw, uri: 's3://other/raw/'}]
",
        &["a"],
    );
    let source = |world: &World, input: usize| step(world, "b").inputs[input].source.clone();
    let stage = |commit: &str, digest: Option<&str>| InputSource::Stage {
        commit: commit.to_owned(),
        output: "o".into(),
        digest: digest.map(str::to_owned),
    };
    assert_eq!(source(&world, 0), stage("team/iris/iris-1.run-uid/a/COMMIT", None));
    assert_eq!(source(&world, 1), InputSource::Uri("s3://other/raw/".into()));

    let (name, uri, digest) = ("o".to_owned(), "s3://x".to_owned(), "sha256:1".to_owned());
    row(&mut world, "a").outputs = vec![OutputStatus { name, uri, digest, bytes: 1 }];
    assert_eq!(source(&world, 0), stage("team/iris/iris-1.run-uid/a/COMMIT", Some("sha256:1")));

    // Taken over: the record lies with the run that wrote it.
    let from = CachedFrom { run: "iris-0".into(), uid: "uid-0".into(), pipeline: "old".into() };
    row(&mut world, "a").cached_from = Some(from);
    assert_eq!(source(&world, 0), stage("team/old/iris-0.uid-0/a/COMMIT", Some("sha256:1")));
}

#[test]
fn an_address_may_name_parameters_and_the_run_and_lies_on_the_volume_as_the_pod_sees_it() {
    let yaml = "{params: [{name: day, default: x}, {name: table, default: x}], store: {volume: {claimName: models, subPath: of/us}},
 stages: [{name: a, container: {image: i, command: [x]}, inputs: [
  {name: raw, uri: 's3://raw/$(params.day)/$(run.namespace)/$(run.name)/$$(x)'},
  {name: table, uri: $(params.table)},
  {name: other, uri: 'volume:other/of/us/x/'}]}]}";
    let mut world = World::new(serde_saphyr::from_str(yaml).unwrap());
    world.params = Map::from_iter([
        ("day".to_owned(), json!("2026-01-02")),
        ("table".to_owned(), json!("volume:models/of/us/team/clean/r.u/clean/1/table/")),
    ]);
    let sources: Vec<InputSource> = step(&world, "a").inputs.into_iter().map(|input| input.source).collect();
    let expected = [
        "s3://raw/2026-01-02/team/iris-1/$(x)",
        "file:///trainyard-store/team/clean/r.u/clean/1/table/",
        "volume:other/of/us/x/",
    ];
    assert_eq!(sources, expected.map(|uri| InputSource::Uri(uri.into())));
}

#[test]
fn an_input_whose_stage_gave_nothing_is_absent_or_its_default() {
    let mut world = world(
        "
stages:
- {name: a, container: {command: [x]}, outputs: [{name: o}]}
- {name: may, container: {command: [x]}, inputs: [{name: i, from: a.o, optional: true}]}
- {name: default, container: {command: [x]}, inputs: [{name: i, from: a.o, default: 's3://x/y'}]}
- {name: must, container: {command: [x]}, inputs: [{name: i, from: a.o}]}
",
        &[],
    );
    for phase in [StagePhase::Failed, StagePhase::Skipped, StagePhase::Cancelled] {
        row(&mut world, "a").phase = phase;
        assert_eq!(step(&world, "may").inputs[0].source, InputSource::Absent);
        assert!(step(&world, "may").inputs[0].optional);
        assert_eq!(step(&world, "default").inputs[0].source, InputSource::Uri("s3://x/y".into()));
        assert_eq!(try_step(&world, "must", CONTEXT), Err(StepProblem::NotReady("a".into())));
    }
}

#[test]
fn finally_knows_how_the_run_and_its_stages_ended() {
    let yaml = "
stages:
- {name: a, container: {command: [x]}}
- {name: b, allowFailure: true, container: {command: [x]}}
finally: [{name: f, container: {command: [$(run.phase), $(stages.a.phase), $(stages.b.phase)]}}]
";
    let phases = |a: StagePhase, b: StagePhase| {
        let mut world = world(yaml, &[]);
        row(&mut world, "a").phase = a;
        row(&mut world, "b").phase = b;
        step(&world, "f").command
    };
    use StagePhase::{Cancelled, Failed, Skipped, Succeeded};
    assert_eq!(phases(Succeeded, Succeeded), known(&["Succeeded", "Succeeded", "Succeeded"]));
    assert_eq!(phases(Succeeded, Failed), known(&["Succeeded", "Succeeded", "Failed"]));
    assert_eq!(phases(Failed, Skipped), known(&["Failed", "Failed", "Skipped"]));
    assert_eq!(phases(Cancelled, Cancelled), known(&["Cancelled", "Cancelled", "Cancelled"]));
}

#[test]
fn a_volume_is_a_store_like_any_other() {
    let yaml = "{store: {volume: {claimName: artifacts, subPath: /team-a/}}, stages: [{name: a, container: {image: i, command: [x]}}]}";
    let world = World::new(serde_saphyr::from_str(yaml).unwrap());
    let step = step(&world, "a");
    assert_eq!((step.store.uri.as_str(), step.store.s3), ("file:///trainyard-store", None));
    assert_eq!(step.prefix, "team/iris/iris-1.run-uid/a");
    let uri = artifact_uri(world.graph.store(), &world.run(), "a", 3, "model");
    assert_eq!(uri, "volume:artifacts/team-a/team/iris/iris-1.run-uid/a/3/model/");
}

#[test]
fn an_s3_store_keeps_what_is_said_of_it() {
    let yaml = "
store: {uri: 's3://bucket/prefix/', s3: {endpoint: 'http://store:9000', region: eu, virtualHostedStyle: true}}
stages: [{name: a, container: {image: i, command: [x]}}]
";
    let world = World::new(serde_saphyr::from_str(yaml).unwrap());
    let s3 = step(&world, "a").store.s3.unwrap();
    assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://store:9000"), Some("eu")));
    assert!(s3.virtual_hosted_style);
    let uri = artifact_uri(world.graph.store(), &world.run(), "a", 1, "model");
    assert_eq!(uri, "s3://bucket/prefix/team/iris/iris-1.run-uid/a/1/model/");
}

#[test]
fn the_timeout_is_the_stages_else_the_pipelines_else_the_installations() {
    let world = world(
        "stages: [{name: a, container: {command: [x]}}, {name: b, timeout: 90s, container: {command: [x]}}]",
        &[],
    );
    let timeout = |stage: &str, default_timeout| {
        try_step(&world, stage, StepContext { report_url: None, default_timeout }).unwrap().timeout_seconds
    };
    assert_eq!((timeout("a", None), timeout("a", Some(60)), timeout("b", Some(60))), (None, Some(60), Some(90)));
    assert_eq!(step(&world, "a").grace_seconds, 30);
}

#[test]
fn all_parameters_are_there_typed() {
    let world = world(
        "
params: [{name: n, type: integer, default: 3}, {name: o, type: object, default: {a: [1]}}]
stages: [{name: a, container: {command: [x]}}]
",
        &[],
    );
    let params: Map<String, Value> =
        Map::from_iter([("n".to_owned(), json!(3)), ("o".to_owned(), json!({ "a": [1] }))]);
    assert_eq!(step(&world, "a").params, params);
}

#[test]
fn a_step_of_no_stage_is_a_problem_and_no_panic() {
    let world = world(
        "stages: [{name: a, container: {command: [x]}}, {name: b, dependsOn: [a], container: {command: [x]}}]",
        &[],
    );
    let rows = &world.status.stages;
    assert_eq!(step_spec(&world.graph, &world.run(), rows, 7, 1, CONTEXT), Err(StepProblem::Unknown(7)));
    assert!(step_spec(&world.graph, &world.run(), &[], 1, 1, CONTEXT).is_ok());
}
