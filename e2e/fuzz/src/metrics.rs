//! The lines of a metrics file.

use serde_json::Value;

use crate::metrics_reader::{MOST, read};

/// Any bytes.
pub fn run(data: &[u8]) {
    let declared = ["declared".to_owned()];
    let summary = read(data, &declared);
    assert!(summary.values.len() <= MOST + declared.len());
    assert_eq!(summary.bad == 0, summary.first_bad.is_none());
    for (name, value) in &summary.values {
        let words = ["NaN", "Infinity", "-Infinity"];
        let fits = value.is_number() || value.as_str().is_some_and(|word| words.contains(&word));
        assert!(fits && !name.is_empty(), "{name:?}: {value}");
    }
    // Nothing that stands before a good line takes it away.
    let mut more = data.to_vec();
    more.extend_from_slice(b"\n{\"name\": \"declared\", \"value\": 42}\n");
    assert_eq!(read(&more[..], &declared).values["declared"], Value::from(42));
}
