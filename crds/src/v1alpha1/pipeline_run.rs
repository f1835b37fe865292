//! The kind `PipelineRun`: one run of a pipeline.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApprovalDecision, ModelReference, PipelineSpec, StageStatus, schema};

/// Which pipeline is run, and with what. Only state, suspend, ttl and approvals can be changed later; for anything else create another run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "PipelineRun",
    plural = "pipelineruns",
    singular = "pipelinerun",
    shortname = "plr",
    category = "trainyard",
    namespaced,
    status = "PipelineRunStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A PipelineRun runs a Pipeline once. `kubectl get plr -w` shows it move, `kubectl describe plr` says what failed and why.",
    printcolumn(name = "Pipeline", type_ = "string", json_path = ".status.pipeline"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Progress",
        type_ = "string",
        json_path = ".status.progress",
        description = "Stages that have ended, of all"
    ),
    printcolumn(
        name = "Stage",
        type_ = "string",
        json_path = ".status.stage",
        description = "The stage that is running, or the first that failed"
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
    validation = Rule::new("oldSelf.hasValue() || (!(has(self.pipelineRef) && has(self.pipeline)) && (has(self.pipelineRef) || has(self.pipeline) || has(self.rerun)))")
        .message("exactly one of pipelineRef and pipeline is required; a rerun may leave both out").optional_old_self(true),
    validation = Rule::new("has(self.pipelineRef) == has(oldSelf.pipelineRef) && (!has(self.pipelineRef) || self.pipelineRef == oldSelf.pipelineRef)")
        .message("pipelineRef cannot be changed: create another run").field_path(".pipelineRef"),
    validation = Rule::new("has(self.pipeline) == has(oldSelf.pipeline) && (!has(self.pipeline) || self.pipeline == oldSelf.pipeline)")
        .message("pipeline cannot be changed: create another run").field_path(".pipeline"),
    validation = Rule::new("has(self.rerun) == has(oldSelf.rerun) && (!has(self.rerun) || self.rerun == oldSelf.rerun)")
        .message("rerun cannot be changed: create another run").field_path(".rerun"),
    validation = Rule::new("has(self.serviceAccountName) == has(oldSelf.serviceAccountName) && (!has(self.serviceAccountName) || self.serviceAccountName == oldSelf.serviceAccountName)")
        .message("serviceAccountName cannot be changed: create another run").field_path(".serviceAccountName"),
    validation = Rule::new("has(self.promote) == has(oldSelf.promote) && (!has(self.promote) || self.promote == oldSelf.promote)")
        .message("promote cannot be changed: create another run").field_path(".promote"),
    validation = Rule::new("oldSelf.hasValue() || !has(self.promote) || (has(self.pipelineRef) && !has(self.rerun))")
        .message("promote goes with pipelineRef alone: it starts no stage of the pipeline").field_path(".promote").optional_old_self(true),
    validation = Rule::new("!has(oldSelf.approvals) || (has(self.approvals) && oldSelf.approvals.all(s, s in self.approvals && self.approvals[s] == oldSelf.approvals[s]))")
        .message("a decision on an approval cannot be taken back or changed: cancel the run instead").field_path(".approvals"),
    validation = Rule::new("!has(oldSelf.state) || oldSelf.state == 'Active' || (has(self.state) && (self.state == oldSelf.state || self.state == 'Terminated'))")
        .message("a cancelled or terminated run cannot become active again: create another run, with rerun to keep what succeeded").field_path(".state")
)]
pub struct PipelineRunSpec {
    /// The Pipeline to run, by name. It is frozen at the start: later edits do not change the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_ref: Option<PipelineReference>,
    /// The pipeline itself, for a run without a Pipeline object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineSpec>,
    /// Values of the pipeline's parameters. They are fixed once the run was accepted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub params: BTreeMap<String, Value>,
    /// An earlier run whose succeeded stages are taken over where their definition is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun: Option<Rerun>,
    /// Instead of the pipeline's stages: versions of its models that become champions again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["model"]))]
    pub promote: Vec<ModelReference>,
    /// Decisions on stages that wait for approval, by stage. Whoever writes one needs the right `approve` on the run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::approvals")]
    pub approvals: BTreeMap<String, ApprovalDecision>,
    /// Active (the default), Cancelled (stop the stages, then run `finally`) or Terminated (stop everything).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// While true no further stage starts; running ones go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Service account of the stages' Pods. Absent means default. No token is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How long after its end the run is deleted, such as 7d. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub ttl: Option<String>,
}

