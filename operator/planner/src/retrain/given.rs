//! Parameters that triggers give to the runs that they start.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Cause, Param, PipelineSpec, Trigger, TriggerKind, UpstreamArtifact, ValueType};

use crate::SpecProblem;
use crate::params;
use crate::template::{Piece, pieces};

/// What `$(trigger.FIELD)` may name, of a kind of trigger.
fn fields(kind: &TriggerKind) -> &'static [&'static str] {
    match kind {
        TriggerKind::SpecChange(_) => &["name"],
        TriggerKind::Schedule(_) | TriggerKind::Backfill(_) => &["name", "instant", "date"],
        TriggerKind::Data(_) => &["name", "uri", "digest"],
        TriggerKind::Upstream(_) => &["name", "uri", "digest", "run"],
    }
}

/// What is wrong with the parameters that a trigger gives: each must be declared, of its type, and all that have no default must be there.
pub(super) fn check(spec: &PipelineSpec, trigger: &Trigger, path: &str) -> Result<(), SpecProblem> {
    for (name, value) in &trigger.params {
        let path = format!("{path}.params.{name}");
        let Some(param) = spec.params.iter().find(|param| param.name == *name) else {
            let known: Vec<&str> = spec.params.iter().map(|param| param.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("the pipeline has no parameter of this name; it has: {known}");
            return Err(SpecProblem::new(Reason::ParameterUnknown, path, message));
        };
        check_value(param, value, &trigger.kind, &path)?;
    }
    let missing = spec.params.iter().find(|param| param.default.is_none() && !trigger.params.contains_key(&param.name));
    if let Some(param) = missing {
        let message = format!("parameter {} has no default: give it a value here, or a default", param.name);
        return Err(SpecProblem::new(Reason::ParameterMissing, format!("{path}.params"), message));
    }
    Ok(())
}

fn check_value(param: &Param, value: &Value, kind: &TriggerKind, path: &str) -> Result<(), SpecProblem> {
    let mut refers = false;
    let field = |text: &str| {
        refers = true;
        let known = fields(kind);
        if text.strip_prefix("trigger.").is_some_and(|field| known.contains(&field)) {
            return Ok(String::new());
        }
        let known: Vec<String> = known.iter().map(|field| format!("$(trigger.{field})")).collect();
        let message = format!(
            "$({text}) is not known when this trigger starts a run; there are {}; write $$( for a literal $(",
            known.join(", ")
        );
        Err(SpecProblem::new(Reason::UnknownReference, path, message))
    };
    let sample = replaced(value, path, &mut { field })?;
    if !refers {
        return params::check(param, &sample, path).map(|_| ());
    }
    // What a text becomes is not known yet; that it is one, is.
    let kind = param.kind.unwrap_or_default();
    let fits = match &sample {
        Value::String(_) => kind == ValueType::String,
        Value::Array(_) => kind == ValueType::List,
        _ => kind == ValueType::Object,
    };
    if fits {
        return Ok(());
    }
    let message = format!("must be of type {}, and a value with $(...) is a text", kind.as_str());
    Err(SpecProblem::new(Reason::ParameterInvalid, path, message))
}

/// The values that a trigger gives to the run of a cause. Of a trigger that the spec does not have, none.
#[must_use]
pub fn given(
    spec: &PipelineSpec,
    trigger: &str,
    cause: &Cause,
    upstream: Option<&UpstreamArtifact>,
) -> BTreeMap<String, Value> {
    let Some(trigger) = spec.triggers.iter().find(|known| known.name == trigger) else { return BTreeMap::new() };
    let mut field = |text: &str| Ok(known(trigger, text, cause, upstream).unwrap_or_default());
    trigger
        .params
        .iter()
        .map(|(name, value)| (name.clone(), replaced(value, "", &mut field).unwrap_or_else(|_| value.clone())))
        .collect()
}

fn known(trigger: &Trigger, text: &str, cause: &Cause, upstream: Option<&UpstreamArtifact>) -> Option<String> {
    let instant = match cause {
        Cause::Schedule { instant } | Cause::Backfill { instant } => Some(instant.0),
        _ => None,
    };
    Some(match text {
        "trigger.name" => trigger.name.clone(),
        "trigger.instant" => instant?.to_string(),
        "trigger.date" => date(&trigger.kind, instant?),
        "trigger.run" => upstream?.run.clone(),
        "trigger.uri" => match &trigger.kind {
            TriggerKind::Data(data) => data.uri.clone(),
            _ => upstream?.uri.clone(),
        },
        "trigger.digest" => match cause {
            Cause::Data { fingerprint } => fingerprint.clone(),
            Cause::Upstream { digest, .. } => digest.clone(),
            _ => return None,
        },
        _ => return None,
    })
}

/// The day of an instant, where the trigger's clock is.
fn date(kind: &TriggerKind, instant: Timestamp) -> String {
    let zone = match kind {
        TriggerKind::Schedule(schedule) => schedule.time_zone.as_deref(),
        TriggerKind::Backfill(backfill) => backfill.time_zone.as_deref(),
        _ => None,
    };
    let zone = zone.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    instant.to_zoned(zone).date().to_string()
}

/// A value in whose texts, also of lists and objects, each reference is replaced by what `field` makes of it.
fn replaced(
    value: &Value,
    path: &str,
    field: &mut impl FnMut(&str) -> Result<String, SpecProblem>,
) -> Result<Value, SpecProblem> {
    Ok(match value {
        Value::String(text) => {
            let mut whole = String::new();
            for piece in pieces(text, path)? {
                match piece {
                    Piece::Literal(text) => whole.push_str(&text),
                    Piece::Reference(text) => whole.push_str(&field(text)?),
                }
            }
            Value::String(whole)
        }
        Value::Array(list) => {
            list.iter().map(|item| replaced(item, path, field)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Object(object) => {
            let item = |(name, item): (&String, &Value)| Ok((name.clone(), replaced(item, path, field)?));
            Value::Object(object.iter().map(item).collect::<Result<_, SpecProblem>>()?)
        }
        other => other.clone(),
    })
}
