//! Histories by hand: a good one of two stages, to plant a violation in.

use super::{Evidence, Files, Summary, Violation, check};
use crate::faults::fault::{Expected, Strike};
use crate::faults::history::{Change, Entry, History, Kind, Reply, Request, Version, What};
use crate::faults::store::Commit;
use crate::faults::user::During;
use crate::faults::workload::{Stage, Starts, Workload};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use step_protocol::{Identity, InputSource, InputSpec, StepSpec, StoreSpec};

const UID: &str = "run-uid";

pub(super) struct World {
    pub workload: Workload,
    history: History,
    revision: u64,
    writes: u32,
    pub commits: Vec<Commit>,
    pub files: Files,
    pub expected: Option<Summary>,
    pub strikes: Vec<Strike>,
}

/// The only violation of this invariant.
#[track_caller]
pub(super) fn one<'a>(found: &'a [Violation], invariant: &str) -> &'a str {
    let of_it: Vec<_> = found.iter().filter(|violation| violation.invariant == invariant).collect();
    assert_eq!(of_it.len(), 1, "{invariant} among {found:#?}");
    &of_it[0].what
}

/// Whether a violation ends with these words.
pub(super) fn some(found: &[Violation], words: &str) -> bool {
    found.iter().any(|violation| violation.what.ends_with(words))
}

impl World {
    pub fn new() -> Self {
        Self {
            workload: Workload {
                name: "chain2",
                pipeline: Value::Null,
                downstream: None,
                stages: vec![Stage::new("first", &[], 0), Stage::new("second", &["first"], 0)],
                job: None,
                trains: None,
                early_reports: true,
                bucket: false,
                starts: Starts::Run,
                runs: 1,
                together: 1,
                during: None,
                end: "Succeeded",
                weight: 1,
            },
            history: History::default(),
            revision: 0,
            writes: 0,
            commits: Vec::new(),
            files: Files::default(),
            expected: None,
            strikes: Vec::new(),
        }
    }

    /// The first stage has succeeded, the second is running.
    pub fn before_the_end() -> Self {
        let mut world = Self::new();
        world.run(Self::status("Pending", &[("first", "Waiting", 0), ("second", "Waiting", 0)]));
        world.launch("first");
        world.run(Self::status("Running", &[("first", "Pending", 1), ("second", "Waiting", 0)]));
        world.pod("first", 1, "uid-first-1", Change::Modified, "Running", Value::Null);
        world.commit("first");
        world.launch("second");
        let ended = json!({"exitCode": 0, "message": "{\"commit\":\"x\"}"});
        world.pod("first", 1, "uid-first-1", Change::Modified, "Succeeded", ended);
        world.pod("second", 1, "uid-second-1", Change::Modified, "Running", Value::Null);
        world.run(Self::status("Running", &[("first", "Succeeded", 1), ("second", "Running", 1)]));
        world
    }

    /// Both stages have succeeded, and their Pods are gone.
    pub fn chain() -> Self {
        let mut world = Self::before_the_end();
        world.commit("second");
        world.run(Self::status("Succeeded", &[("first", "Succeeded", 1), ("second", "Succeeded", 1)]));
        let ended = json!({"exitCode": 0, "message": "{\"commit\":\"x\"}"});
        world.pod("second", 1, "uid-second-1", Change::Modified, "Succeeded", ended.clone());
        for stage in ["first", "second"] {
            world.pod(stage, 1, &format!("uid-{stage}-1"), Change::Deleted, "Succeeded", ended.clone());
        }
        world.pipeline(json!({"activeRuns": 0, "lastRun": {"phase": "Succeeded"}}));
        world
    }

    pub fn history(&self) -> History {
        self.history.clone()
    }

    pub fn check(&self) -> Vec<Violation> {
        check(Evidence {
            workload: &self.workload,
            history: &self.history,
            commits: &self.commits,
            files: &self.files,
            expected: self.expected.as_ref(),
            tolerated: Expected::Same,
            strikes: &self.strikes,
        })
    }

    /// Its user cancels it meanwhile.
    pub fn cancelled_by_its_user(&mut self) {
        (self.workload.during, self.workload.end) = (Some(During::Cancel), "Cancelled");
    }

    /// Everything comes so much later.
    pub fn delay(&mut self, time: Duration) {
        for entry in &mut self.history.entries {
            entry.at += time;
        }
    }

    /// One line a second.
    pub fn push(&mut self, what: What) {
        let at = Duration::from_secs(self.history.entries.len() as u64);
        self.history.entries.push(Entry { at, what });
    }

    fn version(&mut self, kind: Kind, change: Change, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.push(What::Version(Version { kind, change, object: object.clone() }));
        object
    }

