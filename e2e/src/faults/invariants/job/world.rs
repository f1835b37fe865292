//! Histories of a job by hand: good ones of four ranks, to plant a violation in.

use super::super::{Evidence, Files, Violation, check};
use crate::faults::fault::Expected;
use crate::faults::history::{Change, Entry, History, Kind, Reply, Request, Version, What};
use crate::faults::store::Commit;
use crate::faults::workload::Workload;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use step_protocol::{Framework, Identity, RankSpec, RoleSpec, StepSpec, StoreSpec};

const UID: &str = "job-uid";
const RANKS: u32 = 4;

pub struct World {
    workload: Workload,
    history: History,
    revision: u64,
    requests: u64,
    status: Map<String, Value>,
    pub commits: Vec<Commit>,
}

impl World {
    /// A job that was accepted.
    pub fn new() -> Self {
        let mut world = Self {
            workload: Workload::named("training").unwrap(),
            history: History::default(),
            revision: 0,
            requests: 0,
            status: Map::new(),
            commits: Vec::new(),
        };
        world.push(What::Started(1));
        world.status(&[("phase", "Pending".into()), ("attempts", json!([]))]);
        world
    }

    /// All ranks of the first attempt run.
    pub fn running() -> Self {
        let mut world = Self::new();
        world.begin(1);
        world.run_all(1);
        world
    }

    /// The first attempt has failed by rank 2, the second has succeeded, and all Pods are gone.
    pub fn restarted() -> Self {
        let mut world = Self::running();
        world.fail(1, 2);
        world.leave(1);
        world.begin(2);
        world.run_all(2);
        world.commit(2);
        let outputs = json!([{"name": "model", "digest": "sha256:model", "bytes": 2}]);
        let ended = json!({"number": 2, "outcome": "Succeeded", "ranks": RANKS});
        world.end("Succeeded", &ended, &[("outputs", outputs), ("winner", 2.into())]);
        for rank in 0..RANKS {
            world.pod(2, rank, Change::Modified, "Succeeded");
        }
        world.delete_all();
        for rank in 0..RANKS {
            world.pod(2, rank, Change::Deleted, "Succeeded");
        }
        world
    }

    /// The first attempt has failed by rank 2 for good.
    pub fn failed() -> Self {
        let mut world = Self::running();
        world.pod(1, 2, Change::Modified, "Failed");
        let ended = Self::failure(1, 2);
        world.end("Failed", &ended, &[("reason", "UserError".into())]);
        for rank in [0, 1, 3] {
            world.delete(1, rank);
            world.pod(1, rank, Change::Deleted, "Failed");
        }
        world
    }

    /// Two jobs of one attempt of a stage.
    pub fn twins() -> Self {
        let mut world = Self::new();
        for uid in ["one", "another"] {
            let labels =
                json!({"trainyard.dev/run-uid": "run", "trainyard.dev/stage": "second", "trainyard.dev/attempt": "1"});
            let metadata = json!({"name": "run-second-abcdefghij234567", "uid": uid, "labels": labels});
            let job = json!({"kind": "TrainingJob", "metadata": metadata, "status": world.status});
            world.version(Kind::Job, Change::Added, job);
        }
        world
    }

