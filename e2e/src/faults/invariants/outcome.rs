//! I7: the end is that of the run without a fault.

use super::artifacts::rows;
use super::{Evidence, Violation};
use crate::faults::fault::Expected;
use crate::faults::history::{Change, History, Kind, Version, is_task};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;

/// How a case ended, without names and times that differ from case to case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Phase, reason and message of the run; of several, of the one that was created last.
    pub run: Value,
    /// Of every stage its name, phase, reason, attempt, outputs and results. A job is one of them.
    pub stages: Vec<Value>,
    /// Of every other run, in the order of their creation, the same.
    pub others: Vec<(Value, Vec<Value>)>,
    /// Of every ended attempt of a job its number, its end and its first failure.
    pub attempts: Vec<Value>,
    /// Active runs and the last run's phase of every Pipeline, by their names.
    pub pipeline: Value,
    /// How many Pods were created.
    pub created: usize,
    /// How many Pods were deleted.
    pub deleted: usize,
}

impl Summary {
    /// The summary of a history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut runs = lasts(history, Kind::Run);
        let mut run = runs.pop().cloned().unwrap_or_default();
        let job = lasts(history, Kind::Job).pop().cloned().unwrap_or_default();
        let mut pipelines = lasts(history, Kind::Pipeline);
        pipelines.sort_by_key(|pipeline| pipeline["metadata"]["name"].as_str());
        let told = pipelines.iter().map(|pipeline| &pipeline["status"]);
        let told: Vec<&Value> = told.flat_map(|status| [&status["activeRuns"], &status["lastRun"]["phase"]]).collect();
        let others = runs.iter().map(|run| (end(run), rows(run).iter().map(stage).collect())).collect();
        let mut stages: Vec<Value> = rows(&run).iter().map(stage).collect();
        let attempts = job["status"]["attempts"].as_array().into_iter().flatten().map(attempt).collect();
        if job.is_object() {
            stages.push(self::job(&job["status"]));
            if run.is_null() {
                run = job;
            }
        }
        // How often it is looked at data in the meantime, the clock says.
        let pods: Vec<_> = history.versions(Kind::Pod).into_iter().filter(|pod| !is_task(&pod.object)).collect();
        let uids =
            |change| pods.iter().filter(|pod| pod.change == change).map(|pod| pod.uid()).collect::<BTreeSet<_>>();
        Self {
            run: end(&run),
            stages,
            others,
            attempts,
            pipeline: json!(told),
            created: uids(Change::Added).len(),
            deleted: uids(Change::Deleted).len(),
        }
    }
}

/// The last version of every object of a kind, in the order of their creation.
fn lasts(history: &History, kind: Kind) -> Vec<&Value> {
    let mut found: Vec<&Version> = Vec::new();
    for version in history.versions(kind) {
        match found.iter_mut().find(|known| known.uid() == version.uid()) {
            Some(known) => *known = version,
            None => found.push(version),
        }
    }
    found.into_iter().map(|version| &version.object).collect()
}

/// Phase, reason and message of a run.
fn end(run: &Value) -> Value {
    let status = &run["status"];
    json!([status["phase"], status["reason"], without_names(status["message"].as_str(), run)])
}

/// A message without the namespace and the hashes of Pods and jobs, which differ from case to case.
fn without_names(message: Option<&str>, run: &Value) -> Option<String> {
    let namespace = run["metadata"]["namespace"].as_str().unwrap_or_default();
    let jobs: Vec<&str> = super::artifacts::rows(run)
        .iter()
        .filter_map(|row| row["training"]["job"].as_str()?.rsplit_once('-').map(|(_, hash)| hash))
        .collect();
    // A rank's name begins with that of its job, of which it has as much as there is room for.
    let part = |part: &str| match jobs.iter().any(|hash| part.len() > 3 && hash.starts_with(part)) {
        true => "JOB".to_owned(),
        false => part.to_owned(),
    };
    let word = |word: &str| match word.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => {
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
            name.split('-').map(part).collect::<Vec<_>>().join("-")
        }
        _ if word == namespace => "NAMESPACE".to_owned(),
        _ => word.to_owned(),
    };
    message.map(|message| message.split(' ').map(word).collect::<Vec<_>>().join(" "))
}

impl Summary {
    /// Leaves out what a fault that harms Pods changes.
    fn forget_attempts(&mut self) {
        forget_attempts_of(&mut self.run, &mut self.stages);
        self.others.iter_mut().for_each(|(run, stages)| forget_attempts_of(run, stages));
        self.attempts.clear();
        (self.created, self.deleted) = (0, 0);
    }
}

fn forget_attempts_of(run: &mut Value, stages: &mut [Value]) {
    for stage in stages {
        stage[3] = Value::Null;
    }
    if let Some(message) = run[2].as_str()
        && let Some((before, after)) = message.split_once(" after ")
        && let Some((number, rest)) = after.split_once(" attempts")
        && number.parse::<u32>().is_ok()
    {
        run[2] = format!("{before}{rest}").into();
    }
}

fn stage(row: &Value) -> Value {
    let output = |output: &Value| json!([output["name"], output["digest"], output["bytes"]]);
    let outputs: Vec<Value> = row["outputs"].as_array().into_iter().flatten().map(output).collect();
    // Whether a stage had begun when it was cancelled is known only if its Pod was seen.
    let attempt = if row["phase"] == "Cancelled" { &Value::Null } else { &row["attempt"] };
    let mut results = row["results"].clone();
    // It has the run's UID in it.
    if let Some(results) = results.as_object_mut() {
        results.remove("uri");
    }
    json!([row["name"], row["phase"], row["reason"], attempt, outputs, results])
}

