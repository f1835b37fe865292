//! Writes of runs that triggers start and stop.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use serde_json::json;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::PipelineRun;

use super::{WriteError, Writer, later};
use crate::mutant;
use crate::seen::Seen;

/// What became of the create of a run.
#[derive(Debug)]
pub(crate) enum CreatedRun {
    /// It was created now.
    New,
    /// There is one of its name: whose it is the next look finds out.
    Exists,
    /// It is not taken now, for this reason, which is none of the run's own.
    Later(Reason, String),
    /// The API server will never take it.
    Refused(String),
}

impl Writer {
    /// Creates a run whose name follows from what started it, so that a repeated create meets itself.
    pub(crate) async fn create_run(&self, run: &PipelineRun) -> Result<CreatedRun, WriteError> {
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        let object = || format!("PipelineRun {namespace}/{name}");
        let api: Api<PipelineRun> = Api::namespaced(self.client.clone(), &namespace);
        let parameters = PostParams { field_manager: Some(labels::MANAGER.into()), ..PostParams::default() };
        let generated = mutant::is("run-by-a-new-name").then(|| {
            let mut run = run.clone();
            run.metadata.generate_name = run.metadata.name.take().map(|name| name + "-");
            run
        });
        let error = match api.create(&parameters, generated.as_ref().unwrap_or(run)).await {
            Ok(_) => return Ok(CreatedRun::New),
            Err(error) => error,
        };
        let kube::Error::Api(status) = &error else { return Err(WriteError::api("create", object(), error)) };
        match status.code {
            409 if status.reason == "AlreadyExists" => Ok(CreatedRun::Exists),
            403 if status.message.contains("is being terminated") => {
                Err(WriteError::Gone(format!("Namespace {namespace}")))
            }
            400 | 403 | 413 | 422 => Ok(match later(status.code, &status.message) {
                Some(reason) => CreatedRun::Later(reason, status.message.clone()),
                None => CreatedRun::Refused(status.message.clone()),
            }),
            _ => Err(WriteError::api("create", object(), error)),
        }
    }

    /// All runs of a namespace, or those of a label, as they are on the API server now.
    pub(crate) async fn list_runs(&self, namespace: &str, label: &str) -> Result<Vec<PipelineRun>, WriteError> {
        const PAGE: u32 = 100;
        let api: Api<Seen<PipelineRun>> = Api::namespaced(self.client.clone(), namespace);
        let mut parameters = ListParams::default().labels(label).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = api.list(&parameters).await;
            let page = page.map_err(|error| WriteError::api("list", format!("PipelineRuns of {namespace}"), error))?;
            // One that cannot be read is of another version, and left alone; who asks must not take it for gone.
            for run in page.items {
                let read = run
                    .read()
                    .map_err(|error| WriteError::api("read", format!("PipelineRuns of {namespace}"), error))?;
                all.push(read);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// The metadata of all runs of a label, also of those that cannot be read.
    pub(crate) async fn list_run_metadata(
        &self,
        namespace: &str,
        label: &str,
    ) -> Result<Vec<PartialObjectMeta<PipelineRun>>, WriteError> {
        const PAGE: u32 = 500;
        let api: Api<PipelineRun> = Api::namespaced(self.client.clone(), namespace);
        let mut parameters = ListParams::default().labels(label).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = api.list_metadata(&parameters).await;
            let page = page.map_err(|error| WriteError::api("list", format!("PipelineRuns of {namespace}"), error))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// Gives a run these owners, if it is still the one that was listed. `pipeline` is the UID of the Pipeline that it outlives.
    pub(crate) async fn own_run(
        &self,
        run: &ObjectMeta,
        owners: Vec<OwnerReference>,
        pipeline: Option<&str>,
    ) -> Result<(), WriteError> {
        let namespace = run.namespace.clone().unwrap_or_default();
        let name = run.name.clone().unwrap_or_default();
        let api: Api<PipelineRun> = Api::namespaced(self.client.clone(), &namespace);
        let labels = json!({ labels::PIPELINE_UID: pipeline });
        let patch = json!({"metadata": {"uid": run.uid, "ownerReferences": owners, "labels": labels}});
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            // It is gone, or another one has its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(WriteError::api("change the owner of", format!("PipelineRun {namespace}/{name}"), error)),
        }
    }

    /// Cancels a run, if it is still the one with this UID: its stages are stopped, and `finally` runs.
    pub(crate) async fn cancel_run(&self, run: &PipelineRun) -> Result<(), WriteError> {
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        let api: Api<Seen<PipelineRun>> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({ "metadata": { "uid": run.uid() }, "spec": { "state": "Cancelled" } });
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => self.unless_replaced(run).await,
            Err(error) => Err(WriteError::api("cancel", format!("PipelineRun {namespace}/{name}"), error)),
        }
    }
}
