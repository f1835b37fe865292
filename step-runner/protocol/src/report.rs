//! What the runner says at the end of an attempt, in at most 4 KiB.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Outcome;

/// Kubernetes keeps this many bytes of a termination message.
pub const MESSAGE_LIMIT: usize = 4096;
/// Room for results and metrics in the message; what does not fit is in the commit record only.
pub const VALUES_LIMIT: usize = 3072;

/// The end of an attempt: the body of the early report and the Pod's termination message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// [`crate::VERSION`] of the runner.
    pub version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// A sentence: what happened, to which object, what to do. Empty on success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Exit code of the user's process, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the user's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// `sha256:<hex>` of the commit record's bytes: present exactly when the outcome is `Succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The attempt that the commit record names: another one when this attempt found the record and ran nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<u32>,
    /// Every declared output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputReport>,
    /// Results that fit, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub results: BTreeMap<String, Value>,
    /// Metrics that fit, by name, the declared ones first; non-finite numbers are strings as in the commit record.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Value>,
    /// Whether something is in the commit record only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Start of the user's process, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// End of the user's process, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The end of the user's output, only on failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_lines: String,
}

/// One output in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputReport {
    /// Its name.
    pub name: String,
    /// `sha256:<hex>` of its manifest.
    pub digest: String,
    /// Sum of its files' sizes.
    pub bytes: u64,
}

impl StepReport {
    /// A report with nothing but an outcome and a sentence.
    #[must_use]
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            version: crate::VERSION,
            outcome,
            message: message.into(),
            exit_code: None,
            signal: None,
            commit: None,
            winner: None,
            outputs: Vec::new(),
            results: BTreeMap::new(),
            metrics: BTreeMap::new(),
            truncated: false,
            started: None,
            finished: None,
            last_lines: String::new(),
        }
    }

    /// The JSON of as much of this report as fits [`MESSAGE_LIMIT`] bytes.
    ///
    /// Nothing that decides is ever left out: outcome, commit and exit code stay. In this order room is made: values beyond
    /// [`VALUES_LIMIT`] (undeclared metrics, then results from the largest, then declared metrics), the head of the last lines, the
    /// tail of the message, the outputs.
    ///
    /// # Errors
    /// Only if a value is not JSON, which a parsed value always is.
    pub fn to_message(&self, declared_metrics: &[String]) -> Result<String, serde_json::Error> {
        let mut report = self.clone();
        report.shrink_values(declared_metrics)?;
        let mut json = serde_json::to_string(&report)?;
        while json.len() > MESSAGE_LIMIT && !report.last_lines.is_empty() {
            let keep = report.last_lines.len().saturating_sub((json.len() - MESSAGE_LIMIT).max(16));
            report.last_lines = tail(&report.last_lines, keep).to_owned();
            json = serde_json::to_string(&report)?;
        }
        while json.len() > MESSAGE_LIMIT && report.message.len() > 256 {
            let keep = report.message.len().saturating_sub((json.len() - MESSAGE_LIMIT).max(16)).max(256);
            report.message = head(&report.message, keep).to_owned();
            json = serde_json::to_string(&report)?;
        }
        while json.len() > MESSAGE_LIMIT && report.drop_largest_value() {
            json = serde_json::to_string(&report)?;
        }
        if json.len() > MESSAGE_LIMIT {
            report.outputs.clear();
            report.truncated = true;
            json = serde_json::to_string(&report)?;
        }
        Ok(json)
    }

    fn shrink_values(&mut self, declared: &[String]) -> Result<(), serde_json::Error> {
        loop {
            let size = serde_json::to_string(&self.results)?.len() + serde_json::to_string(&self.metrics)?.len();
            if size <= VALUES_LIMIT {
                return Ok(());
            }
            let extra = self.metrics.keys().rev().find(|name| !declared.contains(name)).cloned();
            if let Some(name) = extra {
                self.metrics.remove(&name);
                self.truncated = true;
            } else if !self.drop_largest_value() {
                return Ok(());
            }
        }
    }

    fn drop_largest_value(&mut self) -> bool {
        self.truncated = true;
        let largest = self.results.iter().max_by_key(|(name, value)| name.len() + value.to_string().len());
        if let Some(name) = largest.map(|(name, _)| name.clone()) {
            self.results.remove(&name);
            return true;
        }
        self.metrics.pop_last().is_some()
    }
}

/// The first `keep` bytes, cut at a character.
fn head(text: &str, keep: usize) -> &str {
    let mut end = keep.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The last `keep` bytes, cut at a character.
fn tail(text: &str, keep: usize) -> &str {
    let mut start = text.len() - keep.min(text.len());
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_always_fits_and_keeps_what_decides(
            lines in "\\PC{0,6000}",
            message in "\\PC{0,3000}",
            results in proptest::collection::btree_map("[a-z]{1,40}", "\\PC{0,900}", 0..12),
            metrics in proptest::collection::btree_map("[a-z]{1,40}", any::<f64>(), 0..200),
            outputs in 0usize..16,
        ) {
            let mut report = StepReport::new(Outcome::UserError, message);
            report.exit_code = Some(3);
            report.commit = Some(format!("sha256:{}", "a".repeat(64)));
            report.last_lines = lines;
            report.results = results.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
            report.metrics = metrics.into_iter().map(|(k, v)| (k, Value::from(v))).collect();
            report.outputs = (0..outputs).map(|i| OutputReport {
                name: format!("{i:040}"), digest: format!("sha256:{}", "b".repeat(64)), bytes: u64::MAX,
            }).collect();
            let json = report.to_message(&[]).unwrap();
            prop_assert!(json.len() <= MESSAGE_LIMIT);
            let back: StepReport = serde_json::from_str(&json).unwrap();
            prop_assert_eq!((back.outcome, back.exit_code, back.commit), (report.outcome, report.exit_code, report.commit));
        }
    }

    #[test]
    fn declared_metrics_outlive_the_others() {
        let mut report = StepReport::new(Outcome::Succeeded, "");
        report.metrics = (0..400).map(|i| (format!("m{i:03}"), Value::from(0.5))).collect();
        let declared: Vec<String> = (368..400).map(|i| format!("m{i:03}")).collect();
        let back: StepReport = serde_json::from_str(&report.to_message(&declared).unwrap()).unwrap();
        assert!(declared.iter().all(|name| back.metrics.contains_key(name)));
        assert!(back.truncated);
    }
}
