//! What the runner says at the end of an attempt, in at most 4 KiB.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Outcome;
use crate::rank::CheckpointName;

/// Kubernetes keeps this many bytes of a termination message.
pub const MESSAGE_LIMIT: usize = 4096;
/// Room for results and metrics in the message; what does not fit is in the commit record only.
pub const VALUES_LIMIT: usize = 3072;

/// Bytes of the sentence on checkpoints.
const CHECKPOINT_ERROR_LIMIT: usize = 512;
/// Bytes of the message that stay whatever else there is.
const LEAST_MESSAGE: usize = 256;

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
    /// The checkpoint that this attempt began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<CheckpointName>,
    /// The newest complete checkpoint that this attempt wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointName>,
    /// Why there is no newer one, in at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_error: Option<String>,
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
            restored: None,
            checkpoint: None,
            checkpoint_error: None,
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
        report.checkpoint_error = report.checkpoint_error.map(|text| head(&text, CHECKPOINT_ERROR_LIMIT).to_owned());
        report.shrink_values(declared_metrics)?;
        let mut json = serde_json::to_string(&report)?;
        if json.len() > MESSAGE_LIMIT && !report.last_lines.is_empty() {
            report.last_lines = tail(&report.last_lines, room(&json, &report.last_lines)).to_owned();
            json = serde_json::to_string(&report)?;
        }
        if json.len() > MESSAGE_LIMIT && report.message.len() > LEAST_MESSAGE {
            let fits = head(&report.message, room(&json, &report.message)).len();
            report.message = report.message[..report.message.floor_char_boundary(fits.max(LEAST_MESSAGE))].to_owned();
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

/// Bytes that a text in `json` may have there, so that all of it fits.
fn room(json: &str, text: &str) -> usize {
    let written: usize = text.chars().map(written).sum();
    MESSAGE_LIMIT.saturating_sub(json.len().saturating_sub(written))
}

/// Bytes of a character in a JSON text.
fn written(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

/// The characters from the first that have `room`.
fn head(text: &str, room: usize) -> &str {
    let mut left = room;
    let end = text.char_indices().find(|(_, c)| {
        let fits = left.checked_sub(written(*c));
        left = fits.unwrap_or(0);
        fits.is_none()
    });
    &text[..end.map_or(text.len(), |(end, _)| end)]
}

/// The characters up to the last that have `room`.
fn tail(text: &str, room: usize) -> &str {
    let mut left = room;
    let before = text.char_indices().rev().find(|(_, c)| {
        let fits = left.checked_sub(written(*c));
        left = fits.unwrap_or(0);
        fits.is_none()
    });
    &text[before.map_or(0, |(before, c)| before + c.len_utf8())..]
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
            report.checkpoint = Some(CheckpointName { execution: u32::MAX, sequence: u32::MAX });
            report.checkpoint_error = Some(report.message.clone());
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
            prop_assert_eq!(back.checkpoint, report.checkpoint);
        }
    }

    proptest! {
        /// A model that is better by the last bit is better after it was told, too.
        #[test]
        fn a_number_arrives_as_it_was_written(number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite())) {
            let mut report = StepReport::new(Outcome::Succeeded, "");
            report.metrics = [("accuracy".to_owned(), Value::from(number))].into();
            let back: StepReport = serde_json::from_str(&report.to_message(&[]).unwrap()).unwrap();
            prop_assert_eq!(back.metrics["accuracy"].as_f64(), Some(number));
        }
    }

    #[test]
    fn lines_of_control_characters_keep_their_end() {
        let mut report = StepReport::new(Outcome::UserError, "\u{1}".repeat(1_000));
        report.last_lines = format!("{}the reason", "\0".repeat(2_000));
        let json = report.to_message(&[]).unwrap();
        assert!(json.len() <= MESSAGE_LIMIT);
        let back: StepReport = serde_json::from_str(&json).unwrap();
        assert!((650..690).contains(&back.message.len()), "{}", back.message.len());
        assert_eq!(back.last_lines, "", "the message comes first");
        report.message = "the program ended with exit code 3".into();
        let json = report.to_message(&[]).unwrap();
        assert!((MESSAGE_LIMIT - 6..=MESSAGE_LIMIT).contains(&json.len()), "{}", json.len());
        assert!(json.contains("the reason"));
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
