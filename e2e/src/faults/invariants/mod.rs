//! What must hold whatever the fault was, judged on the whole history: I1 to I7 of the design.
//!
//! | | says | file |
//! |---|---|---|
//! | I1 | at most one Pod UID ever for each (run, stage, attempt) | `pods` |
//! | I2 | at most one live Pod for each stage | `pods` |
//! | I3 | attempt n+1 only after n has ended, in a way that is repeated, within its budget | `pods` |
//! | I4 | no Pod before all it depends on, none after the run has ended | `pods` |
//! | I5 | a stage has succeeded exactly when its commit record is there and right; a consumer gets the producer's digest | `artifacts` |
//! | I6 | what has ended stays as it is, and status never shows what was not true | `status` |
//! | I7 | the end is that of the run without a fault | `outcome` |
//!
//! Beside these, an operator that ends by itself is a violation of its own.

mod artifacts;
mod outcome;
mod pods;
mod status;
#[cfg(test)]
mod world;

pub use outcome::Summary;

use super::history::{History, What};
use super::store::Commit;
use super::workload::Workload;
use std::fmt;

/// Something that should never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `I1` to `I7`, or `process`.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// All that a case is judged on.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What was run.
    pub workload: &'a Workload,
    /// All that happened.
    pub history: &'a History,
    /// All that lies in the store.
    pub commits: &'a [Commit],
    /// How the run without a fault ended; `None` for that run itself.
    pub expected: Option<&'a Summary>,
}

impl Evidence<'_> {
    /// The commit record of a stage of a run.
    fn commit(&self, run_uid: &str, stage: &str) -> Option<&Commit> {
        self.commits.iter().find(|commit| commit.run_uid == run_uid && commit.stage == stage)
    }
}

/// Everything that is wrong.
#[must_use]
pub fn check(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = processes(evidence.history);
    found.extend(pods::one_uid_per_attempt(evidence));
    found.extend(pods::one_live_pod_per_stage(evidence));
    found.extend(pods::attempts_follow_each_other(evidence));
    found.extend(pods::nothing_too_early_or_too_late(evidence));
    found.extend(artifacts::succeeded_means_committed(evidence));
    found.extend(artifacts::consumers_get_what_producers_made(evidence));
    found.extend(status::the_end_is_final(evidence));
    found.extend(status::status_is_true(evidence));
    found.extend(outcome::as_without_a_fault(evidence));
    found
}

/// Whatever is done to it, the operator goes on until it is killed.
fn processes(history: &History) -> Vec<Violation> {
    let ended = history.entries.iter().filter_map(|entry| match &entry.what {
        What::Ended(number, how) => {
            Some(Violation::new("process", format!("operator {number} ended by itself: {how}")))
        }
        _ => None,
    });
    ended.collect()
}

#[cfg(test)]
mod tests {
    use super::world::World;
    use super::*;

    #[test]
    fn the_good_history_has_no_violation() {
        let world = World::chain();
        assert_eq!(world.check(), []);
        assert!(Summary::of(&world.history()).to_string().contains("Succeeded"));
    }

    #[test]
    fn an_operator_that_ends_by_itself_is_one() {
        let mut world = World::chain();
        world.push(What::Ended(1, "exit status: 101".into()));
        assert_eq!(world.check(), [Violation::new("process", "operator 1 ended by itself: exit status: 101")]);
    }
}
