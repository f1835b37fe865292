//! Parameters of a run: given values and defaults, checked against their declarations.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Param, ValueType};

use crate::SpecProblem;

/// Most bytes of one value, as JSON.
const VALUE_LIMIT: usize = 32 * 1024;
/// Most bytes of all values together, as JSON: they travel in every Pod.
const TOTAL_LIMIT: usize = 512 * 1024;

/// The parameters of a run: what it gives, else the defaults, each of its declared type and range.
///
/// # Errors
/// The first problem, by the parameter's name.
pub fn resolve(declared: &[Param], given: &BTreeMap<String, Value>) -> Result<Map<String, Value>, SpecProblem> {
    if let Some(name) = given.keys().find(|name| !declared.iter().any(|param| param.name == **name)) {
        let known: Vec<&str> = declared.iter().map(|param| param.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(SpecProblem::new(
            Reason::ParameterUnknown,
            format!("spec.params.{name}"),
            format!("the pipeline has no parameter of this name; it has: {known}"),
        ));
    }
    let mut values = Map::new();
    for param in declared {
        let path = format!("spec.params.{}", param.name);
        let Some(value) = given.get(&param.name).or(param.default.as_ref()) else {
            return Err(SpecProblem::new(
                Reason::ParameterMissing,
                path,
                "the parameter has no default: set it in the run's spec.params",
            ));
        };
        values.insert(param.name.clone(), check(param, value, &path)?);
    }
    let total = serde_json::to_string(&values).map_or(usize::MAX, |json| json.len());
    if total > TOTAL_LIMIT {
        return Err(SpecProblem::new(
            Reason::ParameterInvalid,
            "spec.params",
            format!("all values together are {total} bytes and {TOTAL_LIMIT} are allowed: pass large data as an input"),
        ));
    }
    Ok(values)
}

/// Checks the declarations themselves: each default against its own declaration, each pattern as an expression, and that no two
/// names make the same environment variable.
pub(crate) fn check_declarations(declared: &[Param]) -> Result<(), SpecProblem> {
    let mut variables = BTreeMap::new();
    for (index, param) in declared.iter().enumerate() {
        let path = format!("spec.params[{index}]");
        if let Some(other) = variables.insert(step_protocol::paths::env_name(&param.name), &param.name) {
            return Err(SpecProblem::new(
                Reason::InvalidPipeline,
                path,
                format!("{} and {other} would be the same environment variable: rename one", param.name),
            ));
        }
        if let Some(pattern) = &param.pattern {
            whole(pattern).map_err(|error| {
                SpecProblem::new(
                    Reason::InvalidPipeline,
                    format!("{path}.pattern"),
                    format!("not a regular expression: {}", error.to_string().replace('\n', " ")),
                )
            })?;
        }
        if let Some(default) = &param.default {
            check(param, default, &format!("{path}.default"))
                .map_err(|problem| SpecProblem { reason: Reason::InvalidPipeline, ..problem })?;
        }
    }
    Ok(())
}

/// SHA-256 of the values as JSON with sorted keys, as `sha256:<hex>`.
#[must_use]
pub fn digest(values: &Map<String, Value>) -> String {
    let sorted: BTreeMap<&String, &Value> = values.iter().collect();
    let json = serde_json::to_string(&sorted).unwrap_or_default();
    let hash = Sha256::digest(json.as_bytes());
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        text
    })
}

fn whole(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build()
}

/// A value as its declaration has it, if it is of its type and range.
pub(crate) fn check(param: &Param, value: &Value, path: &str) -> Result<Value, SpecProblem> {
    let invalid = |message: String| SpecProblem::new(Reason::ParameterInvalid, path, message);
    let kind = param.kind.unwrap_or_default();
    let size = value.to_string().len();
    if size > VALUE_LIMIT {
        return Err(invalid(format!(
            "{size} bytes are too many, {VALUE_LIMIT} are allowed: pass large data as an input"
        )));
    }
    if step_protocol::nests_too_deep(value) {
        let limit = step_protocol::NESTING_LIMIT;
        return Err(invalid(format!("is nested deeper than {limit} levels: pass such data as an input")));
    }
    let fits = match kind {
        ValueType::String => value.is_string(),
        ValueType::Integer => value.is_i64() || value.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9.0e15),
        ValueType::Number => value.is_number(),
        ValueType::Boolean => value.is_boolean(),
        ValueType::List => value.is_array(),
        ValueType::Object => value.is_object(),
    };
    if !fits {
        return Err(invalid(format!("must be of type {}, is {}", kind.as_str(), shown(value))));
    }
    let value = match (kind, value.as_f64()) {
        // `3.0` for an integer is 3.
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53, as tested above")]
        (ValueType::Integer, Some(number)) if !value.is_i64() => Value::from(number as i64),
        _ => value.clone(),
    };
    if let Some(number) = value.as_f64() {
        if let Some(minimum) = param.minimum.filter(|minimum| number < *minimum) {
            return Err(invalid(format!("must be at least {minimum}, is {}", shown(&value))));
        }
        if let Some(maximum) = param.maximum.filter(|maximum| number > *maximum) {
            return Err(invalid(format!("must be at most {maximum}, is {}", shown(&value))));
        }
    }
    if !param.allowed.is_empty() && !param.allowed.iter().any(|allowed| same(allowed, &value)) {
        let allowed: Vec<String> = param.allowed.iter().map(shown).collect();
        return Err(invalid(format!("must be one of {}, is {}", allowed.join(", "), shown(&value))));
    }
    if let (Some(pattern), Some(text)) = (&param.pattern, value.as_str())
        && !whole(pattern).is_ok_and(|expression| expression.is_match(text))
    {
        return Err(invalid(format!("must match {pattern}, is {}", shown(&value))));
    }
    Ok(value)
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

