//! What is known of a pipeline: whether it can run, what its triggers wait for, and the ledger of what they started.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ModelReference, ModelStatus, RunPhase, schema};

/// What is known of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// The generation that this status is about; -1 until the operator has seen the pipeline.
    #[serde(default = "schema::unobserved")]
    pub observed_generation: i64,
    /// Accepted, Ready, and Reconciling or Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many stages the pipeline has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<u32>,
    /// How many of its runs have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_runs: Option<u32>,
    /// The run that was created last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
    /// The newest of its runs that have succeeded, runs that promote apart: what it has made is what other pipelines see of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_succeeded: Option<LastRun>,
    /// When a schedule starts the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Time>,
    /// The value of the annotation trainyard.dev/rerun-requested-at that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_requested_at: Option<String>,
    /// Every trigger: what it did last, and why it does nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Vec<TriggerStatus>,
    /// The last runs that triggers started or decided not to start, the newest first. It outlives the runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["key"]))]
    pub revisions: Vec<Revision>,
    /// The models that runs of the pipeline have published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<ModelStatus>,
    /// When artifacts of runs that do not exist any more were looked for last, and what became of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<ArtifactsStatus>,
}

/// What became of artifacts of runs that do not exist any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactsStatus {
    /// When they were looked for last.
    pub checked: Time,
    /// Whether nothing was deleted, since retention says DryRun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Runs whose artifacts went, or would.
    pub runs: i64,
    /// How many objects.
    pub objects: i64,
    /// Sum of their sizes.
    pub bytes: i64,
    /// Runs whose artifacts were kept.
    pub kept: i64,
    /// Why it did not succeed; empty if it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A run of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: RunPhase,
    /// When it was created.
    pub created: Time,
}

/// What a trigger did last, and why it does nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// Name of the trigger.
    pub name: String,
    /// The key that it acted on last: that of a run, whether it was started or not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// When it started a run last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fired: Option<Time>,
    /// That run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// Of a schedule or backfill: its next instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
    /// Of a schedule or backfill: up to when its instants have been dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered: Option<Time>,
    /// Of a schedule: its cron and time zone as they were then. Of a backfill also its begin and its rerunToken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schedule: String,
    /// Of data: what was looked at, and when it was looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,
    /// Of upstream: what was seen last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamStatus>,
    /// Of a backfill: how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillStatus>,
    /// One word: why it did not start a run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence: why it did not start a run, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a data trigger has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataStatus {
    /// The uri as it was then.
    pub uri: String,
    /// When it was looked at last.
    pub checked: Time,
    /// Checksum of the objects' keys, sizes, entity tags and versions that the last run was started for, or that the trigger began with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// How many objects there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<i64>,
    /// Sum of their sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
}

/// What an upstream trigger has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// The other Pipeline as it was named then.
    pub pipeline: String,
    /// The output as it was named then.
    pub output: String,
    /// The run that was looked at last; empty as long as none has succeeded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// When that run was created: another one may have its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// Checksum of the output that the last run was started for, or that the trigger began with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
}

/// How far a backfill is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackfillStatus {
    /// When it began, or began anew.
    pub started: Time,
    /// The end of its range as it was then.
    pub until: Time,
    /// How many instants its range has.
    pub instants: u32,
    /// How many runs have succeeded, or were there already.
    pub succeeded: u32,
    /// How many have ended otherwise.
    pub failed: u32,
}

/// An output of another pipeline's run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamArtifact {
    /// The run.
    pub run: String,
    /// Where the output lies.
    pub uri: String,
}

/// One entry of the ledger: a cause, and the one run that it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// SHA-256, as 64 hexadecimal digits, over the part of the spec that can change a result and the cause.
    #[schemars(length(min = 64, max = 64))]
    pub key: String,
    /// Name of the run; it follows from pipeline, key and retries.
    pub run: String,
    /// How often it was repeated after a failure.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub retries: u32,
    /// How often its models became champions again without a training, since the spec returned to it.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub rollbacks: u32,
    /// Those models, while its run promotes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["model"]))]
    pub promotes: Vec<ModelReference>,
    /// Of an upstream trigger: which run wrote what started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamArtifact>,
    /// Name of the trigger; empty for a run that was asked for by annotation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trigger: String,
    /// What started it.
    pub cause: Cause,
    /// Queued, Starting, Running, Succeeded, Failed, Cancelled, Superseded, Skipped or Deleted.
    pub phase: RevisionPhase,
    /// One word: why its run failed, or was not run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence: why it waits, or was not run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When the trigger fired.
    pub created: Time,
    /// When the run ended, or was decided against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Time>,
}

/// What started a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The spec changed.
    SpecChange {},
    /// An instant of a schedule has come.
    #[serde(rename_all = "camelCase")]
    Schedule {
        /// The instant.
        instant: Time,
    },
    /// The objects below a prefix have changed.
    #[serde(rename_all = "camelCase")]
    Data {
        /// Checksum of their keys, sizes, entity tags and versions.
        fingerprint: String,
    },
    /// A stage of another pipeline has written something else.
    #[serde(rename_all = "camelCase")]
    Upstream {
        /// The other Pipeline.
        pipeline: String,
        /// The output, as STAGE.OUTPUT.
        output: String,
        /// Its checksum.
        digest: String,
    },
    /// An instant of a range.
    #[serde(rename_all = "camelCase")]
    Backfill {
        /// The instant.
        instant: Time,
    },
    /// Somebody asked for it, by annotation.
    #[serde(rename_all = "camelCase")]
    Request {
        /// The annotation's value.
        value: String,
    },
}

/// How far an entry of the ledger is. Queued: it waits for another run. Starting: its run is being created. Running. Succeeded, Failed
/// or Cancelled: as its run ended. Superseded: a newer one ran instead. Skipped: another run was active. Deleted: somebody deleted the
/// run before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RevisionPhase {
    /// It waits for another run.
    Queued,
    /// Its run is being created.
    Starting,
    /// Its run is active.
    Running,
    /// Its run ended well.
    Succeeded,
    /// Its run ended badly.
    Failed,
    /// Its run was cancelled.
    Cancelled,
    /// A newer one ran instead.
    Superseded,
    /// Another run was active.
    Skipped,
    /// Its run was deleted before its end.
    Deleted,
}

impl RevisionPhase {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Starting | Self::Running)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Superseded => "Superseded",
            Self::Skipped => "Skipped",
            Self::Deleted => "Deleted",
        }
    }
}
