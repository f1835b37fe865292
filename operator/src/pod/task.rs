//! The Pod of a short task: the runner in its own image, with the credentials of the pipeline's store and nothing else.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, PersistentVolumeClaimVolumeSource, Pod, PodSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use step_protocol::{TaskSpec, paths};
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{PodOverrides, Store};

use super::{PodError, PodSettings, containers, resources, security};

/// Name of the container.
const CONTAINER: &str = "task";
/// Name of the volume of a store that is one.
const STORE: &str = "store";
/// Seconds beyond the task's own limit after which the kubelet ends it: a pull of the image takes time, too.
pub(crate) const DEADLINE_MARGIN_SECONDS: u64 = 300;

/// A short task for a Pipeline.
#[derive(Clone, Debug)]
pub(crate) struct TaskPod<'a> {
    /// Name of the Pod.
    pub(crate) name: &'a str,
    /// Namespace of the Pipeline.
    pub(crate) namespace: &'a str,
    /// The Pipeline, as controller.
    pub(crate) owner: OwnerReference,
    /// Name of the Pipeline.
    pub(crate) pipeline: &'a str,
    /// UID of the Pipeline.
    pub(crate) pipeline_uid: &'a str,
    /// What is to be done.
    pub(crate) task: &'a TaskSpec,
    /// The pipeline's store, with the installation's default merged in.
    pub(crate) store: &'a Store,
    /// What the installation says.
    pub(crate) settings: &'a PodSettings,
}

/// The Pod.
///
/// # Errors
/// If the task is no JSON, which it always is.
pub(crate) fn task_pod(input: &TaskPod<'_>) -> Result<Pod, PodError> {
    let task = input.task.to_env()?;
    let own = [
        (labels::MANAGED_BY, labels::MANAGER.to_owned()),
        (labels::PIPELINE, labels::value(input.pipeline)),
        (labels::PIPELINE_UID, input.pipeline_uid.to_owned()),
    ];
    let own: BTreeMap<String, String> = own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let claim = input.store.volume.as_ref().filter(|_| input.store.uri.is_none());
    let volume = claim.map(|store| Volume {
        name: STORE.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: store.claim_name.clone(),
            read_only: None,
        }),
        ..Volume::default()
    });
    let mount = claim.map(|store| VolumeMount {
        name: STORE.to_owned(),
        mount_path: paths::STORE_MOUNT.to_owned(),
        sub_path: store.sub_path.clone(),
        ..VolumeMount::default()
    });
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(input.settings.runner_image.clone()),
        image_pull_policy: input.settings.runner_pull_policy.map(|policy| policy.as_str().to_owned()),
        command: Some(vec![format!("/{}", paths::RUNNER_BINARY), "task".to_owned()]),
        env: Some(
            task.into_iter().map(|(name, value)| EnvVar { name, value: Some(value), value_from: None }).collect(),
        ),
        env_from: containers::credentials(input.store),
        resources: resources::requirements(input.settings.default_resources.as_ref()),
        volume_mounts: mount.map(|mount| vec![mount]),
        security_context: Some(security::runner_container(input.settings)),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    };
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(input.name.to_owned()),
            namespace: Some(input.namespace.to_owned()),
            owner_references: Some(vec![input.owner.clone()]),
            labels: Some(own),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(5),
            active_deadline_seconds: i64::try_from(input.task.timeout_seconds + DEADLINE_MARGIN_SECONDS).ok(),
            security_context: Some(security::pod(&PodOverrides::default(), input.settings)?),
            containers: vec![container],
            volumes: volume.map(|volume| vec![volume]),
            ..PodSpec::default()
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use step_protocol::{FingerprintSpec, StoreSpec, Task};

    #[test]
    fn a_task_is_the_runner_with_the_stores_credentials_and_nothing_else() {
        let task = TaskSpec {
            version: step_protocol::VERSION,
            store: StoreSpec { uri: "s3://iris/trainyard".into(), s3: None },
            task: Task::Fingerprint(FingerprintSpec { uri: "s3://iris/raw/$(HOME)/".into(), marker: None }),
            timeout_seconds: 60,
        };
        let store = json!({"uri": "s3://iris/trainyard", "credentials": {"secretName": "store"}});
        let pod = task_pod(&TaskPod {
            name: "iris-data-look-abc",
            namespace: "team",
            owner: OwnerReference {
                kind: "Pipeline".into(),
                name: "iris".into(),
                uid: "u".into(),
                controller: Some(true),
                ..OwnerReference::default()
            },
            pipeline: "iris",
            pipeline_uid: "u",
            task: &task,
            store: &serde_json::from_value(store).unwrap(),
            settings: &PodSettings {
                runner_image: "step-runner:1".into(),
                runner_pull_policy: None,
                run_as_user: Some(65532),
                default_resources: None,
            },
        });
        insta::assert_json_snapshot!(pod.unwrap());
    }
}
