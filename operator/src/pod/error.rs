//! Why no Pod can be made of a stage.

/// A stage that no Pod can run. Repeating cannot help: the pipeline must change.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Neither the stage nor the defaults name an image.
    #[error("stage {stage} has no image: set container.image, or spec.defaults.container.image for all stages")]
    NoImage {
        /// Name of the stage.
        stage: String,
    },
    /// The profile `Restricted` and user 0.
    #[error("pod.runAsUser is 0 with securityProfile Restricted: set pod.securityProfile to Baseline, or another user")]
    RunsAsRoot,
    /// A store that is neither a bucket nor a volume.
    #[error("the store has neither uri nor volume: set spec.store.uri to a bucket such as s3://bucket/prefix")]
    NoStore,
    /// A volume without a kind, which the schema refuses.
    #[error(
        "volume {volume} says none of emptyDir, persistentVolumeClaim, configMap, secret, ephemeral, csi and image"
    )]
    VolumeWithoutKind {
        /// Name of the volume.
        volume: String,
    },
    /// The step is too large for a Pod.
    #[error(
        "the stage with its parameters takes {bytes} bytes and a Pod holds {limit}: pass large values as inputs, not as parameters, and long scripts as `code`"
    )]
    StepTooLarge {
        /// Size of the step as JSON.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The step cannot be written as JSON.
    #[error("failed to write the step as JSON")]
    Step(#[from] serde_json::Error),
}

impl PodError {
    /// One word for status.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoImage { .. } => "NoImage",
            Self::RunsAsRoot => "ImageRunsAsRoot",
            Self::NoStore => "NoStore",
            Self::VolumeWithoutKind { .. } => "InvalidVolume",
            Self::StepTooLarge { .. } => "StepTooLarge",
            Self::Step(_) => "ConfigError",
        }
    }
}
