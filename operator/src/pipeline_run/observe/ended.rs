//! How an attempt ended, by its container's exit code and termination message. Both come from programs that are not trusted.

use jiff::Timestamp;
use step_protocol::{Outcome, StepReport};
use trainyard_crds::condition::Reason;
use trainyard_planner::{Class, Committed, CommittedOutput, Ended};

use crate::mutant;

/// The exit code decides: only the runner's own 0 stands for a commit, and a message counts only where it says the same as the code,
/// since user code can write a message but not the runner's exit code.
pub(crate) fn by_code(
    code: i32,
    kubelet_reason: Option<&str>,
    pod_reason: Option<&str>,
    message: Option<&str>,
) -> Ended {
    let report: Option<StepReport> = message.and_then(|text| serde_json::from_str(text).ok());
    let outcome = Outcome::from_exit_code(code);
    let report = report.filter(|report| Some(report.outcome) == outcome);
    match (outcome, report) {
        (Some(Outcome::Succeeded), Some(report)) if report.commit.is_some() => committed(report),
        (Some(Outcome::Succeeded), _) if mutant::is("phase-only") => Ended {
            committed: Some(Committed { winner: 1, ..Committed::default() }),
            ..Ended::failure(Class::User, "", "")
        },
        (Some(Outcome::Succeeded), _) => Ended::failure(
            Class::Infra,
            Reason::NoCommit.as_str(),
            "the Pod ended well but its report does not name a commit record; the next attempt looks for the record",
        ),
        (Some(outcome), report) => failure(outcome, report),
        (None, _) if kubelet_reason == Some("OOMKilled") => Ended::failure(
            Class::User,
            Outcome::OOMKilled.as_str(),
            "the container ran out of memory: raise resources.limits.memory, or use less",
        ),
        (None, _) if pod_reason == Some("DeadlineExceeded") => Ended::failure(
            Class::User,
            Outcome::Timeout.as_str(),
            "the Pod was still there long after the stage's timeout",
        ),
        (None, _) => Ended::failure(
            Class::Infra,
            Reason::Disrupted.as_str(),
            format!(
                "the Pod ended without a report, exit code {code}{}",
                kubelet_reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
            ),
        ),
    }
}

/// The success that a report speaks of.
pub(crate) fn committed(report: StepReport) -> Ended {
    let outputs = report
        .outputs
        .into_iter()
        .map(|output| CommittedOutput { name: output.name, digest: output.digest, bytes: output.bytes })
        .collect();
    let (start, end) = (moment(report.started.as_deref()), moment(report.finished.as_deref()));
    Ended {
        committed: Some(Committed {
            winner: report.winner.unwrap_or(1),
            outputs,
            results: report.results,
            metrics: report.metrics,
        }),
        class: Class::User,
        reason: String::new(),
        message: String::new(),
        exit_code: None,
        last_lines: String::new(),
        start,
        end,
    }
}

fn failure(outcome: Outcome, report: Option<StepReport>) -> Ended {
    let report = report.unwrap_or_else(|| StepReport::new(outcome, "the runner's report was lost"));
    Ended {
        committed: None,
        class: class(outcome),
        reason: outcome.as_str().to_owned(),
        message: report.message,
        exit_code: report.exit_code,
        last_lines: report.last_lines,
        start: moment(report.started.as_deref()),
        end: moment(report.finished.as_deref()),
    }
}

/// A time that the runner tells.
fn moment(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// Whose fault an outcome is.
const fn class(outcome: Outcome) -> Class {
    match outcome {
        Outcome::Succeeded
        | Outcome::UserError
        | Outcome::OOMKilled
        | Outcome::Timeout
        | Outcome::OutputMissing
        | Outcome::OutputUnsafe
        | Outcome::ResultInvalid
        | Outcome::DiskFull
        | Outcome::Stalled
        | Outcome::ArtifactCorrupt => Class::User,
        Outcome::Disrupted | Outcome::StoreUnavailable | Outcome::RunnerError | Outcome::GangTimeout => Class::Infra,
        Outcome::StartError
        | Outcome::StoreAccessDenied
        | Outcome::StoreUnsupported
        | Outcome::InputMissing
        | Outcome::ConfigError
        | Outcome::AlreadyRun => Class::Fatal,
    }
}
