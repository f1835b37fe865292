//! When a failed attempt is repeated.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// When a failed attempt is repeated. Failures of the infrastructure (a lost node, a deleted or preempted Pod) have a budget of
/// their own and do not count here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often the stage is repeated after failures of its own. Absent means 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub limit: Option<u32>,
    /// How often the stage is repeated after failures of the infrastructure. Absent means 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub infra_limit: Option<u32>,
    /// How long to wait before a repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// What to do after certain exit codes of the program; the first rule that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<RetryRule>,
}

/// How long to wait before a repetition: initial, then times factor for each further one, at most max.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// Wait before the first repetition, such as 10s. Absent means 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub initial: Option<String>,
    /// Factor between one wait and the next. Absent means 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub factor: Option<f64>,
    /// Longest wait. Absent means 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub max: Option<String>,
}

/// What to do after certain exit codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryRule {
    /// Exit codes of the program that this rule is for.
    #[schemars(length(min = 1, max = 64), inner(range(min = 1, max = 255)))]
    pub exit_codes: Vec<i32>,
    /// Retry (counts toward limit), RetryInfra (counts toward infraLimit) or Fail (at once).
    pub action: RetryAction,
}

/// What a retry rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryAction {
    /// Repeat, counting toward `limit`.
    Retry,
    /// Repeat, counting toward `infraLimit`.
    RetryInfra,
    /// Fail at once.
    Fail,
}
