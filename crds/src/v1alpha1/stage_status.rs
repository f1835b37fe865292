//! What is known of one stage of a run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApprovalStatus, CheckResult, schema};

/// How far the stage is: Waiting (for what it needs), Pending (its Pod has not started), Running, Retrying, Succeeded, Failed,
/// Skipped or Cancelled. The last four are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StagePhase {
    /// It waits for what it needs.
    #[default]
    Waiting,
    /// Its Pod exists and has not started the program.
    Pending,
    /// Its program is running.
    Running,
    /// An attempt failed and another will follow.
    Retrying,
    /// It has ended well: its outputs are published.
    Succeeded,
    /// It has ended badly.
    Failed,
    /// It will not run.
    Skipped,
    /// It was stopped because the run was.
    Cancelled,
}

impl StagePhase {
    /// Whether the stage has ended. An ended stage never changes its phase.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Retrying => "Retrying",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Skipped => "Skipped",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// One stage of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Its name.
    pub name: String,
    /// Waiting, Pending, Running, Retrying, Succeeded, Failed, Skipped or Cancelled.
    pub phase: StagePhase,
    /// One word: why it waits or how it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence: what happened, what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Number of the current or last attempt. Of a training it is 1 unless its TrainingJob was deleted: that counts its own attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Name of that attempt's Pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// That attempt's TrainingJob, of a stage that trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<StageTraining>,
    /// Start of the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Time>,
    /// End of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// When the next attempt starts, while it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// The earlier run that this stage was taken over from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_from: Option<CachedFrom>,
    /// What it published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub outputs: Vec<OutputStatus>,
    /// Its results, as far as they are small.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub results: BTreeMap<String, Value>,
    /// Its metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub metrics: BTreeMap<String, Value>,
    /// Exit code of the program, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of the program's output, when it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_lines: String,
    /// How many attempts failed, by whose fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<FailureCounts>,
    /// What the checks of a gate found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub checks: Vec<CheckResult>,
    /// Who decided on an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStatus>,
    /// The last attempts that failed, at most five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub failed_attempts: Vec<FailedAttempt>,
}

/// The TrainingJob of a stage that trains, as far as it was known when the status was written. The job itself says more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageTraining {
    /// Its name.
    pub job: String,
    /// Number of its current or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Ranks whose Pods run, of all, such as 3/4.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// How often all ranks were started again after a failure.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub restarts: u32,
    /// How far the training is, by its own word, such as 40%.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// When it will be done, by its own word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub eta: String,
}

/// How many attempts failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureCounts {
    /// By the stage's own fault.
    #[serde(default)]
    pub user: u32,
    /// By the infrastructure's.
    #[serde(default)]
    pub infra: u32,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedAttempt {
    /// Its number.
    pub attempt: u32,
    /// How it failed, in one word.
    pub reason: String,
    /// What happened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Exit code of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it ended, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
}

/// The earlier run that a stage was taken over from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachedFrom {
    /// Its name.
    pub run: String,
    /// Its UID.
    pub uid: String,
    /// Name of its pipeline.
    pub pipeline: String,
}

/// A published output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// Its name.
    pub name: String,
    /// Where its files lie.
    pub uri: String,
    /// Checksum of its manifest; equal content has an equal one.
    pub digest: String,
    /// Sum of its files' sizes.
    pub bytes: i64,
}
