//! An attempt as a Pod. Pure: no client.

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use step_protocol::StepSpec;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{PipelineRun, StageStatus};
use trainyard_planner::{Graph, Run, StepContext, StepProblem, step_spec};

use crate::args::Settings;
use crate::mutant;
use crate::pod::{PodError, PodSettings, RunnerMount, StagePod, stage_pod};

/// Why an attempt cannot be made a Pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Step(#[from] StepProblem),
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// The Pod of one attempt.
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
    /// Hash of what the attempt is to do: a Pod of our name with another one is not ours.
    pub(crate) fn spec_hash(&self) -> String {
        let node = self.graph.nodes().get(self.node).map_or("", |node| node.hash());
        names::hash(&[self.run.uid, node, &trainyard_planner::params_digest(self.run.params)])
    }

    pub(crate) fn name(&self) -> String {
        let stage = self.graph.nodes().get(self.node).map_or("", |node| node.name());
        let mut name = names::pod(self.run.name, self.run.uid, stage, self.attempt);
        if mutant::is("short-hash") {
            // 32 bits and a little: 7 characters of base32.
            name.truncate(name.len() - 9);
        }
        name
    }

    pub(crate) fn pod(&self, settings: &Settings) -> Result<Pod, BuildError> {
        let context = StepContext {
            report_url: settings.report_url.as_deref(),
            default_timeout: settings.default_timeout.map(|timeout| timeout.as_secs()),
        };
        let spec: StepSpec = step_spec(self.graph, self.run, self.rows, self.node, self.attempt, context)?;
        let node = self.graph.nodes().get(self.node).ok_or(StepProblem::Unknown(self.node))?;
        let mut owner = self.object.controller_owner_ref(&()).unwrap_or_default();
        // Nothing of ours ever blocks a deletion.
        owner.block_owner_deletion = Some(false);
        let pod_settings: &PodSettings = &settings.pod;
        let service_account = self.object.spec.service_account_name.as_deref();
        Ok(stage_pod(&StagePod {
            name: &self.name(),
            namespace: self.run.namespace,
            owner,
            run: &self.object.name_any(),
            run_uid: self.run.uid,
            pipeline: self.run.pipeline,
            attempt: self.attempt,
            stage: node.stage(),
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
}
