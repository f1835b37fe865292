//! Models: the stage that publishes them, and what a Pipeline knows of their versions.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// Makes an output of the run the next version of a model and promotes it to champion; or promotes a version that exists. A short Pod
/// of Trainyard's own image does it; nothing is copied, the version's files are those of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.from) != has(self.version)").message("exactly one of from and version is required")
)]
pub struct Publish {
    /// Name of the model in the pipeline's registry: lower-case letters, digits and dashes, at most 40.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::STAGE_NAME))]
    pub model: String,
    /// The output that becomes the next version, as STAGE.OUTPUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 104))]
    pub from: Option<String>,
    /// The version that is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub version: Option<u64>,
}

/// A version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelReference {
    /// Name of the model.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::STAGE_NAME))]
    pub model: String,
    /// Its version.
    #[schemars(range(min = 1))]
    pub version: u64,
}

/// What is known of a model of a pipeline. The store knows more: model.json of each version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// The version that was promoted last.
    pub champion: u64,
    /// The version that was champion before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// Number of the promotion that says so, as in the store.
    pub sequence: u64,
    /// When that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Time>,
    /// The run that promoted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub promoted_by: String,
    /// The champion, the one before it and the newest versions, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["version"]))]
    pub versions: Vec<ModelVersion>,
}

/// A version of a model in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersion {
    /// Its number, from 1.
    pub version: u64,
    /// Checksum of its manifest.
    pub digest: String,
    /// Where its files lie.
    pub uri: String,
    /// Sum of their sizes.
    pub bytes: i64,
    /// The run that published it.
    pub run: String,
    /// UID of that run.
    pub run_uid: String,
    /// Key of the revision that the run was started for; empty for a run that was created by hand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Metrics of the stages before, as STAGE.METRIC.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub metrics: BTreeMap<String, Value>,
    /// When it was published.
    pub created: Time,
}
