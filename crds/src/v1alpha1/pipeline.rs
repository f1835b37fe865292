//! The kind `Pipeline`: what is to be done, kept in Git.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Concurrency, Param, PipelineStatus, Resources, Retry, RetryFailedRevision, Stage, Store, Trigger, schema};

/// What a pipeline does: its stages, in an order in which each uses only stages listed before it, and what starts it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    plural = "pipelines",
    singular = "pipeline",
    shortname = "pl",
    category = "trainyard",
    namespaced,
    status = "PipelineStatus",
    derive = "PartialEq",
    doc = "A Pipeline says which stages a machine-learning workflow has and what each reads and writes. Create a PipelineRun to run it, or have triggers do so.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the pipeline can be run as it stands"
    ),
    printcolumn(
        name = "Stages",
        type_ = "integer",
        json_path = ".status.stages",
        description = "How many stages it has"
    ),
    printcolumn(
        name = "Runs",
        type_ = "integer",
        json_path = ".status.activeRuns",
        description = "How many runs are active"
    ),
    printcolumn(
        name = "Last-Run",
        type_ = "string",
        json_path = ".status.lastRun.name",
        description = "The run that was created last"
    ),
    printcolumn(
        name = "Last-Phase",
        type_ = "string",
        json_path = ".status.lastRun.phase",
        description = "Phase of that run"
    ),
    printcolumn(
        name = "Next",
        type_ = "string",
        json_path = ".status.nextRun",
        description = "When a schedule starts the next run"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("self.stages.all(i, s, !has(s.dependsOn) || sets.contains(self.stages.transformList(j, x, j < i, x.name), s.dependsOn))")
        .message("dependsOn may only name stages listed before the stage").field_path(".stages"),
    validation = Rule::new("self.stages.all(i, s, !has(s.after) || sets.contains(self.stages.transformList(j, x, j < i, x.name), s.after.map(a, a.stage)))")
        .message("after may only name stages listed before the stage").field_path(".stages"),
    validation = Rule::new("self.stages.all(i, s, !has(s.inputs) || sets.contains(self.stages.transformList(j, x, j < i, x.name + '.'), s.inputs.map(a, has(a.from), a.from.substring(0, a.from.indexOf('.') + 1))))")
        .message("inputs may only come from stages listed before the stage").field_path(".stages"),
    validation = Rule::new("!has(self.finally) || self.finally.all(s, !has(s.inputs) || sets.contains(self.stages.map(x, x.name + '.'), s.inputs.map(a, has(a.from), a.from.substring(0, a.from.indexOf('.') + 1))))")
        .message("inputs of a finally stage may only come from stages, not from other finally stages").field_path(".finally"),
    validation = Rule::new("!has(self.finally) || self.finally.all(s, !has(s.dependsOn) && !has(s.after))")
        .message("finally stages start together when all stages have ended: dependsOn and after do not go there").field_path(".finally"),
    validation = Rule::new("!has(self.finally) || !sets.intersects(self.stages.map(s, s.name), self.finally.map(s, s.name))")
        .message("a finally stage must not have the name of a stage").field_path(".finally"),
    validation = Rule::new("(has(self.defaults) && has(self.defaults.container) && has(self.defaults.container.image)) || (self.stages.all(s, has(s.container) ? has(s.container.image) : !has(s.trainingJob) || s.trainingJob.roles.all(r, has(r.container.image))) && (!has(self.finally) || self.finally.all(s, has(s.container) ? has(s.container.image) : !has(s.trainingJob) || s.trainingJob.roles.all(r, has(r.container.image)))))")
        .message("container.image is required in every stage and in every role of a training, or in defaults.container"),
    validation = Rule::new("!has(self.params) || [self.params.map(a, a.name.upperAscii().replace('-', '_'))].all(n, n.all(x, n.exists_one(y, y == x)))")
        .message("params must differ in more than case, - and _: their names become names of environment variables").field_path(".params"),
    validation = Rule::new("!has(self.triggers) || self.triggers.filter(t, has(t.specChange)).size() <= 1")
        .message("one trigger of kind specChange is enough: a change of the spec starts one run").field_path(".triggers")
)]
pub struct PipelineSpec {
    /// What the pipeline is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Values that a run may set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub params: Vec<Param>,
    /// Where artifacts live. Absent means the installation's default store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// A ConfigMap with the stages' code, mounted read-only at /trainyard/code, the working directory of every stage. With a
    /// kustomize configMapGenerator its name changes with its content, so a change of code is a change of the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// What holds for every stage that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,
    /// Most stages of one run that are alive at once. Absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallel: Option<u32>,
    /// The stages, each listed after those that it needs.
    #[schemars(length(min = 1, max = 200), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stages: Vec<Stage>,
    /// Stages that run when all others have ended, whatever happened. They may use $(run.phase) and $(stages.STAGE.phase).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub finally: Vec<Stage>,
    /// What starts runs of the pipeline without hands. Absent means nothing does: create a PipelineRun to run it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Vec<Trigger>,
    /// What becomes of a run that is due while another one that a trigger started is active: Allow, Forbid, Replace or QueueLatest (the
    /// default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Never (the default) or Backoff: whether a run of a trigger that failed is followed by another one of the same revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_failed_revision: Option<RetryFailedRevision>,
    /// Any text: another one makes every revision a new one, so that what has been run runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub rerun_token: Option<String>,
    /// While true triggers start nothing. Runs that are active go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// What is kept of runs that have ended. Absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// What becomes of what belongs to the pipeline when it is deleted. Absent means that the runs go that triggers have started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// What becomes of what belongs to the pipeline when it is deleted. Artifacts, models and the ledger in the store always stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionPolicy {
    /// Delete (the default) or Orphan: whether runs that triggers have started go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<RunDeletion>,
}

