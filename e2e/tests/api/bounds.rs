//! Every bound of the schemas, found in the schemas: a value at the bound is accepted, one past it is refused with the field's name.
//!
//! The values go into the places of `samples.yaml`. A field that no sample has fails the test, as does a pattern that [`text`] does
//! not know: so a new field comes with its sample.

use crate::server::{Kind, server};
use crate::{here, spec_schema, yaml};
use serde_json::{Map, Value, json};

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Any item of a list.
    Item,
    /// Any entry of a map.
    Entry,
}

/// A value to put somewhere, and whether it is to be accepted.
struct Probe {
    why: String,
    value: Option<Value>,
    accepted: bool,
}

fn good(why: impl Into<String>, value: Value) -> Probe {
    Probe { why: why.into(), value: Some(value), accepted: true }
}

fn bad(why: impl Into<String>, value: Value) -> Probe {
    Probe { why: why.into(), value: Some(value), accepted: false }
}

/// A text of that length that the pattern allows, where one can be.
fn text(pattern: Option<&str>, length: usize) -> String {
    let after = |start: &str| format!("{start}{}", "a".repeat(length.saturating_sub(start.len())));
    match pattern {
        None
        | Some("^[a-zA-Z]([-_a-zA-Z0-9]*[a-zA-Z0-9])?$" | "^[A-Za-z0-9][^\\s]*$" | "^[a-zA-Z_][a-zA-Z0-9_.-]*$") => {
            after("")
        }
        Some("^[A-Za-z0-9_.][^\\s]*$") => after("_"),
        // Not the letter that the samples' stages are named with.
        Some("^[a-z]([-a-z0-9]*[a-z0-9])?$") => "z".repeat(length),
        Some("^[A-Za-z_][A-Za-z0-9_]*$") => "Z".repeat(length),
        Some("^[^/].*/COMMIT$") => format!("{}/COMMIT", "a".repeat(length.saturating_sub(7))),
        Some("^sha256:[0-9a-f]+$") => after("sha256:"),
        Some("^#!") => after("#!"),
        Some("^https?://") => after("http://"),
        Some("^(s3|gs|az)://[A-Za-z0-9]") => after("s3://"),
        Some("^(/[^/:]+)+/?$") => after("/"),
        Some("^([0-9]{1,9}[smhd])+$") => match length % 2 {
            0 => "1s".repeat(length / 2),
            _ => format!("{}1", "1s".repeat(length / 2)).replacen("1s", "10s", usize::from(length > 2))[..length]
                .to_owned(),
        },
        Some(from) if from.contains("[.]") => {
            let stage = (length.max(2) - 2).clamp(1, 40);
            let stage = if stage < 40 { 1 } else { 40 };
            format!("{}.{}", "a".repeat(stage), "a".repeat(length.saturating_sub(stage + 1)))
        }
        Some(other) => {
            unreachable!("no text for the pattern {other}: add it here, and texts that it refuses to `refused_by`")
        }
    }
}

/// Texts that no name, path or time of ours may be.
const REFUSED: [&str; 3] = ["-", " ", "\n"];

fn number(schema: &Value, key: &str) -> Option<i64> {
    let value = schema.get(key)?;
    value.as_i64().or_else(|| value.as_f64().map(|f| f as i64))
}

fn size(schema: &Value, key: &str) -> Option<usize> {
    number(schema, key).and_then(|n| usize::try_from(n).ok())
}

