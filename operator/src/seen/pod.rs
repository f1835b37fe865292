//! A Pod as it is read.

use std::borrow::Cow;
use std::ops::Deref;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, EnvVar, Pod, PodCondition, PodReadinessGate, PodSpec, PodStatus,
    Volume, VolumeMount,
};
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde::de::Deserializer;
use step_protocol::paths;

use super::Meta;

/// A Pod with what is looked at: its metadata, where it runs, how its containers are, what they mount, and the keys of a rank.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeenPod(Pod);

impl Deref for SeenPod {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.0
    }
}

impl From<SeenPod> for Pod {
    fn from(seen: SeenPod) -> Self {
        seen.0
    }
}

#[derive(Deserialize)]
struct Parts {
    metadata: Meta,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    #[serde(default)]
    containers: Vec<Program>,
    volumes: Option<Vec<Volume>>,
    readiness_gates: Option<Vec<PodReadinessGate>>,
}

/// A container.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Program {
    name: String,
    image: Option<String>,
    #[serde(default)]
    env: Vec<Variable>,
    volume_mounts: Option<Vec<VolumeMount>>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    container_statuses: Option<Vec<State>>,
    init_container_statuses: Option<Vec<State>>,
}

/// How a container is.
#[derive(Deserialize)]
struct State {
    name: String,
    state: Option<ContainerState>,
}

impl From<Program> for Container {
    fn from(program: Program) -> Self {
        let keys = [paths::ENV_GANG_KEY, paths::ENV_REPORT_KEY];
        let env = program.env.into_iter().filter(|variable| keys.contains(&variable.name.as_str()));
        let env = env.map(|variable| EnvVar { name: variable.name, value: variable.value, ..EnvVar::default() });
        Self {
            name: program.name,
            image: program.image,
            env: Some(env.collect()),
            volume_mounts: program.volume_mounts,
            ..Self::default()
        }
    }
}

impl From<Spec> for PodSpec {
    fn from(spec: Spec) -> Self {
        Self {
            node_name: spec.node_name,
            containers: spec.containers.into_iter().map(Container::from).collect(),
            volumes: spec.volumes,
            readiness_gates: spec.readiness_gates,
            ..Self::default()
        }
    }
}

impl From<Status> for PodStatus {
    fn from(status: Status) -> Self {
        let states = |states: Option<Vec<State>>| {
            let status =
                |state: State| ContainerStatus { name: state.name, state: state.state, ..ContainerStatus::default() };
            states.map(|states| states.into_iter().map(status).collect())
        };
        Self {
            phase: status.phase,
            reason: status.reason,
            message: status.message,
            conditions: status.conditions,
            container_statuses: states(status.container_statuses),
            init_container_statuses: states(status.init_container_statuses),
            ..Self::default()
        }
    }
}

impl<'de> Deserialize<'de> for SeenPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { metadata, spec, status } = Parts::deserialize(deserializer)?;
        Ok(Self(Pod { metadata: metadata.into(), spec: spec.map(PodSpec::from), status: status.map(PodStatus::from) }))
    }
}

impl Resource for SeenPod {
    type DynamicType = ();
    type Scope = <Pod as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_keys_of_a_rank_are_kept_and_other_variables_are_not() {
        let seen: SeenPod = serde_json::from_value(json!({
            "metadata": {"name": "a", "resourceVersion": "3", "managedFields": [{"manager": "kubelet"}]},
            "spec": {"nodeName": "n", "containers": [{"name": "stage", "image": "i", "env": [
                {"name": paths::ENV_GANG_KEY, "value": "g"}, {"name": "LONG", "value": "spec"},
                {"name": "FROM", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        }))
        .unwrap();
        assert_eq!(seen.meta().resource_version.as_deref(), Some("3"));
        assert_eq!(seen.meta().managed_fields, None);
        let variables: Vec<_> = seen.spec.as_ref().unwrap().containers[0].env.iter().flatten().collect();
        assert_eq!(variables.len(), 1);
        assert_eq!(variables[0].value.as_deref(), Some("g"));
    }

    #[test]
    fn a_pod_without_a_status_is_read() {
        let seen: SeenPod = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!((seen.meta().name.as_deref(), &seen.status), (Some("a"), &None));
    }
}
