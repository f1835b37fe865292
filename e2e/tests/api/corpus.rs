//! Objects and edits with the answer that is expected. To add a case, add a row to `corpus.yaml`.

use crate::server::{Answer, Kind, server};
use crate::table::{Changes, Refusal, changed};
use crate::{here, spec_schema, yaml};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use trainyard_crds::v1alpha1::PipelineRunSpec;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    /// The specs that rows start from.
    bases: BTreeMap<String, Value>,
    objects: Vec<Group>,
    /// What the API server takes and the operator refuses.
    refusals: Vec<Refusal>,
    /// The same, of triggers.
    triggers: Vec<Refusal>,
    edits: Vec<Edit>,
}

/// Rows about one thing that the API promises.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    /// The message of a rule of the definitions; every refused row is answered with it.
    rule: Option<String>,
    /// Without a rule: a text that the answers contain.
    says: Option<String>,
    /// The field that the answers name.
    field: String,
    #[serde(default = "pipeline")]
    on: String,
    #[serde(default)]
    accepted: BTreeMap<String, Changes>,
    #[serde(default)]
    refused: BTreeMap<String, Changes>,
}

/// An object as it was, and what is made of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    rule: Option<String>,
    says: Option<String>,
    field: String,
    on: String,
    #[serde(default)]
    was: Changes,
    #[serde(default)]
    accepted: BTreeMap<String, Changes>,
    #[serde(default)]
    refused: BTreeMap<String, Changes>,
}

fn pipeline() -> String {
    "pipeline".to_owned()
}

fn corpus() -> Corpus {
    serde_json::from_value(yaml(&here().join("corpus.yaml"))).unwrap()
}

/// Whether a refusal says what it should; else what is wrong with it.
fn judge(answer: &Answer, expected: &str, field: &str) -> Option<String> {
    let message = answer.message();
    if answer.accepted() {
        Some("was accepted".to_owned())
    } else if !message.contains(expected) {
        Some(format!("does not say `{expected}`: {message}"))
    } else if !message.contains(field) {
        Some(format!("does not name {field}: {message}"))
    } else {
        None
    }
}

/// Pipelines are tried as they are and within a run.
fn forms(base: &str, spec: Value) -> Vec<(Kind, Value)> {
    match base {
        "run" => vec![(Kind::PipelineRun, spec)],
        "job" => vec![(Kind::TrainingJob, spec)],
        "triggered" => vec![(Kind::Pipeline, spec)],
        _ => vec![(Kind::PipelineRun, json!({ "pipeline": spec })), (Kind::Pipeline, spec)],
    }
}

#[test]
fn objects_are_answered_as_the_corpus_says() {
    let corpus = corpus();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for group in &corpus.objects {
        let base = &corpus.bases[&group.on];
        let expected = group.rule.as_ref().or(group.says.as_ref()).unwrap();
        for (name, changes) in &group.accepted {
            for (kind, spec) in forms(&group.on, changed(base, changes)) {
                let answer = server().try_create(kind, &spec);
                rows += 1;
                if !answer.accepted() {
                    wrong.push(format!("{kind:?}, {expected}, {name}: should be accepted: {}", answer.message()));
                }
            }
        }
        for (name, changes) in &group.refused {
            for (kind, spec) in forms(&group.on, changed(base, changes)) {
                let answer = server().try_create(kind, &spec);
                rows += 1;
                let inline = kind == Kind::PipelineRun && group.on == "pipeline";
                let field =
                    if inline { group.field.replacen("spec.", "spec.pipeline.", 1) } else { group.field.clone() };
                wrong.extend(judge(&answer, expected, &field).map(|why| format!("{kind:?}, {name}: {why}")));
            }
        }
    }
    println!("{rows} objects");
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn edits_are_answered_as_the_corpus_says() {
    let corpus = corpus();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for (number, edit) in corpus.edits.iter().enumerate() {
        let kind = match edit.on.as_str() {
            "run" => Kind::PipelineRun,
            "job" => Kind::TrainingJob,
            _ => Kind::Pipeline,
        };
        let was = changed(&corpus.bases[&edit.on], &edit.was);
        let object = server().create(kind, &format!("edit-{number}"), &was);
        let mut answer = |changes: &Changes| {
            let mut object = object.clone();
            object["spec"] = changed(&was, changes);
            rows += 1;
            let path = format!("{}/edit-{number}?dryRun=All&fieldValidation=Strict", kind.resource());
            server().send(Method::PUT, &path, &object)
        };
        let expected = edit.rule.as_ref().or(edit.says.as_ref()).unwrap();
        for (name, changes) in &edit.accepted {
            let answer = answer(changes);
            if !answer.accepted() {
                wrong.push(format!("{name}: should be accepted: {}", answer.message()));
            }
        }
        for (name, changes) in &edit.refused {
            wrong.extend(judge(&answer(changes), expected, &edit.field).map(|why| format!("{name}: {why}")));
        }
    }
    println!("{rows} edits");
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every message of a rule anywhere below `schema`.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(rules) = map.get("x-kubernetes-validations").and_then(Value::as_array) {
                found.extend(rules.iter().map(|rule| rule["message"].as_str().unwrap().to_owned()));
            }
            map.values().for_each(|child| messages(child, found));
        }
        Value::Array(items) => items.iter().for_each(|child| messages(child, found)),
        _ => {}
    }
}

