//! Writes of training jobs, their Services and their Pods.

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt};
use serde_json::json;
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::TrainingJob;

use super::{WriteError, Writer, is_controlled, later};
use crate::mutant;
use crate::seen::{Seen, SeenPod};

/// What became of the create of a Service.
#[derive(Debug)]
pub(crate) enum CreatedService {
    /// It was created now.
    New,
    /// It existed: this is it, read live. Whether it is ours is the caller's to say.
    Existing(Box<Service>),
    /// It is not taken now, for this reason, which is none of the Service's own.
    Later(Reason, String),
    /// The API server will never take it.
    Refused(String),
}

/// What became of the create of a TrainingJob.
#[derive(Debug)]
pub(crate) enum CreatedJob {
    /// It was created now.
    New(Box<TrainingJob>),
    /// It existed: this is it, read live. Whether it is ours is the caller's to say.
    Existing(Box<TrainingJob>),
    /// It is not taken now, for this reason, which is none of the job's own.
    Later(Reason, String),
    /// The API server will never take it.
    Refused(String),
}

fn of_job(job_uid: &str) -> ListParams {
    ListParams::default().labels(&format!("{}={job_uid}", labels::JOB_UID))
}

impl Writer {
    /// Creates the Service of a job, whose name it has.
    pub(crate) async fn create_service(&self, service: &Service) -> Result<CreatedService, WriteError> {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        let object = || format!("Service {namespace}/{name}");
        let api: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
        let parameters = PostParams { field_manager: Some(labels::MANAGER.into()), ..PostParams::default() };
        let error = match api.create(&parameters, service).await {
            Ok(_) => return Ok(CreatedService::New),
            Err(error) => error,
        };
        let kube::Error::Api(status) = &error else { return Err(WriteError::api("create", object(), error)) };
        match status.code {
            409 if status.reason == "AlreadyExists" => match api.get_opt(&name).await {
                Ok(Some(existing)) => Ok(CreatedService::Existing(Box::new(existing))),
                Ok(None) => Err(WriteError::Conflict(object())),
                Err(error) => Err(WriteError::api("get", object(), error)),
            },
            403 if status.message.contains("is being terminated") => {
                Err(WriteError::Gone(format!("Namespace {namespace}")))
            }
            400 | 403 | 404 | 413 | 422 => Ok(match later(status.code, &status.message) {
                Some(reason) => CreatedService::Later(reason, status.message.clone()),
                None => CreatedService::Refused(status.message.clone()),
            }),
            _ => Err(WriteError::api("create", object(), error)),
        }
    }