/// Delete (the default) or Orphan: whether runs that triggers have started go with their Pipeline. Runs that people create always stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunDeletion {
    /// They go with it.
    #[default]
    Delete,
    /// They stay, and active ones go on.
    Orphan,
}

/// What is kept of runs that have ended. Only runs that triggers started are deleted, never one that a person or a tool created; with the
/// annotation trainyard.dev/pin none is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.grace) || has(self.artifacts)").message("grace goes with artifacts").field_path(".grace")
)]
pub struct Retention {
    /// How many runs that succeeded are kept, the newest. Absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000))]
    pub succeeded: Option<u32>,
    /// How many runs that failed or were cancelled are kept, the newest. Absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000))]
    pub failed: Option<u32>,
    /// How long after its end a run is kept at most, such as 30d. Absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub ttl: Option<String>,
    /// Retain (the default), DryRun or Delete: what becomes of artifacts of runs that do not exist any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<ArtifactRetention>,
    /// How long after the last write artifacts are kept in any case, such as 24h (the default); at least 10m. As often they are looked
    /// through, at least once a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub grace: Option<String>,
}

/// What becomes of artifacts of runs that do not exist any more: Retain (the default), DryRun or Delete. Those of models' versions, of
/// runs that exist and of runs that these were built on are always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ArtifactRetention {
    /// They stay.
    #[default]
    Retain,
    /// They stay, and status.artifacts and the log of a short Pod say what would go.
    DryRun,
    /// A short Pod with the store's credentials deletes them.
    Delete,
}

/// Code by name of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Code {
    /// Name of the ConfigMap in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub config_map_name: String,
}

/// What holds for every stage that does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.timeout) || self.timeout.matches('[1-9]')").message("timeout must be longer than 0s").field_path(".timeout")
)]
pub struct Defaults {
    /// Defaults of container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<DefaultsContainer>,
    /// When a failed attempt is repeated. Trainings have their own restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Longest time of one attempt, such as 30m; of a training with all its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub timeout: Option<String>,
    /// Requests and limits of a stage's container, and of each rank of a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// Defaults of a stage's container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultsContainer {
    /// Image of stages, and of roles of trainings, that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = "^[A-Za-z0-9][^\\s]*$"))]
    pub image: Option<String>,
}