    /// The object of the version that was recorded last, of this kind.
    fn last(&mut self, kind: Kind) -> &mut Value {
        let versions = self.history.entries.iter_mut().rev().filter_map(|entry| match &mut entry.what {
            What::Version(version) if version.kind == kind => Some(&mut version.object),
            _ => None,
        });
        versions.into_iter().next().unwrap()
    }

    /// Every version of every run, in order.
    pub fn runs(&mut self) -> impl Iterator<Item = &mut Value> {
        self.history.entries.iter_mut().filter_map(|entry| match &mut entry.what {
            What::Version(version) if version.kind == Kind::Run => Some(&mut version.object),
            _ => None,
        })
    }

    pub fn last_run(&mut self) -> &mut Value {
        self.last(Kind::Run)
    }

    /// A write of the operator that was done.
    fn write(&mut self, method: &str, path: &str, body: Value, answer: Value) {
        self.writes += 1;
        let id = u64::from(self.writes);
        let (method, path) = (method.to_owned(), path.to_owned());
        self.push(What::Request(Request {
            id,
            process: 1,
            write: Some(self.writes),
            method,
            path,
            body,
            query: String::new(),
        }));
        self.push(What::Reply(Reply { id, status: 200, body: answer }));
    }

    /// The operator writes a run's status.
    pub fn run(&mut self, status: Value) {
        let run = json!({"kind": "PipelineRun", "metadata": {"name": "r", "uid": UID}, "status": status});
        self.write("PATCH", "/pipelineruns/r/status", Value::Null, run.clone());
        self.version(Kind::Run, Change::Modified, run);
    }

    /// The operator writes the Pipeline's status.
    pub fn pipeline(&mut self, status: Value) {
        self.version(Kind::Pipeline, Change::Modified, json!({"status": status}));
    }

    /// A good one whose run a trigger has started.
    pub fn triggered() -> Self {
        let mut world = Self::chain();
        world.workload.starts = Starts::Trigger;
        let key = "a".repeat(64);
        for run in world.runs() {
            run["metadata"]["annotations"]["trainyard.dev/run-key"] = key.clone().into();
        }
        world.ledger(json!([{"key": key, "run": "r", "phase": "Succeeded", "completed": "2026-01-01T00:00:00Z"}]));
        world
    }

    /// The ledger in the Pipeline's status.
    pub fn ledger(&mut self, entries: Value) {
        self.pipeline(json!({"activeRuns": 0, "lastRun": {"phase": "Succeeded"}, "revisions": entries}));
    }

    /// Another run.
    pub fn another_run(&mut self, uid: &str, key: &str) {
        let mut run = self.last_run().clone();
        (run["metadata"]["uid"], run["metadata"]["annotations"]["trainyard.dev/run-key"]) = (uid.into(), key.into());
        run["metadata"]["name"] = uid.into();
        self.version(Kind::Run, Change::Added, run);
    }

    /// A run is deleted.
    pub fn deleted_run(&mut self, name: &str) {
        let run = self.runs().filter(|run| run["metadata"]["name"] == name).last().unwrap().clone();
        self.version(Kind::Run, Change::Deleted, run);
    }

    /// Its user has changed the parameter to `wanted`, and then there was another run, whose Pod was given `given`.
    pub fn changed_by_its_user(&mut self, wanted: &str, given: &str) {
        self.workload.during = Some(During::Change);
        let spec = json!({"params": [{"name": "word", "default": wanted}]});
        self.version(Kind::Pipeline, Change::Modified, json!({"spec": spec}));
        self.another_run("other", &"b".repeat(64));
        let mut step = step("first", 1);
        step.params.insert("word".to_owned(), given.into());
        let mut pod = pod("first", 1, "uid-other");
        pod["metadata"]["labels"]["trainyard.dev/run-uid"] = "other".into();
        pod["spec"]["containers"][0]["env"] = variables(&step);
        self.version(Kind::Pod, Change::Added, pod);
    }

    /// A version of a Pod that looks at data.
    pub fn look(&mut self, name: &str, uid: &str, change: Change) {
        let labels = json!({"trainyard.dev/pipeline-uid": "p"});
        let metadata = json!({"name": name, "uid": uid, "labels": labels, "ownerReferences": [{"uid": "p"}]});
        self.version(Kind::Pod, change, json!({"metadata": metadata, "status": {"phase": "Pending"}}));
    }

    /// The Pipeline's status tells of a look.
    pub fn looked(&mut self, checked: &str) {
        self.pipeline(json!({"triggers": [{"name": "drops", "data": {"checked": checked}}]}));
    }

