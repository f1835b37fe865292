//! I1 to I4: which Pods there may be, and when.

use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind, Version, What};
use crate::faults::monkey::FOREIGN;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use step_protocol::Outcome;

/// Attempts that the infrastructure may cost before a stage fails.
const INFRA_BUDGET: u32 = 5;

/// A Pod as an attempt, by its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub run_uid: String,
    pub stage: String,
    pub number: u32,
}

impl Attempt {
    /// Labels are written out here: that the operator's words are these is part of what is tested.
    pub(super) fn of(pod: &Value) -> Option<Self> {
        let labels = &pod["metadata"]["labels"];
        if labels[FOREIGN] == "true" {
            return None;
        }
        let label = |name: &str| labels[format!("trainyard.dev/{name}")].as_str();
        Some(Self {
            run_uid: label("run-uid")?.to_owned(),
            stage: label("stage")?.to_owned(),
            number: label("attempt")?.parse().ok()?,
        })
    }
}

/// Every version of a Pod of ours, in the API server's order. A Pod stays the attempt that it was created as, whatever becomes of
/// its labels.
fn versions<'a>(evidence: Evidence<'a>) -> Vec<(Attempt, &'a Version)> {
    let mut known: BTreeMap<&str, Attempt> = BTreeMap::new();
    let mut found = Vec::new();
    for version in evidence.history.versions(Kind::Pod) {
        if let Some(attempt) = Attempt::of(&version.object) {
            known.entry(version.uid()).or_insert(attempt);
        }
        if let Some(attempt) = known.get(version.uid()) {
            found.push((attempt.clone(), version));
        }
    }
    found
}

/// Every attempt that had a Pod.
pub(super) fn attempts(evidence: Evidence<'_>) -> BTreeSet<Attempt> {
    versions(evidence).into_iter().map(|(attempt, _)| attempt).collect()
}

/// The names of Pods end with 80 bits of hash in base32: 16 characters.
pub(super) fn names_carry_their_hash(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found: Vec<Violation> = versions(evidence)
        .into_iter()
        .filter(|(_, version)| {
            let hash = version.name().rsplit('-').next().unwrap_or_default();
            hash.len() != 16 || !hash.chars().all(|c| c.is_ascii_lowercase() || ('2'..='7').contains(&c))
        })
        .map(|(_, version)| {
            Violation::new("I1", format!("the name of Pod {} does not end with its hash", version.name()))
        })
        .collect();
    found.dedup();
    found
}

/// A Pod of others is not deleted.
pub(super) fn others_are_left_alone(evidence: Evidence<'_>) -> Vec<Violation> {
    let touched = evidence.history.versions(Kind::Pod).into_iter().filter(|version| {
        let metadata = &version.object["metadata"];
        metadata["labels"][FOREIGN] == "true"
            && (version.change == Change::Deleted || !metadata["deletionTimestamp"].is_null())
    });
    touched.map(|version| Violation::new("foreign", format!("Pod {} of others was deleted", version.name()))).collect()
}

pub(super) fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or("Pending")
}

/// Whether the Pod's containers have ended for good, or it is no longer its run's.
pub(super) fn is_over(version: &Version) -> bool {
    version.change == Change::Deleted
        || version.object["metadata"]["ownerReferences"].is_null()
        || matches!(phase(&version.object), "Succeeded" | "Failed")
}

/// I1: at most one Pod UID ever for each run, stage and attempt. One case is told to users as possible: a Pod that others took away
/// while no operator was there, and that no status had named by then.
pub(super) fn one_uid_per_attempt(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut created: BTreeMap<Attempt, Vec<&Version>> = BTreeMap::new();
    for (attempt, version) in versions(evidence) {
        let pods = created.entry(attempt).or_default();
        if pods.iter().all(|known| known.uid() != version.uid()) {
            pods.push(version);
        }
    }
    let several = created.into_iter().filter(|(attempt, pods)| {
        pods.windows(2).any(|two| !(evidence.has_class('E') && is_forgotten(evidence, attempt, two[0], two[1])))
    });
    several
        .map(|(attempt, pods)| {
            let uids: BTreeSet<&str> = pods.iter().map(|pod| pod.uid()).collect();
            Violation::new("I1", format!("{attempt:?} had {} Pods: {uids:?}", uids.len()))
        })
        .collect()
}

