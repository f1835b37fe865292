//! `docs/reference/conditions-and-reasons.md` has a line for every word that status can say, and none for others.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::path::Path;

use step_protocol::Outcome;
use trainyard_crds::condition::{ConditionType, Reason};
use trainyard_crds::v1alpha1::{JobPhase, RevisionPhase, RunPhase, StagePhase};

/// The rows of the table below the heading: the word in the first cell, and the other cells.
fn table(heading: &str) -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/conditions-and-reasons.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n")));
    let section = section.unwrap_or_else(|| unreachable!("no section {heading}"));
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let mut table = BTreeMap::new();
    for cells in cells {
        let word = cells[0].trim_matches('`').to_owned();
        assert!(cells[1..].iter().all(|cell| !cell.is_empty()), "{word} has an empty cell");
        assert!(table.insert(word.clone(), cells[1..].to_vec()).is_none(), "{word} is there twice");
    }
    table
}

fn assert_words<'a>(heading: &str, words: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Vec<String>> {
    let table = table(heading);
    let mut expected: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    expected.sort_unstable();
    assert_eq!(table.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{heading}");
    table
}

#[test]
fn every_condition_has_its_line() {
    assert_words("Conditions", ConditionType::ALL.map(ConditionType::as_str));
}

#[test]
fn every_phase_has_its_line() {
    use RunPhase as R;
    let phases = [R::Pending, R::Running, R::Suspended, R::Succeeded, R::Failed, R::Cancelled];
    assert_words("Phases of a run", phases.map(R::as_str));
    assert_words("Phases of a training job", JobPhase::ALL.map(JobPhase::as_str));
    use RevisionPhase as V;
    let phases = [
        V::Queued,
        V::Starting,
        V::Running,
        V::Succeeded,
        V::Failed,
        V::Cancelled,
        V::Superseded,
        V::Skipped,
        V::Deleted,
    ];
    assert_words("Phases of a revision", phases.map(V::as_str));
    use StagePhase as S;
    let phases = [S::Waiting, S::Pending, S::Running, S::Retrying, S::Succeeded, S::Failed, S::Skipped, S::Cancelled];
    assert_words("Phases of a stage", phases.map(S::as_str));
}

#[test]
fn every_reason_of_the_operator_has_its_line() {
    // What both may say stands with the exit codes.
    let of_runner = Outcome::ALL.map(Outcome::as_str);
    assert_words(
        "Reasons of the operator",
        Reason::ALL.map(Reason::as_str).into_iter().filter(|word| !of_runner.contains(word)),
    );
}

#[test]
fn every_outcome_has_its_line_with_its_exit_code() {
    let table = assert_words("Outcomes of a stage's program", Outcome::ALL.map(Outcome::as_str));
    for outcome in Outcome::ALL {
        assert_eq!(table[outcome.as_str()][0], outcome.exit_code().to_string(), "{}", outcome.as_str());
    }
}
