//! Inputs, outputs and results of a stage.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{ValueType, schema};

/// Data that a stage reads: at /trainyard/in/NAME (a file or a directory), also $(inputs.NAME.path) and TRAINYARD_IN_NAME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.from) != has(self.uri)").message("exactly one of from and uri is required"),
    validation = Rule::new("!has(self.default) || has(self.from)").message("default is what stands in for a from that gave nothing")
)]
pub struct Input {
    /// Name of the input, unique in the stage.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::VALUE_NAME))]
    pub name: String,
    /// Output of another stage, as STAGE.OUTPUT. The stage then waits for that stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 81),
        regex(pattern = schema::STAGE_OUTPUT)
    )]
    pub from: Option<String>,
    /// An object (s3://bucket/key), or everything below a prefix that ends with a slash. Reached with the store's credentials. It may
    /// contain $(params.NAME) and $(run.name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// Whether the stage runs also without it. Then the path does not exist and the variable is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// URI to read instead when the stage in `from` was skipped or failed; with references as in uri.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub default: Option<String>,
}

/// Data that a stage writes: to /trainyard/out/NAME (a file or a directory), also $(outputs.NAME.path) and TRAINYARD_OUT_NAME.
/// It is published when the stage has ended well, with a checksum, and never changes afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Name of the output, unique in the stage.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::VALUE_NAME))]
    pub name: String,
    /// What it is, such as Dataset, Model or Report. For people and tools; nothing depends on it.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}

/// A small value that a stage writes to /trainyard/results/NAME, for $(stages.STAGE.results.NAME), `when` and status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultDeclaration {
    /// Name of the result, unique in the stage.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::VALUE_NAME))]
    pub name: String,
    /// Type of the value: string (the default), integer, number, boolean, list or object.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ValueType>,
    /// What it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}