/// What to try in the place of `current`, which is of `schema`.
fn probes(schema: &Value, current: &Value, pool: &[String]) -> Vec<Probe> {
    let mut probes = Vec::new();
    let pattern = schema.get("pattern").and_then(Value::as_str);
    let either = schema.get("x-kubernetes-int-or-string").is_some();
    if either {
        probes.push(bad("type", json!(true)));
        probes.extend([good("a number", json!(0)), good("a text", json!("1Gi")), bad("minimum", json!(-1))]);
        probes.extend(["-1", "no quantity", ""].map(|quantity| bad("pattern", json!(quantity))));
        return probes;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => {
            probes.push(bad("type", json!(5)));
            if let Some(words) = schema.get("enum").and_then(Value::as_array) {
                probes.extend(words.iter().map(|word| good("enum", word.clone())));
                probes.push(bad("enum", json!("Nonsense")));
                return probes;
            }
            if let Some(least) = size(schema, "minLength") {
                probes.push(good(format!("minLength {least}"), json!(text(pattern, least))));
                let short: String = text(pattern, least).chars().take(least - 1).collect();
                probes.push(bad(format!("minLength {least}"), json!(short)));
            }
            if let Some(most) = size(schema, "maxLength") {
                probes.push(good(format!("maxLength {most}"), json!(text(pattern, most))));
                probes.push(bad(format!("maxLength {most}"), json!(text(pattern, most + 1))));
            }
            probes.extend(pattern.into_iter().flat_map(|p| REFUSED.map(|t| bad(format!("pattern {p}"), json!(t)))));
        }
        Some("integer" | "number") => {
            probes.push(bad("type", json!("text")));
            if let Some(least) = number(schema, "minimum") {
                probes.extend([good("minimum", json!(least)), bad("minimum", json!(least - 1))]);
            }
            if let Some(most) = number(schema, "maximum") {
                probes.extend([good("maximum", json!(most)), bad("maximum", json!(most + 1))]);
            }
        }
        Some("boolean") => {
            probes.extend([good("true", json!(true)), good("false", json!(false)), bad("type", json!("no"))])
        }
        Some("array") => lists(schema, current.as_array().unwrap(), pool, &mut probes),
        Some("object") => objects(schema, current.as_object().unwrap(), &mut probes),
        _ => {}
    }
    probes
}

fn lists(schema: &Value, items: &[Value], pool: &[String], probes: &mut Vec<Probe>) {
    probes.push(bad("type", json!("text")));
    if let Some(least) = size(schema, "minItems") {
        probes.push(good(format!("minItems {least}"), items[..least].into()));
        probes.push(bad(format!("minItems {least}"), items[..least - 1].into()));
    }
    let last = items.last().unwrap();
    let kind = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let key = schema.pointer("/x-kubernetes-list-map-keys/0").and_then(Value::as_str);
    if matches!(kind, Some("map" | "set")) {
        probes.push(bad("duplicate", [items, std::slice::from_ref(last)].concat().into()));
    }
    let most = size(schema, "maxItems").unwrap();
    let another = |number: usize| {
        let name = if pool.is_empty() { format!("k{number}") } else { pool[number].clone() };
        match (kind, key) {
            (Some("map"), Some(key)) => {
                let mut item = last.clone();
                item[key] = json!(name);
                item
            }
            (Some("set"), _) => match schema.pointer("/items/enum") {
                Some(words) => words[number % words.as_array().unwrap().len()].clone(),
                None => json!(name),
            },
            _ => last.clone(),
        }
    };
    // With references, what stands there already would be named twice.
    let kept = if pool.is_empty() && schema.pointer("/items/enum").is_none() { items.len() } else { 0 };
    let filled = |count: usize| {
        let fresh = (0..count - kept).map(another);
        Value::Array(items[..kept].iter().cloned().chain(fresh).collect())
    };
    probes.push(good(format!("maxItems {most}"), filled(most)));
    probes.push(bad(format!("maxItems {most}"), filled(most + 1)));
}

fn objects(schema: &Value, entries: &Map<String, Value>, probes: &mut Vec<Probe>) {
    probes.push(bad("type", json!("text")));
    for field in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        let mut object = entries.clone();
        object.remove(field.as_str().unwrap());
        probes.push(bad(format!("required {field}"), object.into()));
    }
    if schema.get("properties").is_some() {
        let mut object = entries.clone();
        object.insert("surprise".into(), json!(1));
        probes.push(bad("unknown field", object.into()));
    }
    if let Some(most) = size(schema, "maxProperties") {
        let value = entries.values().next().unwrap();
        let filled = |count: usize| (0..count).map(|n| (format!("k{n}"), value.clone())).collect::<Map<_, _>>();
        probes.push(good(format!("maxProperties {most}"), filled(most).into()));
        probes.push(bad(format!("maxProperties {most}"), filled(most + 1).into()));
    }
}

/// The last place in `value` that `way` leads to, as a JSON pointer.
fn find(value: &Value, way: &[Step]) -> Option<String> {
    let Some((step, rest)) = way.split_first() else { return Some(String::new()) };
    let children: Vec<(String, &Value)> = match (step, value) {
        (Step::Field(name), Value::Object(map)) => {
            map.get(name).map(|child| (name.clone(), child)).into_iter().collect()
        }
        (Step::Item, Value::Array(items)) => {
            items.iter().enumerate().map(|(n, child)| (n.to_string(), child)).collect()
        }
        (Step::Entry, Value::Object(map)) => map.iter().map(|(key, child)| (key.clone(), child)).collect(),
        _ => return None,
    };
    children.into_iter().rev().find_map(|(name, child)| find(child, rest).map(|tail| format!("/{name}{tail}")))
}

