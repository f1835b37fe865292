//! Pipelines and runs, one or hundreds at a time.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, PostParams};
use serde_json::Value;
use trainyard_crds::v1alpha1::{Pipeline, PipelineReference, PipelineRun, PipelineRunSpec, RunPhase};

use super::Error;
use super::world::{Namespace, World};

/// How often a run is asked whether it has ended: rare beside what the operator asks.
const GLANCE: Duration = Duration::from_millis(250);
/// Runs that take longer have got stuck.
const LIMIT: Duration = Duration::from_secs(600);
/// Objects that are created at the same time.
pub const TOGETHER: usize = 32;

impl World {
    /// Creates a Pipeline.
    pub fn define(&self, namespace: &Namespace<'_>, name: &str, pipeline: &Value) -> Result<(), Error> {
        let pipeline = Pipeline::new(name, serde_json::from_value(pipeline.clone())?);
        let api: Api<Pipeline> = Api::namespaced(self.client.clone(), &namespace.name);
        self.wait(api.create(&PostParams::default(), &pipeline))?;
        Ok(())
    }

    /// Creates that many runs of a Pipeline; their names.
    pub fn start(&self, namespace: &Namespace<'_>, pipeline: &str, count: usize) -> Result<Vec<String>, Error> {
        self.wait(start(namespace.runs(), pipeline, count))
    }

    /// Waits until each of these runs has succeeded.
    pub fn ended(&self, namespace: &Namespace<'_>, names: &[String]) -> Result<Vec<PipelineRun>, Error> {
        self.wait(ended(namespace.runs(), names))
    }

    /// Creates a Pipeline and a run of it, and waits until the run has succeeded.
    pub fn run(&self, namespace: &Namespace<'_>, name: &str, pipeline: &Value) -> Result<PipelineRun, Error> {
        self.define(namespace, name, pipeline)?;
        let names = self.start(namespace, name, 1)?;
        let nothing = || Error::Slow { what: format!("run {name}"), limit: LIMIT };
        self.ended(namespace, &names)?.pop().ok_or_else(nothing)
    }
}

impl Namespace<'_> {
    /// The runs of this namespace.
    #[must_use]
    pub fn runs(&self) -> Api<PipelineRun> {
        Api::namespaced(self.client(), &self.name)
    }
}

/// Creates that many runs of a Pipeline; their names.
pub async fn start(api: Api<PipelineRun>, pipeline: &str, count: usize) -> Result<Vec<String>, Error> {
    let names: Vec<String> = (0..count).map(|number| format!("{pipeline}-{number:03}")).collect();
    let create = |name: &String| {
        let reference = PipelineReference { name: pipeline.to_owned() };
        let spec = PipelineRunSpec { pipeline_ref: Some(reference), ..PipelineRunSpec::default() };
        let (api, run) = (api.clone(), PipelineRun::new(name, spec));
        async move { api.create(&PostParams::default(), &run).await.map(drop) }
    };
    let creates: Vec<_> = names.iter().map(create).collect();
    stream::iter(creates).buffer_unordered(TOGETHER).try_collect::<()>().await?;
    Ok(names)
}

/// Waits until each of these runs has succeeded. One after the other is asked: hundreds at a time would be work for the API server.
pub async fn ended(api: Api<PipelineRun>, names: &[String]) -> Result<Vec<PipelineRun>, Error> {
    let began = Instant::now();
    let mut runs = Vec::new();
    for name in names {
        let run = loop {
            let run = api.get(name).await?;
            let phase = run.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
            if phase == RunPhase::Succeeded {
                break run;
            }
            if phase.is_terminal() {
                let message = run.status.map(|status| status.message).unwrap_or_default();
                return Err(Error::Run { run: name.clone(), phase: phase.as_str(), message });
            }
            if began.elapsed() > LIMIT {
                return Err(Error::Slow { what: format!("the end of run {name}"), limit: LIMIT });
            }
            tokio::time::sleep(GLANCE).await;
        };
        runs.push(run);
    }
    Ok(runs)
}
