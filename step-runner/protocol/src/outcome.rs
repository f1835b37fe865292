//! How an attempt ended, in one word, and the runner's exit code for it.

use serde::{Deserialize, Serialize};

/// How an attempt ended. The word is what people read as `reason` in a run's status.
///
/// The runner exits with [`Outcome::exit_code`], so that the class survives a lost or garbled termination message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The commit record of the stage exists, by this attempt or by an earlier one that it adopted.
    Succeeded,
    /// The user's process ended with a code other than 0, or by a signal of its own.
    UserError,
    /// The kernel killed the user's process, or one of its children, for lack of memory.
    OOMKilled,
    /// The stage's `timeout` passed.
    Timeout,
    /// The user's process ended with 0 without an output that the stage declares.
    OutputMissing,
    /// An output is not made of regular files below its own directory.
    OutputUnsafe,
    /// A declared result is missing, is too large or is not of its type.
    ResultInvalid,
    /// The program could not be started: not found, not executable, wrong architecture.
    StartError,
    /// The Pod was asked to stop before the stage had committed.
    Disrupted,
    /// The store did not answer, for as long as the runner tries.
    StoreUnavailable,
    /// The store refused the credentials.
    StoreAccessDenied,
    /// The store lacks what exactly-once needs (put-if-absent, atomic rename).
    StoreUnsupported,
    /// An input's bytes do not have their digest after three tries.
    ArtifactCorrupt,
    /// An input does not exist in the store.
    InputMissing,
    /// The Pod's disk or the volume is full.
    DiskFull,
    /// The step's own description is wrong: the operator and the runner disagree.
    ConfigError,
    /// A failure of the runner itself.
    RunnerError,
    /// The program of one rank of a training showed no progress for the job's `stallTimeout`.
    Stalled,
    /// Not all ranks of a training came together within the job's `startTimeout`.
    GangTimeout,
    /// Another run has taken the revision that this one was started for: it would be trained twice.
    AlreadyRun,
}

impl Outcome {
    /// Every outcome, in the order of the exit codes.
    pub const ALL: [Self; 20] = [
        Self::Succeeded,
        Self::UserError,
        Self::OOMKilled,
        Self::Timeout,
        Self::OutputMissing,
        Self::OutputUnsafe,
        Self::ResultInvalid,
        Self::StartError,
        Self::Disrupted,
        Self::StoreUnavailable,
        Self::StoreAccessDenied,
        Self::StoreUnsupported,
        Self::ArtifactCorrupt,
        Self::InputMissing,
        Self::DiskFull,
        Self::ConfigError,
        Self::RunnerError,
        Self::Stalled,
        Self::GangTimeout,
        Self::AlreadyRun,
    ];

    /// The runner's exit code: 0 only for a committed stage, 64 to 82 otherwise (137, 139 and 143 stay the kernel's).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::UserError => 64,
            Self::OOMKilled => 65,
            Self::Timeout => 66,
            Self::OutputMissing => 67,
            Self::OutputUnsafe => 68,
            Self::ResultInvalid => 69,
            Self::StartError => 70,
            Self::Disrupted => 71,
            Self::StoreUnavailable => 72,
            Self::StoreAccessDenied => 73,
            Self::StoreUnsupported => 74,
            Self::ArtifactCorrupt => 75,
            Self::InputMissing => 76,
            Self::DiskFull => 77,
            Self::ConfigError => 78,
            Self::RunnerError => 79,
            Self::Stalled => 80,
            Self::GangTimeout => 81,
            Self::AlreadyRun => 82,
        }
    }

    /// The outcome that an exit code of the runner stands for, if it is one of ours.
    #[must_use]
    pub fn from_exit_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| i32::from(outcome.exit_code()) == code)
    }

    /// The word, as in JSON and in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::UserError => "UserError",
            Self::OOMKilled => "OOMKilled",
            Self::Timeout => "Timeout",
            Self::OutputMissing => "OutputMissing",
            Self::OutputUnsafe => "OutputUnsafe",
            Self::ResultInvalid => "ResultInvalid",
            Self::StartError => "StartError",
            Self::Disrupted => "Disrupted",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::StoreAccessDenied => "StoreAccessDenied",
            Self::StoreUnsupported => "StoreUnsupported",
            Self::ArtifactCorrupt => "ArtifactCorrupt",
            Self::InputMissing => "InputMissing",
            Self::DiskFull => "DiskFull",
            Self::ConfigError => "ConfigError",
            Self::RunnerError => "RunnerError",
            Self::Stalled => "Stalled",
            Self::GangTimeout => "GangTimeout",
            Self::AlreadyRun => "AlreadyRun",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_its_own_and_leads_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_exit_code(i32::from(outcome.exit_code())), Some(outcome));
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        assert_eq!(Outcome::from_exit_code(1), None);
        assert_eq!(Outcome::from_exit_code(137), None);
    }
}
