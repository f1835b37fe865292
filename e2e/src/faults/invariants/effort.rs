//! I9: the end comes soon after the last fault, and nothing is asked for again that has been answered.

use super::{Evidence, Violation};
use crate::faults::fault::Place;
use crate::faults::history::{Change, Kind, What};
use std::collections::BTreeMap;
use std::time::Duration;

/// The end comes at most so long after the last fault: twice the time in which every run is looked at.
const SOON: Duration = Duration::from_secs(120);
/// Writes of the operator for each stage, at most.
const WRITES: usize = 20;

/// A process that has been told that a Pod was created does not ask for it again.
pub(super) fn no_write_is_repeated(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut told: BTreeMap<(u32, String), usize> = BTreeMap::new();
    let mut found = Vec::new();
    for write in evidence.history.writes() {
        if write.request.method != "POST" || !write.request.path.ends_with("/pods") {
            continue;
        }
        let name = write.request.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (write.request.process, name);
        if told.contains_key(&key) {
            found.push(Violation::new("I9", format!("process {} creates Pod {} again", key.0, key.1)));
        }
        // What was answered otherwise, or by a fault, may be asked again.
        let struck = evidence.strikes.iter().any(|strike| write.request.write.map(Place::Write) == Some(strike.place));
        if write.is_done() && !struck {
            *told.entry(key).or_default() += 1;
        }
    }
    let stages = evidence.workload.stages.len();
    let writes = evidence.history.writes().len();
    if writes > WRITES * stages.max(2) {
        found.push(Violation::new("I9", format!("{writes} writes for {stages} stages")));
    }
    found.dedup();
    found
}

/// The run has ended at most two minutes after the last fault, or after its beginning.
pub(super) fn the_end_comes_soon(evidence: Evidence<'_>) -> Vec<Violation> {
    let fault = evidence.history.last_fault().unwrap_or_default();
    let held: Duration = evidence.strikes.iter().map(|strike| strike.fault.holds()).max().unwrap_or_default();
    let ended = evidence.history.entries.iter().find_map(|entry| match &entry.what {
        What::Version(version) if version.kind == Kind::Run => {
            let over = version.change == Change::Deleted || super::status::has_ended(&version.object);
            over.then_some(entry.at)
        }
        _ => None,
    });
    match ended {
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
    use crate::faults::history::{Reply, Request, What};
    use serde_json::{Value, json};
    use std::time::Duration;

    #[test]
    fn a_pod_that_is_created_again_is_seen() {
        let mut world = World::chain();
        for id in [101, 102] {
            let request = Request {
                id,
                process: 1,
                write: Some(u32::try_from(id).unwrap()),
                method: "POST".into(),
                path: "/api/v1/namespaces/n/pods".into(),
                body: json!({"metadata": {"name": "a"}}),
                ..Request::default()
            };
            world.push(What::Request(request));
            world.push(What::Reply(Reply { id, status: 201, body: Value::Null }));
        }
        assert_eq!(one(&world.check(), "I9"), "process 1 creates Pod a again");
    }

    #[test]
    fn a_late_end_is_seen() {
        let mut world = World::chain();
        world.delay(Duration::from_secs(1000));
        assert!(one(&world.check(), "I9").ends_with("s after the last fault"));
    }
}
