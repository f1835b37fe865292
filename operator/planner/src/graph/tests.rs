use trainyard_crds::v1alpha1::StageKind;

use super::*;

fn graph(stages: &str) -> Result<Graph, SpecProblem> {
    let yaml = format!(
        "params: [{{name: p}}]\nstore: {{uri: s3://bucket}}\ndefaults: {{container: {{image: i}}, retry: {{limit: 2}}, timeout: 5m}}\n{stages}"
    );
    Graph::new(&serde_saphyr::from_str(&yaml).unwrap(), None)
}

fn problem(stages: &str) -> String {
    let problem = graph(stages).unwrap_err();
    format!("{} {}", problem.reason, problem.path)
}

#[test]
fn dependencies_come_from_inputs_references_conditions_and_words() {
    let graph = graph(
        r#"
stages:
- {name: a, container: {command: [x]}, outputs: [{name: o}], results: [{name: r}]}
- {name: b, container: {command: [x]}, inputs: [{name: i, from: a.o}]}
- {name: c, container: {command: ["$(stages.a.results.r)"]}}
- {name: d, container: {command: [x]}, when: "stages.c.phase == 'Failed'"}
- {name: e, container: {command: [x]}, dependsOn: [b], after: [{stage: d, phases: [Skipped]}]}
- {name: f, container: {command: [x]}, inputs: [{name: i, from: a.o, optional: true}]}
finally:
- {name: g, container: {command: ["$(run.phase)", "$(stages.e.phase)"]}}
"#,
    )
    .unwrap();
    let needs = |name: &str| -> Vec<(usize, u8)> {
        graph.nodes()[graph.position(name).unwrap()].needs.iter().map(|need| (need.node, need.on.0)).collect()
    };
    assert_eq!(needs("b"), [(0, 1)]);
    assert_eq!(needs("c"), [(0, 1)]);
    assert_eq!(needs("d"), [(2, 7)]);
    assert_eq!(needs("e"), [(1, 1), (3, 4)]);
    assert_eq!(needs("f"), [(0, 7)]);
    assert_eq!(needs("g"), [(4, 7)]);
}

#[test]
fn defaults_fill_what_a_stage_leaves_out() {
    let graph = graph("stages: [{name: a, retry: {infraLimit: 9}, container: {command: [x]}}]").unwrap();
    let stage = graph.nodes()[0].stage();
    let StageKind::Container(container) = &stage.kind else { unreachable!() };
    assert_eq!(container.image.as_deref(), Some("i"));
    assert_eq!(stage.timeout.as_deref(), Some("5m"));
    let retry = stage.retry.as_ref().unwrap();
    assert_eq!((retry.limit, retry.infra_limit), (Some(2), Some(9)));
}

#[test]
fn a_grace_period_of_nothing_kills_at_once() {
    let graph = graph("stages: [{name: a, gracePeriod: 0s, container: {command: [x]}}]").unwrap();
    assert_eq!(graph.nodes()[0].grace, 0);
}

#[test]
fn each_mistake_has_its_reason_and_path() {
    let table = [
        ("stages: [{name: a, container: {command: ['$(params.q)']}}]", "UnknownReference spec.stages[0].container"),
        (
            "stages: [{name: a, container: {command: ['$(inputs.q.path)']}}]",
            "UnknownReference spec.stages[0].container",
        ),
        (
            "stages: [{name: a, container: {command: ['$(stages.b.results.r)']}}]",
            "UnknownReference spec.stages[0].container",
        ),
        (
            "stages: [{name: a, container: {command: ['$(stages.b.results.r)']}}, {name: b, container: {command: [x]}, results: [{name: r}]}]",
            "NotUpstream spec.stages[0].container",
        ),
        ("stages: [{name: a, container: {command: [x]}, when: 'params.q'}]", "UnknownReference spec.stages[0].when"),
        (
            "stages: [{name: a, container: {command: [x]}, when: 'stages.a.phase == \"x\"'}]",
            "NotUpstream spec.stages[0].when",
        ),
        ("stages: [{name: a, container: {command: [x]}, when: '1 +'}]", "InvalidExpression spec.stages[0].when"),
        ("stages: [{name: a, container: {command: ['$(run.phase)']}}]", "UnknownReference spec.stages[0].container"),
        (
            "stages: [{name: a, container: {command: [x]}, when: 'run.phase == \"Failed\"'}]",
            "UnknownReference spec.stages[0].when",
        ),
        (
            "stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}, when: 'stages.a.results.r > 1'}]",
            "UnknownReference spec.stages[1].when",
        ),
        (
            "stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}, when: 'stages.a.metrics.m > 1.0'}]",
            "UnknownReference spec.stages[1].when",
        ),
        (
            "stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}, dependsOn: [a], after: [{stage: a, phases: [Failed]}]}]",
            "InvalidPipeline spec.stages[1]",
        ),
        ("parallel: 0\nstages: [{name: a, container: {command: [x]}}]", "InvalidPipeline spec.parallel"),
        ("stages: [{name: a, timeout: 0s, container: {command: [x]}}]", "InvalidPipeline spec.stages[0].timeout"),
        (
            "stages: [{name: a, gracePeriod: 99999999999999999999s, container: {command: [x]}}]",
            "InvalidPipeline spec.stages[0].gracePeriod",
        ),
        (
            "stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}, inputs: [{name: i, from: a.o}]}]",
            "UnknownReference spec.stages[1].inputs[0].from",
        ),
        (
            "stages: [{name: a, container: {command: [x]}, results: [{name: r}]}, {name: b, container: {command: [x]}, inputs: [{name: i, uri: 's3://b/$(stages.a.results.r)'}]}]",
            "UnknownReference spec.stages[1].inputs[0].uri",
        ),
        (
            "stages: [{name: a, container: {command: [x]}, inputs: [{name: i, uri: 's3://b/$(params.q)'}]}]",
            "UnknownReference spec.stages[0].inputs[0].uri",
        ),
        (
            "stages: [{name: a, container: {command: [x]}, outputs: [{name: x-y}, {name: x_y}]}]",
            "InvalidPipeline spec.stages[0].outputs",
        ),
        (
            "stages: [{name: a, container: {command: [x]}}]\nfinally: [{name: a, container: {command: [x]}}]",
            "InvalidPipeline spec.finally[0].name",
        ),
    ];
    for (stages, expected) in table {
        assert_eq!(problem(stages), expected, "{stages}");
    }
}

#[test]
fn a_pipeline_without_a_store_says_where_to_set_one() {
    let spec = serde_saphyr::from_str("stages: [{name: a, container: {image: i, command: [x]}}]").unwrap();
    let problem = Graph::new(&spec, None).unwrap_err();
    assert_eq!(problem.reason, Reason::StoreMissing);
}

#[test]
fn the_hash_follows_the_definition() {
    let hash = |stages: &str| graph(stages).unwrap().nodes()[0].hash().to_owned();
    let a = hash("stages: [{name: a, container: {command: [x]}}]");
    assert_eq!(a, hash("stages: [{name: a, container: {command: [x]}}, {name: b, container: {command: [x]}}]"));
    assert_ne!(a, hash("stages: [{name: a, container: {command: [z]}}]"));
}
