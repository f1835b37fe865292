//! Stages without a Pod: what the checks of a gate find, and what an approval waits for.
//!
//! Their end is in the status alone, so what follows from it is launched only when it stands in the status that was written.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{
    ApprovalStatus, CheckResult, Goal, ModelVersion, NoBaseline, StageKind, StagePhase, StageStatus, Verdict,
};

use crate::graph::{Bound, GateCheck, Improvement, Judged, Subject};
use crate::observed::{Class, Ended};
use crate::schedule::{Action, NoteKind, Pass};
use crate::status;

/// What numbers may differ by and still be the same, as a part of them: 0.94 is 0.01 better than 0.93, and 0.93 + 0.01 is a little more
/// than 0.94.
const TOLERANCE: f64 = 1e-9;

/// The champions of a pipeline's models, by model.
pub type Champions = BTreeMap<String, ModelVersion>;

impl Pass<'_> {
    /// What becomes of a stage without a Pod whose turn it is.
    pub(crate) fn judge(&mut self, node: usize) {
        let current = self.node(node);
        match &current.judged {
            Some(Judged::Gate(checks)) => self.gate(node, checks),
            Some(Judged::Approval { timeout }) => self.approval(node, *timeout),
            None => {}
        }
    }

    fn gate(&mut self, node: usize, checks: &[GateCheck]) {
        let none = Champions::new();
        let compares = self.node(node).judged.as_ref().is_some_and(Judged::compares);
        let champions = match self.observed.champions() {
            Some(champions) => champions,
            None if compares => {
                self.actions.push(Action::ReadChampions);
                return;
            }
            None => &none,
        };
        let mut row = self.prior(node).clone();
        row.checks =
            checks.iter().map(|check| found(check, self.row(check.node), self.run.params, champions)).collect();
        row.start.get_or_insert(Time(self.now));
        let large = |check: &&GateCheck| {
            check.subject == Subject::Result && !self.row(check.node).results.contains_key(&check.value)
        };
        let too_large = checks.iter().find(large).map(|check| check.name.clone());
        let failed: Vec<&CheckResult> = row.checks.iter().filter(|check| !check.passed).collect();
        if failed.is_empty() {
            row.phase = StagePhase::Succeeded;
            row.end = Some(Time(self.now));
            (row.reason, row.message) = (String::new(), format!("{} of {0} checks hold", row.checks.len()));
            self.set(node, row);
            return;
        }
        let ended = match too_large {
            Some(name) => {
                let message = format!("result {name} is too large for its stage's report: write a number");
                Ended::failure(Class::Fatal, Reason::ResultTooLarge.as_str(), message)
            }
            None => {
                let words: Vec<&str> = failed.iter().map(|check| check.message.as_str()).collect();
                Ended::failure(Class::Fatal, Reason::GateFailed.as_str(), words.join("; "))
            }
        };
        self.put(node, row);
        self.failed(node, 0, "", self.now, &ended);
    }

    fn approval(&mut self, node: usize, timeout: Option<u64>) {
        let name = self.node(node).name();
        let mut row = self.prior(node).clone();
        let since = row.start.get_or_insert(Time(self.now)).0;
        if let Some(decided) = self.run.approvals.get(name) {
            let (by, comment) = (decided.by.clone(), decided.comment.clone());
            row.approval = Some(ApprovalStatus { decision: decided.decision, by, time: Time(self.now), comment });
            let because = decided.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
            match decided.decision {
                Verdict::Approved => {
                    row.phase = StagePhase::Succeeded;
                    row.end = Some(Time(self.now));
                    (row.reason, row.message) = (String::new(), format!("approved by {}{because}", decided.by));
                    let message = format!("stage {name} was {}", row.message);
                    self.note(NoteKind::Normal, "Approved", || message);
                    self.set(node, row);
                }
                Verdict::Denied => {
                    let message = format!("denied by {}{because}", decided.by);
                    self.put(node, row);
                    let ended = Ended::failure(Class::Fatal, Reason::ApprovalDenied.as_str(), message);
                    self.failed(node, 0, "", self.now, &ended);
                }
            }
            return;
        }
        let due = timeout.and_then(|seconds| later(since, seconds));
        if due.is_some_and(|due| due <= self.now) {
            let waited =
                status::human(SignedDuration::from_secs(i64::try_from(timeout.unwrap_or(0)).unwrap_or(i64::MAX)));
            let message = format!("nobody approved or denied it within {waited}: rerun it, or raise approval.timeout");
            let ended = Ended::failure(Class::Fatal, Reason::ApprovalTimeout.as_str(), message);
            self.put(node, row);
            self.failed(node, 0, "", self.now, &ended);
            return;
        }
        if let Some(due) = due {
            self.look_again(due);
        }
        let asked = match &self.node(node).stage().kind {
            StageKind::Approval(approval) => approval.message.clone(),
            _ => None,
        };
        let asked = asked.map(|message| format!(": {message}")).unwrap_or_default();
        let until = due.map(|due| format!(", until {}", due.strftime("%Y-%m-%d %H:%M:%S UTC"))).unwrap_or_default();
        if self.prior(node).reason != Reason::AwaitingApproval.as_str() {
            self.note(NoteKind::Normal, "ApprovalNeeded", || {
                format!("stage {name} waits for approval{until}{asked}; decide by spec.approvals.{name}")
            });
        }
        Reason::AwaitingApproval.as_str().clone_into(&mut row.reason);
        row.message = format!("waits for approval by spec.approvals.{name}{until}{asked}");
        self.set(node, row);
    }
}

