//! A termination message: the first byte is the container's exit code, the rest the message.

use step_protocol::{MESSAGE_LIMIT, Outcome, StepReport};
use trainyard_planner::Class;

use crate::ended::by_code;
use crate::there_and_back;

/// Any bytes.
pub fn run(data: &[u8]) {
    let Some((code, message)) = data.split_first() else { return };
    if message.len() > MESSAGE_LIMIT {
        return;
    }
    // The kubelet makes text of it.
    let message = String::from_utf8_lossy(message);
    let code = i32::from(*code);
    let seen = by_code(code, None, None, Some(&message));
    let report: Option<StepReport> = serde_json::from_str(&message).ok();
    let committed =
        report.as_ref().is_some_and(|report| report.outcome == Outcome::Succeeded && report.commit.is_some());
    assert_eq!(seen.committed.is_some(), code == 0 && committed, "only the runner's 0 with a record is a success");
    match Outcome::from_exit_code(code) {
        Some(Outcome::Succeeded) | None => {}
        Some(outcome) => assert_eq!(seen.reason, outcome.as_str(), "the code outlives any message"),
    }
    assert!(seen.message.len() + seen.last_lines.len() <= message.len().max(300), "{seen:?}");
    // Ended by the kubelet, or killed: whatever was written meanwhile counts for nothing.
    let killed = by_code(137, Some("Error"), None, Some(&message));
    assert_eq!((killed.class, killed.reason.as_str(), killed.committed), (Class::Infra, "Disrupted", None));
    let out_of_memory = by_code(137, Some("OOMKilled"), None, Some(&message));
    assert_eq!((out_of_memory.reason.as_str(), out_of_memory.committed), ("OOMKilled", None));
    let too_late = by_code(143, None, Some("DeadlineExceeded"), Some(&message));
    assert_eq!((too_late.reason.as_str(), too_late.committed), ("Timeout", None));
    if let Some(report) = report {
        assert_eq!(there_and_back(&report), report);
        let declared: Vec<String> = report.metrics.keys().take(3).cloned().collect();
        let ours = [&report.commit, &report.started, &report.finished].into_iter().flatten();
        if ours.map(String::len).any(|length| length > 100) {
            // The runner's own words, which are short.
            return;
        }
        let short = report.to_message(&declared).unwrap();
        assert!(short.len() <= MESSAGE_LIMIT, "{}", short.len());
        let again: StepReport = serde_json::from_str(&short).unwrap();
        assert_eq!(
            (again.outcome, again.exit_code, again.signal, again.commit),
            (report.outcome, report.exit_code, report.signal, report.commit)
        );
    }
}
