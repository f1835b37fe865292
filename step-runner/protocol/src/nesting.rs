//! How deep a value may be.

use serde_json::Value;

/// Most levels of lists and objects in a parameter or a result. Readers of JSON, ours among them, stop at 128, and the documents that
/// carry values have some of their own around them: what can be written could else not be read again.
pub const NESTING_LIMIT: usize = 64;

/// Whether a value has more levels than [`NESTING_LIMIT`].
#[must_use]
pub fn nests_too_deep(value: &Value) -> bool {
    fn deeper(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(items) => left == 0 || items.iter().any(|item| deeper(item, left - 1)),
            Value::Object(entries) => left == 0 || entries.values().any(|entry| deeper(entry, left - 1)),
            _ => false,
        }
    }
    deeper(value, NESTING_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Null, |inner, level| {
            if level % 2 == 0 {
                Value::Array(vec![inner])
            } else {
                Value::Object([("a".to_owned(), inner)].into_iter().collect())
            }
        })
    }

    #[test]
    fn levels_are_counted() {
        assert!(!nests_too_deep(&nested(NESTING_LIMIT)));
        assert!(nests_too_deep(&nested(NESTING_LIMIT + 1)));
    }
}
