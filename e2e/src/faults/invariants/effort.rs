//! I9: the end comes soon after the last fault, and nothing is asked for again that has been answered.

use super::{Evidence, Violation};
use crate::faults::fault::Place;
use crate::faults::history::{Change, Kind, What, is_task};
use std::collections::BTreeMap;
use std::time::Duration;

/// The end comes at most so long after the last fault: twice the time in which every run is looked at.
const SOON: Duration = Duration::from_secs(120);
/// Writes of the operator for each stage, at most; a run counts as two stages at least.
const WRITES: usize = 20;
/// Reconciles for each stage, and for each of its attempts after the first, at most.
const RECONCILES: usize = 20;

/// A process that has been told that a Pod was created does not ask for it again.
pub(super) fn no_write_is_repeated(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut told: BTreeMap<(u32, String), usize> = BTreeMap::new();
    let mut found = Vec::new();
    for write in evidence.history.writes() {
        let object = match write.request.path.rsplit('/').next() {
            Some("pods") => "Pod",
            Some("trainingjobs") => "TrainingJob",
            _ => continue,
        };
        if write.request.method != "POST" {
            continue;
        }
        // A look whose word was lost is begun again under its name: L1 says when.
        if is_task(&write.request.body) {
            continue;
        }
        let name = write.request.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (write.request.process, format!("{object} {name}"));
        if told.contains_key(&key) {
            found.push(Violation::new("I9", format!("process {} creates {} again", key.0, key.1)));
        }
        // What was answered otherwise, or by a fault, may be asked again.
        let struck = evidence.strikes.iter().any(|strike| write.request.write.map(Place::Write) == Some(strike.place));
        if write.is_done() && !struck {
            *told.entry(key).or_default() += 1;
        }
    }
    let stages = evidence.workload.size().max(2 * evidence.workload.runs);
    // Who looks at data goes on with it.
    let writes = if evidence.workload.looks() { 0 } else { evidence.history.writes().len() };
    if writes > WRITES * stages {
        found.push(Violation::new("I9", format!("{writes} writes for {stages} stages")));
    }
    found.dedup();
    found
}

/// Once all has ended nothing is written any more, and until then nothing was looked at over and over.
pub(super) fn then_it_is_quiet(evidence: Evidence<'_>) -> Vec<Violation> {
    let rest = evidence.history.entries.iter().find_map(|entry| match entry.what {
        What::Rest { reconciles } => Some((entry.at, reconciles)),
        _ => None,
    });
    let Some((since, reconciles)) = rest else { return Vec::new() };
    let mut found: Vec<Violation> = evidence
        .history
        .writes()
        .iter()
        .filter(|write| write.at > since && !evidence.workload.looks())
        .map(|write| {
            let (method, path) = (&write.request.method, &write.request.path);
            Violation::new("I9", format!("{method} {path} {} s after the end", (write.at - since).as_secs()))
        })
        .collect();
    let stages = evidence.workload.size().max(2 * evidence.workload.runs);
    let again = super::pods::attempts(evidence).iter().filter(|attempt| attempt.number > 1).count()
        + super::job::ranks_again(evidence);
    if !evidence.workload.looks() && usize::try_from(reconciles).unwrap_or(usize::MAX) > RECONCILES * (stages + again) {
        let what = format!("{reconciles} reconciles for {stages} stages and {again} attempts after the first");
        found.push(Violation::new("I9", what));
    }
    found
}

/// The last run has ended at most two minutes after the last fault, or after its beginning.
pub(super) fn the_end_comes_soon(evidence: Evidence<'_>) -> Vec<Violation> {
    let fault = evidence.history.last_fault().unwrap_or_default();
    let held: Duration = evidence.strikes.iter().map(|strike| strike.fault.holds()).max().unwrap_or_default();
    let subject = if evidence.workload.job.is_some() { Kind::Job } else { Kind::Run };
    let mut ended: BTreeMap<&str, Duration> = BTreeMap::new();
    for entry in &evidence.history.entries {
        if let What::Version(version) = &entry.what
            && version.kind == subject
            && (version.change == Change::Deleted || super::status::has_ended(&version.object))
        {
            ended.entry(version.uid()).or_insert(entry.at);
        }
    }
    match ended.into_values().max() {
        Some(ended) if ended > fault + held + SOON => {
            let late = (ended - fault).as_secs();
            vec![Violation::new("I9", format!("the run ended {late} s after the last fault"))]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use crate::faults::history::{Change, Reply, Request, What};
    use serde_json::{Value, json};
    use std::time::Duration;

    #[test]
    fn a_pod_that_is_created_again_is_seen_but_not_one_that_looks() {
        let twice = |labels: Value| {
            let mut world = World::chain();
            for id in [101, 102] {
                let request = Request {
                    id,
                    process: 1,
                    write: Some(u32::try_from(id).unwrap()),
                    method: "POST".into(),
                    path: "/api/v1/namespaces/n/pods".into(),
                    body: json!({"metadata": {"name": "a", "labels": labels}}),
                    ..Request::default()
                };
                world.push(What::Request(request));
                world.push(What::Reply(Reply { id, status: 201, body: Value::Null }));
            }
            world.check()
        };
        assert_eq!(one(&twice(json!({})), "I9"), "process 1 creates Pod a again");
        let looks = twice(json!({"trainyard.dev/pipeline-uid": "p"}));
        assert!(looks.iter().all(|violation| violation.invariant != "I9"));
    }

    #[test]
    fn a_write_after_the_end_is_seen() {
        let mut world = World::chain();
        world.push(What::Rest { reconciles: 40 });
        assert_eq!(world.check(), []);
        let request =
            Request { id: 101, write: Some(50), method: "PATCH".into(), path: "a".into(), ..Request::default() };
        world.push(What::Request(request));
        assert_eq!(one(&world.check(), "I9"), "PATCH a 1 s after the end");
    }

    #[test]
    fn looking_too_often_is_seen() {
        let mut world = World::chain();
        world.push(What::Rest { reconciles: 41 });
        assert_eq!(one(&world.check(), "I9"), "41 reconciles for 2 stages and 0 attempts after the first");
    }

    #[test]
    fn another_attempt_may_be_looked_at_as_often() {
        for (reconciles, seen) in [(60, 0), (61, 1)] {
            let mut world = World::chain();
            world.pod("second", 2, "uid-again", Change::Added, "Pending", Value::Null);
            world.push(What::Rest { reconciles });
            assert_eq!(world.check().iter().filter(|violation| violation.invariant == "I9").count(), seen);
        }
    }

    #[test]
    fn a_late_end_is_seen() {
        let mut world = World::chain();
        world.delay(Duration::from_secs(1000));
        assert!(one(&world.check(), "I9").ends_with("s after the last fault"));
    }
}
