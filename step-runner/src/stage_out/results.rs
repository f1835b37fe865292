//! Results: small files, read by their declared type.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use serde_json::Value;
use step_protocol::{Outcome, ResultSpec, StepSpec, ValueType, paths};

use super::walk;
use crate::failure::Failure;

/// Most bytes of one result.
const LIMIT: u64 = 64 * 1024;

/// Every declared result.
pub(super) fn read(root: BorrowedFd<'_>, spec: &StepSpec) -> Result<BTreeMap<String, Value>, Failure> {
    spec.results.iter().map(|result| Ok((result.name.clone(), read_one(root, spec, result)?))).collect()
}

fn read_one(root: BorrowedFd<'_>, spec: &StepSpec, result: &ResultSpec) -> Result<Value, Failure> {
    let relative = format!("{}/{}", paths::RESULTS, result.name);
    let invalid = |why: &str| {
        let path = format!("{}/{relative}", spec.root);
        Failure::new(Outcome::ResultInvalid, format!("the result {:?} ({path}): {why}", result.name))
    };
    let bytes = walk::small_file(root, &relative, LIMIT).map_err(|why| invalid(&why))?;
    let bytes = bytes.ok_or_else(|| invalid("the program did not write it"))?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))?;
    parse(&text, result.kind).map_err(|why| invalid(&why))
}

/// The value that a text stands for.
fn parse(text: &str, kind: ValueType) -> Result<Value, String> {
    let shown = || {
        let short: String = text.trim().chars().take(40).collect();
        format!("{short:?}")
    };
    let trimmed = text.trim();
    match kind {
        ValueType::String => Ok(Value::String(text.strip_suffix('\n').unwrap_or(text).to_owned())),
        ValueType::Integer => {
            trimmed.parse::<i64>().map(Value::from).map_err(|_| format!("{} is not a 64-bit integer", shown()))
        }
        ValueType::Number => {
            // An integer stays one, so that 3 is not shown as 3.0.
            if let Ok(integer) = trimmed.parse::<i64>() {
                return Ok(Value::from(integer));
            }
            let number = trimmed.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map(Value::Number).ok_or_else(|| format!("{} is not a finite number", shown()))
        }
        ValueType::Boolean => match trimmed {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(format!("{} is neither true nor false", shown())),
        },
        ValueType::List | ValueType::Object => {
            let value: Value =
                serde_json::from_str(trimmed).map_err(|error| format!("{} is not JSON: {error}", shown()))?;
            if step_protocol::nests_too_deep(&value) {
                let limit = step_protocol::NESTING_LIMIT;
                return Err(format!("it is nested deeper than {limit} levels; write such data as an output"));
            }
            let fits = if kind == ValueType::List { value.is_array() } else { value.is_object() };
            let wanted = if kind == ValueType::List { "list" } else { "object" };
            if fits { Ok(value) } else { Err(format!("{} is not a JSON {wanted}", shown())) }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_type_takes_its_own_and_names_what_it_refuses() {
        for (text, kind, value) in [
            (" a\nb\n", ValueType::String, json!(" a\nb")),
            ("", ValueType::String, json!("")),
            ("42\n", ValueType::Integer, json!(42)),
            ("-9223372036854775808", ValueType::Integer, json!(i64::MIN)),
            ("0.25", ValueType::Number, json!(0.25)),
            ("3", ValueType::Number, json!(3)),
            ("1e3\n", ValueType::Number, json!(1000.0)),
            ("true\n", ValueType::Boolean, json!(true)),
            ("[1, \"a\"]", ValueType::List, json!([1, "a"])),
            ("{\"a\": {}}", ValueType::Object, json!({"a": {}})),
        ] {
            assert_eq!(parse(text, kind), Ok(value), "{text:?}");
        }
        for (text, kind, why) in [
            ("4.2", ValueType::Integer, "integer"),
            ("9223372036854775808", ValueType::Integer, "integer"),
            ("NaN", ValueType::Number, "finite"),
            ("inf", ValueType::Number, "finite"),
            ("1e999", ValueType::Number, "finite"),
            ("True", ValueType::Boolean, "neither"),
            ("{}", ValueType::List, "list"),
            ("[]", ValueType::Object, "object"),
            ("{", ValueType::Object, "JSON"),
            (&format!("{}{}", "[".repeat(65), "]".repeat(65)), ValueType::List, "deeper than 64 levels"),
        ] {
            let refused = parse(text, kind).unwrap_err();
            assert!(refused.contains(why), "{text:?}: {refused}");
        }
    }
}
