//! A rank of an attempt as a step: what its runner is to do.

use step_protocol::{
    CheckpointSpec, ElasticSpec, EnvVar, Framework as Rendezvous, Identity, InputSource, InputSpec, LedgerSpec,
    OutputSpec, RankSpec, ReportSpec, ResultSpec, RoleSpec, StepSpec, Text, paths,
};
use trainyard_crds::v1alpha1::{Framework, JobInput};

use super::job::Job;
use super::plan::JobRun;
use crate::step::{StepContext, StepProblem, as_text, step_type, store_spec};
use crate::template::{Part, Reference, RunField, Template};

/// Where the runners themselves find each other.
const GATE_PORT: u16 = 29_499;

impl JobRun<'_> {
    /// Below the store: where the job's outputs and checkpoints lie.
    #[must_use]
    pub fn prefix(&self) -> String {
        let origin = self.origin;
        paths::stage_prefix(self.namespace, &origin.pipeline, &origin.run, &origin.run_uid, &origin.stage)
    }
}

/// The step of one rank of an attempt of so many ranks.
///
/// # Errors
/// When there is no such rank, or a reference leads nowhere: neither can follow from what a user writes.
pub fn rank_spec(
    job: &Job,
    run: &JobRun<'_>,
    ranks: u32,
    attempt: u32,
    rank: u32,
    context: StepContext<'_>,
) -> Result<StepSpec, StepProblem> {
    let unknown = || StepProblem::Unknown(usize::try_from(rank).unwrap_or(usize::MAX));
    let (place, index) = job.place(ranks, rank).ok_or_else(unknown)?;
    let role = &job.roles[place];
    let container = &role.role.container;
    let origin = run.origin;
    let prefix = run.prefix();
    let mut env = Vec::with_capacity(role.env.len());
    for (name, template) in &role.env {
        env.push(EnvVar { name: name.clone(), value: text(job, run, template)? });
    }
    let first = rank == 0;
    let code = || job.code().map(|_| format!("{}/{}", paths::ROOT, paths::CODE));
    let (outputs, results) = if first { (outputs(job), results(job)) } else { (Vec::new(), Vec::new()) };
    Ok(StepSpec {
        version: step_protocol::VERSION,
        identity: Identity {
            namespace: run.namespace.to_owned(),
            pipeline: origin.pipeline.clone(),
            run: origin.run.clone(),
            run_uid: origin.run_uid.clone(),
            stage: origin.stage.clone(),
            attempt,
        },
        root: paths::ROOT.to_owned(),
        command: role.command.iter().map(|template| text(job, run, template)).collect::<Result<_, _>>()?,
        script: container.script.clone(),
        working_dir: container.working_dir.clone().or_else(code),
        env,
        params: job.params.clone(),
        store: store_spec(job.store()),
        prefix: match (first, job.is_scatter()) {
            (true, _) => prefix.clone(),
            (false, true) => paths::shard_prefix(&prefix, role.name(), index),
            (false, false) => paths::rank_prefix(&prefix, attempt, role.name(), index),
        },
        inputs: job.inputs.iter().map(input).collect(),
        outputs,
        results,
        metrics: if first { job.metrics.clone() } else { Vec::new() },
        // The job's own deadline counts over all attempts: the operator enforces it.
        timeout_seconds: None,
        grace_seconds: job.grace,
        report: context.report_url.filter(|_| first).map(|url| ReportSpec { url: url.to_owned() }),
        rank: Some(RankSpec {
            framework: rendezvous(job.framework),
            role: role.name().to_owned(),
            index,
            rank,
            world_size: ranks,
            roles: job
                .roles
                .iter()
                .zip(job.replicas(ranks))
                .map(|(role, replicas)| RoleSpec {
                    name: role.name().to_owned(),
                    replicas,
                    processes_per_replica: role.processes(),
                })
                .collect(),
            hosts: (0..ranks).map(|rank| host(job, run, ranks, rank)).collect(),
            port: job.port,
            gate_port: GATE_PORT,
            processes_per_replica: role.processes(),
            execution: attempt,
            start_timeout_seconds: job.start_timeout.as_secs().unsigned_abs(),
            stall_timeout_seconds: job.stall_timeout,
            elastic: run.elastic.map(|elastic| ElasticSpec { min: elastic.min, max: elastic.max }),
            rendezvous_id: format!("{}-{attempt}", run.uid),
            scatter: job.is_scatter(),
        }),
        checkpoint: job.checkpoint.map(|(interval_seconds, keep)| CheckpointSpec {
            interval_seconds,
            keep,
            prefix: paths::checkpoint_prefix(&prefix),
            upload: first,
        }),
        publish: None,
        ledger: origin.ledger.clone().filter(|_| first).map(|key| LedgerSpec { key }),
    })
}

