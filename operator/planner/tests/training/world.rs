//! The world: one job, its Pods, and the operator's memory of them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use step_protocol::StepSpec;
use trainyard_crds::v1alpha1::{JobPhase, ResolvedJob, TrainingJobSpec, TrainingJobStatus};
use trainyard_planner::training::{Job, JobAction, JobPlan, JobRun, Origin, RankPod, Ranks, initial, plan, rank_spec};
use trainyard_planner::{Attempt, AttemptState, Class, Committed, Ended, StepContext, Waiting};

pub const UID: &str = "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11";

/// A Pod as the API server has it.
#[derive(Clone, Debug)]
pub struct SimPod {
    pub uid: String,
    pub state: AttemptState,
    pub created: Timestamp,
    pub due: Option<Timestamp>,
    pub lost_node: Option<String>,
    /// A queue keeps its object.
    pub held: bool,
}

impl SimPod {
    /// The scheduler has found a node for it, and no queue holds it back.
    fn is_bound(&self) -> bool {
        !matches!(&self.state, AttemptState::Pending(waiting) if matches!(waiting.reason.as_str(), "Queued" | "Unschedulable"))
    }

    /// As the API server and the kubelet have it: one that is being deleted without a node never gets one.
    fn is_alive(&self) -> bool {
        let over = !self.is_bound() || matches!(self.state, AttemptState::Ended(_));
        !(self.due.is_some() && self.held && over)
    }
}

/// Where the operator dies: at its nth request, before or after what it does.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    pub request: usize,
    pub after: bool,
}

pub struct World {
    pub job: Job,
    pub status: TrainingJobStatus,
    pub suspend: bool,
    pub elastic: Option<trainyard_crds::v1alpha1::Elastic>,
    pub pods: BTreeMap<(u32, u32), SimPod>,
    pub ranks: Ranks,
    pub now: Timestamp,
    /// What was asked of the API server, a line a request.
    pub journal: Vec<String>,
    pub events: Vec<String>,
    pub requests: usize,
    pub crash: Option<Crash>,
    /// Pods are held by a queue's finalizer.
    pub queue: bool,
    pub origin: Origin,
    next: usize,
}

/// The operator died.
pub struct Died;

impl World {
    pub fn new(spec: &str) -> Self {
        let spec: TrainingJobSpec = serde_saphyr::from_str(spec).unwrap();
        let job = Job::new(&spec, None).unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        Self {
            status: initial(ResolvedJob::default(), 1, now),
            suspend: spec.suspend.unwrap_or(false),
            elastic: spec.training.elastic,
            job,
            pods: BTreeMap::new(),
            ranks: Ranks::default(),
            now,
            journal: Vec::new(),
            events: Vec::new(),
            requests: 0,
            crash: None,
            queue: false,
            origin: Origin::alone("iris", UID),
            next: 0,
        }
    }

    /// A job of so many ranks of one role.
    pub fn of(replicas: u32, more: &str) -> Self {
        Self::new(&format!(
            "{{framework: None, store: {{uri: 's3://b'}}, roles: [{{name: worker, replicas: {replicas}, container: {{image: i, command: [c]}}}}]{}{more}}}",
            if more.is_empty() { "" } else { ", " }
        ))
    }

    pub fn plan(&self) -> JobPlan {
        plan(&self.job, &self.run(), &self.ranks, self.now)
    }

    /// What a rank of the first attempt is told to do.
    pub fn step(&self, ranks: u32, rank: u32) -> StepSpec {
        let context = StepContext { report_url: None, default_timeout: None };
        rank_spec(&self.job, &self.run(), ranks, 1, rank, context).unwrap()
    }

