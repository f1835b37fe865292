//! What the operator and the `step-runner` say to each other.
//!
//! The operator writes a [`StepSpec`] into the Pod, the runner answers with a [`StepReport`] (early by HTTP, and again as the
//! Pod's termination message) and leaves a [`CommitRecord`] and one [`Manifest`] per output in the store. This crate is data,
//! names and the arithmetic of their limits: no I/O, no clock, no hashing.
//!
//! Everything here is versioned by [`VERSION`]: a field may be added with a default, never renamed or given another meaning.

#![forbid(unsafe_code)]

mod artifact;
mod nesting;
mod outcome;
pub mod paths;
mod rank;
mod registry;
mod report;
mod spec;
mod task;

pub use artifact::{CommitRecord, CommittedOutput, Manifest, ManifestFile, Pack, Packed};
pub use nesting::{NESTING_LIMIT, nests_too_deep};
pub use outcome::Outcome;
pub use rank::{CheckpointName, CheckpointSpec, ElasticSpec, Framework, ProgressReport, RankSpec, RoleSpec};
pub use registry::{Alias, LedgerEntry, LedgerSpec, ModelRecord, ModelRun, Promotion, PublishSource, PublishSpec};
pub use report::{MESSAGE_LIMIT, OutputReport, StepReport, VALUES_LIMIT};
pub use spec::{
    EnvVar, Identity, InputSource, InputSpec, OutputSpec, ReportSpec, ResultSpec, S3Spec, Segment, SpecError, StepSpec,
    StoreSpec, Text, ValueType,
};
pub use task::{CollectSpec, Collected, Fingerprint, FingerprintSpec, Task, TaskReport, TaskSpec};

/// The version of everything in this crate, written into each document.
pub const VERSION: u32 = 1;
