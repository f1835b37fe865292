//! A Pipeline with its status and its runs, where the operator may stop after each of its writes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{
    Cause, ModelReference, PipelineSpec, PipelineStatus, Revision, RevisionPhase, RunPhase, TriggerStatus,
    UpstreamArtifact,
};
use trainyard_planner::retrain::{
    NewRun, Seen, SeenData, SeenRun, SeenUpstream, creates, decide, given, run_key, unsettled,
};

/// A spec with two stages and these fields more.
pub fn spec(more: Value) -> PipelineSpec {
    let mut spec = json!({
        "store": {"uri": "s3://bucket/prefix"},
        "params": [{"name": "rate", "type": "number", "default": 0.5}],
        "stages": [
            {"name": "prepare", "container": {"image": "python:3.13", "command": ["prepare"]}, "outputs": [{"name": "table"}]},
            {"name": "train", "container": {"image": "python:3.13", "command": ["train", "$(params.rate)"]},
             "inputs": [{"name": "table", "from": "prepare.table"}], "outputs": [{"name": "model", "type": "Model"}]},
        ],
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

/// Sets a rate that changes the result.
pub fn rate(spec: &mut PipelineSpec, rate: f64) {
    spec.params[0].default = Some(json!(rate));
}

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A run, as it is on the API server.
#[derive(Clone, Debug)]
pub struct Run {
    pub key: String,
    pub trigger: String,
    pub cause: Cause,
    pub params: BTreeMap<String, Value>,
    pub upstream: Option<UpstreamArtifact>,
    pub phase: RunPhase,
    pub reason: String,
    /// Whether it was accepted, and so did something.
    pub trained: bool,
    /// Versions that it promotes instead of training.
    pub promotes: Vec<ModelReference>,
}

pub struct World {
    pub spec: PipelineSpec,
    pub status: PipelineStatus,
    pub request: Option<String>,
    pub runnable: bool,
    pub now: Timestamp,
    pub runs: BTreeMap<String, Run>,
    /// What looks at data show, by trigger.
    pub data: BTreeMap<String, SeenData>,
    /// What has moved of other pipelines, by trigger.
    pub upstream: BTreeMap<String, SeenUpstream>,
    /// Names of runs that the API server refuses.
    pub refused: BTreeMap<String, String>,
    /// Names of every run that ever was accepted, with what it ran by.
    pub trained: Vec<(String, Cause)>,
    pub created: Vec<String>,
    pub cancelled: BTreeSet<String>,
    pub wake: Option<Timestamp>,
}

impl World {
    pub fn new(more: Value) -> Self {
        Self {
            spec: spec(more),
            status: PipelineStatus::default(),
            request: None,
            runnable: true,
            now: time("2026-03-01T00:00:00Z"),
            runs: BTreeMap::new(),
            data: BTreeMap::new(),
            upstream: BTreeMap::new(),
            refused: BTreeMap::new(),
            trained: Vec::new(),
            created: Vec::new(),
            cancelled: BTreeSet::new(),
            wake: None,
        }
    }

    fn seen(&self) -> BTreeMap<String, SeenRun> {
        let look = |name: &str| match self.runs.get(name) {
            None => self.refused.get(name).cloned().map_or(SeenRun::Missing, SeenRun::Refused),
            Some(run) => {
                let ours = self.status.revisions.iter().any(|entry| entry.run == name && entry.key == run.key);
                if ours {
                    SeenRun::Ours {
                        phase: run.phase,
                        reason: run.reason.clone(),
                        message: String::new(),
                        completed: Some(self.now),
                    }
                } else {
                    SeenRun::Foreign
                }
            }
        };
        unsettled(&self.status.revisions).map(|name| (name.to_owned(), look(name))).collect()
    }

    /// Decides and writes the status. Returns whether it changed.
    pub fn write(&mut self) -> bool {
        let runs = self.seen();
        let decision = decide(&Seen {
            name: "iris",
            spec: &self.spec,
            status: &self.status,
            request: self.request.as_deref(),
            runnable: self.runnable,
            runs: &runs,
            data: &self.data,
            upstream: &self.upstream,
            now: self.now,
        });
        let before = self.status.clone();
        self.status.triggers = decision.triggers;
        self.status.revisions = decision.revisions;
        self.status.rerun_requested_at = decision.request;
        self.wake = decision.wake;
        self.cancelled.extend(decision.cancel);
        before != self.status
    }

    pub fn to_create(&self) -> Vec<NewRun> {
        creates(&self.spec, &self.status.revisions, &self.seen())
    }

    /// Creates a run, unless there is one of its name.
    pub fn create(&mut self, new: NewRun) {
        if self.runs.contains_key(&new.name) {
            return;
        }
        self.created.push(new.name.clone());
        let run = Run {
            key: new.key,
            trigger: new.trigger,
            cause: new.cause,
            params: new.params,
            upstream: new.upstream,
            phase: RunPhase::Pending,
            reason: String::new(),
            trained: false,
            promotes: new.promotes,
        };
        self.runs.insert(new.name, run);
    }

    /// The runs' controller accepts new runs, if the pipeline is as it was when they were meant.
    pub fn accept(&mut self) {
        for (name, run) in &mut self.runs {
            if run.phase != RunPhase::Pending {
                continue;
            }
            let told = !run.promotes.is_empty()
                || given(&self.spec, &run.trigger, &run.cause, run.upstream.as_ref()) == run.params;
            if told && run_key(&self.spec, &run.trigger, &run.cause) == run.key {
                run.phase = RunPhase::Running;
                if run.promotes.is_empty() {
                    run.trained = true;
                    self.trained.push((name.clone(), run.cause.clone()));
                }
            } else {
                (run.phase, run.reason) = (RunPhase::Cancelled, "Superseded".into());
            }
        }
    }

    /// All that can be done without an outcome.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            let changed = self.write();
            let new = self.to_create();
            let quiet = !changed && new.is_empty();
            new.into_iter().for_each(|new| self.create(new));
            self.accept();
            if quiet {
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.status);
    }

    /// Ends every active run.
    pub fn end(&mut self, phase: RunPhase) {
        for run in self.runs.values_mut().filter(|run| !run.phase.is_terminal()) {
            run.phase = phase;
        }
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn trigger(&self, name: &str) -> &TriggerStatus {
        self.status.triggers.iter().find(|trigger| trigger.name == name).unwrap()
    }

    /// Phases of the ledger's entries, the newest first.
    pub fn phases(&self) -> Vec<RevisionPhase> {
        self.status.revisions.iter().map(|entry| entry.phase).collect()
    }

    pub fn newest(&self) -> &Revision {
        &self.status.revisions[0]
    }
}
