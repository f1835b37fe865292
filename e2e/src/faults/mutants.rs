//! Planted mistakes: a harness that never fails proves nothing.
//!
//! Each is a few lines behind the cargo feature `mutants` of the operator or the runner, chosen by the variable
//! `TRAINYARD_MUTANT`. No image is ever built with the feature; the layout test says so.

use super::fault::CaseName;
use super::selection::Random;

/// A mistake.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// The word of the variable.
    pub name: &'static str,
    /// What it does wrong.
    pub what: &'static str,
    /// The cases that are tried, by words in their names, in this order.
    pub cases: &'static [&'static str],
}

/// How many cases are tried for each word.
const TRIES: usize = 40;

/// All of them, as the design names them.
pub const MUTANTS: &[Mutant] = &[
    Mutant { name: "generate-name", what: "Pods get generated names", cases: &["A:single", "A:chain5"] },
    Mutant { name: "adopt-by-label", what: "an existing Pod of the name is taken for ours", cases: &["ForeignPod"] },
    Mutant {
        name: "ignore-409",
        what: "a create that meets an existing Pod counts as done",
        cases: &["ForeignPod", "KillAfterCommit"],
    },
    Mutant {
        name: "read-from-cache",
        what: "what was just created is not remembered",
        cases: &["A:chain5", "A:single"],
    },
    Mutant { name: "phase-only", what: "a Pod's phase decides about success", cases: &["SucceedWithoutCommit"] },
    Mutant { name: "delete-without-uid", what: "Pods are deleted by name", cases: &["SwappedPod"] },
    Mutant { name: "blind-status", what: "status is written without a precondition", cases: &["FreezeBefore", "F:"] },
    Mutant { name: "no-live-read", what: "a Pod that is not listed counts as gone", cases: &["StalePods", "D:"] },
    Mutant {
        name: "retry-while-terminating",
        what: "an attempt that is being deleted counts as ended",
        cases: &[":Delete", ":Evict"],
    },
    Mutant { name: "short-hash", what: "names carry 32 bits of hash", cases: &["A:single"] },
    Mutant {
        name: "forgotten-requeue",
        what: "nobody comes back for what waits",
        cases: &["A:retry", "A:chain5", "B:"],
    },
    Mutant {
        name: "run-by-a-new-name",
        what: "runs of triggers get generated names",
        cases: &["A:triggered", "A:requested"],
    },
    Mutant {
        name: "restarts-in-memory",
        what: "restarts of a job are counted by the process",
        cases: &["A:training-restart", "A:training-failure"],
    },
    Mutant {
        name: "replace-one-rank",
        what: "a rank that vanished is created again alone",
        cases: &["E:training:pod=2.Running:ForceDelete", "E:training-suspend:pod=3.Running:ForceDelete"],
    },
    Mutant {
        name: "delete-before-status",
        what: "the Pods of a failed attempt are deleted before its end is on record",
        cases: &["A:training-restart", "A:training-failure"],
    },
    Mutant { name: "upload-in-place", what: "objects of a volume are written at their final key", cases: &["CutFile"] },
];

/// The cases that are tried for a mutant.
#[must_use]
pub fn cases(mutant: &Mutant, all: &[CaseName], random: &mut Random) -> Vec<CaseName> {
    let mut chosen: Vec<CaseName> = Vec::new();
    for word in mutant.cases {
        let mut fitting: Vec<&CaseName> = all.iter().filter(|case| case.to_string().contains(word)).collect();
        random.shuffle(&mut fitting);
        chosen.extend(fitting.into_iter().take(TRIES).cloned());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::fault::Fault;

    #[test]
    fn there_are_sixteen_and_their_faults_exist() {
        assert_eq!(MUTANTS.len(), 16);
        for word in MUTANTS.iter().flat_map(|mutant| mutant.cases) {
            let known = Fault::ALL
                .iter()
                .any(|fault| format!("{}:x:{fault:?}", fault.class()).contains(word.trim_start_matches(':')))
                || word.split(':').next().is_some_and(|class| class.len() == 1);
            assert!(known, "{word}");
        }
    }
}
