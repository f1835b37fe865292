//! What a stage may say about its Pod: an allow-list, never a raw patch.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What the stage needs of its Pod beyond a container. There is no host access here, on purpose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.labels) || self.labels.all(k, !k.startsWith('trainyard.dev/') && !k.startsWith('app.kubernetes.io/'))")
        .message("labels that start with trainyard.dev/ or app.kubernetes.io/ are set by Trainyard"),
    validation = Rule::new("!has(self.annotations) || self.annotations.all(k, !k.startsWith('trainyard.dev/'))")
        .message("annotations that start with trainyard.dev/ are set by Trainyard")
)]
pub struct PodOverrides {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the Pod tolerates, as in a Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Affinity, as in a Pod; checked when the Pod is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub affinity: Option<Affinity>,
    /// Priority class of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Runtime class of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<ImagePullSecret>,
    /// Service account of the Pod. Absent means that of the run. No token is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Volumes, each with where it is mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<PodVolume>,
    /// User that the program runs as. Absent means 65532. An image that must run as root also needs securityProfile: Baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647_i64))]
    pub run_as_user: Option<i64>,
    /// Group that owns the volumes. Absent means 65532.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647_i64))]
    pub fs_group: Option<i64>,
    /// Restricted (the default) or Baseline, as the Pod Security Standards of those names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_profile: Option<SecurityProfile>,
    /// Size of /dev/shm, such as 1Gi, for programs that share memory between processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub shm_size: Option<Quantity>,
    /// Where the stage's inputs and outputs lie while it runs. Absent means the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
    /// More labels of the Pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub labels: BTreeMap<String, String>,
    /// More annotations of the Pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub annotations: BTreeMap<String, String>,
}

fn tolerations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "key": { "type": "string", "maxLength": 316, "description": "Taint that is tolerated. Absent means every taint." },
                "operator": { "type": "string", "enum": ["Exists", "Equal", "Lt", "Gt"], "description": "How value is compared. Absent means Equal." },
                "value": { "type": "string", "maxLength": 63, "description": "Value of the taint." },
                "effect": { "type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"], "description": "Effect of the taint. Absent means every effect." },
                "tolerationSeconds": { "type": "integer", "format": "int64", "description": "How long a NoExecute taint is tolerated." }
            }
        }
    })
}

/// A Secret for pulling an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagePullSecret {
    /// Name of the Secret in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The Pod Security Standard that the Pod keeps to: Restricted (the default: no root, no capability, seccomp on) or Baseline
/// (root inside the container is allowed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecurityProfile {
    /// No root, no capability, seccomp on.
    #[default]
    Restricted,
    /// Root inside the container is allowed.
    Baseline,
}

/// Where the stage's inputs and outputs lie while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scratch {
    /// Its size, such as 20Gi.
    #[schemars(schema_with = "schema::quantity")]
    pub size: Quantity,
    /// Storage class of a volume made for this Pod alone. Absent means the node's disk, limited to the size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// A volume and where it is mounted. Exactly one kind of volume is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), has(self.ephemeral), has(self.csi), has(self.image)].exists_one(x, x)")
        .message("exactly one of emptyDir, persistentVolumeClaim, configMap, secret, ephemeral, csi and image is required"),
    validation = Rule::new("self.mountPath != '/trainyard' && !self.mountPath.startsWith('/trainyard/') && !self.mountPath.startsWith('/trainyard-')")
        .message("/trainyard and what begins with /trainyard- are mounted by Trainyard").field_path(".mountPath"),
    validation = Rule::new("!(self.mountPath + '/').contains('/../') && !(self.mountPath + '/').contains('/./')")
        .message("mountPath must not contain . or .. as a part").field_path(".mountPath"),
    validation = Rule::new("!has(self.subPath) || (!self.subPath.startsWith('/') && !('/' + self.subPath + '/').contains('/../'))")
        .message("subPath must be a path below the volume's root: not absolute, without ..").field_path(".subPath")
)]
pub struct PodVolume {
    /// Name of the volume, unique in the stage.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::STAGE_NAME))]
    pub name: String,
    /// Where it is mounted.
    #[schemars(length(min = 2, max = 512), regex(pattern = "^(/[^/:]+)+/?$"))]
    pub mount_path: String,
    /// Path in the volume that is mounted. Absent means its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub sub_path: Option<String>,
    /// Whether the program may only read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// An empty directory on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolume>,
    /// A claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimVolume>,
    /// A ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolume>,
    /// A Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolume>,
    /// A claim made for this Pod alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralVolume>,
    /// A volume of a CSI driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiVolume>,
    /// The files of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageVolume>,
}

/// An empty directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirVolume {
    /// Memory for a directory in memory. Absent means the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub medium: Option<String>,
    /// Its size at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub size_limit: Option<Quantity>,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVolume {
    /// Name of the PersistentVolumeClaim in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapVolume {
    /// Name of the ConfigMap in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVolume {
    /// Name of the Secret in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A claim made for this Pod alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralVolume {
    /// Its size.
    #[schemars(schema_with = "schema::quantity")]
    pub size: Quantity,
    /// Its storage class. Absent means the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// A volume of a CSI driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CsiVolume {
    /// Name of the driver.
    #[schemars(length(min = 1, max = 253))]
    pub driver: String,
    /// What the driver needs to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub volume_attributes: BTreeMap<String, String>,
}

/// The files of an image, read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageVolume {
    /// Image.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
}
