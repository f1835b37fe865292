//! The registry of a pipeline's models in the store, and the ledger of the revisions that its runs have taken.
//!
//! Every record is written once with put-if-absent and never changed, but for the two aliases, which are copies: which version is
//! champion is what the promotion with the highest number says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::artifact::CommittedOutput;

/// What a publishing stage does: it makes an output of the run the next version of a model, or takes a version that exists, and
/// promotes it to champion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishSpec {
    /// Name of the model.
    pub model: String,
    /// Key below the store of the model's prefix, see [`crate::paths::model_prefix`].
    pub prefix: String,
    /// What is published.
    pub source: PublishSource,
    /// When the run was accepted, RFC 3339: what lies in the registry since long before is none of its own.
    pub run_started: String,
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PublishSource {
    /// An output of a stage, found by the stage's commit record, as the next version.
    #[serde(rename_all = "camelCase")]
    Output {
        /// Key of the commit record below the store.
        commit: String,
        /// Name of the output in it.
        output: String,
        /// The digest that the operator knows, which must match; absent when it knows none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// Metrics of the stages before, `<stage>.<metric>`, for the version's record.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metrics: BTreeMap<String, Value>,
        /// Where the version comes from, for its record.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        lineage: Map<String, Value>,
    },
    /// A version that exists.
    #[serde(rename_all = "camelCase")]
    Version {
        /// Its number.
        version: u64,
    },
}

/// Who wrote a record: a stage of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRun {
    /// Name of the PipelineRun.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Name of the stage.
    pub stage: String,
}

/// One version of a model, at [`crate::paths::version_key`]. Its files are those of the output that it was published from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRecord {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub protocol: u32,
    /// Name of the model.
    pub model: String,
    /// Number of the version, from 1.
    pub version: u64,
    /// Namespace of the pipeline.
    pub namespace: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Who published it.
    pub run: ModelRun,
    /// Its files: prefix below the store, digest of the manifest, bytes.
    pub output: CommittedOutput,
    /// The same as a URI, for people and model servers.
    pub uri: String,
    /// Metrics of the stages before, `<stage>.<metric>`.
    #[serde(default)]
    pub metrics: BTreeMap<String, Value>,
    /// Where it comes from: run key and cause, parameters, code, images, and the digests of what was read.
    #[serde(default)]
    pub lineage: Map<String, Value>,
    /// When it was published, RFC 3339.
    pub created: String,
}

/// One promotion of a version to champion, at [`crate::paths::promotion_key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub protocol: u32,
    /// Its place among the promotions of the model, from 1.
    pub sequence: u64,
    /// Name of the model.
    pub model: String,
    /// The version that is champion by it.
    pub version: u64,
    /// The version that was champion before; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// Who promoted it.
    pub run: ModelRun,
    /// When, RFC 3339.
    pub created: String,
}

/// An alias: which version it stands for, at a key that does not change. A copy of what the promotions say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alias {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub protocol: u32,
    /// Name of the model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The promotion that says so.
    pub sequence: u64,
    /// Where its files lie, as a URI.
    pub uri: String,
    /// `sha256:<hex>` of its manifest.
    pub digest: String,
}

/// The revision that a run was started for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerSpec {
    /// Key below the store, see [`crate::paths::ledger_key`].
    pub key: String,
}

/// Which run has taken a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub protocol: u32,
    /// Name of the PipelineRun.
    pub run: String,
    /// Its UID.
    pub run_uid: String,
    /// When, RFC 3339.
    pub created: String,
}
