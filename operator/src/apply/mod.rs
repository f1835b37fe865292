//! The one door through which writes to the API server leave: each made idempotent, timed and counted here.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use trainyard_crds::condition::Reason;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{Pipeline, PipelineRun};

use crate::mutant;
use crate::seen::{Seen, SeenPod};

mod job;
mod task;
mod triggered;

pub(crate) use job::{CreatedJob, CreatedService};
pub(crate) use triggered::CreatedRun;

/// Requests for one object that are under way at the same time: so many that a wide run does not wait for answers one by one, and few
/// enough that the API server still answers others, and that their connections take little memory.
pub(crate) const TOGETHER: usize = 16;

/// Runs that own one ControllerRevision: it is read and written by each new one of them, and must not grow with their number.
pub(crate) const OWNERS: usize = 40;

/// A write that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The object has changed since it was read.
    #[error("{0} has changed since it was read")]
    Conflict(String),
    /// The object is gone.
    #[error("{0} is gone")]
    Gone(String),
    /// Everything else.
    #[error("failed to {verb} {object}: {source}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
        /// What the API server or the connection said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl WriteError {
    fn api(verb: &'static str, object: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { verb, object: object.into(), source: Box::new(source) }
    }
}

/// What became of a create.
#[derive(Debug)]
pub(crate) enum Created {
    /// It was created now.
    New(Box<Pod>),
    /// It existed: this is it, read live. Whether it is ours is the caller's to say.
    Existing(Box<Pod>),
    /// It is not taken now, for this reason, which is none of the Pod's own.
    Later(Reason, String),
    /// The API server will never take it.
    Refused(String),
}

/// What the API server's refusal of a Pod means.
fn refused(code: u16, message: &str) -> Created {
    match later(code, message) {
        Some(reason) => Created::Later(reason, message.to_owned()),
        None => Created::Refused(message.to_owned()),
    }
}

/// Why something that is refused now may be taken later.
fn later(code: u16, message: &str) -> Option<Reason> {
    match code {
        403 if message.contains("exceeded quota") => Some(Reason::QuotaExceeded),
        // An API server that has just been started knows no rights yet, and its admission nothing at all. And rights may be given back.
        403 if message.contains("cannot create resource") || message.contains("not yet ready to handle request") => {
            Some(Reason::Forbidden)
        }
        _ => None,
    }
}

/// Writes to the API server.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
}

