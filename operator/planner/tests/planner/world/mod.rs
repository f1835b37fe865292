//! A world of one run, as the operator meets it.
//!
//! What the operator owes to the planner is written here as code. Effects happen in the order of the plan, then the status is
//! written. A Pod is created by its name, so a repeated create meets itself. What the operator did itself it knows at once; what
//! others did it learns late, per Pod in order, between Pods in any order. A crash loses all that it knows but the persisted status
//! and what the API server lists. It plans again after every write and every event, and at `requeue_at`: never for no reason.

mod checks;
mod memory;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use trainyard_crds::condition::Reason;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{
    ApprovalDecision, PipelineRunStatus, PipelineSpec, Resolved, RunPhase, RunState, StageStatus, Verdict,
};
use trainyard_planner::{
    Action, Attempt, AttemptState, Blocked, Class, Committed, Ended, Graph, Note, Observed, Plan, Run, initial, plan,
};

pub use pods::{Outcome, Pod};

/// When every world begins.
pub const BEGIN: Timestamp = Timestamp::constant(1_767_225_600, 0);
/// Plans in a row without anything from outside: more means that the planner never comes to rest.
const RESTLESS: usize = 12;

/// A stage's name and the number of an attempt.
pub type Key = (String, u32);

/// Why the API server does not create a stage's Pod.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The namespace's quota has no room, for so long.
    Quota(SignedDuration),
    /// A foreign Pod has the name.
    Conflict,
    /// It refuses the Pod itself.
    Rejected,
}

#[derive(Clone)]
pub struct World {
    pub spec: Rc<PipelineSpec>,
    pub graph: Rc<Graph>,
    pub params: Map<String, Value>,
    pub state: RunState,
    pub suspend: bool,
    /// What people have said of approvals.
    pub approvals: BTreeMap<String, ApprovalDecision>,
    /// Champions of the pipeline's models, in the API server.
    pub champions: trainyard_planner::Champions,
    /// Whether the operator has read them.
    pub(crate) champions_read: bool,
    pub generation: i64,
    pub now: Timestamp,
    /// The status in the API server.
    pub status: PipelineRunStatus,
    /// The Pods in the API server.
    pub pods: BTreeMap<Key, Pod>,
    /// The commit records in the store.
    pub commits: BTreeMap<String, Committed>,
    /// How attempts end that do not simply succeed.
    pub script: BTreeMap<Key, Outcome>,
    pub refusals: BTreeMap<String, Refusal>,
    /// What the operator knows of the Pods.
    pub observed: Observed,
    /// What else is a part of that: Pods that were not there when it asked, those that it saw and that are not shown any more, and
    /// stages for which there is no room.
    gone: BTreeSet<Key>,
    lost: BTreeMap<String, u32>,
    blocked: BTreeMap<String, Blocked>,
    /// Pods of which the operator does not know the last.
    late: BTreeSet<Key>,
    /// Whether there is a reason to plan.
    due: bool,
    requeue_at: Option<Timestamp>,
    /// Events that people saw.
    pub notes: Vec<Note>,
    /// Actions since they were last asked for, as text.
    pub done: Vec<String>,
    /// Effects so far: creates, deletes, live reads and status writes.
    pub effects: usize,
    /// The operator crashes before the effect of this number.
    pub crash_before: Option<usize>,
    /// What would have become of the world had the operator crashed, for each effect; where that is wanted.
    pub forks: Option<Vec<World>>,
    /// The next write of the status meets a conflict, or is put off.
    pub fail_write: bool,
    /// Stages that must end as skipped, since others were started because of that.
    skipped: BTreeSet<String>,
    uids: u32,
}

impl World {
    /// A run that was just accepted.
    pub fn new(spec: PipelineSpec) -> Self {
        Self::rerun(spec, Vec::new())
    }

    /// A run that takes rows over.
    pub fn rerun(spec: PipelineSpec, taken_over: Vec<Option<StageStatus>>) -> Self {
        let graph = Graph::new(&spec, None).unwrap_or_else(|problem| panic!("{problem}"));
        Self::of(Rc::new(spec), Rc::new(graph), taken_over)
    }