/// A value for a message, cut to what a line holds.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { format!("{}...", text.chars().take(77).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn param(declaration: Value) -> Param {
        serde_json::from_value(declaration).unwrap()
    }

    fn problem(declaration: Value, given: Value) -> String {
        let declared = [param(declaration)];
        let given = serde_json::from_value(given).unwrap();
        let problem = resolve(&declared, &given).unwrap_err();
        format!("{} {problem}", problem.reason)
    }

    #[test]
    fn a_given_value_wins_over_the_default() {
        let declared = [param(json!({"name": "a", "type": "number", "default": 0.25}))];
        assert_eq!(resolve(&declared, &BTreeMap::new()).unwrap()["a"], json!(0.25));
        let given = BTreeMap::from([("a".to_owned(), json!(1))]);
        assert_eq!(resolve(&declared, &given).unwrap()["a"], json!(1));
    }

    #[test]
    fn every_way_to_be_wrong_says_what_is_expected() {
        let number = json!({"name": "a", "type": "number", "minimum": 0.05, "maximum": 0.5});
        assert_eq!(
            problem(number.clone(), json!({})),
            "ParameterMissing spec.params.a: the parameter has no default: set it in the run's spec.params"
        );
        assert_eq!(
            problem(number.clone(), json!({"a": 1, "b": 2})),
            "ParameterUnknown spec.params.b: the pipeline has no parameter of this name; it has: a"
        );
        assert_eq!(
            problem(number.clone(), json!({"a": "x"})),
            "ParameterInvalid spec.params.a: must be of type number, is \"x\""
        );
        assert_eq!(
            problem(number.clone(), json!({"a": 0.01})),
            "ParameterInvalid spec.params.a: must be at least 0.05, is 0.01"
        );
        assert_eq!(problem(number, json!({"a": 7})), "ParameterInvalid spec.params.a: must be at most 0.5, is 7");
        let text = json!({"name": "a", "enum": ["x", "y"], "pattern": "[a-z]"});
        assert_eq!(
            problem(text, json!({"a": "z"})),
            "ParameterInvalid spec.params.a: must be one of \"x\", \"y\", is \"z\""
        );
        let text = json!({"name": "a", "pattern": "[a-z]+"});
        assert_eq!(problem(text, json!({"a": "ab1"})), "ParameterInvalid spec.params.a: must match [a-z]+, is \"ab1\"");
        let integer = json!({"name": "a", "type": "integer"});
        assert_eq!(
            problem(integer, json!({"a": 1.5})),
            "ParameterInvalid spec.params.a: must be of type integer, is 1.5"
        );
        let large = problem(json!({"name": "a"}), json!({"a": "x".repeat(33 * 1024)}));
        assert!(large.contains("too many, 32768 are allowed"), "{large}");
        let deep = (0..65).fold(json!([]), |inner, _| json!([inner]));
        assert_eq!(
            problem(json!({"name": "a", "type": "list"}), json!({"a": deep})),
            "ParameterInvalid spec.params.a: is nested deeper than 64 levels: pass such data as an input"
        );
    }

    #[test]
    fn declarations_are_checked_by_themselves() {
        let wrong = check_declarations(&[param(json!({"name": "a", "type": "integer", "default": "x"}))]).unwrap_err();
        assert_eq!((wrong.reason, wrong.path.as_str()), (Reason::InvalidPipeline, "spec.params[0].default"));
        let wrong = check_declarations(&[param(json!({"name": "a", "pattern": "("}))]).unwrap_err();
        assert_eq!(wrong.path, "spec.params[0].pattern");
        let wrong = check_declarations(&[param(json!({"name": "a-b"})), param(json!({"name": "a_b"}))]).unwrap_err();
        assert!(wrong.message.contains("same environment variable"));
    }

    #[test]
    fn the_digest_is_of_the_values_alone() {
        let a = Map::from_iter([("a".to_owned(), json!(1)), ("b".to_owned(), json!(2))]);
        let b = Map::from_iter([("b".to_owned(), json!(2)), ("a".to_owned(), json!(1))]);
        assert_eq!(digest(&a), digest(&b));
        assert_ne!(digest(&a), digest(&Map::new()));
    }
}
