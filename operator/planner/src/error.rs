//! What can be wrong with a pipeline or with the parameters of a run.

use trainyard_crds::condition::Reason;

/// A problem that a person must solve: where, in which word, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SpecProblem {
    /// The condition's reason.
    pub reason: Reason,
    /// Path of the field, such as `spec.stages[2].when`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl SpecProblem {
    pub(crate) fn new(reason: Reason, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, path: path.into(), message: message.into() }
    }
}
