//! Condition types and the reasons that the operator itself gives, as words that tools and people match on.

/// Types of conditions. All are positive: `True` is what one hopes for, but for the two that kstatus defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// The spec can be run as it stands.
    Accepted,
    /// The run has ended, in whatever way.
    Finished,
    /// The run has ended well.
    Succeeded,
    /// There are no Pods, since the job is suspended.
    Suspended,
    /// kstatus: work is going on.
    Reconciling,
    /// kstatus: it will not get better without a person.
    Stalled,
    /// kstatus: what the spec asks for is there.
    Ready,
}

impl ConditionType {
    /// Every type.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Finished,
        Self::Succeeded,
        Self::Suspended,
        Self::Reconciling,
        Self::Stalled,
        Self::Ready,
    ];

    /// The word in `status.conditions[].type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Finished => "Finished",
            Self::Succeeded => "Succeeded",
            Self::Suspended => "Suspended",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Ready => "Ready",
        }
    }
}

/// Reasons that the operator gives for a run, a stage or a pipeline, beside those that the runner reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Nothing to say.
    None,
    /// The spec is in order.
    Valid,
    /// The spec is wrong in itself.
    InvalidPipeline,
    /// A `$(...)` or an expression names something that does not exist.
    UnknownReference,
    /// A `$(...)` or an expression names a stage that need not have ended by then.
    NotUpstream,
    /// An expression does not parse, or gives something that is not a boolean.
    InvalidExpression,
    /// The Pipeline that the run names does not exist.
    PipelineNotFound,
    /// The run that a rerun refers to does not exist, or has not ended.
    RerunSourceUnavailable,
    /// A parameter has no value.
    ParameterMissing,
    /// A parameter is not declared.
    ParameterUnknown,
    /// A parameter is not of its type, not in its range or not in its enumeration.
    ParameterInvalid,
    /// The parameters were edited after the run had been accepted.
    ParametersChanged,
    /// Neither the pipeline nor the installation says where artifacts live.
    StoreMissing,
    /// The status would grow over what an object may hold.
    StatusTooLarge,
    /// A result that the operator needs did not fit the report.
    ResultTooLarge,
    /// An object of another owner has the name of ours.
    NameConflict,
    /// The API server refused the Pod.
    PodRejected,
    /// The operator lacks the right to create Pods.
    Forbidden,
    /// The namespace's quota has no room.
    QuotaExceeded,
    /// No node has room for the Pod.
    Unschedulable,
    /// The image is being pulled, or pulling is being tried again.
    ImagePull,
    /// The image cannot be pulled.
    ImagePullFailed,
    /// The image runs as root, which the Pod's security profile forbids.
    ImageRunsAsRoot,
    /// A Secret or ConfigMap that the Pod needs does not exist.
    ConfigMissing,
    /// The container runtime could not start the container.
    ContainerStartFailed,
    /// The Pod is waiting for its turn.
    Queued,
    /// The Pod's containers are being made.
    Starting,
    /// The Pod has ended, or is gone, without a commit.
    NoCommit,
    /// The Pod is gone, evicted or preempted.
    Disrupted,
    /// The Pod's node is gone.
    NodeLost,
    /// Something that the stage needs did not succeed.
    DependencyFailed,
    /// Something that the stage needs was skipped.
    DependencySkipped,
    /// The stage's `when` is false.
    WhenFalse,
    /// The branch that the stage waits for did not come.
    BranchNotTaken,
    /// The run was cancelled.
    Cancelled,
    /// The run was terminated.
    Terminated,
    /// The run is suspended.
    Suspended,
    /// The ranks are being stopped, since the job is to be suspended.
    Suspending,
    /// All ranks are started again.
    Restarting,
    /// The job took longer than it may.
    Timeout,
    /// Not all ranks came together in time.
    GangTimeout,
    /// The job was edited in a way that is not allowed after it had been accepted.
    SpecChanged,
    /// A trigger's cron cannot be followed.
    InvalidSchedule,
    /// A trigger's time zone does not exist.
    UnknownTimeZone,
    /// The pipeline is not as it was when the run was created for it, so another run takes its place.
    Superseded,
    /// The revision has been run before.
    AlreadyRun,
    /// Another run of a trigger is active, and what is due waits.
    PipelineBusy,
    /// Another run of a trigger was active, and what was due is left out.
    Skipped,
    /// Instants of a schedule passed while nobody looked.
    MissedRuns,
    /// There is another run with the name of the one that a trigger starts.
    NameCollision,
    /// A check of a gate does not hold.
    GateFailed,
    /// The stage waits for a person's word.
    AwaitingApproval,
    /// A person has denied it.
    ApprovalDenied,
    /// Nobody has said anything in time.
    ApprovalTimeout,
    /// What a data trigger watches was written a moment ago, and may still be.
    DataSettling,
    /// The object that says that the data is complete is not there.
    MarkerMissing,
    /// What a data trigger watches could not be read.
    FingerprintFailed,
    /// There is no Pipeline of the name that an upstream trigger says.
    UpstreamNotFound,
    /// The other pipeline's run has no such output.
    OutputMissing,
    /// The other pipeline has written the same again.
    OutputUnchanged,
    /// The API server does not take the run of a trigger, and never will.
    RunRefused,
    /// The operator's own fault.
    InternalError,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 62] = [
        Self::None,
        Self::Valid,
        Self::InvalidPipeline,
        Self::UnknownReference,
        Self::NotUpstream,
        Self::InvalidExpression,
        Self::PipelineNotFound,
        Self::RerunSourceUnavailable,
        Self::ParameterMissing,
        Self::ParameterUnknown,
        Self::ParameterInvalid,
        Self::ParametersChanged,
        Self::StoreMissing,
        Self::StatusTooLarge,
        Self::ResultTooLarge,
        Self::NameConflict,
        Self::PodRejected,
        Self::Forbidden,
        Self::QuotaExceeded,
        Self::Unschedulable,
        Self::ImagePull,
        Self::ImagePullFailed,
        Self::ImageRunsAsRoot,
        Self::ConfigMissing,
        Self::ContainerStartFailed,
        Self::Queued,
        Self::Starting,
        Self::NoCommit,
        Self::Disrupted,
        Self::NodeLost,
        Self::DependencyFailed,
        Self::DependencySkipped,
        Self::WhenFalse,
        Self::BranchNotTaken,
        Self::Cancelled,
        Self::Terminated,
        Self::Suspended,
        Self::Suspending,
        Self::Restarting,
        Self::Timeout,
        Self::GangTimeout,
        Self::SpecChanged,
        Self::InvalidSchedule,
        Self::UnknownTimeZone,
        Self::Superseded,
        Self::AlreadyRun,
        Self::PipelineBusy,
        Self::Skipped,
        Self::MissedRuns,
        Self::NameCollision,
        Self::GateFailed,
        Self::AwaitingApproval,
        Self::ApprovalDenied,
        Self::ApprovalTimeout,
        Self::DataSettling,
        Self::MarkerMissing,
        Self::FingerprintFailed,
        Self::UpstreamNotFound,
        Self::OutputMissing,
        Self::OutputUnchanged,
        Self::RunRefused,
        Self::InternalError,
    ];

    /// The word; empty for [`Reason::None`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Valid => "Valid",
            Self::InvalidPipeline => "InvalidPipeline",
            Self::UnknownReference => "UnknownReference",
            Self::NotUpstream => "NotUpstream",
            Self::InvalidExpression => "InvalidExpression",
            Self::PipelineNotFound => "PipelineNotFound",
            Self::RerunSourceUnavailable => "RerunSourceUnavailable",
            Self::ParameterMissing => "ParameterMissing",
            Self::ParameterUnknown => "ParameterUnknown",
            Self::ParameterInvalid => "ParameterInvalid",
            Self::ParametersChanged => "ParametersChanged",
            Self::StoreMissing => "StoreMissing",
            Self::StatusTooLarge => "StatusTooLarge",
            Self::ResultTooLarge => "ResultTooLarge",
            Self::NameConflict => "NameConflict",
            Self::PodRejected => "PodRejected",
            Self::Forbidden => "Forbidden",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::Unschedulable => "Unschedulable",
            Self::ImagePull => "ImagePull",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ImageRunsAsRoot => "ImageRunsAsRoot",
            Self::ConfigMissing => "ConfigMissing",
            Self::ContainerStartFailed => "ContainerStartFailed",
            Self::Queued => "Queued",
            Self::Starting => "Starting",
            Self::NoCommit => "NoCommit",
            Self::Disrupted => "Disrupted",
            Self::NodeLost => "NodeLost",
            Self::DependencyFailed => "DependencyFailed",
            Self::DependencySkipped => "DependencySkipped",
            Self::WhenFalse => "WhenFalse",
            Self::BranchNotTaken => "BranchNotTaken",
            Self::Cancelled => "Cancelled",
            Self::Terminated => "Terminated",
            Self::Suspended => "Suspended",
            Self::Suspending => "Suspending",
            Self::Restarting => "Restarting",
            Self::Timeout => "Timeout",
            Self::GangTimeout => "GangTimeout",
            Self::SpecChanged => "SpecChanged",
            Self::InvalidSchedule => "InvalidSchedule",
            Self::UnknownTimeZone => "UnknownTimeZone",
            Self::Superseded => "Superseded",
            Self::AlreadyRun => "AlreadyRun",
            Self::PipelineBusy => "PipelineBusy",
            Self::Skipped => "Skipped",
            Self::MissedRuns => "MissedRuns",
            Self::NameCollision => "NameCollision",
            Self::GateFailed => "GateFailed",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::ApprovalDenied => "ApprovalDenied",
            Self::ApprovalTimeout => "ApprovalTimeout",
            Self::DataSettling => "DataSettling",
            Self::MarkerMissing => "MarkerMissing",
            Self::FingerprintFailed => "FingerprintFailed",
            Self::UpstreamNotFound => "UpstreamNotFound",
            Self::OutputMissing => "OutputMissing",
            Self::OutputUnchanged => "OutputUnchanged",
            Self::RunRefused => "RunRefused",
            Self::InternalError => "InternalError",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The match in `as_str` is complete because it compiles; the lists are complete because they are as long.
    #[test]
    fn the_lists_are_complete() {
        let arms = include_str!("condition.rs")
            .lines()
            .filter(|line| line.trim_start().starts_with("Self::") && line.contains("=> \""));
        assert_eq!(ConditionType::ALL.len() + Reason::ALL.len(), arms.count());
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
