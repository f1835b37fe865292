//! Version `v1alpha1`: one kind a file, shared shapes beside them.

mod artifact;
mod container;
mod gate;
mod model;
mod param;
#[expect(clippy::duplicated_attributes, reason = "one printcolumn a column")]
mod pipeline;
#[expect(clippy::duplicated_attributes, reason = "one printcolumn a column")]
mod pipeline_run;
mod pipeline_status;
mod pod_overrides;
mod retry;
mod schema;
mod stage;
mod stage_status;
mod store;
mod training;
mod training_job;
mod training_job_status;
mod trigger;

pub use artifact::{Input, Output, ResultDeclaration};
pub use container::{Container, ContainerEnv, ContainerEnvSource, KeyReference, Resources};
pub use gate::{
    Approval, ApprovalDecision, ApprovalStatus, Baseline, Check, CheckResult, Gate, Goal, NoBaseline, Verdict,
};
pub use model::{ModelReference, ModelStatus, ModelVersion, Publish};
pub use param::{Param, ValueType};
pub use pipeline::{
    ArtifactRetention, Code, Defaults, DefaultsContainer, DeletionPolicy, Pipeline, PipelineSpec, Retention,
    RunDeletion,
};
pub use pipeline_run::{
    PipelineReference, PipelineRun, PipelineRunSpec, PipelineRunStatus, Rerun, RerunStages, Resolved, RunCounts,
    RunPhase, RunState,
};
pub use pipeline_status::{
    ArtifactsStatus, BackfillStatus, Cause, DataStatus, LastRun, PipelineStatus, Revision, RevisionPhase,
    TriggerStatus, UpstreamArtifact, UpstreamStatus,
};
pub use pod_overrides::{
    ClaimVolume, ConfigMapVolume, CsiVolume, EmptyDirVolume, EphemeralVolume, ImagePullSecret, ImageVolume,
    PodOverrides, PodVolume, Scratch, SecretVolume, SecurityProfile,
};
pub use retry::{Backoff, Retry, RetryAction, RetryRule};
pub use stage::{After, Branch, Stage, StageKind};
pub use stage_status::{
    CachedFrom, FailedAttempt, FailureCounts, OutputStatus, StagePhase, StageStatus, StageTraining,
};
pub use store::{S3Store, Store, StoreCredentials, VolumeStore};
pub use training::{Checkpoint, Elastic, Framework, Restart, Role, SuccessPolicy, Training};
pub use training_job::{ArtifactReference, JobInput, TrainingJob, TrainingJobSpec};
pub use training_job_status::{
    AttemptOutcome, AttemptStatus, CheckpointStatus, FailureClass, JobPhase, RankFailure, ResolvedJob,
    TrainingJobStatus,
};
pub use trigger::{
    Backfill, Concurrency, Data, MissedRuns, RetryFailedRevision, Schedule, SpecChange, Trigger, TriggerKind, Upstream,
};

/// A duration as users write it: `90s`, `30m`, `1h30m`, `2d`.
///
/// ```
/// use trainyard_crds::v1alpha1::duration_seconds;
/// assert_eq!(duration_seconds("1h30m"), Some(5400));
/// assert_eq!(duration_seconds("soon"), None);
/// ```
#[must_use]
pub fn duration_seconds(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then_some(total)
}
