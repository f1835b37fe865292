//! The API of Trainyard: the custom resources `Pipeline`, `PipelineRun` and `TrainingJob` in `trainyard.dev/v1alpha1`.
//!
//! Types, names, labels and condition words, and nothing that acts: no client, no clock. What each field means is said in its
//! doc comment, which is what `kubectl explain` prints; so doc comments here speak to the people who write the YAML.

#![forbid(unsafe_code)]

pub mod condition;
pub mod labels;
pub mod manifest;
pub mod names;
#[cfg(feature = "crdgen")]
pub mod reference;
pub mod v1alpha1;

/// The API group.
pub const GROUP: &str = "trainyard.dev";
