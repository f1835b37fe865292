//! What is mounted: the stage's directory, the runner, the code, the store's volume, shared memory, and the user's own volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ConfigMapVolumeSource, EmptyDirVolumeSource, EphemeralVolumeSource, ImageVolumeSource,
    PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource, SecretVolumeSource,
    Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use step_protocol::paths;
use trainyard_crds::v1alpha1::{PodOverrides, PodVolume};

use super::{PodError, PodSettings, RunnerMount, StagePod};

/// Name of the volume with the runner.
pub(super) const RUNNER: &str = "runner";
/// Name of the volume with the stage's directory.
const ROOT: &str = "trainyard";
const CODE: &str = "code";
const STORE: &str = "store";
const SHM: &str = "shm";
/// Before the names of the user's volumes, so that they never meet ours.
const USER_PREFIX: &str = "v-";
/// The code is readable and may be started by everybody.
const CODE_MODE: i32 = 0o555;

/// The Pod's volumes and the stage container's mounts, in the same order.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
}

impl Mounted {
    fn add(&mut self, volume: Volume, path: &str, how: How) {
        self.mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: path.to_owned(),
            read_only: (how.read_only).then_some(true),
            sub_path: how.sub_path,
            ..VolumeMount::default()
        });
        self.volumes.push(volume);
    }
}

/// How a volume is mounted.
#[derive(Default)]
struct How {
    read_only: bool,
    sub_path: Option<String>,
}

impl How {
    const READ_ONLY: Self = Self { read_only: true, sub_path: None };
}

/// Everything that the stage's container mounts.
pub(super) fn mounted(input: &StagePod<'_>, overrides: &PodOverrides) -> Result<Mounted, PodError> {
    let mut mounted = Mounted::default();
    mounted.add(root(overrides), paths::ROOT, How::default());
    mounted.add(runner(input.settings, input.mount), paths::RUNNER_MOUNT, How::READ_ONLY);
    if let Some(name) = input.code {
        let source = ConfigMapVolumeSource {
            name: name.to_owned(),
            default_mode: Some(CODE_MODE),
            ..ConfigMapVolumeSource::default()
        };
        let volume = Volume { name: CODE.to_owned(), config_map: Some(source), ..Volume::default() };
        mounted.add(volume, &format!("{}/{}", paths::ROOT, paths::CODE), How::READ_ONLY);
    }
    match (&input.store.uri, &input.store.volume) {
        (Some(_), _) => {}
        (None, Some(store)) => {
            let volume = claim(STORE.to_owned(), &store.claim_name);
            mounted.add(volume, paths::STORE_MOUNT, How { read_only: false, sub_path: store.sub_path.clone() });
        }
        (None, None) => return Err(PodError::NoStore),
    }
    if let Some(size) = &overrides.shm_size {
        mounted.add(empty_dir(SHM.to_owned(), Some("Memory"), Some(size.clone())), "/dev/shm", How::default());
    }
    for volume in &overrides.volumes {
        let how = How { read_only: volume.read_only == Some(true), sub_path: volume.sub_path.clone() };
        mounted.add(user(volume)?, &volume.mount_path, how);
    }
    Ok(mounted)
}

/// The stage's directory: the node's disk, or a volume made for this Pod.
fn root(overrides: &PodOverrides) -> Volume {
    let name = ROOT.to_owned();
    match &overrides.scratch {
        None => empty_dir(name, None, None),
        Some(scratch) => match &scratch.storage_class_name {
            None => empty_dir(name, None, Some(scratch.size.clone())),
            class => ephemeral(name, scratch.size.clone(), class.clone()),
        },
    }
}

fn runner(settings: &PodSettings, mount: RunnerMount) -> Volume {
    match mount {
        RunnerMount::Image => Volume {
            name: RUNNER.to_owned(),
            image: Some(ImageVolumeSource {
                reference: Some(settings.runner_image.clone()),
                pull_policy: settings.runner_pull_policy.map(|policy| policy.as_str().to_owned()),
            }),
            ..Volume::default()
        },
        RunnerMount::Init => empty_dir(RUNNER.to_owned(), None, None),
    }
}

/// A volume of the user's. All kinds are named, so that a new one cannot be forgotten here.
fn user(volume: &PodVolume) -> Result<Volume, PodError> {
    let PodVolume {
        name,
        mount_path: _,
        sub_path: _,
        read_only: _,
        empty_dir: directory,
        persistent_volume_claim,
        config_map,
        secret,
        ephemeral: made,
        csi,
        image,
    } = volume;
    let full_name = format!("{USER_PREFIX}{name}");
    if let Some(directory) = directory {
        return Ok(empty_dir(full_name, directory.medium.as_deref(), directory.size_limit.clone()));
    }
    if let Some(made) = made {
        return Ok(ephemeral(full_name, made.size.clone(), made.storage_class_name.clone()));
    }
    if let Some(existing) = persistent_volume_claim {
        return Ok(claim(full_name, &existing.claim_name));
    }
    let source = Volume {
        name: full_name,
        config_map: config_map.as_ref().map(|config_map| ConfigMapVolumeSource {
            name: config_map.name.clone(),
            ..ConfigMapVolumeSource::default()
        }),
        secret: secret.as_ref().map(|secret| SecretVolumeSource {
            secret_name: Some(secret.secret_name.clone()),
            ..SecretVolumeSource::default()
        }),
        csi: csi.as_ref().map(|csi| CSIVolumeSource {
            driver: csi.driver.clone(),
            read_only: volume.read_only,
            volume_attributes: (!csi.volume_attributes.is_empty()).then(|| csi.volume_attributes.clone()),
            ..CSIVolumeSource::default()
        }),
        image: image
            .as_ref()
            .map(|image| ImageVolumeSource { reference: Some(image.reference.clone()), pull_policy: None }),
        ..Volume::default()
    };
    match (&source.config_map, &source.secret, &source.csi, &source.image) {
        (None, None, None, None) => Err(PodError::VolumeWithoutKind { volume: name.clone() }),
        _ => Ok(source),
    }
}

fn empty_dir(name: String, medium: Option<&str>, size_limit: Option<Quantity>) -> Volume {
    let source = EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit };
    Volume { name, empty_dir: Some(source), ..Volume::default() }
}

fn claim(name: String, claim_name: &str) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim_name.to_owned(), read_only: None };
    Volume { name, persistent_volume_claim: Some(source), ..Volume::default() }
}

fn ephemeral(name: String, size: Quantity, storage_class_name: Option<String>) -> Volume {
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name,
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
            limits: None,
        }),
        ..PersistentVolumeClaimSpec::default()
    };
    let template = PersistentVolumeClaimTemplate { metadata: None, spec };
    let source = EphemeralVolumeSource { volume_claim_template: Some(template) };
    Volume { name, ephemeral: Some(source), ..Volume::default() }
}