    /// The same run with the same script, from its beginning.
    pub fn again(&self) -> Self {
        Self { script: self.script.clone(), ..Self::of(Rc::clone(&self.spec), Rc::clone(&self.graph), Vec::new()) }
    }

    fn of(spec: Rc<PipelineSpec>, graph: Rc<Graph>, taken_over: Vec<Option<StageStatus>>) -> Self {
        let params = trainyard_planner::resolve_params(&spec.params, &BTreeMap::new()).unwrap();
        let status = initial(&graph, "iris", "iris-rev", Resolved::default(), taken_over, BEGIN);
        Self {
            spec,
            graph,
            params,
            state: RunState::Active,
            suspend: false,
            approvals: BTreeMap::new(),
            champions: trainyard_planner::Champions::new(),
            champions_read: false,
            generation: 1,
            now: BEGIN,
            status,
            pods: BTreeMap::new(),
            commits: BTreeMap::new(),
            script: BTreeMap::new(),
            refusals: BTreeMap::new(),
            observed: Observed::default(),
            gone: BTreeSet::new(),
            lost: BTreeMap::new(),
            blocked: BTreeMap::new(),
            late: BTreeSet::new(),
            due: true,
            requeue_at: None,
            notes: Vec::new(),
            done: Vec::new(),
            effects: 0,
            crash_before: None,
            forks: None,
            fail_write: false,
            skipped: BTreeSet::new(),
            uids: 0,
        }
    }