    /// A status with a row for each (stage, phase, attempt), and the sums of these.
    pub fn status(phase: &str, rows: &[(&str, &str, u32)]) -> Value {
        let row = |(name, phase, attempt): &(&str, &str, u32)| {
            let mut row = json!({"name": name, "phase": phase});
            if *attempt > 0 {
                row["attempt"] = (*attempt).into();
                row["pod"] = pod_name(name, *attempt).into();
            }
            if *phase == "Succeeded" {
                row["outputs"] = json!([{"name": "text", "digest": format!("sha256:{name}"), "bytes": 2}]);
            }
            row
        };
        let count = |phases: &[&str]| rows.iter().filter(|(_, phase, _)| phases.contains(phase)).count();
        json!({
            "phase": phase,
            "stages": rows.iter().map(row).collect::<Vec<_>>(),
            "progress": format!("{}/{}", count(&["Succeeded", "Failed", "Skipped", "Cancelled"]), rows.len()),
            "counts": {
                "total": rows.len(), "succeeded": count(&["Succeeded"]), "failed": count(&["Failed"]),
                "running": count(&["Pending", "Running"]), "skipped": count(&["Skipped"]), "cached": 0,
            },
        })
    }

    /// The operator creates the first Pod of a stage.
    fn launch(&mut self, stage: &str) {
        let pod = pod(stage, 1, &format!("uid-{stage}-1"));
        self.write("POST", "/api/v1/namespaces/n/pods", pod.clone(), pod.clone());
        self.pod(stage, 1, &format!("uid-{stage}-1"), Change::Added, "Pending", Value::Null);
    }

    /// A version of a Pod, with its container's end if it has one.
    pub fn pod(
        &mut self,
        stage: &str,
        attempt: u32,
        uid: &str,
        change: Change,
        phase: &str,
        ended: Value,
    ) -> &mut Value {
        let mut object = pod(stage, attempt, uid);
        object["status"] = json!({"phase": phase});
        if !ended.is_null() {
            object["status"]["containerStatuses"] = json!([{"name": "stage", "state": {"terminated": ended}}]);
        }
        self.version(Kind::Pod, change, object);
        self.last(Kind::Pod)
    }

    pub fn commit(&mut self, stage: &str) {
        let at = Duration::from_secs(self.history.entries.len() as u64);
        let outputs = BTreeMap::from([("text".to_owned(), format!("sha256:{stage}"))]);
        let (run_uid, stage, key) = (UID.to_owned(), stage.to_owned(), commit_key(stage));
        self.commits.push(Commit { run_uid, stage, key, attempt: 1, at, outputs, ..Commit::default() });
    }
}

fn pod_name(stage: &str, attempt: u32) -> String {
    format!("r-{stage}-a{attempt}-abcdefghij234567")
}

fn commit_key(stage: &str) -> String {
    format!("n/p/r.{UID}/{stage}/COMMIT")
}

fn pod(stage: &str, attempt: u32, uid: &str) -> Value {
    let env = variables(&step(stage, attempt));
    json!({
        "kind": "Pod",
        "metadata": {
            "name": pod_name(stage, attempt),
            "uid": uid,
            "ownerReferences": [{"uid": UID}],
            "labels": {
                "trainyard.dev/run-uid": UID, "trainyard.dev/stage": stage, "trainyard.dev/attempt": attempt.to_string(),
            },
        },
        "spec": {"containers": [{"name": "stage", "env": env}]},
    })
}

fn variables(step: &StepSpec) -> Value {
    let pair = |(name, value)| json!({"name": name, "value": value});
    step.to_env().unwrap().into_iter().map(pair).collect()
}

fn step(stage: &str, attempt: u32) -> StepSpec {
    let source =
        InputSource::Stage { commit: commit_key("first"), output: "text".into(), digest: Some("sha256:first".into()) };
    let input = InputSpec { name: "before".into(), source, optional: false };
    StepSpec {
        version: step_protocol::VERSION,
        identity: Identity {
            namespace: "n".into(),
            pipeline: "p".into(),
            run: "r".into(),
            run_uid: UID.into(),
            stage: stage.into(),
            attempt,
        },
        root: "/trainyard".into(),
        command: Vec::new(),
        script: None,
        working_dir: None,
        env: Vec::new(),
        params: serde_json::Map::new(),
        store: StoreSpec { uri: "file:///store".into(), s3: None },
        prefix: format!("n/p/r.{UID}/{stage}"),
        inputs: if stage == "second" { vec![input] } else { Vec::new() },
        outputs: Vec::new(),
        results: Vec::new(),
        metrics: Vec::new(),
        timeout_seconds: None,
        grace_seconds: 30,
        report: None,
        rank: None,
        checkpoint: None,
        publish: None,
        ledger: None,
    }
}