/// Every schema below `schema` and the way to it.
fn walk<'a>(schema: &'a Value, way: &mut Vec<Step>, found: &mut Vec<(Vec<Step>, &'a Value)>) {
    found.push((way.clone(), schema));
    let mut deeper = |step: Step, child: &'a Value| {
        way.push(step);
        walk(child, way, found);
        way.pop();
    };
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        deeper(Step::Field(name.clone()), child);
    }
    if let Some(items) = schema.get("items") {
        deeper(Step::Item, items);
    }
    if let Some(entries) = schema.get("additionalProperties").filter(|entries| entries.is_object()) {
        deeper(Step::Entry, entries);
    }
}

/// The names that a list of references may hold: those of the stages, in their order.
fn pool(way: &[Step], sample: &Value) -> Vec<String> {
    match way.last() {
        Some(Step::Field(name)) if name == "dependsOn" || name == "after" => {
            let names = sample["stages"].as_array().unwrap().iter();
            names.map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

fn try_all(kind: Kind, schema: &Value, samples: &[Value]) {
    for sample in samples {
        let answer = server().try_create(kind, sample);
        assert!(answer.accepted(), "a sample is wrong: {}", answer.message());
    }
    let mut places = Vec::new();
    walk(schema, &mut Vec::new(), &mut places);
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (way, schema) in &places {
        let Some((sample, pointer)) = samples.iter().find_map(|s| find(s, way).map(|pointer| (s, pointer))) else {
            wrong.push(format!("no sample has {way:?}"));
            continue;
        };
        let field = pointer.split('/').rfind(|part| !part.is_empty() && part.parse::<u32>().is_err());
        for Probe { why, value, accepted } in probes(schema, sample.pointer(&pointer).unwrap(), &pool(way, sample)) {
            let mut object = sample.clone();
            *object.pointer_mut(&pointer).unwrap() = value.clone().unwrap_or_default();
            let answer = server().try_create(kind, &object);
            tried += 1;
            if answer.accepted() != accepted {
                let mut shown = value.map(|value| value.to_string()).unwrap_or_default();
                shown.truncate(100);
                wrong.push(format!(
                    "spec{pointer}, {why}: {shown}: should be accepted={accepted}: {}",
                    answer.message()
                ));
            } else if !accepted && !answer.message().contains(field.unwrap_or("spec")) {
                wrong.push(format!("spec{pointer}, {why}: does not name the field: {}", answer.message()));
            }
        }
    }
    println!("{tried} values in {} places", places.len());
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Rules within a run are evaluated only at its creation, so they differ in form; the corpus tries both.
fn without_rules(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("x-kubernetes-validations");
            map.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        _ => {}
    }
}

/// Fields of a Pipeline that one within a run does not have: they say what starts runs.
const TRIGGERS: [&str; 6] = ["triggers", "concurrency", "retryFailedRevision", "rerunToken", "suspend", "retention"];

/// The pipelines within runs, and the stages of `finally`, have the same schema: what is tried once holds for all.
#[test]
fn the_same_shapes_have_the_same_bounds_everywhere() {
    let pipeline = spec_schema("pipelines.yaml");
    assert_eq!(pipeline["properties"]["stages"]["items"], pipeline["properties"]["finally"]["items"]);
    let mut inline = spec_schema("pipelineruns.yaml")["properties"]["pipeline"].clone();
    let mut outer = pipeline;
    for field in TRIGGERS {
        assert!(outer["properties"].as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    for schema in [&mut inline, &mut outer] {
        schema["description"] = json!("");
        without_rules(schema);
    }
    assert_eq!(inline, outer);
}

#[test]
fn every_bound_of_a_pipeline_holds() {
    let mut schema = spec_schema("pipelines.yaml");
    schema["properties"]["finally"]["items"] = json!({});
    try_all(Kind::Pipeline, &schema, yaml(&here().join("samples.yaml"))["pipelines"].as_array().unwrap());
}

#[test]
fn every_bound_of_a_job_holds() {
    let schema = spec_schema("trainingjobs.yaml");
    try_all(Kind::TrainingJob, &schema, yaml(&here().join("samples.yaml"))["jobs"].as_array().unwrap());
}

#[test]
fn every_bound_of_a_run_holds() {
    let mut schema = spec_schema("pipelineruns.yaml");
    schema["properties"].as_object_mut().unwrap().remove("pipeline");
    try_all(Kind::PipelineRun, &schema, yaml(&here().join("samples.yaml"))["runs"].as_array().unwrap());
}