fn later(since: Timestamp, seconds: u64) -> Option<Timestamp> {
    since.checked_add(SignedDuration::from_secs(i64::try_from(seconds).ok()?)).ok()
}

/// What one check finds.
fn found(check: &GateCheck, row: &StageStatus, params: &Map<String, Value>, champions: &Champions) -> CheckResult {
    let value = match check.subject {
        Subject::Metric => row.metrics.get(&check.value),
        Subject::Result => row.results.get(&check.value),
    };
    let number = value.and_then(as_number);
    let bound = |bound: &Bound| match bound {
        Bound::Number(number) => Some(*number),
        Bound::Param(name) => params.get(name).and_then(Value::as_f64),
    };
    let mut result = CheckResult {
        name: check.name.clone(),
        passed: false,
        value: number.filter(|number| number.is_finite()),
        min: check.min.as_ref().and_then(bound),
        max: check.max.as_ref().and_then(bound),
        min_improvement: check.improvement.as_ref().and_then(|improvement| bound(&improvement.by)),
        ..CheckResult::default()
    };
    let Some(number) = number.filter(|number| !number.is_nan()) else {
        result.message = match value {
            Some(value) => format!("{} is {value} and not a number", check.name),
            None => format!("the stage has not written {}", check.name),
        };
        return result;
    };
    let unknown = check.min.is_some() && result.min.is_none()
        || check.max.is_some() && result.max.is_none()
        || check.improvement.is_some() && result.min_improvement.is_none();
    if unknown {
        result.message = format!("a bound of {} has no value", check.name);
    } else if let Some(min) = result.min.filter(|min| number < *min) {
        result.message = format!("{} is {number}, less than {min}", check.name);
    } else if let Some(max) = result.max.filter(|max| number > *max) {
        result.message = format!("{} is {number}, more than {max}", check.name);
    } else {
        result.passed = true;
    }
    if let (true, Some(improvement), Some(by)) = (result.passed, &check.improvement, result.min_improvement) {
        compare(&mut result, improvement, by, number, champions);
    }
    result
}

/// Compares with the champion.
fn compare(result: &mut CheckResult, improvement: &Improvement, by: f64, number: f64, champions: &Champions) {
    let champion = champions.get(&improvement.model);
    let theirs = champion.and_then(|champion| as_number(champion.metrics.get(&result.name)?));
    let Some((champion, theirs)) = champion.zip(theirs.filter(|theirs| theirs.is_finite())) else {
        result.passed = improvement.without == NoBaseline::Pass;
        result.baseline_version = champion.map(|champion| champion.version);
        let why = match champion {
            Some(champion) => {
                format!("version {} of model {} has no {}", champion.version, improvement.model, result.name)
            }
            None => format!("model {} has no champion", improvement.model),
        };
        result.message = match result.passed {
            true => format!("{why}: nothing to compare with"),
            false => format!("{why}, and noBaseline is Fail"),
        };
        return;
    };
    result.baseline = Some(theirs);
    result.baseline_version = Some(champion.version);
    let better = match improvement.goal {
        Goal::Maximize => number - theirs,
        Goal::Minimize => theirs - number,
    };
    let slack = TOLERANCE * number.abs().max(theirs.abs()).max(by.abs());
    result.passed = better >= by - slack;
    if !result.passed {
        let than = format!("version {} of model {} has {theirs}", champion.version, improvement.model);
        let asked = match by == 0.0 {
            true => "it must not be worse".to_owned(),
            false => format!("it must be better by {by}"),
        };
        result.message = format!("{} is {number}, {than}, and {asked}", result.name);
    }
}

/// A number of a report, where infinities and NaN are texts.
fn as_number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_json_has_no_number_for_is_a_word() {
        assert!(as_number(&json!("NaN")).is_some_and(f64::is_nan));
        assert_eq!(as_number(&json!("-Infinity")), Some(f64::NEG_INFINITY));
        assert_eq!((as_number(&json!("0.5")), as_number(&json!(true)), as_number(&json!(3))), (None, None, Some(3.0)));
    }
}
