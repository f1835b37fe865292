//! The kind `TrainingJob`: one training on many Pods, by itself.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Code, Output, ResultDeclaration, Store, Training, TrainingJobStatus, schema};

/// What is trained, on how many Pods, and when it is tried again. Only suspend, ttl and the bounds of elastic can be changed later;
/// for anything else create another job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    plural = "trainingjobs",
    singular = "trainingjob",
    shortname = "tj",
    category = "trainyard",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    doc = "A TrainingJob trains one model on many Pods. `kubectl get tj -w` shows it move, `kubectl describe tj` says which rank failed and why.",
    validation = Rule::new("size(self.metadata.name) <= 63 && !self.metadata.name.contains('.') && !(self.metadata.name.substring(0, 1) in ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])")
        .message("metadata.name must be at most 63 lower-case letters, digits and dashes and begin with a letter: it is part of every rank's host name"),
    printcolumn(
        name = "Framework",
        type_ = "string",
        json_path = ".spec.framework",
        description = "What the ranks use to find each other"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.ready",
        description = "Ranks whose Pods run, of all"
    ),
    printcolumn(
        name = "Restarts",
        type_ = "integer",
        json_path = ".status.restarts",
        description = "How often all ranks were started again after a failure"
    ),
    printcolumn(
        name = "Progress",
        type_ = "string",
        json_path = ".status.progress",
        description = "How far the training is, by its own word"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        description = "Why it waits or failed, in one word"
    ),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self.roles.all(r, has(r.container.image))").message("container.image is required in every role").field_path(".roles"),
    validation = Rule::new("!has(self.timeout) || self.timeout.matches('[1-9]')").message("timeout must be longer than 0s").field_path(".timeout"),
    validation = Rule::new("!has(self.inputs) || [self.inputs.map(a, a.name.upperAscii().replace('-', '_'))].all(n, n.all(x, n.exists_one(y, y == x)))")
        .message("inputs must differ in more than case, - and _: their names become names of environment variables").field_path(".inputs"),
    validation = Rule::new("!has(self.outputs) || [self.outputs.map(a, a.name.upperAscii().replace('-', '_'))].all(n, n.all(x, n.exists_one(y, y == x)))")
        .message("outputs must differ in more than case, - and _: their names become names of environment variables").field_path(".outputs"),
    validation = Rule::new("has(self.elastic) == has(oldSelf.elastic)").message("elastic cannot be added or taken away: create another job").field_path(".elastic")
)]
pub struct TrainingJobSpec {
    /// The training itself.
    #[serde(flatten)]
    pub training: Training,
    /// Values for $(params.NAME) in commands and variables, also /trainyard/params.json and TRAINYARD_PARAM_NAME.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub params: BTreeMap<String, Value>,
    /// Where artifacts live. Absent means the installation's default store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// A ConfigMap with code, mounted read-only at /trainyard/code, the working directory of every rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Data that every rank reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inputs: Vec<JobInput>,
    /// Data that rank 0 writes. All of it must be there when its program ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub outputs: Vec<Output>,
    /// Small values that rank 0 writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub results: Vec<ResultDeclaration>,
    /// Metrics that status always shows, also while the training runs. Rank 0 appends them to /trainyard/metrics.jsonl.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_.-]*$")), extend("x-kubernetes-list-type" = "set"))]
    pub metrics: Vec<String>,
    /// Longest time of the job with all its attempts, such as 12h, from its start or from when it was resumed. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub timeout: Option<String>,
    /// Time between asking a program to stop and killing it, such as 30s (the default). A last checkpoint must fit into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub grace_period: Option<String>,
    /// While true there are no Pods. When it becomes true the ranks are asked to stop, and the checkpoint is kept; when it becomes
    /// false again they start from there. Neither counts as a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Service account of the Pods. Absent means default. No token is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How long after its end the job is deleted, such as 7d. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub ttl: Option<String>,
}

/// Data that every rank reads: at /trainyard/in/NAME (a file or a directory), also $(inputs.NAME.path) and TRAINYARD_IN_NAME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.uri), has(self.artifact)].exists_one(x, x) || (!has(self.uri) && !has(self.artifact) && has(self.optional) && self.optional)")
        .message("exactly one of uri and artifact is required; an optional input may have neither")
)]
pub struct JobInput {
    /// Name of the input, unique in the job.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::VALUE_NAME))]
    pub name: String,
    /// An object (s3://bucket/key), or everything below a prefix that ends with a slash. Reached with the store's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// An output that a stage of a run, or another job, has published in the same store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactReference>,
    /// Whether the ranks run also without it. Then the path does not exist and the variable is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A published output, by the record that says that it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactReference {
    /// Key of the commit record below the store, such as team/iris/iris-1.UID/prepare/COMMIT.
    #[schemars(length(min = 8, max = 1024), regex(pattern = "^[^/].*/COMMIT$"))]
    pub commit: String,
    /// Name of the output.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::VALUE_NAME))]
    pub output: String,
    /// Checksum that it must have. Absent means that of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 71, max = 71), regex(pattern = "^sha256:[0-9a-f]+$"))]
    pub digest: Option<String>,
}
