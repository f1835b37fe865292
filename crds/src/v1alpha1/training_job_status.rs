//! What is known of a training job.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FailureCounts, OutputStatus, Store, schema};

/// How far the job is: Pending (its ranks have not all started), Running (all of them have), Restarting (an attempt has ended and
/// another follows), Suspended (there are no Pods), Succeeded or Failed. The last two are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// Its ranks have not all started.
    #[default]
    Pending,
    /// All ranks have started.
    Running,
    /// An attempt has ended, and another follows.
    Restarting,
    /// There are no Pods until `suspend` is taken back.
    Suspended,
    /// It has ended well.
    Succeeded,
    /// It has ended badly.
    Failed,
}

impl JobPhase {
    /// Every phase.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Restarting, Self::Suspended, Self::Succeeded, Self::Failed];

    /// Whether the job has ended. An ended job never changes its phase.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Restarting => "Restarting",
            Self::Suspended => "Suspended",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// What is known of a training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobStatus {
    /// The generation that this status is about; -1 until the operator has seen the job.
    #[serde(default = "schema::unobserved")]
    pub observed_generation: i64,
    /// Pending, Running, Restarting, Suspended, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<JobPhase>,
    /// One word: why the job waits, or the first failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence: what happened, to which rank, what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Ranks whose Pods run, of all, such as 3/4.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// How far the training is, by its own word, such as 40%.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// When it will be done, by its own word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub eta: String,
    /// Number of the current or last attempt: one more at each restart and each resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How many ranks that attempt has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u32>,
    /// Whether all Pods of that attempt have been created: one that is missing from then on is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub launched: bool,
    /// When that attempt was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_time: Option<Time>,
    /// Whether all ranks of that attempt have been running at the same time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// When the next attempt is begun, while the job waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// How often all ranks were started again after a failure.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub restarts: u32,
    /// How many of the failures count toward the limits: those since the last newer checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<FailureCounts>,
    /// The newest checkpoint that is kept, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// When the job was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// From when its timeout counts: its start, or when it was resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Time>,
    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// From start to end, such as 4m12s.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub duration: String,
    /// What was taken where the spec says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedJob>,
    /// Accepted, Finished, Succeeded, Suspended; Reconciling, Stalled and Ready for kstatus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The last attempts that have ended, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub attempts: Vec<AttemptStatus>,
    /// What rank 0 published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub outputs: Vec<OutputStatus>,
    /// Its results, as far as they are small.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub results: BTreeMap<String, Value>,
    /// The last value of its metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub metrics: BTreeMap<String, Value>,
    /// The attempt whose outputs these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<u32>,
}

impl Default for TrainingJobStatus {
    fn default() -> Self {
        Self {
            observed_generation: schema::unobserved(),
            phase: None,
            reason: String::new(),
            message: String::new(),
            ready: String::new(),
            progress: String::new(),
            eta: String::new(),
            attempt: None,
            ranks: None,
            launched: false,
            attempt_time: None,
            started: false,
            retry_at: None,
            restarts: 0,
            failures: None,
            checkpoint: None,
            start_time: None,
            active_since: None,
            completion_time: None,
            duration: String::new(),
            resolved: None,
            conditions: Vec::new(),
            attempts: Vec::new(),
            outputs: Vec::new(),
            results: BTreeMap::new(),
            metrics: BTreeMap::new(),
            winner: None,
        }
    }
}

/// What was taken where the spec says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedJob {
    /// Prefix of this job's artifacts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifacts: String,
    /// Checksum of the spec but for suspend, ttl and elastic; it must not change once the job was accepted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub spec_digest: String,
    /// Name of the Service in which the ranks have their host names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Service account of the Pods.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Where its artifacts live, for a job that named no store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

/// The newest checkpoint that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The attempt that wrote it.
    pub attempt: u32,
    /// Which of that attempt's checkpoints it is, from 1.
    pub sequence: u32,
}

/// How an attempt ended: Succeeded, Failed or Suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AttemptOutcome {
    /// It ended well.
    Succeeded,
    /// A rank failed.
    Failed,
    /// It was stopped because the job was suspended.
    Suspended,
}

/// Whose fault a failure is: User (the training's own, toward restart.limit), Infra (the infrastructure's, toward restart.infraLimit)
/// or Fatal (trying again cannot help).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureClass {
    /// The training's own.
    User,
    /// The infrastructure's.
    Infra,
    /// Trying again cannot help.
    Fatal,
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptStatus {
    /// Its number.
    pub number: u32,
    /// Succeeded, Failed or Suspended.
    pub outcome: AttemptOutcome,
    /// How many ranks it had.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub ranks: u32,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Time>,
    /// When it ended, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// The failure that ended it. What the other ranks did after that means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<RankFailure>,
}

/// The failure that ended an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RankFailure {
    /// Role of the rank that failed; absent when it was none alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Its index in the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Name of its Pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// User, Infra or Fatal.
    pub class: FailureClass,
    /// How it failed, in one word.
    pub reason: String,
    /// What happened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Exit code of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of the program's output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_lines: String,
}
