//! A training on many Pods: what the kind `TrainingJob` and a stage of the kind `trainingJob` have in common.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backoff, Container, PodOverrides, RetryRule, schema};

/// One training on many Pods. All of them start together, and whatever ends one of them ends the attempt for all: then all start
/// again, from the newest checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.success) || self.success != 'All' || self.framework == 'None'")
        .message("success: All is for framework None, whose ranks know nothing of each other").field_path(".success"),
    validation = Rule::new("!has(self.checkpoint) || !has(self.success) || self.success != 'All'")
        .message("checkpoint does not go with success: All: it is what rank 0 keeps, and each rank has its own part of the work; a part that is done is not done again").field_path(".checkpoint"),
    validation = Rule::new("!has(self.elastic) || self.roles.size() == 1")
        .message("elastic needs exactly one role").field_path(".elastic"),
    validation = Rule::new("!has(self.elastic) || self.roles.all(r, self.elastic.min <= r.replicas && r.replicas <= self.elastic.max)")
        .message("elastic.min must be at most replicas, and elastic.max at least replicas").field_path(".elastic"),
    validation = Rule::new("!has(self.elastic) || !has(self.success) || self.success != 'All'")
        .message("elastic does not go with success: All, where every rank has its own part of the work").field_path(".elastic"),
    validation = Rule::new("self.roles.map(r, r.replicas).sum() <= 1000").message("a job has at most 1000 ranks").field_path(".roles"),
    validation = Rule::new("self.roles.all(r, size(r.name) + 1 + size(string(r.replicas - 1)) <= 63)")
        .message("a rank's host name is ROLE-INDEX and must not be longer than 63: shorten the role's name").field_path(".roles"),
    validation = Rule::new("self.framework != 'Torch' || self.roles.all(r, !has(r.container.env) || r.container.env.all(e, !(e.name in ['MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK']) && !e.name.startsWith('PET_')))")
        .message("env must not set what the rendezvous of framework Torch sets: MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, LOCAL_RANK, PET_*").field_path(".roles"),
    validation = Rule::new("self.framework != 'TensorFlow' || self.roles.all(r, !has(r.container.env) || r.container.env.all(e, e.name != 'TF_CONFIG'))")
        .message("env must not set what the rendezvous of framework TensorFlow sets: TF_CONFIG").field_path(".roles"),
    validation = Rule::new("self.framework != 'JAX' || self.roles.all(r, !has(r.container.env) || r.container.env.all(e, !(e.name in ['JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'])))")
        .message("env must not set what the rendezvous of framework JAX sets: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID").field_path(".roles"),
    validation = Rule::new("self.framework != 'XGBoost' || self.roles.all(r, !has(r.container.env) || r.container.env.all(e, !e.name.startsWith('DMLC_')))")
        .message("env must not set what the rendezvous of framework XGBoost sets: DMLC_*").field_path(".roles"),
    validation = Rule::new("self.framework != 'MPI' || self.roles.all(r, !has(r.container.env) || r.container.env.all(e, !e.name.startsWith('HYDRA_') && !e.name.startsWith('OMPI_MCA_plm_') && !e.name.startsWith('OMPI_MCA_orte_') && !e.name.startsWith('PRTE_MCA_plm_') && !e.name.startsWith('PRTE_MCA_prte_')))")
        .message("env must not set what the rendezvous of framework MPI sets: HYDRA_*, OMPI_MCA_plm_*, OMPI_MCA_orte_*, PRTE_MCA_plm_*, PRTE_MCA_prte_*").field_path(".roles"),
    validation = Rule::new("!has(self.port) || self.port != 29499").message("port must not be 29499, where the ranks' step-runners meet").field_path(".port"),
    validation = Rule::new("!has(self.startTimeout) || self.startTimeout.matches('[1-9]')").message("startTimeout must be longer than 0s").field_path(".startTimeout"),
    validation = Rule::new("!has(self.stallTimeout) || self.stallTimeout.matches('[1-9]')").message("stallTimeout must be longer than 0s").field_path(".stallTimeout")
)]
pub struct Training {
    /// What the ranks use to find each other: Torch, TensorFlow, JAX, XGBoost, LightGBM, MPI or None. Its environment variables and
    /// files are set on every rank; TRAINYARD_RANK, TRAINYARD_WORLD_SIZE, TRAINYARD_RANK0_HOST and the like are set in any case.
    pub framework: Framework,
    /// The Pods, by what they do. Rank 0 is the first Pod of the first role: what it writes is what the job gives.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Vec<Role>,
    /// What is kept of the training while it goes on. Absent means that nothing is, and each attempt starts from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// When a failed attempt is followed by another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// With how many ranks the training also goes on. Absent means with replicas alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<Elastic>,
    /// How long all ranks together may take until they have started, such as 10m (the default). Then all are taken away, so that two
    /// jobs that each have a part of their Pods do not wait for each other, and tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub start_timeout: Option<String>,
    /// How long a rank may show no sign of life before all are started again, such as 15m: no line of output, no metric, no progress,
    /// no change of the checkpoint. Absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub stall_timeout: Option<String>,
    /// Rank0 (the default): the job succeeds when rank 0 has. All: when every rank has, each with a part of the work of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<SuccessPolicy>,
    /// Port on which rank 0 is found by the others. Absent means 29500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<u16>,
}

