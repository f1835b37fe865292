//! A stage: one piece of work of a pipeline.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Approval, Container, Gate, Input, Output, PodOverrides, Publish, ResultDeclaration, Retry, Training, schema,
};

/// One stage: a program in a Pod, or a training on many, with what it reads and writes; a model that is published; a gate or an
/// approval, which have no Pod. It starts as soon as everything it needs is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.timeout) || self.timeout.matches('[1-9]')").message("timeout must be longer than 0s").field_path(".timeout"),
    validation = Rule::new("!has(self.inputs) || [self.inputs.map(a, a.name.upperAscii().replace('-', '_'))].all(n, n.all(x, n.exists_one(y, y == x)))")
        .message("inputs must differ in more than case, - and _: their names become names of environment variables").field_path(".inputs"),
    validation = Rule::new("!has(self.outputs) || [self.outputs.map(a, a.name.upperAscii().replace('-', '_'))].all(n, n.all(x, n.exists_one(y, y == x)))")
        .message("outputs must differ in more than case, - and _: their names become names of environment variables").field_path(".outputs"),
    validation = Rule::new("!has(self.trainingJob) || !has(self.retry)")
        .message("retry does not go with trainingJob, which starts all its ranks again by itself: set trainingJob.restart").field_path(".retry"),
    validation = Rule::new("!has(self.trainingJob) || !has(self.pod)")
        .message("pod does not go with trainingJob, which has Pods of several roles: set pod in trainingJob.roles").field_path(".pod"),
    validation = Rule::new("!(has(self.gate) || has(self.approval) || has(self.publish)) || !(has(self.inputs) || has(self.outputs) || has(self.results) || has(self.metrics))")
        .message("inputs, outputs, results and metrics are of programs: a gate, an approval or a publish stage has none; use dependsOn for the order"),
    validation = Rule::new("!(has(self.gate) || has(self.approval)) || !(has(self.retry) || has(self.timeout) || has(self.gracePeriod) || has(self.pod))")
        .message("retry, timeout, gracePeriod and pod are of Pods: a gate or an approval has none; an approval has a timeout of its own")
)]
pub struct Stage {
    /// Name, unique in the pipeline: lower-case letters, digits and dashes, at most 40.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::STAGE_NAME))]
    pub name: String,
    /// What the stage does.
    #[serde(flatten)]
    pub kind: StageKind,
    /// Data that the stage reads, from other stages or from the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inputs: Vec<Input>,
    /// Data that the stage writes. All of it must be there when the program ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub outputs: Vec<Output>,
    /// Small values that the stage writes, for other stages and for status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub results: Vec<ResultDeclaration>,
    /// Metrics that status always shows and that `when` may use. The program appends them to /trainyard/metrics.jsonl.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_.-]*$")), extend("x-kubernetes-list-type" = "set"))]
    pub metrics: Vec<String>,
    /// Stages, listed before this one, that must have succeeded first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 40)), extend("x-kubernetes-list-type" = "set"))]
    pub depends_on: Vec<String>,
    /// Stages, listed before this one, that must have ended in a certain way first. For branches, such as after a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["stage"]))]
    pub after: Vec<After>,
    /// Condition in CEL over params, stages and run, such as `params.production == true` or `stages.train.metrics.accuracy > 0.9`.
    /// When false the stage is skipped, and with it what needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// When a failed attempt is repeated. Absent means that of spec.defaults. Not of a trainingJob, which has restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Whether the run goes on to succeed although this stage fails. What needs the stage is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_failure: Option<bool>,
    /// Longest time of one attempt, such as 30m, from the start of its container; of a trainingJob, of all its attempts together, and
    /// anew when the run is resumed. Absent means that of spec.defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub timeout: Option<String>,
    /// Time between asking the program to stop and killing it, such as 30s (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub grace_period: Option<String>,
    /// What the stage needs of its Pod: node, volumes, user, shared memory. Not of a trainingJob, whose roles say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodOverrides>,
}

/// What a stage does: exactly one of these is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StageKind {
    /// The program that the stage runs, in an image that needs nothing of Trainyard.
    Container(Container),
    /// A training on many Pods, as a TrainingJob of the run. Its rank 0 writes the stage's outputs, results and metrics.
    TrainingJob(Box<Training>),
    /// Checks of numbers that must hold for the run to go on.
    Gate(Gate),
    /// A person's word that the run waits for.
    Approval(Approval),
    /// A model that is published and promoted to champion.
    Publish(Publish),
}

/// A stage that must have ended in a certain way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct After {
    /// Name of the stage, listed before this one.
    #[schemars(length(min = 1, max = 40))]
    pub stage: String,
    /// In which of these ways it must have ended: Succeeded, Failed, Skipped. Absent means in any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub phases: Vec<Branch>,
}

/// A way in which a stage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Branch {
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It was skipped.
    Skipped,
}