/// Whether a Pod was gone before another one of the same attempt was created by a later process, and no status had named it until then.
fn is_forgotten(evidence: Evidence<'_>, attempt: &Attempt, first: &Version, second: &Version) -> bool {
    let entries = &evidence.history.entries;
    let place = |wanted: &dyn Fn(&Version) -> bool| {
        entries.iter().position(|entry| matches!(&entry.what, What::Version(version) if wanted(version)))
    };
    let made = place(&|version| version.uid() == first.uid());
    let again = place(&|version| version.uid() == second.uid());
    let (Some(made), Some(again)) = (made, again) else { return false };
    let between = entries.get(made..again).unwrap_or_default();
    let is_gone = between.iter().any(|entry| {
        matches!(&entry.what, What::Version(version) if version.uid() == first.uid() && version.change == Change::Deleted)
    });
    let is_another_process =
        between.iter().any(|entry| matches!(entry.what, What::Started(_))) || have_several_made(evidence, first.name());
    let is_named = evidence.history.versions(Kind::Run).iter().any(|run| {
        run.revision() < second.revision()
            && super::artifacts::rows(&run.object)
                .iter()
                .any(|row| row["pod"] == first.name() && row["name"] == attempt.stage)
    });
    is_gone && is_another_process && !is_named
}

/// Whether more than one process has asked for a Pod of this name: what the first one asked for may come when the second one is there.
pub(super) fn have_several_made(evidence: Evidence<'_>, name: &str) -> bool {
    let writes = evidence.history.writes();
    let creates = writes.iter().map(|write| &write.request).filter(|request| {
        request.method == "POST" && request.path.ends_with("/pods") && request.body["metadata"]["name"] == name
    });
    creates.map(|request| request.process).collect::<BTreeSet<_>>().len() > 1
}

/// I2: at most one live Pod for each stage of a run. One that is being deleted lives until it is gone.
pub(super) fn one_live_pod_per_stage(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut live: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for (attempt, version) in versions(evidence) {
        let alive = live.entry((attempt.run_uid, attempt.stage.clone())).or_default();
        let changed = if is_over(version) { alive.remove(version.name()) } else { alive.insert(version.name()) };
        if changed && alive.len() > 1 {
            let at = version.revision();
            found.push(Violation::new(
                "I2",
                format!("stage {} had live Pods {alive:?} at revision {at}", attempt.stage),
            ));
        }
    }
    found
}

/// Whose budget the end of an attempt is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    User,
    Infra,
    /// It is never repeated.
    Fatal,
}

/// What an ended Pod costs. One that vanished without a word is the infrastructure's.
fn cost(last: &Version) -> Cost {
    let metadata = &last.object["metadata"];
    // Who watches our label sees only that it went, and not how it ended.
    let hidden = last.change == Change::Deleted && metadata["labels"]["trainyard.dev/run-uid"].is_null();
    if metadata["ownerReferences"].is_null() || hidden {
        return Cost::Infra;
    }
    let state = &last.object["status"]["containerStatuses"][0]["state"]["terminated"];
    let Some(code) = state["exitCode"].as_i64() else { return Cost::Infra };
    let has_commit = state["message"].as_str().is_some_and(|message| message.contains("\"commit\""));
    match Outcome::from_exit_code(i32::try_from(code).unwrap_or(-1)) {
        Some(Outcome::Succeeded) if has_commit => Cost::Nothing,
        None
        | Some(
            Outcome::Succeeded
            | Outcome::Disrupted
            | Outcome::StoreUnavailable
            | Outcome::RunnerError
            | Outcome::GangTimeout,
        ) => Cost::Infra,
        Some(
            Outcome::UserError
            | Outcome::OOMKilled
            | Outcome::Timeout
            | Outcome::OutputMissing
            | Outcome::OutputUnsafe
            | Outcome::ResultInvalid
            | Outcome::DiskFull
            | Outcome::Stalled
            | Outcome::ArtifactCorrupt,
        ) => Cost::User,
        Some(
            Outcome::StartError
            | Outcome::StoreAccessDenied
            | Outcome::StoreUnsupported
            | Outcome::InputMissing
            | Outcome::ConfigError
            | Outcome::AlreadyRun,
        ) => Cost::Fatal,
    }
}

