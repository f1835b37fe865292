//! Where artifacts live.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where artifacts live: a bucket or a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.uri) != has(self.volume)").message("exactly one of uri and volume is required"),
    validation = Rule::new("!has(self.s3) || (has(self.uri) && self.uri.startsWith('s3://'))").message("s3 goes with a uri that starts with s3://"),
    validation = Rule::new("!has(self.credentials) || has(self.uri)").message("credentials go with a uri; a volume has none")
)]
pub struct Store {
    /// Bucket and prefix: s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 6, max = 512), regex(pattern = "^(s3|gs|az)://[A-Za-z0-9]"))]
    pub uri: Option<String>,
    /// How to reach an S3 service other than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// Secret of the run's namespace whose keys are named as the provider's SDK names its environment variables, such as
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. User code does not see it. Absent means the Pod's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StoreCredentials>,
    /// A claim that every stage mounts, instead of a bucket. It must allow ReadWriteMany, or all stages must run on one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStore>,
}

/// How to reach an S3 service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// URL of the service, such as http://store.team:9000. Absent means AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512), regex(pattern = "^https?://"))]
    pub endpoint: Option<String>,
    /// Region. Absent means us-east-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// Whether the bucket is part of the host name (bucket.host) and not of the path (host/bucket).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_hosted_style: Option<bool>,
}

/// Credentials of the store, by name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreCredentials {
    /// Name of the Secret in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A claim as store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStore {
    /// Name of the PersistentVolumeClaim in the run's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Directory in the volume. Absent means its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub sub_path: Option<String>,
}