    pub fn check(&self) -> Vec<Violation> {
        check(Evidence {
            workload: &self.workload,
            history: &self.history,
            commits: &self.commits,
            files: &Files::default(),
            expected: None,
            tolerated: Expected::Same,
            strikes: &[],
        })
        .into_iter()
        // What is left behind is said elsewhere.
        .filter(|violation| violation.invariant.starts_with('T'))
        .collect()
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

    fn last(&mut self, kind: Kind) -> &mut Value {
        let versions = self.history.entries.iter_mut().rev().filter_map(|entry| match &mut entry.what {
            What::Version(version) if version.kind == kind => Some(&mut version.object),
            _ => None,
        });
        versions.into_iter().next().unwrap()
    }

    pub fn last_job(&mut self) -> &mut Value {
        self.last(Kind::Job)
    }

    pub fn last_delete(&mut self) -> &mut Request {
        let requests = self.history.entries.iter_mut().rev().filter_map(|entry| match &mut entry.what {
            What::Request(request) if request.method == "DELETE" => Some(request),
            _ => None,
        });
        requests.into_iter().next().unwrap()
    }

    fn write(&mut self, method: &str, path: &str, body: Value, answer: Value) {
        self.requests += 1;
        let (id, write) = (self.requests, u32::try_from(self.requests).ok());
        let (method, path) = (method.to_owned(), path.to_owned());
        self.push(What::Request(Request { id, process: 1, write, method, path, query: String::new(), body }));
        self.push(What::Reply(Reply { id, status: 200, body: answer }));
    }

    /// The operator writes these fields of the status.
    pub fn status(&mut self, fields: &[(&str, Value)]) {
        self.status.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let phase = self.status["phase"].clone();
        let condition = |kind: &str, is: bool| json!({"type": kind, "status": if is { "True" } else { "False" }});
        let ended = phase == "Succeeded" || phase == "Failed";
        let conditions = json!([
            condition("Finished", ended),
            condition("Succeeded", phase == "Succeeded"),
            condition("Suspended", phase == "Suspended"),
        ]);
        self.status.insert("conditions".into(), conditions);
        let mut job = json!({"kind": "TrainingJob", "metadata": {"name": "run", "uid": UID}, "status": self.status});
        job["metadata"]["resourceVersion"] = (self.revision + 1).to_string().into();
        self.write("PATCH", "/trainingjobs/run/status", Value::Null, job.clone());
        self.version(Kind::Job, Change::Modified, job);
    }

    /// An attempt is on record.
    pub fn begin(&mut self, attempt: u32) {
        let phase = if attempt == 1 { "Pending" } else { "Restarting" };
        let open = [("launched", false.into()), ("started", false.into()), ("ready", "0/4".into())];
        self.status(&open);
        self.status(&[("phase", phase.into()), ("attempt", attempt.into()), ("ranks", RANKS.into())]);
    }

    /// All Pods of an attempt are created and run.
    pub fn run_all(&mut self, attempt: u32) {
        for rank in 0..RANKS {
            self.create(attempt, rank);
        }
        self.status(&[("launched", true.into())]);
        for rank in 0..RANKS {
            self.pod(attempt, rank, Change::Modified, "Running");
        }
        self.status(&[("phase", "Running".into()), ("started", true.into()), ("ready", "4/4".into())]);
    }

    /// A rank fails, and with it its attempt, which another follows.
    pub fn fail(&mut self, attempt: u32, rank: u32) {
        self.pod(attempt, rank, Change::Modified, "Failed");
        self.record_failure(attempt, rank);
    }

    pub fn record_failure(&mut self, attempt: u32, rank: u32) {
        let restarts = self.status.get("restarts").and_then(Value::as_u64).unwrap_or(0);
        self.end("Restarting", &Self::failure(attempt, rank), &[("restarts", (restarts + 1).into())]);
    }

    fn failure(attempt: u32, rank: u32) -> Value {
        let first = json!({
            "role": "worker", "index": rank, "pod": pod_name(attempt, rank), "class": "User", "reason": "UserError",
        });
        json!({"number": attempt, "outcome": "Failed", "ranks": RANKS, "firstFailure": first})
    }

    fn end(&mut self, phase: &str, ended: &Value, fields: &[(&str, Value)]) {
        let mut attempts = self.status["attempts"].as_array().cloned().unwrap_or_default();
        attempts.push(ended.clone());
        let mut all = vec![("phase", phase.into()), ("attempts", attempts.into())];
        all.extend(fields.iter().cloned());
        self.status(&all);
    }

    /// All Pods of an attempt are deleted, and gone.
    pub fn leave(&mut self, attempt: u32) {
        for rank in 0..RANKS {
            self.delete(attempt, rank);
            self.pod(attempt, rank, Change::Deleted, "Failed");
        }
    }

    /// The operator creates the Pod of a rank.
    pub fn create(&mut self, attempt: u32, rank: u32) -> &mut Value {
        let pod = pod(attempt, rank, &format!("uid-{attempt}-{rank}"));
        self.created(pod)
    }

    /// The operator creates another Pod of a rank.
    pub fn again(&mut self, attempt: u32, rank: u32) {
        let pod = pod(attempt, rank, &format!("uid-{attempt}-{rank}-again"));
        self.created(pod);
    }

    fn created(&mut self, mut pod: Value) -> &mut Value {
        self.write("POST", "/api/v1/namespaces/n/pods", pod.clone(), pod.clone());
        pod["status"]["phase"] = "Pending".into();
        self.version(Kind::Pod, Change::Added, pod);
        self.last(Kind::Pod)
    }

    /// A version of the first Pod of a rank.
    pub fn pod(&mut self, attempt: u32, rank: u32, change: Change, phase: &str) -> &mut Value {
        let mut object = pod(attempt, rank, &format!("uid-{attempt}-{rank}"));
        object["status"]["phase"] = phase.into();
        self.version(Kind::Pod, change, object);
        self.last(Kind::Pod)
    }

    /// The operator asks a Pod to go.
    pub fn delete(&mut self, attempt: u32, rank: u32) {
        let path = format!("/api/v1/namespaces/n/pods/{}", pod_name(attempt, rank));
        self.write("DELETE", &path, Value::Null, Value::Null);
        let deleting = self.pod(attempt, rank, Change::Modified, "Running");
        deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }

    /// The operator deletes all Pods that have succeeded.
    pub fn delete_all(&mut self) {
        self.write("DELETE", "/api/v1/namespaces/n/pods", Value::Null, Value::Null);
    }

    /// Rank 0 commits what an attempt has made.
    pub fn commit(&mut self, attempt: u32) {
        let at = Duration::from_secs(self.history.entries.len() as u64);
        let outputs = BTreeMap::from([("model".to_owned(), "sha256:model".to_owned())]);
        let (run_uid, stage, key) = (UID.to_owned(), "train".to_owned(), format!("{}/COMMIT", prefix()));
        self.commits.push(Commit { run_uid, stage, key, attempt, at, outputs, ..Commit::default() });
    }
}

fn prefix() -> String {
    format!("n/trainingjobs/run.{UID}/train")
}

fn pod_name(attempt: u32, rank: u32) -> String {
    format!("run-worker-{rank}-a{attempt}-abcdefghij234567")
}

fn pod(attempt: u32, rank: u32, uid: &str) -> Value {
    let mut env: Vec<Value> = step(attempt, rank)
        .to_env()
        .unwrap()
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    env.push(json!({"name": step_protocol::paths::ENV_GANG_KEY, "value": "00ff"}));
    json!({
        "kind": "Pod",
        "metadata": {
            "name": pod_name(attempt, rank),
            "uid": uid,
            "ownerReferences": [{"uid": UID}],
            "annotations": {"trainyard.dev/spec-hash": "hash"},
            "labels": {
                "trainyard.dev/job-uid": UID, "trainyard.dev/attempt": attempt.to_string(),
                "trainyard.dev/rank": rank.to_string(),
            },
        },
        "spec": {"containers": [{"name": "stage", "env": env}]},
        "status": {},
    })
}

fn step(attempt: u32, rank: u32) -> StepSpec {
    StepSpec {
        version: step_protocol::VERSION,
        identity: Identity {
            namespace: "n".into(),
            pipeline: "trainingjobs".into(),
            run: "run".into(),
            run_uid: UID.into(),
            stage: "train".into(),
            attempt,
        },
        root: "/trainyard".into(),
        command: Vec::new(),
        script: None,
        working_dir: None,
        env: Vec::new(),
        params: Map::new(),
        store: StoreSpec { uri: "file:///store".into(), s3: None },
        prefix: prefix(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        results: Vec::new(),
        metrics: Vec::new(),
        timeout_seconds: None,
        grace_seconds: 30,
        report: None,
        rank: Some(RankSpec {
            framework: Framework::None,
            role: "worker".into(),
            index: rank,
            rank,
            world_size: RANKS,
            roles: vec![RoleSpec { name: "worker".into(), replicas: RANKS, processes_per_replica: 1 }],
            hosts: (0..RANKS).map(|rank| format!("worker-{rank}.run")).collect(),
            port: 29_500,
            gate_port: 29_499,
            processes_per_replica: 1,
            execution: attempt,
            start_timeout_seconds: 600,
            stall_timeout_seconds: None,
            elastic: None,
            rendezvous_id: format!("{UID}-{attempt}"),
            scatter: false,
        }),
        checkpoint: None,
        publish: None,
        ledger: None,
    }
}