/// I3: attempt n+1 only after attempt n has ended, in a way that is repeated, and while there is budget.
pub(super) fn attempts_follow_each_other(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut last: BTreeMap<Attempt, &Version> = BTreeMap::new();
    let mut found = Vec::new();
    for (attempt, version) in versions(evidence) {
        if version.change == Change::Added && attempt.number > 1 {
            let earlier: Vec<_> =
                (1..attempt.number).map(|number| last.get(&Attempt { number, ..attempt.clone() }).copied()).collect();
            if let Some(wrong) = refusal(evidence, &attempt, version, &earlier) {
                let Attempt { stage, number, .. } = &attempt;
                found.push(Violation::new("I3", format!("attempt {number} of stage {stage} began although {wrong}")));
            }
        }
        last.insert(attempt, version);
    }
    found
}

/// Why this attempt should not have begun, given the state of all before it.
fn refusal(
    evidence: Evidence<'_>,
    attempt: &Attempt,
    created: &Version,
    earlier: &[Option<&Version>],
) -> Option<String> {
    let (mut user, mut infra) = (0, 0);
    for (number, version) in (1..).zip(earlier) {
        let Some(version) = version else { return Some(format!("attempt {number} never was")) };
        if !is_over(version) {
            return Some(format!("attempt {number} was {}", phase(&version.object)));
        }
        match cost(version) {
            // Who never saw that it succeeded repeats it; the repetition finds its record.
            Cost::Nothing if was_missed(evidence, version) || was_forgotten(evidence, version, created) => infra += 1,
            Cost::Nothing => return Some(format!("attempt {number} had succeeded")),
            Cost::Fatal => return Some(format!("attempt {number} ended in a way that is never repeated")),
            Cost::User => user += 1,
            Cost::Infra => infra += 1,
        }
    }
    let retries = evidence.workload.stage(&attempt.stage).map_or(0, |stage| stage.retries);
    if user > retries {
        return Some(format!("{user} attempts had failed by its own fault, of which {retries} are repeated"));
    }
    (infra > INFRA_BUDGET).then(|| format!("{infra} attempts had failed by the infrastructure's fault"))
}

/// Whether a Pod succeeded and is gone, and the process that repeats it cannot have heard of that: it began when the runner had ended, so
/// no report came to it, and no event and no answer showed it the success. A process before it may have known, and has taken it along:
/// a success is kept by its commit record, and so it is not always on record at once.
fn was_forgotten(evidence: Evidence<'_>, last: &Version, again: &Version) -> bool {
    let entries = &evidence.history.entries;
    let place = |wanted: &dyn Fn(&What) -> bool| entries.iter().position(|entry| wanted(&entry.what));
    let create = entries.iter().enumerate().find_map(|(at, entry)| match &entry.what {
        What::Request(request) if request.method == "POST" && request.body["metadata"]["name"] == again.name() => {
            Some((at, request.process))
        }
        _ => None,
    });
    let Some((created, creator)) = create.filter(|_| last.change == Change::Deleted) else { return false };
    let is_success =
        |version: &Version| version.uid() == last.uid() && is_over(version) && matches!(cost(version), Cost::Nothing);
    let began = place(&|what| matches!(what, What::Started(process) if *process == creator));
    let ended = place(&|what| matches!(what, What::RunnerEnded { uid, .. } if uid == last.uid()));
    let succeeded = place(&|what| matches!(what, What::Version(version) if is_success(version)));
    let gone = place(
        &|what| matches!(what, What::Version(version) if version.uid() == last.uid() && version.change == Change::Deleted),
    );
    let (Some(began), Some(ended), Some(succeeded), Some(gone)) = (began, ended, succeeded, gone) else { return false };
    let What::Version(success) = &entries[succeeded].what else { return false };
    let told = entries[..created].iter().any(|entry| match &entry.what {
        What::Watched { process, object, .. } if *process == creator => {
            let revision = object.strip_prefix(&format!("Pod {}@", last.name())).and_then(|text| text.parse().ok());
            revision.is_some_and(|revision: u64| revision >= success.revision())
        }
        _ => false,
    });
    let read = entries[succeeded..gone.max(succeeded)].iter().any(|entry| match &entry.what {
        What::Request(request) => request.process == creator && Kind::of_path(&request.path) == Some(Kind::Pod),
        _ => false,
    });
    began > ended && !told && !read
}

