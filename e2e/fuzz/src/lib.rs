//! One module for each kind of text that Trainyard reads and others wrote. Each has a function `run` that takes any bytes: it may
//! refuse them, and must not panic, loop or grow; where there is a way back, it leads back.
//!
//! The time that an input may take, and the memory, are bounded by the options of `run.sh`.
//!
//! Modules that are private to a deployable are taken by their path, so that nothing has to be made public for this.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed property is a panic here")]

pub mod commit;
pub mod expression;
pub mod manifest;
pub mod metrics;
pub mod pipeline;
pub mod step;
pub mod substitution;
pub mod termination;
mod world;

#[path = "../../../step-runner/src/beneath.rs"]
mod beneath;
#[path = "../../../step-runner/src/stage_in/contents.rs"]
mod contents;
#[path = "../../../operator/src/pipeline_run/observe/ended.rs"]
mod ended;
#[path = "../../../step-runner/src/stage_out/metrics.rs"]
mod metrics_reader;
#[path = "../../../operator/src/mutant.rs"]
mod mutant;
#[path = "../../../step-runner/src/stage_in/seal.rs"]
mod seal;

/// What `seal` takes from the runner's digests.
mod digest {
    use sha2::Digest as _;

    pub(crate) fn sha256(bytes: &[u8]) -> String {
        sha2::Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }
}

/// What `contents` takes from the runner's store.
mod store {
    /// The most bytes of a packed file.
    pub(crate) const PART: u64 = 8 << 20;
}

/// A target by its name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn target(name: &str) -> fn(&[u8]) {
    match name {
        "pipeline" => pipeline::run,
        "substitution" => substitution::run,
        "expression" => expression::run,
        "termination" => termination::run,
        "manifest" => manifest::run,
        "commit" => commit::run,
        "metrics" => metrics::run,
        "step" => step::run,
        other => panic!("there is no target {other:?}"),
    }
}

/// A document that can be read can be written, and reads the same again.
fn there_and_back<T>(document: &T) -> T
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(document).unwrap();
    let again: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(&again, document);
    again
}