impl Writer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a Pod whose name says what it is, so that a repeated create meets itself.
    pub(crate) async fn create_pod(&self, pod: &Pod) -> Result<Created, WriteError> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let parameters = PostParams { field_manager: Some(labels::MANAGER.into()), ..PostParams::default() };
        let generated = mutant::is("generate-name").then(|| {
            let mut pod = pod.clone();
            pod.metadata.generate_name = pod.metadata.name.take().map(|name| name + "-");
            pod
        });
        let pod = generated.as_ref().unwrap_or(pod);
        let body = serde_json::to_vec(pod).map_err(kube::Error::SerdeError);
        let request = body.and_then(|body| {
            let collection = Request::new(Pod::url_path(&(), Some(&namespace)));
            collection.create(&parameters, body).map_err(kube::Error::BuildRequest)
        });
        let created = match request {
            Ok(request) => self.client.request::<SeenPod>(request).await,
            Err(error) => Err(error),
        };
        let error = match created {
            Ok(created) => return Ok(Created::New(Box::new(created.into()))),
            Err(error) => error,
        };
        let kube::Error::Api(status) = &error else {
            return Err(WriteError::api("create", format!("Pod {namespace}/{name}"), error));
        };
        match status.code {
            409 if mutant::is("ignore-409") => Ok(Created::New(Box::new(pod.clone()))),
            409 if status.reason == "AlreadyExists" => match self.read_pod(&namespace, &name).await? {
                Some(existing) => Ok(Created::Existing(Box::new(existing))),
                // It went in between: the next look creates it, or finds out what became of it.
                None => Err(WriteError::Conflict(format!("Pod {namespace}/{name}"))),
            },
            // A namespace that is being deleted takes nothing, and everything in it goes anyway.
            403 if status.message.contains("is being terminated") => {
                Err(WriteError::Gone(format!("Namespace {namespace}")))
            }
            400 | 403 | 404 | 413 | 422 => match refused(status.code, &status.message) {
                // What is refused today may have been created yesterday, by another process and other rules; a Pod whose labels others
                // have changed is seen nowhere else.
                refused @ Created::Refused(_) => {
                    let existing = self.read_pod(&namespace, &name).await?;
                    Ok(existing.map_or(refused, |existing| Created::Existing(Box::new(existing))))
                }
                later => Ok(later),
            },
            _ => Err(WriteError::api("create", format!("Pod {namespace}/{name}"), error)),
        }
    }

    /// A Pod, read live.
    pub(crate) async fn read_pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, WriteError> {
        let api: Api<SeenPod> = Api::namespaced(self.client.clone(), namespace);
        let read = api.get_opt(name).await;
        let read = read.map_err(|error| WriteError::api("get", format!("Pod {namespace}/{name}"), error))?;
        Ok(read.map(Pod::from))
    }

    /// Deletes a Pod if it is still the one with this UID. Its being gone is success.
    pub(crate) async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let precondition = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let preconditions = (!mutant::is("delete-without-uid")).then_some(precondition);
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        match api.delete(name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => match self.read_pod(namespace, name).await? {
                Some(live) if live.uid().as_deref() == Some(uid) => {
                    Err(WriteError::Conflict(format!("Pod {namespace}/{name}")))
                }
                _ => Ok(()),
            },
            Err(error) => Err(WriteError::api("delete", format!("Pod {namespace}/{name}"), error)),
        }
    }

    /// Whether a Pod of this run has not ended yet.
    pub(crate) async fn has_live_pods(&self, namespace: &str, run_uid: &str) -> Result<bool, WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let live = ListParams::default()
            .labels(&format!("{}={run_uid}", labels::RUN_UID))
            .fields("status.phase!=Succeeded,status.phase!=Failed");
        // Others may have put our labels on Pods of their own.
        api.list_metadata(&live)
            .await
            .map(|list| list.items.iter().any(|pod| is_controlled(&pod.metadata, run_uid)))
            .map_err(|error| WriteError::api("list", format!("the Pods of run {run_uid} in {namespace}"), error))
    }

    /// Deletes the Pods of an ended run that ended well, with one request. Failed ones stay for people to look at.
    pub(crate) async fn delete_succeeded_pods(&self, namespace: &str, run_uid: &str) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selected =
            ListParams::default().labels(&format!("{}={run_uid}", labels::RUN_UID)).fields("status.phase=Succeeded");
        let pods = api
            .list_metadata(&selected)
            .await
            .map_err(|error| WriteError::api("list", format!("the Pods of run {run_uid} in {namespace}"), error))?;
        if pods.items.is_empty() {
            return Ok(());
        }
        if pods.items.iter().any(|pod| !is_controlled(&pod.metadata, run_uid)) {
            // Some are not ours, whatever their labels say: ours go one by one.
            for pod in pods.items.iter().filter(|pod| is_controlled(&pod.metadata, run_uid)) {
                self.delete_pod(namespace, &pod.name_any(), &pod.uid().unwrap_or_default()).await?;
            }
            return Ok(());
        }
        api.delete_collection(&DeleteParams::default(), &selected)
            .await
            .map(|_| ())
            .map_err(|error| WriteError::api("delete", format!("the Pods of run {run_uid} in {namespace}"), error))
    }

    /// Patches a run's status if the run is still at the resourceVersion that the patch tests for. Returns the run as it is then.
    pub(crate) async fn patch_run_status(
        &self,
        run: &PipelineRun,
        mut patch: json_patch::Patch,
    ) -> Result<PipelineRun, WriteError> {
        if mutant::is("blind-status") {
            patch.0.remove(0);
        }
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        let api: Api<Seen<PipelineRun>> = Api::namespaced(self.client.clone(), &namespace);
        let object = || format!("PipelineRun {namespace}/{name}");
        let result = api.patch_status(&name, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
        match result.and_then(Seen::read) {
            Ok(run) => Ok(run),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(WriteError::Gone(object())),
            Err(kube::Error::Api(status)) if status.code == 409 => Err(WriteError::Conflict(object())),
            // A failed `test` of a JSON Patch is a 422 like any invalid object: which of the two it is a live read tells.
            Err(error @ kube::Error::Api(_)) if matches!(&error, kube::Error::Api(status) if status.code == 422) => {
                match self.read_run(&namespace, &name).await? {
                    None => Err(WriteError::Gone(object())),
                    Some(live) if live.resource_version() != run.resource_version() => {
                        Err(WriteError::Conflict(object()))
                    }
                    Some(_) => Err(WriteError::api("patch the status of", object(), error)),
                }
            }
            Err(error) => Err(WriteError::api("patch the status of", object(), error)),
        }
    }

    /// A run, read live.
    pub(crate) async fn read_run(&self, namespace: &str, name: &str) -> Result<Option<PipelineRun>, WriteError> {
        let api: Api<Seen<PipelineRun>> = Api::namespaced(self.client.clone(), namespace);
        let read = api.get_opt(name).await.and_then(|read| read.map(Seen::read).transpose());
        read.map_err(|error| WriteError::api("get", format!("PipelineRun {namespace}/{name}"), error))
    }

    /// A Pipeline, read live.
    pub(crate) async fn read_pipeline(&self, namespace: &str, name: &str) -> Result<Option<Pipeline>, WriteError> {
        let api: Api<Seen<Pipeline>> = Api::namespaced(self.client.clone(), namespace);
        let read = api.get_opt(name).await.and_then(|read| read.map(Seen::read).transpose());
        read.map_err(|error| WriteError::api("get", format!("Pipeline {namespace}/{name}"), error))
    }

    /// Labels a run that needs no more work, so that it leaves the watch.
    pub(crate) async fn label_finished(&self, run: &PipelineRun) -> Result<(), WriteError> {
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        let api: Api<PipelineRun> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({ "metadata": { "uid": run.uid(), "labels": { labels::FINISHED: labels::FINISHED_TRUE } } });
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => self.unless_replaced(run).await,
            Err(error) => Err(WriteError::api("label", format!("PipelineRun {namespace}/{name}"), error)),
        }
    }

    /// What a 409 means for a run that was named by its UID: nothing if it is gone or another one has its name, else that it must
    /// be tried again.
    async fn unless_replaced(&self, run: &PipelineRun) -> Result<(), WriteError> {
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        match self.read_run(&namespace, &name).await? {
            Some(live) if live.uid() == run.uid() => {
                Err(WriteError::Conflict(format!("PipelineRun {namespace}/{name}")))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a run whose time to live is over, if it is still the one with this UID.
    pub(crate) async fn delete_run(&self, run: &PipelineRun) -> Result<(), WriteError> {
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        let api: Api<PipelineRun> = Api::namespaced(self.client.clone(), &namespace);
        let precondition = Preconditions { uid: run.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(precondition), ..DeleteParams::background() };
        match api.delete(&name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => self.unless_replaced(run).await,
            Err(error) => Err(WriteError::api("delete", format!("PipelineRun {namespace}/{name}"), error)),
        }
    }

    /// Keeps a frozen pipeline in a ControllerRevision of this name and makes these runs owners of it, at most [`OWNERS`] at once.
    /// Returns those for which it has no room.
    pub(crate) async fn keep_revision(
        &self,
        namespace: &str,
        name: &str,
        data: &impl Serialize,
        owners: &[OwnerReference],
    ) -> Result<Vec<OwnerReference>, WriteError> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let object = || format!("ControllerRevision {namespace}/{name}");
        let json = |error: serde_json::Error| WriteError::api("create", object(), kube::Error::SerdeError(error));
        let revision = json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": { "name": name, "namespace": namespace, "ownerReferences": owners, "labels": { labels::MANAGED_BY: labels::MANAGER } },
            "revision": 1,
            "data": serde_json::to_value(data).map_err(json)?,
        });
        let body = as_the_api_server_writes(&revision).map_err(json)?;
        // It may be collected between our create and our patch, when the last other run that owns it is deleted.
        for _ in 0..5 {
            let request = Request::new(ControllerRevision::url_path(&(), Some(namespace)))
                .create(&PostParams::default(), body.clone())
                .map_err(|error| WriteError::api("create", object(), kube::Error::BuildRequest(error)))?;
            match self.client.request::<ControllerRevision>(request).await {
                Ok(_) => return Ok(Vec::new()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(WriteError::api("create", object(), error)),
            }
            let live = match api.get_metadata_opt(name).await {
                Ok(Some(live)) => live,
                Ok(None) => continue,
                Err(error) => return Err(WriteError::api("get", object(), error)),
            };
            let (patch, left) = more_owners(&live.metadata.owner_references.unwrap_or_default(), owners);
            if patch.is_empty() {
                return Ok(left);
            }
            match api.patch_metadata(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await {
                Ok(_) => return Ok(left),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(WriteError::api("patch", object(), error)),
            }
        }
        Err(WriteError::Conflict(object()))
    }

    /// The data of a ControllerRevision, read live.
    pub(crate) async fn read_revision(&self, namespace: &str, name: &str) -> Result<Option<Value>, WriteError> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        match api.get_opt(name).await {
            Ok(revision) => Ok(revision.and_then(|revision| revision.data).map(|data| data.0)),
            Err(error) => Err(WriteError::api("get", format!("ControllerRevision {namespace}/{name}"), error)),
        }
    }

    /// Patches a Pipeline's status if the Pipeline is still at this resourceVersion.
    pub(crate) async fn patch_pipeline_status(
        &self,
        pipeline: &Pipeline,
        patch: json_patch::Patch,
    ) -> Result<(), WriteError> {
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        let api: Api<Seen<Pipeline>> = Api::namespaced(self.client.clone(), &namespace);
        match api.patch_status(&name, &PatchParams::default(), &Patch::Json::<()>(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 422 => {
                Err(WriteError::Conflict(format!("Pipeline {namespace}/{name}")))
            }
            Err(error) => Err(WriteError::api("patch the status of", format!("Pipeline {namespace}/{name}"), error)),
        }
    }
}

/// Whether the run of this UID controls an object.
fn is_controlled(meta: &ObjectMeta, run_uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == run_uid)
}

