//! What lies in the store: one manifest per output, one commit record per stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The record that makes a stage's result count: written once per stage with put-if-absent, at
/// [`crate::paths::commit_key`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRecord {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub version: u32,
    /// UID of the PipelineRun.
    pub run_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// The winning attempt.
    pub attempt: u32,
    /// Every declared output.
    #[serde(default)]
    pub outputs: Vec<CommittedOutput>,
    /// Every declared result, by name.
    #[serde(default)]
    pub results: BTreeMap<String, Value>,
    /// The last value of every metric without `fold` or `slice`, by name. NaN and infinities are the strings
    /// `"NaN"`, `"Infinity"`, `"-Infinity"`.
    #[serde(default)]
    pub metrics: BTreeMap<String, Value>,
    /// Start of the user's process, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// End of the user's process, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
}

/// One output of a committed stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommittedOutput {
    /// Its name.
    pub name: String,
    /// Its type, as declared.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Below the store: where its manifest and files lie.
    pub prefix: String,
    /// `sha256:<hex>` of the manifest's bytes; equal content means an equal digest.
    pub digest: String,
    /// Sum of its files' sizes.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
}

/// The files of one output, sorted by path. Its JSON bytes are what the output's digest is taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub version: u32,
    /// Whether the output is one file, then placed as `<root>/in/<name>` itself, or a directory.
    pub directory: bool,
    /// The files.
    pub files: Vec<ManifestFile>,
}

/// One file of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Relative path with `/`, no `.` or `..` parts; for a single file its name is that of the output.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Whether any executable bit was set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}
