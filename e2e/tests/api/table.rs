//! Rows of `corpus.yaml`, and what they make of their base.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a row changes: a path below `spec`, its parts parted by dots, and the value there; null takes the field away.
pub(crate) type Changes = BTreeMap<String, Value>;

/// Runs that fail at once, before any Pod.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    /// The reason that the run's status gives.
    pub(crate) reason: String,
    /// The field that its message names.
    pub(crate) field: String,
    pub(crate) rows: BTreeMap<String, Changes>,
}

/// The base with a row's changes.
pub(crate) fn changed(base: &Value, changes: &Changes) -> Value {
    let mut spec = base.clone();
    for (path, value) in changes {
        let mut at = &mut spec;
        for part in path.split('.') {
            at = step(at, part);
        }
        *at = value.clone();
    }
    pruned(spec)
}

fn step<'a>(value: &'a mut Value, part: &str) -> &'a mut Value {
    if let (Value::Array(_) | Value::Null, Ok(index)) = (&*value, part.parse::<usize>()) {
        if value.is_null() {
            *value = json!([]);
        }
        let items = value.as_array_mut().unwrap();
        if index >= items.len() {
            items.resize(index + 1, Value::Null);
        }
        return &mut items[index];
    }
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value
        .as_object_mut()
        .unwrap_or_else(|| unreachable!("{part} is no part of an object"))
        .entry(part)
        .or_insert(Value::Null)
}

/// Without the fields and items that are null, and with every long text written out.
fn pruned(value: Value) -> Value {
    if let (Some(text), Some(times)) = (value["repeat"].as_str(), value["times"].as_u64()) {
        return Value::String(text.repeat(usize::try_from(times).unwrap()) + value["end"].as_str().unwrap_or_default());
    }
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, pruned(v))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().filter(|item| !item.is_null()).map(pruned).collect(),
        other => other,
    }
}
