//! Short work in the store that is no stage of a run: what the operator, which holds no keys, cannot do itself.

use serde::{Deserialize, Serialize};

use crate::{Outcome, StoreSpec};

/// What a short Pod does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskSpec {
    /// [`crate::VERSION`] of the operator.
    pub version: u32,
    /// The pipeline's store. Credentials come by environment as for a stage.
    pub store: StoreSpec,
    /// The work.
    pub task: Task,
    /// Seconds that it may take.
    pub timeout_seconds: u64,
}

/// The work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Says what lies below a prefix.
    Fingerprint(FingerprintSpec),
    /// Deletes artifacts that nothing refers to.
    Collect(CollectSpec),
}

/// A prefix of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FingerprintSpec {
    /// An object (`s3://bucket/key`), or everything below a prefix that ends with `/`.
    pub uri: String,
    /// Name of an object below the prefix that says that the others are complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
}

/// The artifacts of a pipeline, and what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectSpec {
    /// Below the store: the pipeline's prefix, see [`crate::paths::pipeline_prefix`].
    pub prefix: String,
    /// UIDs of runs whose artifacts are kept, sorted.
    pub runs: Vec<String>,
    /// Seconds since the last write below a run's prefix in which it is kept whatever is said here.
    pub grace_seconds: u64,
    /// Whether it is only said what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// The end of a task: the Pod's termination message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskReport {
    /// [`crate::VERSION`] of the runner.
    pub version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// A sentence: what happened, to which object, what to do. Empty on success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What lies below the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// What was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected: Option<Collected>,
}

/// What lies below a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprint {
    /// `sha256:<hex>` over the sorted keys, sizes, entity tags and versions of the objects, without the marker.
    pub digest: String,
    /// How many objects.
    pub objects: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// When the newest of them was written, RFC 3339, as the store says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Seconds since then by the runner's clock, at least 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Whether the marker is there; absent when none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<bool>,
}

/// What was deleted, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Runs whose artifacts were deleted.
    pub runs: u64,
    /// Objects that were deleted.
    pub objects: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Runs whose artifacts were kept.
    pub kept: u64,
}

impl TaskSpec {
    /// The container variables that carry this spec, in order.
    ///
    /// # Errors
    /// None: all of it is text and numbers.
    pub fn to_env(&self) -> Result<Vec<(String, String)>, serde_json::Error> {
        Ok(crate::spec::chunks(&serde_json::to_string(self)?, crate::paths::ENV_TASK))
    }
}

impl TaskReport {
    /// A report with nothing but an outcome and a sentence.
    #[must_use]
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { version: crate::VERSION, outcome, message: message.into(), fingerprint: None, collected: None }
    }
}
