//! Class D: a restarted operator that is served lists of the past, as by an API server whose cache lags behind.
//!
//! The list is made from the recorded versions, as of an older revision; the watch that begins there is the API server's own and
//! catches up.

use super::Scene;
use crate::faults::fault::Fault;
use crate::faults::history::{Change, History, Kind, Version};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long watches show nothing newer, where they are held.
const HELD: Duration = Duration::from_secs(2);
/// The labels by which the operator selects the Pods of stages and of ranks.
const RUN_UID: &str = "trainyard.dev/run-uid";
const JOB_UID: &str = "trainyard.dev/job-uid";
/// Parts of queries for the Pods of one job, and for the Pods and runs of one Pipeline.
const LIVE: [&str; 3] = ["job-uid%3D", "pipeline-uid%3D", "pipeline%3D"];

/// Which process is shown the past, and of which kinds it has been.
#[derive(Debug, Default)]
pub(super) struct Stale {
    fault: Option<Fault>,
    after: u32,
    revision: Option<u64>,
    /// Kinds, and of Pods by which label they were selected.
    shown: BTreeSet<(Kind, &'static str)>,
}

impl Stale {
    /// Every process after this one is shown the past once, if the fault says so.
    pub(super) fn after(&mut self, fault: Fault, process: u32) {
        let is_stale = !matches!(fault, Fault::KillAfterReply);
        *self = Self { fault: is_stale.then_some(fault), after: process, ..Self::default() };
    }

    /// How long the watches of this process are held.
    pub(super) fn held(&self, process: u32) -> Option<Duration> {
        (self.fault == Some(Fault::StalePods) && process > self.after).then_some(HELD)
    }
}

/// The list of the past, if this request asks for a list and is to be shown one.
pub(super) fn list(scene: &Scene, process: u32, path: &str, query: Option<&str>) -> Option<Value> {
    let kind = Kind::of_path(path)?;
    let query = query.unwrap_or_default();
    // A list by fields, or of what belongs to one job or Pipeline, is a question of the moment, which no cache answers.
    if query.contains("watch=") || query.contains("fieldSelector=") || LIVE.iter().any(|word| query.contains(word)) {
        return None;
    }
    let label = match kind {
        Kind::Pod if query.contains("job-uid") => JOB_UID,
        Kind::Pod => RUN_UID,
        Kind::Run | Kind::Pipeline | Kind::Job => "",
    };
    let mut stale = scene.stale();
    let fault = stale.fault.filter(|_| process > stale.after && !stale.shown.contains(&(kind, label)))?;
    if fault == Fault::StalePods && kind != Kind::Pod {
        return None;
    }
    let history = scene.recorder.history();
    let revision = match stale.revision {
        Some(revision) => revision,
        None => revision(&history, fault)?,
    };
    stale.revision = Some(revision);
    stale.shown.insert((kind, label));
    Some(as_of(&history, kind, label, revision))
}

/// The revision that a fault goes back to.
fn revision(history: &History, fault: Fault) -> Option<u64> {
    let mut revisions: Vec<u64> = history.all_versions().map(Version::revision).collect();
    revisions.sort_unstable();
    let back = |steps: usize| revisions.get(revisions.len().checked_sub(1 + steps)?).copied();
    match fault {
        Fault::StaleByOne => back(1),
        Fault::StaleByFive => back(5).or_else(|| revisions.first().copied()),
        _ => {
            let first = |kind| history.versions(kind).first().map(|version| version.revision());
            first(Kind::Run).or_else(|| first(Kind::Job))
        }
    }
}

/// What the operator's own selectors would have selected then: Pods by this label.
fn as_of(history: &History, kind: Kind, label: &str, revision: u64) -> Value {
    let mut objects: BTreeMap<&str, &Version> = BTreeMap::new();
    for version in history.versions(kind).into_iter().filter(|version| version.revision() <= revision) {
        match version.change {
            Change::Deleted => objects.remove(version.name()),
            Change::Added | Change::Modified => objects.insert(version.name(), version),
        };
    }
    let selected = |object: &Value| {
        let labels = &object["metadata"]["labels"];
        match kind {
            Kind::Pod => labels[label].is_string(),
            Kind::Run | Kind::Job => labels["trainyard.dev/finished"] != "true",
            Kind::Pipeline => true,
        }
    };
    let items: Vec<&Value> =
        objects.into_values().map(|version| &version.object).filter(|object| selected(object)).collect();
    let list = format!("{}List", kind.word());
    let group = if kind == Kind::Pod { "v1" } else { "trainyard.dev/v1alpha1" };
    json!({"kind": list, "apiVersion": group, "metadata": {"resourceVersion": revision.to_string()}, "items": items})
}