/// A job as a row.
fn job(status: &Value) -> Value {
    let row = json!({
        "name": "training", "phase": status["phase"], "reason": status["reason"], "outputs": status["outputs"],
        "results": status["results"], "attempt": [status["attempt"], status["restarts"], status["winner"]],
    });
    stage(&row)
}

fn attempt(ended: &Value) -> Value {
    let first = &ended["firstFailure"];
    let failure: Vec<&Value> = ["role", "index", "class", "reason", "exitCode"].map(|field| &first[field]).into();
    json!([ended["number"], ended["outcome"], ended["ranks"], failure])
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "run {}, pipeline {}, {} Pods created, {} deleted",
            self.run, self.pipeline, self.created, self.deleted
        )?;
        self.stages.iter().chain(&self.attempts).try_for_each(|part| write!(f, ", {part}"))?;
        self.others.iter().try_for_each(|(run, stages)| write!(f, ", before it {run}, {}", json!(stages)))
    }
}

/// Phase, reason, results and the numbers of created and deleted Pods are those of the run without a fault; of these, the fault
/// tolerates that attempts and Pods are more, or that the run fails for a reason that it names.
pub(super) fn as_without_a_fault(evidence: Evidence<'_>) -> Vec<Violation> {
    let Some(expected) = evidence.expected else { return Vec::new() };
    let mut seen = Summary::of(evidence.history);
    if evidence.workload.end == "Deleted" {
        // The run was taken away at some moment: what it had come to then is as it may be.
        return Vec::new();
    }
    if super::artifacts::any_ended_while_it_was_cancelled(evidence) {
        return Vec::new();
    }
    let mut expected = expected.clone();
    let reasons: Vec<&str> = evidence.strikes.iter().flat_map(|strike| strike.fault.may_fail_for()).copied().collect();
    let may_fail = |run: &Value, stages: &[Value]| {
        run[0] == "Failed" && stages.iter().any(|stage| reasons.iter().any(|reason| stage[2] == *reason))
    };
    if may_fail(&seen.run, &seen.stages) || seen.others.iter().any(|(run, stages)| may_fail(run, stages)) {
        return Vec::new();
    }
    if evidence.tolerated != Expected::Same {
        seen.forget_attempts();
        expected.forget_attempts();
    }
    let mut found = Vec::new();
    let mut compare = |what: &str, seen: String, expected: String| {
        if seen != expected {
            found.push(Violation::new("I7", format!("{what}: {seen}, without a fault {expected}")));
        }
    };
    compare("run", seen.run.to_string(), expected.run.to_string());
    compare("number of stages", seen.stages.len().to_string(), expected.stages.len().to_string());
    for (seen, expected) in seen.stages.iter().zip(&expected.stages) {
        compare("stage", seen.to_string(), expected.to_string());
    }
    compare("other runs", json!(seen.others).to_string(), json!(expected.others).to_string());
    compare("attempts", json!(seen.attempts).to_string(), json!(expected.attempts).to_string());
    compare("pipeline", seen.pipeline.to_string(), expected.pipeline.to_string());
    compare("Pods created", seen.created.to_string(), expected.created.to_string());
    compare("Pods deleted", seen.deleted.to_string(), expected.deleted.to_string());
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use super::*;

    fn expecting(change: impl FnOnce(&mut Summary)) -> Vec<Violation> {
        let mut world = World::chain();
        let mut expected = Summary::of(&world.history());
        change(&mut expected);
        world.expected = Some(expected);
        world.check()
    }

    #[test]
    fn a_message_does_not_differ_by_names() {
        let run = |namespace: &str, hash: &str| {
            let message =
                format!("worker-1 failed: kubectl logs -n {namespace} run-fit-{}-worker-1-a2-{hash}", &hash[..7]);
            let rows = serde_json::json!([{"name": "fit", "training": {"job": format!("run-fit-{hash}")}}]);
            let run = serde_json::json!({"metadata": {"namespace": namespace}, "status": {"stages": rows}});
            without_names(Some(&message), &run).unwrap()
        };
        let told = run("f1", "fy5rba3ylxvwvkdy");
        assert_eq!(told, "worker-1 failed: kubectl logs -n NAMESPACE run-fit-JOB-worker-1-a");
        assert_eq!(told, run("f2", "3xjazxdpm74k77s3"));
    }

    #[test]
    fn the_same_end_is_as_expected() {
        assert_eq!(expecting(|_| {}), []);
    }

    #[test]
    fn another_end_is_seen() {
        let phase = expecting(|expected| expected.run[0] = "Failed".into());
        assert!(one(&phase, "I7").starts_with("run: [\"Succeeded\""));
        let digest = expecting(|expected| expected.stages[1][4][0][1] = "sha256:other".into());
        assert!(one(&digest, "I7").starts_with("stage: [\"second\""));
        let pipeline = expecting(|expected| expected.pipeline[1] = "Running".into());
        assert!(one(&pipeline, "I7").starts_with("pipeline: [0,\"Succeeded\"]"));
    }

    #[test]
    fn a_pod_too_many_and_a_missing_deletion_are_seen() {
        assert_eq!(one(&expecting(|expected| expected.created = 1), "I7"), "Pods created: 2, without a fault 1");
        assert_eq!(one(&expecting(|expected| expected.deleted = 5), "I7"), "Pods deleted: 2, without a fault 5");
    }
}
