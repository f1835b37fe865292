//! A job's spec as it has been checked: later code cannot see one that has not.

use jiff::SignedDuration;
use serde_json::{Map, Value};
use trainyard_crds::condition::Reason;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{
    Framework, JobInput, Output, ResultDeclaration, Retry, Role, Store, SuccessPolicy, TrainingJobSpec,
    duration_seconds,
};

use crate::SpecProblem;
use crate::retry::Policy;
use crate::template::{Reference, RunField, Template};

/// How long all ranks may take until they have started, where the job says nothing.
const START_TIMEOUT: u64 = 600;
/// Seconds between TERM and KILL where the job says nothing.
const GRACE_SECONDS: u64 = 30;
/// Seconds between two checkpoints where the job says nothing.
const CHECKPOINT_SECONDS: u64 = 300;
/// Checkpoints that are kept where the job says nothing.
const CHECKPOINTS: u32 = 2;
/// Attempts after failures of the training's own, where the job says nothing.
const LIMIT: u32 = 3;
/// Attempts after failures of the infrastructure, where the job says nothing.
const INFRA_LIMIT: u32 = 20;
/// Rank 0's port where the job says nothing.
const PORT: u16 = 29_500;

/// Whose work a job's ranks do: this is what their program sees as run and stage, and below which they publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Name of the pipeline, or `trainingjobs`.
    pub pipeline: String,
    /// Name of the run, or of the job.
    pub run: String,
    /// UID of the run, or of the job.
    pub run_uid: String,
    /// Name of the stage, or `train`.
    pub stage: String,
    /// What rank 0 asks for before anything is done: see [`step_protocol::LedgerSpec`].
    pub ledger: Option<String>,
}

impl Origin {
    /// That of a job that no run owns.
    #[must_use]
    pub fn alone(job: &str, uid: &str) -> Self {
        Self {
            pipeline: step_protocol::paths::JOBS.into(),
            run: job.into(),
            run_uid: uid.into(),
            stage: "train".into(),
            ledger: None,
        }
    }
}

/// A job whose references all lead somewhere and whose defaults are filled in.
#[derive(Debug)]
pub struct Job {
    pub(super) framework: Framework,
    pub(super) roles: Vec<JobRole>,
    pub(super) success: SuccessPolicy,
    pub(super) checkpoint: Option<(u64, u32)>,
    pub(super) policy: Policy,
    pub(super) start_timeout: SignedDuration,
    pub(super) stall_timeout: Option<u64>,
    pub(super) timeout: Option<SignedDuration>,
    pub(super) grace: u64,
    pub(super) port: u16,
    pub(super) inputs: Vec<JobInput>,
    pub(super) outputs: Vec<Output>,
    pub(super) results: Vec<ResultDeclaration>,
    pub(super) metrics: Vec<String>,
    pub(super) params: Map<String, Value>,
    store: Store,
    code: Option<String>,
    digest: String,
}

/// Pods that run the same program.
#[derive(Debug)]
pub(super) struct JobRole {
    pub(super) role: Role,
    pub(super) command: Vec<Template>,
    pub(super) env: Vec<(String, Template)>,
}

impl JobRole {
    pub(super) fn name(&self) -> &str {
        &self.role.name
    }

    pub(super) fn processes(&self) -> u32 {
        self.role.processes_per_replica.unwrap_or(1)
    }
}

impl Job {
    /// Checks a spec and fills in its defaults.
    ///
    /// `default_store` is the installation's, for a job that names none.
    ///
    /// # Errors
    /// The first problem, with the path of its field.
    pub fn new(spec: &TrainingJobSpec, default_store: Option<&Store>) -> Result<Self, SpecProblem> {
        let store = spec.store.as_ref().or(default_store).cloned().ok_or_else(|| {
            SpecProblem::new(
                Reason::StoreMissing,
                "spec.store",
                "neither the job nor the installation says where artifacts live: set spec.store, or defaultStore in the chart",
            )
        })?;
        let training = &spec.training;
        let roles = training
            .roles
            .iter()
            .enumerate()
            .map(|(index, role)| self::role(spec, role, &format!("spec.roles[{index}]")));
        let restart = training.restart.clone().unwrap_or_default();
        let retry = Retry {
            limit: Some(restart.limit.unwrap_or(LIMIT)),
            infra_limit: Some(restart.infra_limit.unwrap_or(INFRA_LIMIT)),
            backoff: restart.backoff,
            rules: restart.rules,
        };
        let seconds = |text: &Option<String>| text.as_deref().and_then(duration_seconds);
        Ok(Self {
            framework: training.framework,
            roles: roles.collect::<Result<_, _>>()?,
            success: training.success.unwrap_or_default(),
            checkpoint: training.checkpoint.as_ref().map(|checkpoint| {
                (seconds(&checkpoint.interval).unwrap_or(CHECKPOINT_SECONDS), checkpoint.keep.unwrap_or(CHECKPOINTS))
            }),
            policy: Policy::new(Some(&retry)),
            start_timeout: duration(seconds(&training.start_timeout).unwrap_or(START_TIMEOUT)),
            stall_timeout: seconds(&training.stall_timeout),
            timeout: seconds(&spec.timeout).map(duration),
            grace: seconds(&spec.grace_period).unwrap_or(GRACE_SECONDS),
            port: training.port.unwrap_or(PORT),
            inputs: spec.inputs.clone(),
            outputs: spec.outputs.clone(),
            results: spec.results.clone(),
            metrics: spec.metrics.clone(),
            params: spec.params.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            store,
            code: spec.code.as_ref().map(|code| code.config_map_name.clone()),
            digest: digest(spec),
        })
    }