/// The host name of a rank: in the Service of the job's name.
fn host(job: &Job, run: &JobRun<'_>, ranks: u32, rank: u32) -> String {
    let (role, index) = job.role_of(ranks, rank).unwrap_or(("", rank));
    format!("{role}-{index}.{}", run.name)
}

fn outputs(job: &Job) -> Vec<OutputSpec> {
    job.outputs.iter().map(|output| OutputSpec { name: output.name.clone(), kind: output.kind.clone() }).collect()
}

fn results(job: &Job) -> Vec<ResultSpec> {
    let results = job.results.iter();
    results
        .map(|result| ResultSpec { name: result.name.clone(), kind: step_type(result.kind.unwrap_or_default()) })
        .collect()
}

fn input(input: &JobInput) -> InputSpec {
    let source = match (&input.artifact, &input.uri) {
        (Some(artifact), _) => InputSource::Stage {
            commit: artifact.commit.clone(),
            output: artifact.output.clone(),
            digest: artifact.digest.clone(),
        },
        (None, Some(uri)) => InputSource::Uri(uri.clone()),
        (None, None) => InputSource::Absent,
    };
    InputSpec { name: input.name.clone(), source, optional: input.optional.unwrap_or(false) }
}

fn text(job: &Job, run: &JobRun<'_>, template: &Template) -> Result<Text, StepProblem> {
    let mut text = String::new();
    for part in &template.parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Reference(reference) => match reference {
                Reference::Param(name) => text.push_str(&job.params.get(name).map(as_text).unwrap_or_default()),
                Reference::InputPath(name) => text.push_str(&format!("{}/{}/{name}", paths::ROOT, paths::IN)),
                Reference::OutputPath(name) => text.push_str(&format!("{}/{}/{name}", paths::ROOT, paths::OUT)),
                Reference::Run(RunField::Name) => text.push_str(&run.origin.run),
                Reference::Run(RunField::Namespace) => text.push_str(run.namespace),
                Reference::Run(RunField::Uid) => text.push_str(&run.origin.run_uid),
                Reference::Run(RunField::Pipeline) => text.push_str(&run.origin.pipeline),
                // Refused when the job was accepted.
                Reference::Run(RunField::Phase) => return Err(StepProblem::NotReady(String::new())),
                Reference::StageResult { stage, .. } | Reference::StagePhase(stage) => {
                    return Err(StepProblem::NotReady(stage.clone()));
                }
            },
        }
    }
    Ok(Text::Known(text))
}

const fn rendezvous(framework: Framework) -> Rendezvous {
    match framework {
        Framework::Torch => Rendezvous::Torch,
        Framework::TensorFlow => Rendezvous::TensorFlow,
        Framework::JAX => Rendezvous::JAX,
        Framework::XGBoost => Rendezvous::XGBoost,
        Framework::LightGBM => Rendezvous::LightGBM,
        Framework::MPI => Rendezvous::MPI,
        Framework::None => Rendezvous::None,
    }
}
