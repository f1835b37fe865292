//! Stages without a program: a gate, which compares numbers, and an approval, which waits for a person.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// Lets the run go on only if every check holds; else the stage fails with GateFailed. It has no Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.checks.all(c, has(c.metric) != has(c.result))").message("each check is of exactly one of metric and result").field_path(".checks")
)]
pub struct Gate {
    /// The model whose champion checks compare with. Absent means the one that the pipeline publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::STAGE_NAME))]
    pub model: Option<String>,
    /// What must hold, all of it.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub checks: Vec<Check>,
}

/// One number and its bounds: at least one of min, max and minImprovement is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// A metric that a stage before this one lists under metrics, as STAGE.METRIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 104), regex(pattern = "^[a-z][-a-z0-9]*[.][a-zA-Z_][a-zA-Z0-9_.-]*$"))]
    pub metric: Option<String>,
    /// A number or integer that a stage before this one declares under results, as STAGE.RESULT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 104),
        regex(pattern = "^[a-z][-a-z0-9]*[.][a-zA-Z]([-_a-zA-Z0-9]*[a-zA-Z0-9])?$")
    )]
    pub result: Option<String>,
    /// Least value: a number, or $(params.NAME).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::bound")]
    pub min: Option<Value>,
    /// Greatest value: a number, or $(params.NAME).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::bound")]
    pub max: Option<Value>,
    /// By how much it must be better than the champion's: a number, or $(params.NAME). 0 means not worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::bound")]
    pub min_improvement: Option<Value>,
    /// Maximize (the default) or Minimize: which way is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// Champion (the default): the version that the improvement is counted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Pass (the default) or Fail: what holds as long as there is no champion, or one without this metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_baseline: Option<NoBaseline>,
}

/// Which way is better: Maximize (the default) or Minimize.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Goal {
    /// More is better.
    #[default]
    Maximize,
    /// Less is better.
    Minimize,
}

/// The version that an improvement is counted from: Champion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Baseline {
    /// The one that was promoted last.
    #[default]
    Champion,
}

/// What holds without a baseline: Pass (the default) or Fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NoBaseline {
    /// The check holds.
    #[default]
    Pass,
    /// It does not.
    Fail,
}

/// What a check of a gate found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// The metric or result, as STAGE.NAME.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// Its value; absent if there is none, or it is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Least value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// By how much it must be better than the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_improvement: Option<f64>,
    /// The champion's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// The champion's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_version: Option<u64>,
    /// Why it does not hold, or holds without a baseline.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Waits until somebody approves or denies it, by spec.approvals of the run. It has no Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.timeout) || self.timeout.matches('[1-9]')").message("timeout must be longer than 0s").field_path(".timeout")
)]
pub struct Approval {
    /// What is asked, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub message: Option<String>,
    /// Longest time to wait, such as 24h; then the stage fails with ApprovalTimeout. Absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub timeout: Option<String>,
}

/// A person's word on an approval. It cannot be taken back or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalDecision {
    /// Approved or Denied.
    pub decision: Verdict,
    /// Who says so: the name by which the API server knows whoever writes this; it refuses any other.
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub comment: Option<String>,
}

/// Approved or Denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// The run goes on.
    Approved,
    /// The stage fails with ApprovalDenied.
    Denied,
}

/// Who decided on an approval, and when that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus {
    /// Approved or Denied.
    pub decision: Verdict,
    /// Who.
    pub by: String,
    /// When.
    pub time: Time,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}
