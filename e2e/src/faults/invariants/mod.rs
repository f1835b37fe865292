//! What must hold whatever the fault was, judged on the whole history: I1 to I12 of the design.
//!
//! | | says | file |
//! |---|---|---|
//! | I1 | at most one Pod UID ever for each (run, stage, attempt) | `pods` |
//! | I2 | at most one live Pod for each stage | `pods` |
//! | I3 | attempt n+1 only after n has ended, in a way that is repeated, within its budget | `pods` |
//! | I4 | no Pod before all it depends on, none after the run has ended | `pods` |
//! | I5 | a stage has succeeded exactly when its commit record is there and right; a consumer gets the producer's digest | `artifacts` |
//! | I6 | what has ended stays as it is, and status never shows what was not true | `status` |
//! | I7 | the end is that of the run without a fault, as far as the fault allows | `outcome` |
//! | I8 | no Pod and no temporary file is left of what has ended; for open uploads see `step-runner/tests` | `leftovers` |
//! | I9 | the end comes soon, nothing is done twice without a reason, and then it is quiet | `effort` |
//! | I10 | objects, notes and messages stay below their limits | `limits` |
//! | I11 | planted secrets appear nowhere | `leftovers` |
//! | I12 | no panic | `leftovers` |
//!
//! Of runs that their Pipelines start R1 to R5 hold, too: see `triggers`; of one that publishes a model M1: see `models`; of
//! the short Pods that look at data L1 and L2: see `looks`.
//!
//! Of a training job I7 to I12 hold in the same way, and T1 to T8 in place of the others: see `job`.
//!
//! Beside these: an operator that ends by itself (`process`), a forged report that was believed (`forgery`), a Pod of others
//! that was touched (`foreign`).

mod artifacts;
mod effort;
mod job;
mod leftovers;
mod limits;
mod looks;
mod models;
mod outcome;
mod pods;
mod status;
mod triggers;
#[cfg(test)]
mod world;

pub use leftovers::Files;
pub use outcome::Summary;

use super::fault::{Expected, Strike};
use super::history::{History, What};
use super::store::Commit;
use super::workload::Workload;
use std::fmt;
use step_protocol::paths;

/// Something that should never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `I1` to `I12`, `L1`, `L2`, `M1`, `R1` to `R5`, `T1` to `T8`, `process`, `forgery`, `foreign`, or `end` for a case that came to none.
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
    /// What the case left on disk.
    pub files: &'a Files,
    /// How the run without a fault ended; `None` for that run itself.
    pub expected: Option<&'a Summary>,
    /// What its end may differ in.
    pub tolerated: Expected,
    /// The faults.
    pub strikes: &'a [Strike],
}

impl Evidence<'_> {
    /// Whether a fault of this class strikes.
    fn has_class(&self, class: char) -> bool {
        self.strikes.iter().any(|strike| strike.fault.class() == class)
    }

    /// The commit record of a stage of a run; the ranks of a training have records of their own below it.
    fn commit(&self, run_uid: &str, stage: &str) -> Option<&Commit> {
        let end = format!("/{stage}/{}", paths::COMMIT);
        self.commits
            .iter()
            .find(|commit| commit.run_uid == run_uid && commit.stage == stage && commit.key.ends_with(&end))
    }
}

/// Everything that is wrong.
#[must_use]
pub fn check(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = processes(evidence);
    found.extend(forgeries(evidence.history));
    found.extend(pods::one_uid_per_attempt(evidence));
    found.extend(pods::one_live_pod_per_stage(evidence));
    found.extend(pods::attempts_follow_each_other(evidence));
    found.extend(pods::nothing_too_early_or_too_late(evidence));
    found.extend(artifacts::succeeded_means_committed(evidence));
    found.extend(artifacts::consumers_get_what_producers_made(evidence));
    found.extend(status::the_end_is_final(evidence));
    found.extend(status::status_is_true(evidence));
    found.extend(outcome::as_without_a_fault(evidence));
    found.extend(pods::names_carry_their_hash(evidence));
    found.extend(triggers::one_run_for_each_key(evidence));
    found.extend(triggers::the_ledger_is_true(evidence));
    found.extend(triggers::no_more_are_active_than_may_be(evidence));
    found.extend(triggers::a_backfill_counts_its_runs(evidence));
    found.extend(triggers::what_is_followed_was_written(evidence));
    found.extend(triggers::runs_are_kept(evidence));
    found.extend(triggers::what_the_spec_says_last_is_run(evidence));
    found.extend(looks::each_look_has_one_pod(evidence));
    found.extend(looks::no_look_is_left_behind(evidence));
    found.extend(models::one_version_and_one_promotion(evidence));
    found.extend(pods::others_are_left_alone(evidence));
    found.extend(leftovers::nothing_is_left(evidence));
    found.extend(leftovers::secrets_are_kept(evidence));
    found.extend(leftovers::nothing_panics(evidence));
    found.extend(effort::no_write_is_repeated(evidence));
    found.extend(effort::the_end_comes_soon(evidence));
    found.extend(effort::then_it_is_quiet(evidence));
    found.extend(limits::sizes_stay_small(evidence));
    found.extend(job::check(evidence));
    found
}

/// Whatever is done to it, the operator goes on until it is killed.
fn processes(evidence: Evidence<'_>) -> Vec<Violation> {
    // A leader that was frozen beyond its lease ends, as it should, with a code of its own.
    let may_lose = evidence.has_class('F');
    let ended = evidence.history.entries.iter().filter_map(|entry| match &entry.what {
        What::Ended(_, how) if may_lose && how == "exit status: 3" => None,
        What::Ended(number, how) => {
            Some(Violation::new("process", format!("operator {number} ended by itself: {how}")))
        }
        _ => None,
    });
    ended.collect()
}

fn forgeries(history: &History) -> Vec<Violation> {
    let believed = history.entries.iter().filter_map(|entry| match &entry.what {
        What::Believed(report) => Some(Violation::new("forgery", format!("a forged report was taken: {report}"))),
        _ => None,
    });
    believed.collect()
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
