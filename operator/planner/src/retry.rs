//! Whether and when a failed attempt is repeated.

use jiff::{SignedDuration, Timestamp};
use trainyard_crds::v1alpha1::{FailureCounts, Retry, RetryAction, RetryRule, duration_seconds};

use crate::observed::{Class, Ended};

/// Repetitions after failures of the infrastructure, where the pipeline says nothing.
const INFRA_LIMIT: u32 = 5;
/// Wait before the second repetition after a failure of the infrastructure; the first comes at once.
const INFRA_WAIT: f64 = 5.0;
/// Longest such wait, in seconds.
const INFRA_WAIT_MAX: f64 = 60.0;

/// A stage's retry policy with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    limit: u32,
    infra_limit: u32,
    initial: f64,
    factor: f64,
    max: f64,
    rules: Vec<RetryRule>,
}

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Repeat at this time, with these counts.
    Repeat { at: Timestamp, failures: FailureCounts },
    /// The stage has failed.
    Fail(FailureCounts),
}

impl Policy {
    pub(crate) fn new(retry: Option<&Retry>) -> Self {
        let retry = retry.cloned().unwrap_or_default();
        let backoff = retry.backoff.unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a few billion seconds are exact")]
        let seconds = |text: Option<&String>, default: f64| {
            text.and_then(|text| duration_seconds(text)).map_or(default, |s| s as f64)
        };
        Self {
            limit: retry.limit.unwrap_or(0),
            infra_limit: retry.infra_limit.unwrap_or(INFRA_LIMIT),
            initial: seconds(backoff.initial.as_ref(), 10.0),
            factor: backoff.factor.unwrap_or(2.0),
            max: seconds(backoff.max.as_ref(), 300.0),
            rules: retry.rules,
        }
    }

    /// When to try again after so many tries that were nobody's failure.
    pub(crate) fn after(&self, tries: u32, now: Timestamp) -> Timestamp {
        later(now, (self.initial * self.factor.powi(exponent(tries))).min(self.max))
    }

    /// Whose fault a failure is: as the first rule says that its exit code matches, else as it is.
    pub(crate) fn class(&self, ended: &Ended) -> Class {
        let action = ended
            .exit_code
            .and_then(|code| self.rules.iter().find(|rule| rule.exit_codes.contains(&code)))
            .map(|rule| rule.action);
        match action {
            Some(RetryAction::Fail) => Class::Fatal,
            Some(RetryAction::Retry) => Class::User,
            Some(RetryAction::RetryInfra) => Class::Infra,
            None => ended.class,
        }
    }

    /// Decides on an attempt that failed, given the failures before it.
    pub(crate) fn decide(&self, before: FailureCounts, ended: &Ended, now: Timestamp) -> Decision {
        match self.class(ended) {
            Class::User => {
                let failures = FailureCounts { user: before.user.saturating_add(1), ..before };
                if before.user >= self.limit {
                    return Decision::Fail(failures);
                }
                let wait = self.initial * self.factor.powi(exponent(before.user));
                Decision::Repeat { at: later(now, wait.min(self.max)), failures }
            }
            Class::Infra => {
                let failures = FailureCounts { infra: before.infra.saturating_add(1), ..before };
                if before.infra >= self.infra_limit {
                    return Decision::Fail(failures);
                }
                let wait = if before.infra == 0 { 0.0 } else { INFRA_WAIT * 2_f64.powi(exponent(before.infra - 1)) };
                Decision::Repeat { at: later(now, wait.min(INFRA_WAIT_MAX)), failures }
            }
            Class::Fatal => Decision::Fail(FailureCounts { user: before.user.saturating_add(1), ..before }),
        }
    }
}

fn exponent(failures: u32) -> i32 {
    i32::try_from(failures.min(64)).unwrap_or(64)
}

fn later(now: Timestamp, seconds: f64) -> Timestamp {
    now.saturating_add(SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::ZERO)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn policy(yaml: &str) -> Policy {
        Policy::new(Some(&serde_saphyr::from_str::<Retry>(yaml).unwrap()))
    }

    fn failed(class: Class, code: Option<i32>) -> Ended {
        Ended { exit_code: code, ..Ended::failure(class, "UserError", "") }
    }

    fn waits(policy: &Policy, class: Class) -> Vec<i64> {
        let mut counts = FailureCounts::default();
        let mut waits = Vec::new();
        while let Decision::Repeat { at, failures } = policy.decide(counts, &failed(class, None), NOW) {
            counts = failures;
            waits.push(at.as_second());
        }
        waits
    }

    #[test]
    fn waits_grow_to_the_longest_and_end_with_the_limit() {
        assert_eq!(
            waits(&policy("{limit: 5, backoff: {initial: 10s, factor: 3, max: 2m}}"), Class::User),
            [10, 30, 90, 120, 120]
        );
        assert_eq!(waits(&Policy::new(None), Class::User), [0_i64; 0]);
        assert_eq!(waits(&Policy::new(None), Class::Infra), [0, 5, 10, 20, 40]);
    }

    #[test]
    fn the_two_budgets_are_separate() {
        let policy = policy("{limit: 1, infraLimit: 1}");
        let Decision::Repeat { failures, .. } =
            policy.decide(FailureCounts::default(), &failed(Class::Infra, None), NOW)
        else {
            panic!("no repetition");
        };
        assert_eq!(failures, FailureCounts { user: 0, infra: 1 });
        assert!(matches!(policy.decide(failures, &failed(Class::User, None), NOW), Decision::Repeat { .. }));
        assert!(matches!(policy.decide(failures, &failed(Class::Infra, None), NOW), Decision::Fail(_)));
    }

    #[test]
    fn the_first_rule_with_the_exit_code_counts() {
        let policy =
            policy("{limit: 3, rules: [{exitCodes: [42], action: Fail}, {exitCodes: [42, 75], action: RetryInfra}]}");
        let decide = |code| policy.decide(FailureCounts::default(), &failed(Class::User, Some(code)), NOW);
        assert!(matches!(decide(42), Decision::Fail(_)));
        assert!(matches!(decide(75), Decision::Repeat { failures: FailureCounts { user: 0, infra: 1 }, .. }));
        assert!(matches!(decide(1), Decision::Repeat { failures: FailureCounts { user: 1, infra: 0 }, .. }));
        assert!(matches!(policy.decide(FailureCounts::default(), &failed(Class::Fatal, None), NOW), Decision::Fail(_)));
    }
}
