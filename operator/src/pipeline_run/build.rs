//! An attempt as a Pod, or as a TrainingJob. Pure: no client.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use step_protocol::StepSpec;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Container, PipelineRun, StageKind, StageStatus, TrainingJob};
use trainyard_crds::{labels, names};
use trainyard_planner::{Graph, Node, Run, StepContext, StepProblem, asks_ledger, job_spec, step_spec};

use crate::args::Settings;
use crate::mutant;
use crate::pod::{PodError, PodSettings, RunnerMount, StagePod, stage_pod};

/// Why an attempt cannot be made a Pod, or a TrainingJob.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Step(#[from] StepProblem),
    #[error(transparent)]
    Pod(#[from] PodError),
}

impl BuildError {
    /// The reason in the status.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Step(problem @ StepProblem::ResultTooLarge { .. }) => problem.reason(),
            Self::Step(_) | Self::Pod(_) => Reason::PodRejected,
        }
    }
}

/// The Pod of one attempt, or its TrainingJob.
pub(crate) struct Request<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) object: &'a PipelineRun,
    pub(crate) run: &'a Run<'a>,
    pub(crate) rows: &'a [StageStatus],
    pub(crate) node: usize,
    pub(crate) attempt: u32,
    pub(crate) mount: RunnerMount,
    pub(crate) report_key: Option<&'a str>,
}

impl Request<'_> {
    fn node(&self) -> Option<&Node> {
        self.graph.nodes().get(self.node)
    }

    /// Name of the stage.
    pub(crate) fn stage(&self) -> &str {
        self.node().map_or("", Node::name)
    }

    /// Whether the stage trains: then the attempt is a TrainingJob.
    pub(crate) fn trains(&self) -> bool {
        self.node().is_some_and(Node::trains)
    }

    /// Hash of what the attempt is to do: an object of our name with another one is not ours.
    pub(crate) fn spec_hash(&self) -> String {
        let node = self.node().map_or("", Node::hash);
        names::hash(&[self.run.uid, node, &trainyard_planner::params_digest(self.run.params)])
    }

    pub(crate) fn name(&self) -> String {
        if self.trains() {
            return names::job(self.run.name, self.run.uid, self.stage(), self.attempt);
        }
        let mut name = names::pod(self.run.name, self.run.uid, self.stage(), self.attempt);
        if mutant::is("short-hash") {
            // 32 bits and a little: 7 characters of base32.
            name.truncate(name.len() - 9);
        }
        name
    }

    /// The run as controller. Nothing of ours ever blocks a deletion.
    fn owner(&self) -> OwnerReference {
        let mut owner = self.object.controller_owner_ref(&()).unwrap_or_default();
        owner.block_owner_deletion = Some(false);
        owner
    }

    pub(crate) fn pod(&self, settings: &Settings) -> Result<Pod, BuildError> {
        let context = StepContext {
            report_url: settings.report_url.as_deref(),
            default_timeout: settings.default_timeout.map(|timeout| timeout.as_secs()),
        };
        let spec: StepSpec = step_spec(self.graph, self.run, self.rows, self.node, self.attempt, context)?;
        let stage = self.node().ok_or(StepProblem::Unknown(self.node))?.stage();
        // What a stage without a program does the runner does, in its own image.
        let own = Container { image: Some(settings.pod.runner_image.clone()), ..Container::default() };
        let program = match &stage.kind {
            StageKind::Container(program) => program,
            StageKind::Publish(_) => &own,
            _ => return Err(StepProblem::Unknown(self.node).into()),
        };
        let pod_settings: &PodSettings = &settings.pod;
        let service_account = self.object.spec.service_account_name.as_deref();
        Ok(stage_pod(&StagePod {
            name: &self.name(),
            namespace: self.run.namespace,
            owner: self.owner(),
            run: &self.object.name_any(),
            run_uid: self.run.uid,
            pipeline: self.run.pipeline,
            attempt: self.attempt,
            stage: &stage.name,
            program,
            overrides: stage.pod.as_ref(),
            spec: &spec,
            spec_hash: &self.spec_hash(),
            store: self.graph.store(),
            code: self.graph.code(),
            service_account_name: service_account,
            settings: pod_settings,
            mount: self.mount,
            report_key: self.report_key,
            gang: None,
        })?)
    }

    /// The TrainingJob of an attempt of a stage that trains. Its labels say whose stage it is, and the run's queue is its own.
    pub(crate) fn job(&self, settings: &Settings) -> Result<TrainingJob, BuildError> {
        let timeout = settings.default_timeout.map(|timeout| timeout.as_secs());
        let service_account = self.object.spec.service_account_name.as_deref();
        let spec = job_spec(self.graph, self.run, self.rows, self.node, service_account, timeout)?;
        let mut own = BTreeMap::from([
            (labels::MANAGED_BY, labels::MANAGER.to_owned()),
            (labels::PIPELINE, labels::value(self.run.pipeline)),
            (labels::RUN, labels::value(self.run.name)),
            (labels::RUN_UID, self.run.uid.to_owned()),
            (labels::STAGE, self.stage().to_owned()),
            (labels::ATTEMPT, self.attempt.to_string()),
        ]);
        own.extend(self.object.labels().get(labels::QUEUE).map(|queue| (labels::QUEUE, queue.clone())));
        let mut notes = vec![(labels::PIPELINE, self.run.pipeline.to_owned()), (labels::SPEC_HASH, self.spec_hash())];
        if let Some(revision) = self.node().and_then(|node| asks_ledger(self.run, node)) {
            notes.push((labels::RUN_KEY, revision.key.to_owned()));
            notes.push((labels::RUN_RETRIES, revision.retries.to_string()));
        }
        let owned = |(key, value): (&str, String)| (key.to_owned(), value);
        Ok(TrainingJob {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.run.namespace.to_owned()),
                owner_references: Some(vec![self.owner()]),
                labels: Some(own.into_iter().map(owned).collect()),
                annotations: Some(notes.into_iter().map(owned).collect()),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        })
    }
}
