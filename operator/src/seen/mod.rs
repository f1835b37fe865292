//! Objects as they are read: only what the operator looks at is taken from their JSON, in one pass.
//!
//! An object's `managedFields` name every field that anybody has ever set, and of an object whose status has many rows they can be
//! longer than all the rest; of a Pod's spec hardly anything is looked at here. All of it arrives with every event and every answer.

mod pod;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::value::RawValue;
use trainyard_crds::v1alpha1::{
    Pipeline, PipelineRun, PipelineRunSpec, PipelineRunStatus, PipelineSpec, PipelineStatus, TrainingJob,
    TrainingJobSpec, TrainingJobStatus,
};

pub(crate) use pod::SeenPod;

/// An object of one of our kinds, or why it cannot be read: others of the same list are read all the same. Whoever keeps it shares it:
/// a run with many stages is the largest thing in memory.
#[derive(Clone, Debug)]
pub(crate) struct Seen<K>(pub(crate) Result<Arc<K>, Unreadable>);

/// An object that cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unreadable {
    /// What is wrong with it.
    pub(crate) error: String,
    /// Its metadata, which can.
    pub(crate) metadata: ObjectMeta,
}

/// A kind of ours: metadata, spec and status.
pub(crate) trait Kind: Resource<DynamicType = ()> + Clone + Debug {
    /// Of its spec.
    type Spec: DeserializeOwned;
    /// Of its status.
    type Status: DeserializeOwned;

    /// The object of these parts.
    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

macro_rules! kind {
    ($kind:ident, $spec:ident, $status:ident) => {
        impl Kind for $kind {
            type Spec = $spec;
            type Status = $status;

            fn of(metadata: ObjectMeta, spec: $spec, status: Option<$status>) -> Self {
                Self { metadata, spec, status }
            }
        }
    };
}

kind!(Pipeline, PipelineSpec, PipelineStatus);
kind!(TrainingJob, TrainingJobSpec, TrainingJobStatus);

impl Kind for PipelineRun {
    type Spec = PipelineRunSpec;
    type Status = PipelineRunStatus;

    fn of(metadata: ObjectMeta, spec: PipelineRunSpec, mut status: Option<PipelineRunStatus>) -> Self {
        if let Some(status) = &mut status {
            // Rows are large, and a list that was read has room for up to twice as many.
            status.stages.shrink_to_fit();
        }
        Self { metadata, spec, status }
    }
}

/// The metadata of an object but for its `managedFields` and what the API server does not set any more.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            generation: meta.generation,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: meta.owner_references,
            finalizers: meta.finalizers,
            ..Self::default()
        }
    }
}

/// An object whose spec and status are text still.
#[derive(Deserialize)]
struct Parts {
    metadata: Meta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

impl<'de, K: Kind> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { metadata, spec, status } = Parts::deserialize(deserializer)?;
        let metadata = ObjectMeta::from(metadata);
        let read = || {
            let spec = spec.ok_or_else(|| serde_json::Error::missing_field("spec"))?;
            let spec: K::Spec = serde_json::from_str(spec.get())?;
            let status: Option<K::Status> = status.map(|status| serde_json::from_str(status.get())).transpose()?;
            Ok::<_, serde_json::Error>((spec, status))
        };
        Ok(Self(match read() {
            Ok((spec, status)) => Ok(Arc::new(K::of(metadata, spec, status))),
            Err(error) => Err(Unreadable { error: error.to_string(), metadata }),
        }))
    }
}

impl<K: Kind> Seen<K> {
    /// The object, for whoever cannot go on without it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(self) -> kube::Result<K> {
        let read = self.0.map_err(|unreadable| kube::Error::SerdeError(serde_json::Error::custom(unreadable.error)));
        read.map(Arc::unwrap_or_clone)
    }
}

impl<K: Kind> Resource for Seen<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, |object| object.meta())
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, |object| Arc::make_mut(object).meta_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::WatchEvent;
    use serde_json::json;

    fn run() -> serde_json::Value {
        json!({
            "apiVersion": "trainyard.dev/v1alpha1",
            "kind": "PipelineRun",
            "metadata": {
                "name": "night", "namespace": "team", "uid": "u", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-11-01T10:00:00Z", "deletionTimestamp": "2026-11-01T11:00:00Z",
                "deletionGracePeriodSeconds": 0, "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "p"}],
                "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"pipelineRef": {"name": "iris"}, "params": {"rate": 0.1}},
            "status": {"phase": "Running", "pipeline": "iris"},
        })
    }

    #[test]
    fn an_object_is_as_it_is_but_for_its_managed_fields() {
        let seen: Seen<PipelineRun> = serde_json::from_str(&run().to_string()).unwrap();
        let mut whole: PipelineRun = serde_json::from_value(run()).unwrap();
        whole.metadata.managed_fields = None;
        assert_eq!(serde_json::to_value(seen.read().unwrap()).unwrap(), serde_json::to_value(whole).unwrap());
    }

    #[test]
    fn an_event_of_a_watch_is_read_in_one_pass() {
        // As the API server writes it: the type first.
        let line = format!("{{\"type\":\"MODIFIED\",\"object\":{}}}", run());
        let event: WatchEvent<Seen<PipelineRun>> = serde_json::from_str(&line).unwrap();
        let WatchEvent::Modified(seen) = event else { panic!("{event:?}") };
        assert_eq!(seen.meta().resource_version.as_deref(), Some("7"));
        assert!(seen.0.is_ok());
    }

    #[test]
    fn what_cannot_be_read_still_has_its_metadata() {
        for (part, value) in [("spec", json!({"params": 3})), ("spec", json!(null)), ("status", json!({"phase": 3}))] {
            let mut run = run();
            run[part] = value;
            let seen: Seen<PipelineRun> = serde_json::from_value(run).unwrap();
            assert_eq!(seen.meta().name.as_deref(), Some("night"));
            let unreadable = seen.0.as_ref().unwrap_err();
            assert!(!unreadable.error.is_empty());
            assert!(seen.clone().read().unwrap_err().to_string().contains(&unreadable.error));
        }
    }
}