/// A Pipeline by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineReference {
    /// Name of the Pipeline in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An earlier run to build on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rerun {
    /// Name of the run in this namespace. It must have ended.
    #[schemars(length(min = 1, max = 253))]
    pub of: String,
    /// Which stages run again: Failed (the default: all that did not succeed, and what needs them) or All.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<RerunStages>,
}

/// Which stages run again: Failed (the default: all that did not succeed or have changed, and what needs them) or All.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RerunStages {
    /// All that did not succeed, whose definition has changed, or that need such a stage.
    #[default]
    Failed,
    /// All.
    All,
}

/// Active (the default), Cancelled (stop the stages, then run the finally stages) or Terminated (stop everything at once). A
/// cancelled run can still be terminated; neither becomes active again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunState {
    /// It is to run.
    #[default]
    Active,
    /// Stages are stopped, then `finally` runs.
    Cancelled,
    /// Everything is stopped.
    Terminated,
}

/// How far the run is: Pending (nothing has started), Running, Suspended (nothing starts until suspend is taken back),
/// Succeeded, Failed or Cancelled. The last three are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    /// Nothing has started.
    #[default]
    Pending,
    /// Stages are running or will run.
    Running,
    /// No stage starts until `suspend` is taken back.
    Suspended,
    /// It has ended well.
    Succeeded,
    /// It has ended badly.
    Failed,
    /// It was cancelled or terminated.
    Cancelled,
}

impl RunPhase {
    /// Whether the run has ended. An ended run never changes its phase.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Suspended => "Suspended",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRunStatus {
    /// The generation that this status is about; -1 until the operator has seen the run.
    #[serde(default = "schema::unobserved")]
    pub observed_generation: i64,
    /// Pending, Running, Suspended, Succeeded, Failed or Cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RunPhase>,
    /// One word: why the run waits, or the root cause of the first failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence: what happened, where, what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Stages that have ended, of all, such as 3/7.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// The stage that is running, or the first that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Name of the Pipeline; the run's own for an inline pipeline.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pipeline: String,
    /// The ControllerRevision that keeps the frozen pipeline.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// When the run was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// From start to end, such as 4m12s.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub duration: String,
    /// What was taken where the spec says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// Accepted, Finished, Succeeded; Reconciling, Stalled and Ready for kstatus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many stages are in which phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<RunCounts>,
    /// Every stage, in the order of the pipeline, then those of finally.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000), extend("x-kubernetes-list-type" = "atomic"))]
    pub stages: Vec<StageStatus>,
}

impl Default for PipelineRunStatus {
    fn default() -> Self {
        Self {
            observed_generation: schema::unobserved(),
            phase: None,
            reason: String::new(),
            message: String::new(),
            progress: String::new(),
            stage: String::new(),
            pipeline: String::new(),
            revision: String::new(),
            start_time: None,
            completion_time: None,
            duration: String::new(),
            resolved: None,
            conditions: Vec::new(),
            counts: None,
            stages: Vec::new(),
        }
    }
}

/// What was taken where the spec says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// Prefix of this run's artifacts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifacts: String,
    /// SHA-256 of the parameters with their defaults; they must not change once the run was accepted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub params_digest: String,
    /// Service account of the Pods.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
}

/// How many stages are in which phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunCounts {
    /// All stages.
    pub total: u32,
    /// Ended well, taken-over ones included.
    pub succeeded: u32,
    /// Ended badly.
    pub failed: u32,
    /// Alive.
    pub running: u32,
    /// Skipped.
    pub skipped: u32,
    /// Taken over from an earlier run.
    pub cached: u32,
}