    /// Creates the group of an attempt's Pods, whose name says what it is. Returns why it is not taken now, if it is not.
    pub(crate) async fn create_pod_group(
        &self,
        group: &DynamicObject,
        kind: &ApiResource,
    ) -> Result<Option<(Reason, String)>, WriteError> {
        let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, kind);
        let parameters = PostParams { field_manager: Some(labels::MANAGER.into()), ..PostParams::default() };
        let error = match api.create(&parameters, group).await {
            Ok(_) => return Ok(None),
            Err(error) => error,
        };
        match &error {
            kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists" => Ok(None),
            kube::Error::Api(status) if status.code == 403 && status.message.contains("is being terminated") => {
                Err(WriteError::Gone(format!("Namespace {namespace}")))
            }
            // Whatever it is, somebody may put it right: the job says what the API server said, and tries again.
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 422) => {
                let reason = later(status.code, &status.message).unwrap_or(Reason::Forbidden);
                Ok(Some((reason, format!("PodGroup {name}: {}", status.message))))
            }
            _ => Err(WriteError::api("create", format!("PodGroup {namespace}/{name}"), error)),
        }
    }

    /// Every Pod with the label of this job, read live.
    pub(crate) async fn list_job_pods(&self, namespace: &str, job_uid: &str) -> Result<Vec<Pod>, WriteError> {
        let api: Api<SeenPod> = Api::namespaced(self.client.clone(), namespace);
        match api.list(&of_job(job_uid)).await {
            Ok(list) => Ok(list.items.into_iter().map(Pod::from).collect()),
            Err(error) => Err(WriteError::api("list", format!("the Pods of job {job_uid} in {namespace}"), error)),
        }
    }

    /// Whether a Pod of this job has not ended yet.
    pub(crate) async fn has_live_job_pods(&self, namespace: &str, job_uid: &str) -> Result<bool, WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let live = of_job(job_uid).fields("status.phase!=Succeeded,status.phase!=Failed");
        // Others may have put our labels on Pods of their own.
        match api.list_metadata(&live).await {
            Ok(list) => Ok(list.items.iter().any(|pod| is_controlled(&pod.metadata, job_uid))),
            Err(error) => Err(WriteError::api("list", format!("the Pods of job {job_uid} in {namespace}"), error)),
        }
    }

    /// Deletes the Pods of an ended job that ended well. Failed ones stay for people to look at.
    pub(crate) async fn delete_succeeded_job_pods(&self, namespace: &str, job_uid: &str) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selected = of_job(job_uid).fields("status.phase=Succeeded");
        let what = || format!("the Pods of job {job_uid} in {namespace}");
        let pods = api.list_metadata(&selected).await.map_err(|error| WriteError::api("list", what(), error))?;
        if pods.items.is_empty() {
            return Ok(());
        }
        if pods.items.iter().any(|pod| !is_controlled(&pod.metadata, job_uid)) {
            // Some are not ours, whatever their labels say: ours go one by one.
            for pod in pods.items.iter().filter(|pod| is_controlled(&pod.metadata, job_uid)) {
                self.delete_pod(namespace, &pod.name_any(), &pod.uid().unwrap_or_default()).await?;
            }
            return Ok(());
        }
        let deleted = api.delete_collection(&DeleteParams::default(), &selected).await;
        deleted.map(|_| ()).map_err(|error| WriteError::api("delete", what(), error))
    }

    /// Patches a job's status if the job is still at the resourceVersion that the patch tests for. Returns the job as it is then.
    pub(crate) async fn patch_job_status(
        &self,
        job: &TrainingJob,
        mut patch: json_patch::Patch,
    ) -> Result<TrainingJob, WriteError> {
        if mutant::is("blind-status") {
            patch.0.remove(0);
        }
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let api: Api<Seen<TrainingJob>> = Api::namespaced(self.client.clone(), &namespace);
        let object = || format!("TrainingJob {namespace}/{name}");
        let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
        let error = match patched.and_then(Seen::read) {
            Ok(job) => return Ok(job),
            Err(error) => error,
        };
        match &error {
            kube::Error::Api(status) if status.code == 404 => Err(WriteError::Gone(object())),
            kube::Error::Api(status) if status.code == 409 => Err(WriteError::Conflict(object())),
            // A failed `test` of a JSON Patch is a 422 like any invalid object: which of the two it is a live read tells.
            kube::Error::Api(status) if status.code == 422 => match self.read_job(&namespace, &name).await? {
                None => Err(WriteError::Gone(object())),
                Some(live) if live.resource_version() != job.resource_version() => Err(WriteError::Conflict(object())),
                Some(_) => Err(WriteError::api("patch the status of", object(), error)),
            },
            _ => Err(WriteError::api("patch the status of", object(), error)),
        }
    }

    /// Creates the job of a stage that trains, whose name says what it is, so that a repeated create meets itself.
    pub(crate) async fn create_job(&self, job: &TrainingJob) -> Result<CreatedJob, WriteError> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let object = || format!("TrainingJob {namespace}/{name}");
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), &namespace);
        let parameters = PostParams { field_manager: Some(labels::MANAGER.into()), ..PostParams::default() };
        let error = match api.create(&parameters, job).await {
            Ok(created) => return Ok(CreatedJob::New(Box::new(created))),
            Err(error) => error,
        };
        let kube::Error::Api(status) = &error else { return Err(WriteError::api("create", object(), error)) };
        match status.code {
            409 if status.reason == "AlreadyExists" => match self.read_job(&namespace, &name).await? {
                Some(existing) => Ok(CreatedJob::Existing(Box::new(existing))),
                // It went in between: the next look creates it, or finds out what became of it.
                None => Err(WriteError::Conflict(object())),
            },
            403 if status.message.contains("is being terminated") => {
                Err(WriteError::Gone(format!("Namespace {namespace}")))
            }
            400 | 403 | 404 | 413 | 422 => match later(status.code, &status.message) {
                Some(reason) => Ok(CreatedJob::Later(reason, status.message.clone())),
                // What is refused today may have been created yesterday, by another process and other rules.
                None => Ok(match self.read_job(&namespace, &name).await? {
                    Some(existing) => CreatedJob::Existing(Box::new(existing)),
                    None => CreatedJob::Refused(status.message.clone()),
                }),
            },
            _ => Err(WriteError::api("create", object(), error)),
        }
    }

    /// Asks the job of this UID to have no Pods, or to have them again, and notes that its run did. Its being gone is success: the next
    /// look finds out.
    pub(crate) async fn suspend_job(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        suspend: bool,
    ) -> Result<(), WriteError> {
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), namespace);
        let by_run = suspend.then_some("true");
        let metadata = json!({ "uid": uid, "annotations": { labels::SUSPENDED_BY_RUN: by_run } });
        let patch = json!({ "metadata": metadata, "spec": { "suspend": suspend } });
        let object = || format!("TrainingJob {namespace}/{name}");
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => self.unless_other_job(namespace, name, uid).await,
            Err(error) => Err(WriteError::api("suspend", object(), error)),
        }
    }

    /// A job, read live.
    pub(crate) async fn read_job(&self, namespace: &str, name: &str) -> Result<Option<TrainingJob>, WriteError> {
        let api: Api<Seen<TrainingJob>> = Api::namespaced(self.client.clone(), namespace);
        let read = api.get_opt(name).await.and_then(|read| read.map(Seen::read).transpose());
        read.map_err(|error| WriteError::api("get", format!("TrainingJob {namespace}/{name}"), error))
    }

    /// Labels a job that needs no more work, so that it leaves the watch.
    pub(crate) async fn label_job_finished(&self, job: &TrainingJob) -> Result<(), WriteError> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({ "metadata": { "uid": job.uid(), "labels": { labels::FINISHED: labels::FINISHED_TRUE } } });
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.unless_other_job(&namespace, &name, &job.uid().unwrap_or_default()).await
            }
            Err(error) => Err(WriteError::api("label", format!("TrainingJob {namespace}/{name}"), error)),
        }
    }

    /// What a 409 means for a job that was named by its UID: nothing if it is gone or another one has its name, else that it must be
    /// tried again.
    async fn unless_other_job(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        match self.read_job(namespace, name).await? {
            Some(live) if live.uid().as_deref() == Some(uid) => {
                Err(WriteError::Conflict(format!("TrainingJob {namespace}/{name}")))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a job if it is still the one with this UID. Its being gone is success.
    pub(crate) async fn delete_job(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), namespace);
        let precondition = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(precondition), ..DeleteParams::background() };
        match api.delete(name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => self.unless_other_job(namespace, name, uid).await,
            Err(error) => Err(WriteError::api("delete", format!("TrainingJob {namespace}/{name}"), error)),
        }
    }
}