/// What the ranks use to find each other: Torch (also under torchrun), TensorFlow, JAX, XGBoost, LightGBM, MPI, or None.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Framework {
    /// PyTorch, as a plain program or under torchrun.
    Torch,
    /// TensorFlow, by TF_CONFIG.
    TensorFlow,
    /// JAX.
    JAX,
    /// XGBoost, with its tracker on rank 0.
    XGBoost,
    /// LightGBM, by a list of machines.
    LightGBM,
    /// MPI, with mpirun on rank 0.
    MPI,
    /// Nothing but the TRAINYARD_ variables and the hosts file.
    None,
}

impl Framework {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Torch => "Torch",
            Self::TensorFlow => "TensorFlow",
            Self::JAX => "JAX",
            Self::XGBoost => "XGBoost",
            Self::LightGBM => "LightGBM",
            Self::MPI => "MPI",
            Self::None => "None",
        }
    }
}

/// Rank0 (the default): the job succeeds when rank 0 has ended well and its outputs are published. All: when every rank has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SuccessPolicy {
    /// When rank 0 has.
    #[default]
    Rank0,
    /// When every rank has.
    All,
}

/// Pods that run the same program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Name of the role, such as worker. TensorFlow knows chief, worker, ps and evaluator.
    #[schemars(length(min = 1, max = 61), regex(pattern = schema::STAGE_NAME))]
    pub name: String,
    /// How many Pods.
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: u32,
    /// The program.
    pub container: Container,
    /// What the Pods need: node, volumes, user, shared memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodOverrides>,
    /// How many processes the program starts in each Pod, as torchrun and mpirun are told. Absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub processes_per_replica: Option<u32>,
}

/// What rank 0 writes below /trainyard/checkpoint is kept in the store while it runs, and the newest complete one is there again, on
/// every rank, when the next attempt starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.interval) || self.interval.matches('[1-9]')").message("interval must be longer than 0s").field_path(".interval")
)]
pub struct Checkpoint {
    /// How often it is kept, if something has changed, such as 5m (the default). It is kept also when the Pod is asked to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub interval: Option<String>,
    /// How many of the newest ones are kept. Absent means 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub keep: Option<u32>,
}

/// When a failed attempt is followed by another one. Failures of the infrastructure (a lost node, a deleted or preempted Pod) have a
/// budget of their own. Both budgets are whole again when the attempt has kept a newer checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// How many failures of the training's own are followed by another attempt. Absent means 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub limit: Option<u32>,
    /// How many failures of the infrastructure are followed by another attempt. Absent means 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub infra_limit: Option<u32>,
    /// How long to wait before another attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// What to do after certain exit codes of the program; the first rule that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<RetryRule>,
}

/// With how many ranks the training also goes on: when Pods are lost or find no place, the next attempt has fewer, never less than min.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.min <= self.max").message("elastic.min must be at most elastic.max").field_path(".min")
)]
pub struct Elastic {
    /// Fewest ranks.
    #[schemars(range(min = 1))]
    pub min: u32,
    /// Most ranks.
    #[schemars(range(min = 1, max = 1000))]
    pub max: u32,
}