/// JSON as the API server itself writes it.
///
/// A ControllerRevision's `data` is immutable byte for byte, and every patch of its metadata sends it through the API server's own
/// encoder: what that would write otherwise (`<` as `\u003c`) makes the patch a change of `data`, which is refused.
fn as_the_api_server_writes(value: &Value) -> Result<Vec<u8>, serde_json::Error> {
    let text = serde_json::to_string(value)?;
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // In JSON these stand in strings only.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => escaped.push(other),
        }
    }
    Ok(escaped.into_bytes())
}

/// The patch that adds owners to those that there are, and the owners for which there is no room.
fn more_owners(there: &[OwnerReference], owners: &[OwnerReference]) -> (json_patch::Patch, Vec<OwnerReference>) {
    let mut new: Vec<OwnerReference> =
        owners.iter().filter(|owner| there.iter().all(|other| other.uid != owner.uid)).cloned().collect();
    let left = new.split_off(OWNERS.saturating_sub(there.len()).min(new.len()));
    let add = |path: &str, value: Value| {
        let path = PointerBuf::from_tokens(path.split('/').skip(1));
        PatchOperation::Add(AddOperation { path, value })
    };
    let patch = match (there, new.as_slice()) {
        (_, []) => Vec::new(),
        ([], new) => vec![add("/metadata/ownerReferences", json!(new))],
        (_, new) => new.iter().map(|owner| add("/metadata/ownerReferences/-", json!(owner))).collect(),
    };
    (json_patch::Patch(patch), left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_the_pod_itself_is_final() {
        let later = |message: &str| match refused(403, message) {
            Created::Later(reason, _) => Some(reason),
            _ => None,
        };
        assert_eq!(later("pods \"a\" is forbidden: exceeded quota: q, requested: pods=1"), Some(Reason::QuotaExceeded));
        // As the API server says it for some moments after its start.
        let rights = "pods is forbidden: User \"system:serviceaccount:trainyard-system:trainyard\" cannot create resource \"pods\" in API group \"\" in the namespace \"team\"";
        assert_eq!(later(rights), Some(Reason::Forbidden));
        assert_eq!(later("pods \"a\" is forbidden: not yet ready to handle request"), Some(Reason::Forbidden));
        assert_eq!(later("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces"), None);
        assert!(matches!(refused(422, "Pod is invalid"), Created::Refused(_)));
    }

    #[test]
    fn what_go_would_escape_is_escaped_and_reads_the_same() {
        let value = json!({ "b": "cat < a > b && \u{2028}\u{2029} ä \"q\" \n", "a": 1.0 });
        let bytes = as_the_api_server_writes(&value).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, r#"{"a":1.0,"b":"cat \u003c a \u003e b \u0026\u0026 \u2028\u2029 ä \"q\" \n"}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn owners_are_added_and_no_other_is_touched() {
        let owner = |uid: &str| OwnerReference { uid: uid.into(), ..OwnerReference::default() };
        for there in [vec![], vec![owner("1"), owner("2")]] {
            let mut object = json!({ "metadata": {} });
            if !there.is_empty() {
                object["metadata"]["ownerReferences"] = json!(there);
            }
            let more = [there.clone(), vec![owner("3"), owner("4")]].concat();
            let (patch, left) = more_owners(&there, &more);
            assert_eq!(left, []);
            json_patch::patch(&mut object, &patch).unwrap();
            let after: Vec<OwnerReference> =
                serde_json::from_value(object["metadata"]["ownerReferences"].clone()).unwrap();
            assert_eq!(after, more);
            assert_eq!(more_owners(&more, &there), (json_patch::Patch(Vec::new()), Vec::new()));
        }
    }

    #[test]
    fn owners_are_added_as_long_as_there_is_room() {
        let owners = |uids: std::ops::Range<usize>| -> Vec<OwnerReference> {
            uids.map(|uid| OwnerReference { uid: uid.to_string(), ..OwnerReference::default() }).collect()
        };
        let (patch, left) = more_owners(&owners(0..OWNERS - 1), &owners(OWNERS - 2..OWNERS + 3));
        assert_eq!((patch.len(), left), (1, owners(OWNERS..OWNERS + 3)));
        let (patch, left) = more_owners(&owners(0..OWNERS), &owners(OWNERS - 1..OWNERS + 1));
        assert_eq!((patch.len(), left), (0, owners(OWNERS..OWNERS + 1)));
    }
}