/// Whether a Pod succeeded and was gone before the operator was shown or could read that it had: no event of its success reached the
/// operator, no Pod was asked for between its success and its deletion, and runners do not report by themselves.
fn was_missed(evidence: Evidence<'_>, last: &Version) -> bool {
    let entries = &evidence.history.entries;
    let is_its = |version: &Version| version.uid() == last.uid();
    let place = |wanted: &dyn Fn(&Version) -> bool| {
        entries
            .iter()
            .position(|entry| matches!(&entry.what, What::Version(version) if is_its(version) && wanted(version)))
    };
    let succeeded = place(&|version| is_over(version) && matches!(cost(version), Cost::Nothing));
    let gone = place(&|version| version.change == Change::Deleted);
    let (Some(succeeded), Some(gone)) = (succeeded, gone) else { return false };
    let What::Version(success) = &entries[succeeded].what else { return false };
    let shows = |object: &str| {
        let revision = object.strip_prefix(&format!("Pod {}@", last.name())).and_then(|text| text.parse::<u64>().ok());
        revision.is_some_and(|revision| revision >= success.revision())
    };
    let was_shown = entries.iter().any(|entry| matches!(&entry.what, What::Watched { object, .. } if shows(object)));
    let was_read = entries[succeeded..gone].iter().any(|entry| {
        matches!(&entry.what, What::Request(request) if request.method == "GET" && Kind::of_path(&request.path) == Some(Kind::Pod))
            || matches!(&entry.what, What::Request(request) if request.path.ends_with(last.name()))
    });
    !evidence.workload.early_reports && !was_shown && !was_read
}

/// I4: no Pod before all it depends on has committed, or was approved, none after the run has ended.
pub(super) fn nothing_too_early_or_too_late(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for write in evidence.history.writes() {
        let is_create = write.request.method == "POST" && write.request.path.ends_with("/pods") && write.is_done();
        let Some(attempt) = is_create.then(|| Attempt::of(&write.request.body)).flatten() else { continue };
        let needs = evidence.workload.stage(&attempt.stage).map(|stage| stage.needs.as_slice()).unwrap_or_default();
        for needed in needs.iter().filter(|needed| !evidence.workload.approves(needed)) {
            let there = evidence.commit(&attempt.run_uid, needed).is_some_and(|commit| commit.at <= write.at);
            if !there {
                let what = format!("the Pod of stage {} was created before {needed} had committed", attempt.stage);
                found.push(Violation::new("I4", what));
            }
        }
    }
    let runs = evidence.history.versions(Kind::Run);
    for (attempt, version) in versions(evidence).into_iter().filter(|(_, version)| version.change == Change::Added) {
        let needs = evidence.workload.stage(&attempt.stage).map(|stage| stage.needs.as_slice()).unwrap_or_default();
        for needed in needs.iter().filter(|needed| evidence.workload.approves(needed)) {
            let approved = |run: &&&Version| run.object["spec"]["approvals"][needed]["decision"] == "Approved";
            let decided = runs.iter().filter(|run| run.uid() == attempt.run_uid).find(approved);
            if decided.is_none_or(|run| run.revision() > version.revision()) {
                let what = format!("the Pod of stage {} was created before {needed} was decided", attempt.stage);
                found.push(Violation::new("I4", what));
            }
        }
        let ended = runs.iter().find(|run| run.uid() == attempt.run_uid && super::status::has_ended(&run.object));
        if ended.is_some_and(|run| run.revision() < version.revision()) {
            let what = format!("Pod {} of stage {} was created after the run had ended", version.name(), attempt.stage);
            found.push(Violation::new("I4", what));
        }
    }
    found
}

#[cfg(test)]
mod tests;