    pub fn run(&self) -> Run<'_> {
        Run {
            namespace: "team",
            name: "iris-1",
            uid: "run-uid",
            pipeline: "iris",
            generation: self.generation,
            params: &self.params,
            state: self.state,
            suspend: self.suspend,
            approvals: &self.approvals,
            origin: None,
            status: &self.status,
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.graph, &self.run(), &self.observed, self.now)
    }

    pub fn ended(&self) -> bool {
        self.status.phase.is_some_and(RunPhase::is_terminal)
    }

    pub fn row(&self, stage: &str) -> &StageStatus {
        &self.status.stages[self.graph.position(stage).unwrap()]
    }

    fn name(&self, node: usize) -> String {
        self.graph.nodes()[node].name().to_owned()
    }

    // What people do.

    pub fn set_state(&mut self, state: RunState) {
        if self.state != RunState::Terminated && state != self.state {
            self.state = state;
            self.edited();
        }
    }

    pub fn set_suspend(&mut self, suspend: bool) {
        if self.suspend != suspend {
            self.suspend = suspend;
            self.edited();
        }
    }

    /// Somebody decides on an approval. It cannot be taken back.
    pub fn decide(&mut self, stage: &str, decision: Verdict) {
        let decision = ApprovalDecision { decision, by: "ada".into(), comment: None };
        self.approvals.entry(stage.to_owned()).or_insert(decision);
        self.edited();
    }

    fn edited(&mut self) {
        self.generation += 1;
        self.due = true;
    }

    // What the operator does.

    /// Whether the operator has a reason to plan.
    pub fn is_awake(&self) -> bool {
        self.due || self.requeue_at.is_some_and(|at| at <= self.now)
    }

    pub fn requeue_at(&self) -> Option<Timestamp> {
        self.requeue_at
    }

    /// Plans and acts until there is no reason to, then makes sure that planning for no reason would do nothing.
    pub fn settle(&mut self) {
        let (mut plans, mut idle) = (0, false);
        while self.is_awake() {
            plans += 1;
            assert!(plans <= RESTLESS + self.graph.nodes().len(), "the planner never rests: {:?}", self.plan());
            idle = self.reconcile();
        }
        if idle {
            // It would plan the same again.
            return;
        }
        let plan = self.plan();
        assert!(plan.actions.is_empty(), "planned for no reason, it acts: {:?}", plan.actions);
        assert!(!plan.changes(&self.status), "planned for no reason, it changes the status: {plan:?}");
    }

    /// One reconcile: plan, act, write. Returns whether there was nothing to do.
    pub fn reconcile(&mut self) -> bool {
        self.due = false;
        let plan = self.plan();
        let idle = plan.actions.is_empty() && !plan.changes(&self.status);
        self.assert_forgets(&plan);
        self.requeue_at = plan.requeue_at;
        let mut notes = Vec::new();
        let mut stands = true;
        for action in &plan.actions {
            if let Action::Emit(note) = action {
                notes.push(note.clone());
                continue;
            }
            if self.crashes() {
                return false;
            }
            match action {
                Action::Launch { node, attempt } => stands &= self.create(*node, *attempt),
                Action::Stop { node, attempt, pod, uid } => self.delete(*node, *attempt, pod, uid),
                Action::Suspend { node, attempt, job, uid, suspend } => {
                    self.suspend_job(*node, *attempt, (job, uid), *suspend);
                }
                Action::Confirm { node, attempt, .. } => {
                    self.confirm(*node, *attempt);
                    stands = false;
                }
                Action::ReadChampions => {
                    assert!(!self.champions_read, "it asks for what it knows");
                    self.observed.set_champions(self.champions.clone());
                    self.champions_read = true;
                    stands = false;
                }
                Action::Emit(_) => {}
            }
        }
        if !stands || std::mem::take(&mut self.fail_write) {
            // Nothing of this plan is written; the next one knows of the refusal, or of what was read.
            self.due = true;
            return false;
        }
        if plan.changes(&self.status) {
            if self.crashes() {
                return false;
            }
            let status = plan.status(&self.status);
            self.check_write(&status);
            self.status = status;
            self.due = true;
            self.observed.forget_champions();
            self.champions_read = false;
        }
        for note in notes {
            self.done.push(format!("event {:?} {}: {}", note.kind, note.reason, note.message));
            self.notes.push(note);
        }
        idle
    }

    fn crashes(&mut self) -> bool {
        if let Some(mut forks) = self.forks.take() {
            let mut fork = self.clone();
            fork.crash();
            forks.push(fork);
            self.forks = Some(forks);
        }
        let crash = self.crash_before == Some(self.effects);
        self.effects += 1;
        if crash {
            self.crash_before = None;
            self.crash();
        }
        crash
    }

    /// The operator dies and starts again: early reports are forgotten, refusals too, and all Pods are listed.
    pub fn crash(&mut self) {
        self.observed = Observed::default();
        self.champions_read = false;
        self.gone.clear();
        self.lost.clear();
        self.blocked.clear();
        self.late.clear();
        for (key, pod) in &self.pods {
            self.observed.insert(&key.0, pod.attempt(key.1));
        }
        self.requeue_at = None;
        self.due = true;
    }

    /// Returns whether it was created, or was there.
    fn create(&mut self, node: usize, attempt: u32) -> bool {
        let stage = self.name(node);
        let key = (stage.clone(), attempt);
        let trains = self.graph.nodes()[node].trains();
        let name = if trains { names::job } else { names::pod }("iris-1", "run-uid", &stage, attempt);
        match self.refusals.get(&stage) {
            Some(Refusal::Quota(wait)) => {
                let message = "exceeded quota: gpus, requested: 1, used: 8, limited: 8".to_owned();
                let reason = Reason::QuotaExceeded.as_str().to_owned();
                let until = self.now.saturating_add(*wait).unwrap();
                let blocked = Blocked { reason, message, until };
                self.blocked.insert(stage.clone(), blocked.clone());
                self.observed.block(&stage, blocked);
                self.done.push(format!("refused {stage} a{attempt}: quota"));
                return false;
            }
            Some(refusal) => {
                let (reason, message) = match refusal {
                    Refusal::Conflict => {
                        (Reason::NameConflict, format!("Pod {name} exists and belongs to another owner"))
                    }
                    _ => (
                        Reason::PodRejected,
                        "the API server refused the Pod: spec.containers[0].image: Invalid value".to_owned(),
                    ),
                };
                self.done.push(format!("refused {stage} a{attempt}: {reason}"));
                let ended = Ended::failure(Class::Fatal, reason.as_str(), message);
                let (pod, uid, created) = (name, String::new(), self.now);
                let state = AttemptState::Ended(ended);
                let (number, deleting, lost_node, child) = (attempt, false, None, None);
                let attempt = Attempt { number, pod, uid, created, deleting, lost_node, state, child };
                self.learn(&stage, attempt);
                return false;
            }
            None => {}
        }
        if !self.pods.contains_key(&key) {
            self.check_create(node, attempt);
            self.uids += 1;
            let outcome = self.script.get(&key).cloned().unwrap_or_default();
            let pod = Pod::new(name, format!("pod-{}", self.uids), self.now, outcome);
            let pod = if trains { pod.training() } else { pod };
            self.pods.insert(key.clone(), pod);
        }
        self.done.push(format!("create {stage} a{attempt}"));
        self.deliver(&key);
        true
    }

    fn delete(&mut self, node: usize, attempt: u32, name: &str, uid: &str) {
        let key = (self.name(node), attempt);
        self.done.push(format!("delete {} a{attempt}", key.0));
        self.delete_pod(&key, |pod| pod.name == name && pod.uid == uid);
        self.deliver(&key);
    }

    fn suspend_job(&mut self, node: usize, attempt: u32, (name, uid): (&str, &str), suspend: bool) {
        let key = (self.name(node), attempt);
        let what = if suspend { "suspend" } else { "resume" };
        self.done.push(format!("{what} {} a{attempt}", key.0));
        if let Some(pod) = self.pods.get_mut(&key).filter(|pod| pod.name == name && pod.uid == uid) {
            let job = pod.job.as_mut().unwrap();
            (job.suspend, job.by_run) = (suspend, suspend);
        }
        self.deliver(&key);
    }

    fn confirm(&mut self, node: usize, attempt: u32) {
        let key = (self.name(node), attempt);
        let found = self.pods.get(&key);
        self.done.push(format!("confirm {} a{attempt}: {}", key.0, if found.is_some() { "there" } else { "gone" }));
        match found {
            Some(pod) => {
                let attempt = pod.attempt(attempt);
                self.learn(&key.0, attempt);
            }
            None => {
                self.observed.confirm_gone(&key.0, attempt);
                self.gone.insert(key.clone());
            }
        }
        self.late.remove(&key);
        self.due = true;
    }

    // What happens by itself.

    /// Pods whose last change the operator has not seen.
    pub fn late(&self) -> Vec<Key> {
        self.late.iter().cloned().collect()
    }

    /// The operator sees the last of a Pod.
    pub fn deliver(&mut self, key: &Key) {
        self.late.remove(key);
        let known = self.observed.attempt(&key.0, key.1);
        match self.pods.get(key) {
            Some(pod) => {
                let mut attempt = pod.attempt(key.1);
                // A success that was reported early stays one: the kubelet says the same later.
                if let Some(known) = known
                    && known.uid == attempt.uid
                    && matches!(&known.state, AttemptState::Ended(ended) if ended.committed.is_some())
                {
                    attempt.state = known.state.clone();
                }
                self.learn(&key.0, attempt);
            }
            None if known.is_some_and(|known| matches!(known.state, AttemptState::Ended(_))) => {}
            None => {
                self.observed.remove(&key.0, key.1);
                let lost = self.lost.entry(key.0.clone()).or_default();
                *lost = key.1.max(*lost);
            }
        }
        self.due = true;
    }

    /// Everything moves one step: the operator acts, hears, Pods move on, or time passes. Returns whether anything did.
    pub fn tick(&mut self) -> bool {
        self.settle();
        self.advance()
    }

    /// The operator has done what there was to do, and something else happens, if anything can.
    pub fn advance(&mut self) -> bool {
        let late = self.late();
        if !late.is_empty() {
            late.iter().for_each(|key| self.deliver(key));
            return true;
        }
        let moving: Vec<Key> = self.pods.keys().filter(|key| self.can_move(key)).cloned().collect();
        if !moving.is_empty() {
            self.now = self.now.saturating_add(SignedDuration::from_secs(1)).unwrap();
            moving.iter().for_each(|key| self.progress(key));
            return true;
        }
        let Some(at) = self.requeue_at else { return false };
        self.now = at.max(self.now);
        true
    }

    /// Lets everything go on until the run has ended and its Pods have come to rest.
    pub fn finish(&mut self) {
        let mut ticks = 0;
        while self.tick() {
            ticks += 1;
            assert!(ticks < 2_000, "the run does not end: {:?}", self.status);
        }
        assert!(self.ended(), "the run is stuck: {:?}", self.status);
    }
}