    /// Where artifacts live.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The ConfigMap with the code.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Checksum of all of the spec that must not change.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The role of a rank: its program and what its Pods need.
    #[must_use]
    pub fn role(&self, ranks: u32, rank: u32) -> Option<&Role> {
        self.place(ranks, rank).map(|(role, _)| &self.roles[role].role)
    }

    /// A rank's role and its index in it, in an attempt of so many ranks.
    #[must_use]
    pub fn role_of(&self, ranks: u32, rank: u32) -> Option<(&str, u32)> {
        self.place(ranks, rank).map(|(role, index)| (self.roles[role].name(), index))
    }

    /// How many ranks an attempt has that has all of them.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.roles.iter().map(|role| role.role.replicas).sum()
    }

    /// How many Pods of each role an attempt of so many ranks has. Only a job of one role has another number than it says.
    pub(super) fn replicas(&self, ranks: u32) -> impl Iterator<Item = u32> + '_ {
        let one = self.roles.len() == 1;
        self.roles.iter().map(move |role| if one { ranks } else { role.role.replicas })
    }

    pub(super) fn place(&self, ranks: u32, rank: u32) -> Option<(usize, u32)> {
        let mut first = 0;
        for (role, replicas) in self.replicas(ranks).enumerate() {
            if rank < first + replicas {
                return Some((role, rank - first));
            }
            first += replicas;
        }
        None
    }

    /// Whether every rank has a part of the work of its own.
    pub(super) fn is_scatter(&self) -> bool {
        self.success == SuccessPolicy::All
    }

    /// Name of the Pod of a rank. It follows from what it stands for, so a repeated create meets itself.
    #[must_use]
    pub fn pod_name(&self, job: &str, uid: &str, ranks: u32, attempt: u32, rank: u32) -> String {
        let (role, index) = self.role_of(ranks, rank).unwrap_or(("", rank));
        names::rank_pod(job, uid, role, index, attempt)
    }
}

fn role(spec: &TrainingJobSpec, role: &Role, path: &str) -> Result<JobRole, SpecProblem> {
    let container = &role.container;
    if container.image.is_none() {
        return Err(SpecProblem::new(Reason::InvalidPipeline, format!("{path}.container.image"), "no image"));
    }
    let mut command = Vec::new();
    for (field, texts) in [("command", &container.command), ("args", &container.args)] {
        for (i, text) in texts.iter().flatten().enumerate() {
            command.push(template(spec, text, &format!("{path}.container.{field}[{i}]"))?);
        }
    }
    let mut env = Vec::new();
    for (i, variable) in container.env.iter().enumerate() {
        if let Some(value) = &variable.value {
            env.push((variable.name.clone(), template(spec, value, &format!("{path}.container.env[{i}].value"))?));
        }
    }
    Ok(JobRole { role: role.clone(), command, env })
}

/// A text whose references lead somewhere.
fn template(spec: &TrainingJobSpec, text: &str, path: &str) -> Result<Template, SpecProblem> {
    let template = Template::parse(text, path)?;
    for reference in template.references() {
        let (known, what) = match reference {
            Reference::Param(name) => {
                (spec.params.contains_key(name), format!("parameter {name}: set it in spec.params"))
            }
            Reference::InputPath(name) => {
                (spec.inputs.iter().any(|input| input.name == *name), format!("input {name}: add it to spec.inputs"))
            }
            Reference::OutputPath(name) => (
                spec.outputs.iter().any(|output| output.name == *name),
                format!("output {name}: add it to spec.outputs"),
            ),
            Reference::Run(RunField::Name | RunField::Namespace | RunField::Uid | RunField::Pipeline) => {
                (true, String::new())
            }
            Reference::Run(RunField::Phase) | Reference::StageResult { .. } | Reference::StagePhase(_) => {
                (false, "stage: a job by itself knows none; write $$( for a literal $(".to_owned())
            }
        };
        if !known {
            return Err(SpecProblem::new(Reason::UnknownReference, path, format!("there is no {what}")));
        }
    }
    Ok(template)
}

fn duration(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// A hash over all of a spec that must not change. A map of JSON is sorted by its keys.
fn digest(spec: &TrainingJobSpec) -> String {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for field in ["suspend", "ttl", "elastic"] {
            fields.remove(field);
        }
    }
    names::hash(&[&value.to_string()])
}
