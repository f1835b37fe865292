//! The containers: the user's image with the runner as its command, and the one that brings the runner where image volumes are not.

use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, EnvFromSource, EnvVar, EnvVarSource, ResourceRequirements, SecretEnvSource,
    SecretKeySelector, VolumeMount,
};
use step_protocol::paths;
use trainyard_crds::v1alpha1::{self as api, ContainerEnvSource};

use super::{PodError, PodSettings, StagePod, resources, security, volumes};

/// Name of the container that runs the stage.
pub const STAGE_CONTAINER: &str = "stage";
/// Name of the init container that brings the runner.
pub const RUNNER_CONTAINER: &str = "runner";

/// Most bytes of a step: etcd takes 1.5 MiB for the whole Pod, Linux 2 MiB for a process's environment.
const STEP_LIMIT: usize = 1024 * 1024;

/// The stage's container. Its working directory and its variables are the runner's business, but for values out of Secrets and
/// ConfigMaps, which only the kubelet may read.
pub(super) fn stage(
    input: &StagePod<'_>,
    resources: Option<ResourceRequirements>,
    mounts: Vec<VolumeMount>,
) -> Result<Container, PodError> {
    let image = input.program.image.clone().ok_or_else(|| PodError::NoImage { stage: input.stage.to_owned() })?;
    Ok(Container {
        name: STAGE_CONTAINER.to_owned(),
        image: Some(image),
        command: Some(vec![format!("{}/{}", paths::RUNNER_MOUNT, paths::RUNNER_BINARY)]),
        args: Some(vec!["run".to_owned()]),
        env: Some(environment(input)?),
        env_from: credentials(input.store),
        resources,
        volume_mounts: Some(mounts),
        security_context: Some(security::stage_container()),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    })
}

/// The init container that copies the runner.
pub(super) fn runner(settings: &PodSettings, stage: Option<&ResourceRequirements>) -> Container {
    Container {
        name: RUNNER_CONTAINER.to_owned(),
        image: Some(settings.runner_image.clone()),
        image_pull_policy: settings.runner_pull_policy.map(|policy| policy.as_str().to_owned()),
        command: Some(vec![format!("/{}", paths::RUNNER_BINARY), "install".to_owned(), paths::RUNNER_MOUNT.to_owned()]),
        resources: resources::of_init(stage),
        volume_mounts: Some(vec![VolumeMount {
            name: volumes::RUNNER.to_owned(),
            mount_path: paths::RUNNER_MOUNT.to_owned(),
            ..VolumeMount::default()
        }]),
        security_context: Some(security::runner_container(settings)),
        ..Container::default()
    }
}

/// The step, the report's key, and what the kubelet resolves.
fn environment(input: &StagePod<'_>) -> Result<Vec<EnvVar>, PodError> {
    let value = |name: String, value: String| EnvVar { name, value: Some(value), value_from: None };
    let step = input.spec.to_env()?;
    let bytes = step.iter().map(|(_, chunk)| chunk.len()).sum();
    if bytes > STEP_LIMIT {
        return Err(PodError::StepTooLarge { bytes, limit: STEP_LIMIT });
    }
    let mut all: Vec<_> = step.into_iter().map(|(name, chunk)| value(name, chunk)).collect();
    all.extend(input.report_key.map(|key| value(paths::ENV_REPORT_KEY.to_owned(), key.to_owned())));
    all.extend(input.gang.map(|gang| value(paths::ENV_GANG_KEY.to_owned(), gang.key.to_owned())));
    all.extend(input.program.env.iter().filter_map(|variable| {
        let source = variable.value_from.as_ref()?;
        Some(EnvVar { name: variable.name.clone(), value: None, value_from: Some(env_source(source)) })
    }));
    Ok(all)
}

fn env_source(source: &ContainerEnvSource) -> EnvVarSource {
    let ContainerEnvSource { secret_key_ref, config_map_key_ref } = source.clone();
    EnvVarSource {
        secret_key_ref: secret_key_ref.map(|key| SecretKeySelector {
            name: key.name,
            key: key.key,
            optional: key.optional,
        }),
        config_map_key_ref: config_map_key_ref.map(|key| ConfigMapKeySelector {
            name: key.name,
            key: key.key,
            optional: key.optional,
        }),
        ..EnvVarSource::default()
    }
}

/// The store's credentials, under names that the runner keeps from the program.
pub(super) fn credentials(store: &api::Store) -> Option<Vec<EnvFromSource>> {
    let credentials = store.credentials.as_ref()?;
    Some(vec![EnvFromSource {
        prefix: Some(paths::ENV_STORE_PREFIX.to_owned()),
        secret_ref: Some(SecretEnvSource { name: credentials.secret_name.clone(), optional: None }),
        config_map_ref: None,
    }])
}