    fn run(&self) -> JobRun<'_> {
        JobRun {
            namespace: "team",
            name: "iris",
            uid: UID,
            generation: 1,
            suspend: self.suspend,
            elastic: self.elastic,
            origin: &self.origin,
            attempts_before: 0,
            status: &self.status,
        }
    }

    pub fn phase(&self) -> JobPhase {
        self.status.phase.unwrap()
    }

    pub fn attempt(&self) -> u32 {
        self.status.attempt.unwrap_or(0)
    }

    pub fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    // What Pods do.

    fn pod_mut(&mut self, rank: u32) -> &mut SimPod {
        let attempt = self.attempt();
        self.pods.get_mut(&(attempt, rank)).unwrap()
    }

    pub fn start(&mut self, rank: u32) {
        let now = self.now;
        self.pod_mut(rank).state = AttemptState::Running(now);
        self.show();
    }

    pub fn start_all(&mut self) {
        for rank in 0..self.status.ranks.unwrap() {
            self.start(rank);
        }
    }

    pub fn wait(&mut self, rank: u32, reason: &str) {
        let waiting = Waiting { reason: reason.into(), message: format!("{reason} of {rank}"), ..Waiting::default() };
        self.pod_mut(rank).state = AttemptState::Pending(waiting);
        self.show();
    }

    pub fn commit(&mut self, rank: u32) {
        let committed = Some(Committed { winner: self.attempt(), ..Committed::default() });
        let ended = Ended { committed, end: Some(self.now), ..Ended::failure(Class::User, "", "") };
        self.pod_mut(rank).state = AttemptState::Ended(ended);
        self.show();
    }

    pub fn fail(&mut self, rank: u32, class: Class, reason: &str, code: Option<i32>) {
        let ended = Ended {
            exit_code: code,
            last_lines: "the end".into(),
            end: Some(self.now),
            ..Ended::failure(class, reason, "it failed")
        };
        self.pod_mut(rank).state = AttemptState::Ended(ended);
        self.show();
    }

    /// A user deletes a Pod, which then ends in its own time.
    pub fn delete(&mut self, rank: u32) {
        let due = self.now + SignedDuration::from_secs(45);
        self.pod_mut(rank).due = Some(due);
        self.show();
    }

    /// A Pod is gone without a word.
    pub fn vanish(&mut self, rank: u32) {
        let attempt = self.attempt();
        self.pods.remove(&(attempt, rank)).unwrap();
        self.ranks.remove(attempt, rank);
    }

    pub fn lose_node(&mut self, rank: u32) {
        self.pod_mut(rank).lost_node = Some("node-1".into());
        self.show();
    }

    /// Pods that are being deleted go, but for those on a lost node.
    pub fn kubelet(&mut self) {
        let gone: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.due.is_some() && pod.lost_node.is_none())
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            let pod = self.pods.remove(&key).unwrap();
            let seen = self.seen(key, &pod);
            self.ranks.bury(seen);
        }
    }

    fn seen(&self, (attempt, rank): (u32, u32), pod: &SimPod) -> RankPod {
        RankPod {
            rank,
            attempt: Attempt {
                number: attempt,
                pod: format!("iris-worker-{rank}-a{attempt}"),
                uid: pod.uid.clone(),
                created: pod.created,
                deleting: pod.due.is_some(),
                lost_node: pod.lost_node.clone(),
                state: pod.state.clone(),
                child: None,
            },
            bound: pod.is_bound(),
            held: pod.held,
            due: pod.due,
            disruption: None,
        }
    }

    /// The watch shows every Pod as it is.
    pub fn show(&mut self) {
        let seen: Vec<RankPod> = self.pods.iter().map(|(key, pod)| self.seen(*key, pod)).collect();
        for pod in seen {
            self.ranks.insert(pod);
        }
    }

    // What the operator does.

    fn request(&mut self, line: String, effect: impl FnOnce(&mut Self)) -> Result<(), Died> {
        let number = self.requests;
        self.requests += 1;
        let crash = self.crash.filter(|crash| crash.request == number);
        if crash.is_some_and(|crash| !crash.after) {
            return Err(Died);
        }
        self.journal.push(line);
        effect(self);
        if crash.is_some() { Err(Died) } else { Ok(()) }
    }

    /// One look at the job. Returns whether something was done.
    pub fn look(&mut self) -> Result<bool, Died> {
        let plan = self.plan();
        let mut stands = true;
        for action in &plan.actions {
            match action.clone() {
                JobAction::Service => self.request("service".into(), |world| world.ranks.has_service())?,
                JobAction::Launch { attempt, rank } => {
                    stands = false;
                    self.check_launch(attempt, rank);
                    self.request(format!("create {attempt}/{rank}"), |world| world.create(attempt, rank))?;
                }
                JobAction::Stop { attempt, rank, uid, .. } => {
                    self.check_stop(attempt);
                    let known = self.pods.get(&(attempt, rank)).is_some_and(|pod| pod.uid == uid);
                    self.request(format!("delete {attempt}/{rank}"), |world| {
                        if known {
                            let due = world.now + SignedDuration::from_secs(45);
                            world.pods.get_mut(&(attempt, rank)).unwrap().due = Some(due);
                            world.show();
                        }
                    })?;
                }
                JobAction::Look { attempt, ranks } => {
                    stands = false;
                    self.request(format!("look {attempt}"), |world| world.live(attempt, ranks))?;
                }
                JobAction::Clear { attempt, fenced, .. } => {
                    stands = false;
                    self.request(format!("clear {attempt}"), |world| {
                        world.show();
                        let gone = |(key, pod): (&(u32, u32), &SimPod)| {
                            key.0 > attempt || fenced.contains(&pod.uid) || !pod.is_alive()
                        };
                        if world.pods.iter().all(gone) {
                            world.ranks.clear(attempt);
                        }
                    })?;
                }
                JobAction::Emit(_) => {}
            }
        }
        if !stands {
            return Ok(true);
        }
        if plan.status == self.status {
            return Ok(false);
        }
        self.check_status(&plan.status);
        let begun = plan.status.attempt != self.status.attempt;
        for action in &plan.actions {
            if let JobAction::Emit(note) = action {
                self.events.push(format!("{}: {}", note.reason, note.message));
            }
        }
        let status = plan.status;
        self.request(format!("status {}", status.phase.unwrap().as_str()), |world| world.status = status)?;
        if begun {
            let attempt = self.attempt();
            self.ranks.know(attempt);
        }
        Ok(true)
    }

    fn create(&mut self, attempt: u32, rank: u32) {
        self.next += 1;
        let (uid, created) = (format!("pod-{}", self.next), self.now);
        self.pods.entry((attempt, rank)).or_insert(SimPod {
            uid,
            state: AttemptState::Pending(Waiting::default()),
            created,
            due: None,
            lost_node: None,
            held: self.queue,
        });
        self.show();
    }

    fn live(&mut self, attempt: u32, ranks: u32) {
        self.show();
        for rank in 0..ranks {
            let missing = !self.pods.contains_key(&(attempt, rank));
            if missing
                && self.ranks.pod(attempt, rank).is_none()
                && self.ranks.had_pod(attempt, rank, self.status.launched)
            {
                self.ranks.confirm_gone(attempt, rank);
            }
        }
        self.ranks.know(attempt);
    }

    /// Until there is nothing more to do now. An operator that dies begins again with what a listing shows.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            match self.look() {
                Ok(true) => {}
                Ok(false) => return,
                Err(Died) => self.begin_again(),
            }
        }
        unreachable!("the planner does not come to rest: {:?}", self.journal);
    }

    /// A new process of the operator: it knows what a listing shows.
    pub fn begin_again(&mut self) {
        self.crash = None;
        self.ranks = Ranks::default();
        self.show();
    }

    // What must hold at every request.

    fn check_launch(&self, attempt: u32, rank: u32) {
        assert_eq!(self.status.attempt, Some(attempt), "the attempt is on record before any Pod of it");
        assert!(self.status.attempts.iter().all(|ended| ended.number != attempt), "an ended attempt gets no Pods");
        for ((number, other), pod) in &self.pods {
            let fenced = pod.lost_node.is_some() && pod.due.is_some_and(|due| due <= self.now);
            assert!(
                *number >= attempt || fenced || !pod.is_alive(),
                "rank {other} of attempt {number} is alive as {attempt}/{rank} is created"
            );
        }
        assert!(!self.status.launched, "no rank is replaced alone");
        assert!(!self.suspend, "a suspended job gets no Pods");
        assert!(!self.phase().is_terminal(), "an ended job gets no Pods");
    }

    fn check_stop(&self, attempt: u32) {
        let on_record = self.status.attempts.iter().any(|ended| ended.number == attempt);
        assert!(
            on_record || self.status.attempt != Some(attempt),
            "the end of attempt {attempt} is on record before its Pods are deleted"
        );
    }

    fn check_status(&self, after: &TrainingJobStatus) {
        assert!(!self.phase().is_terminal(), "a terminal status never changes");
        assert!(self.condition("Reconciling"), "kstatus would take it for done");
        assert!(after.attempt >= self.status.attempt, "attempts only grow");
        assert!(after.restarts >= self.status.restarts && after.restarts <= self.status.restarts + 1);
        let ended = |status: &TrainingJobStatus| status.attempts.iter().map(|ended| ended.number).collect::<Vec<_>>();
        let (old, new) = (ended(&self.status), ended(after));
        assert!(new.windows(2).all(|pair| pair[0] < pair[1]), "each attempt ends once: {new:?}");
        assert!(new.len() <= 10 && (new.len() >= old.len() || new.len() == 10));
    }

    /// Every condition by its type, `True` or `False`.
    pub fn condition(&self, kind: &str) -> bool {
        self.status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
    }
}