#[test]
fn every_rule_has_an_accepted_and_a_refused_row() {
    let mut rules = BTreeSet::new();
    for file in ["pipelines.yaml", "pipelineruns.yaml", "trainingjobs.yaml"] {
        messages(&spec_schema(file), &mut rules);
    }
    assert!(rules.len() >= 30, "{} rules", rules.len());
    let corpus = corpus();
    let groups = corpus.objects.iter().map(|g| (&g.rule, &g.accepted, &g.refused));
    let edits = corpus.edits.iter().map(|e| (&e.rule, &e.accepted, &e.refused));
    let (mut with_accepted, mut with_refused) = (BTreeSet::new(), BTreeSet::new());
    for (rule, accepted, refused) in groups.chain(edits) {
        let Some(rule) = rule else { continue };
        assert!(rules.contains(rule), "no definition has the rule `{rule}`");
        if !accepted.is_empty() {
            with_accepted.insert(rule.clone());
        }
        if !refused.is_empty() {
            with_refused.insert(rule.clone());
        }
    }
    let missing = |rows: &BTreeSet<String>| rules.difference(rows).cloned().collect::<Vec<_>>();
    assert_eq!(missing(&with_refused), Vec::<String>::new(), "rules without a refused row");
    assert_eq!(missing(&with_accepted), Vec::<String>::new(), "rules without an accepted row");
}

/// The API server takes these; the operator's answer is that of the planner, which is asked here, and the stories ask the operator.
#[test]
fn refusals_are_answered_as_the_corpus_says() {
    let corpus = corpus();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for refusal in &corpus.refusals {
        for (name, changes) in &refusal.rows {
            let spec = changed(&corpus.bases["refusal"], changes);
            rows += 1;
            let answer = server().try_create(Kind::PipelineRun, &spec);
            if !answer.accepted() {
                wrong.push(format!("{name}: the API server should take it: {}", answer.message()));
                continue;
            }
            match refused(&spec) {
                Some(problem) if problem.reason.as_str() == refusal.reason && problem.path == refusal.field => {}
                other => wrong.push(format!("{name}: {other:?} instead of {} at {}", refusal.reason, refusal.field)),
            }
        }
    }
    println!("{rows} refusals");
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same for what starts runs, of a Pipeline by itself.
#[test]
fn triggers_are_refused_as_the_corpus_says() {
    let corpus = corpus();
    let mut wrong = Vec::new();
    for refusal in &corpus.triggers {
        for (name, changes) in &refusal.rows {
            let spec = changed(&corpus.bases["triggered"], changes);
            let answer = server().try_create(Kind::Pipeline, &spec);
            if !answer.accepted() {
                wrong.push(format!("{name}: the API server should take it: {}", answer.message()));
                continue;
            }
            match trainyard_planner::retrain::check("iris", &serde_json::from_value(spec).unwrap(), &[]) {
                Err(problem) if problem.reason.as_str() == refusal.reason && problem.path == refusal.field => {}
                other => wrong.push(format!("{name}: {other:?} instead of {} at {}", refusal.reason, refusal.field)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Why the operator would not begin such a run.
fn refused(spec: &Value) -> Option<trainyard_planner::SpecProblem> {
    let spec: PipelineRunSpec = serde_json::from_value(spec.clone()).unwrap();
    let pipeline = spec.pipeline.unwrap();
    let graph = trainyard_planner::Graph::new(&pipeline, None);
    graph.err().or_else(|| trainyard_planner::resolve_params(&pipeline.params, &spec.params).err())
}
