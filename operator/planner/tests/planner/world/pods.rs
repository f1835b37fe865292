//! How Pods move, and TrainingJobs.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::StageTraining;
use trainyard_planner::{
    Attempt, AttemptState, ChildJob, Class, Committed, CommittedOutput, Ended, Late, Verdict, Waiting,
};

use super::{Key, World};

/// How an attempt ends, if nobody stops it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It commits and says so; `early` before its container has ended.
    Succeeds { metric: f64, early: bool },
    /// It ends without a commit.
    Fails(Ended),
    /// Its Pod is gone in the middle.
    Vanishes,
    /// It commits, and its Pod is gone before it can say so.
    VanishesCommitted { metric: f64 },
    /// It never starts, which is hopeless after some time.
    NeverStarts(Verdict),
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Succeeds { metric: 1.0, early: false }
    }
}

impl Outcome {
    /// A program that ends with a code.
    pub fn exits(code: i32) -> Self {
        Self::Fails(Ended {
            exit_code: Some(code),
            last_lines: "Traceback (most recent call last)\nValueError: no rows\n".into(),
            ..Ended::failure(Class::User, "UserError", format!("the program ended with exit code {code}"))
        })
    }

    /// A failure by its class.
    pub fn fails(class: Class, reason: &str, message: &str) -> Self {
        Self::Fails(Ended::failure(class, reason, message))
    }

    /// An image that is not there.
    pub fn image_missing() -> Self {
        Self::NeverStarts(Verdict { after: SignedDuration::from_secs(90), reason: Reason::ImagePullFailed })
    }

    /// A container that the runtime cannot start.
    pub fn start_fails() -> Self {
        Self::NeverStarts(Verdict { after: SignedDuration::ZERO, reason: Reason::ContainerStartFailed })
    }
}

/// How far a Pod is.
#[derive(Clone, Debug, PartialEq)]
pub enum Life {
    Pending(Waiting),
    Running(Timestamp),
    Ended(Ended),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub created: Timestamp,
    pub deleting: bool,
    /// Whether its node does not answer any more.
    pub lost: bool,
    pub life: Life,
    /// Of a stage that trains: it is a TrainingJob.
    pub job: Option<Job>,
    outcome: Outcome,
}

/// What a TrainingJob has beside what a Pod has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Whether it is asked to have no Pods.
    pub suspend: bool,
    /// Whether its run has asked that.
    pub by_run: bool,
    /// Whether it has none.
    pub suspended: bool,
}

impl Pod {
    pub fn new(name: String, uid: String, created: Timestamp, outcome: Outcome) -> Self {
        let waiting = Waiting { reason: "Starting".into(), ..Waiting::default() };
        Self { name, uid, created, deleting: false, lost: false, life: Life::Pending(waiting), job: None, outcome }
    }

    /// The job of a stage that trains.
    pub fn training(self) -> Self {
        Self { job: Some(Job::default()), ..self }
    }

    pub fn is_live(&self) -> bool {
        !matches!(self.life, Life::Ended(_))
    }

    /// How far it is, in a word.
    pub fn word(&self) -> &'static str {
        match &self.life {
            Life::Pending(_) if self.job.is_some_and(|job| job.suspended) => "is suspended",
            Life::Pending(_) => "waits",
            Life::Running(_) => "runs",
            Life::Ended(ended) if ended.committed.is_some() => "has committed and ended",
            Life::Ended(_) => "has ended",
        }
    }

    pub fn attempt(&self, number: u32) -> Attempt {
        Attempt {
            number,
            pod: self.name.clone(),
            uid: self.uid.clone(),
            created: self.created,
            deleting: self.deleting,
            lost_node: self.lost.then(|| "node-7".to_owned()),
            state: match &self.life {
                Life::Pending(waiting) => AttemptState::Pending(waiting.clone()),
                Life::Running(since) => AttemptState::Running(*since),
                Life::Ended(ended) => AttemptState::Ended(ended.clone()),
            },
            child: self.job.map(|job| Box::new(self.child(job))),
        }
    }

    fn child(&self, job: Job) -> ChildJob {
        let running = matches!(self.life, Life::Running(_));
        let ready = if running { "2/2" } else { "0/2" }.to_owned();
        ChildJob {
            shown: StageTraining { job: self.name.clone(), attempt: Some(1), ready, ..StageTraining::default() },
            reason: String::new(),
            message: if running { "2/2 ranks run".into() } else { String::new() },
            suspend: job.suspend,
            by_run: job.by_run,
            suspended: job.suspended,
        }
    }
}

/// The end of an attempt that committed.
fn success(committed: Committed, end: Timestamp) -> Ended {
    Ended { committed: Some(committed), end: Some(end), ..Ended::failure(Class::User, "", "") }
}

fn disrupted() -> Ended {
    Ended::failure(Class::Infra, "Disrupted", "the Pod was asked to stop")
}

impl World {
    /// Whether a Pod can move by itself.
    pub fn can_move(&self, key: &Key) -> bool {
        self.pods.get(key).filter(|pod| !pod.lost).is_some_and(|pod| {
            let job = pod.job.filter(|_| pod.is_live()).unwrap_or_default();
            pod.deleting
                || job.suspend != job.suspended
                || match (&pod.life, &pod.outcome) {
                    _ if job.suspended => false,
                    (Life::Pending(waiting), Outcome::NeverStarts(verdict)) => waiting.verdict != Some(*verdict),
                    (Life::Pending(_) | Life::Running(_), _) => true,
                    (Life::Ended(_), _) => false,
                }
        })
    }

    /// A first attempt of a main stage that comes to its end next, and of which it is not said how.
    pub fn undecided(&self) -> Option<Key> {
        let undecided = |(key, pod): &(&Key, &Pod)| {
            let ends = matches!(pod.life, Life::Running(_)) && !pod.deleting && !self.commits.contains_key(&key.0);
            let main = self.spec.stages.iter().any(|stage| stage.name == key.0);
            ends && main && key.1 == 1 && !self.script.contains_key(*key)
        };
        if !self.late.is_empty() {
            return None;
        }
        self.pods.iter().find(undecided).map(|(key, _)| key.clone())
    }

    /// The world in which an attempt that has begun will end like this.
    pub fn decided(&self, key: &Key, outcome: Outcome) -> Self {
        let mut world = self.clone();
        world.pods.get_mut(key).unwrap().outcome = outcome.clone();
        world.script.insert(key.clone(), outcome);
        world
    }

    /// A Pod says why it has not started.
    pub fn waits(&mut self, stage: &str, attempt: u32, reason: &str, message: &str) {
        let key = (stage.to_owned(), attempt);
        let waiting = Waiting { reason: reason.to_owned(), message: message.to_owned(), ..Waiting::default() };
        self.pods.get_mut(&key).unwrap().life = Life::Pending(waiting);
        self.deliver(&key);
    }

    /// A Pod has not started, and what is to be said of that after 20 seconds.
    pub fn is_late(&mut self, stage: &str, attempt: u32, message: &str) {
        let key = (stage.to_owned(), attempt);
        let late = Late { after: SignedDuration::from_secs(20), message: message.to_owned() };
        let waiting = Waiting { reason: "Starting".into(), late: Some(late), ..Waiting::default() };
        self.pods.get_mut(&key).unwrap().life = Life::Pending(waiting);
        self.deliver(&key);
    }

    /// A Pod runs, since a moment by its node's clock. The operator does not know it yet.
    pub fn starts(&mut self, stage: &str, attempt: u32, since: Timestamp) {
        let key = (stage.to_owned(), attempt);
        self.pods.get_mut(&key).unwrap().life = Life::Running(since);
        self.late.insert(key);
    }

    /// The node of a Pod stops answering; Kubernetes sets the Pod's deletion, which nobody there hears of.
    pub fn lose_node(&mut self, stage: &str, attempt: u32) {
        let key = (stage.to_owned(), attempt);
        let pod = self.pods.get_mut(&key).unwrap();
        (pod.lost, pod.deleting) = (true, true);
        self.deliver(&key);
    }

    /// Somebody deletes a Pod by force, on a node that does not answer.
    pub fn delete_by_force(&mut self, stage: &str, attempt: u32) {
        let key = (stage.to_owned(), attempt);
        self.pods.remove(&key);
        self.deliver(&key);
    }

    /// A Pod moves one step. The operator does not know it yet.
    pub fn progress(&mut self, key: &Key) {
        if !self.can_move(key) {
            return;
        }
        let Some(mut pod) = self.pods.remove(key) else { return };
        self.late.insert(key.clone());
        let now = self.now;
        if pod.deleting {
            // Half of the Pods say how they ended before they go.
            if pod.is_live() && pod.uid.ends_with(['0', '2', '4', '6', '8']) {
                pod.life = Life::Ended(self.commits.get(&key.0).cloned().map_or_else(disrupted, |it| success(it, now)));
                self.pods.insert(key.clone(), pod);
            }
            return;
        }
        if let Some(job) = pod.job.filter(|job| pod.is_live() && job.suspend != job.suspended) {
            let reason = if job.suspend { Reason::Suspended } else { Reason::Starting };
            pod.job = Some(Job { suspended: job.suspend, ..job });
            pod.life = Life::Pending(Waiting { reason: reason.as_str().into(), ..Waiting::default() });
            self.pods.insert(key.clone(), pod);
            return;
        }
        if self.commits.contains_key(&key.0) && matches!(pod.life, Life::Running(_)) {
            // The runner finds the record, of an earlier attempt or its own, and runs nothing.
            pod.life = Life::Ended(success(self.commits[&key.0].clone(), now));
            self.pods.insert(key.clone(), pod);
            return;
        }
        match (&pod.life, pod.outcome.clone()) {
            (Life::Pending(_), Outcome::NeverStarts(verdict)) => {
                pod.life = Life::Pending(never(verdict));
            }
            (Life::Pending(_), _) => pod.life = Life::Running(now),
            (Life::Running(_), Outcome::Succeeds { metric, early }) => {
                let committed = self.commit(key, metric);
                let ended = success(committed, now);
                if early {
                    self.report(key, ended);
                } else {
                    pod.life = Life::Ended(ended);
                }
            }
            (Life::Running(_), Outcome::Fails(ended)) => {
                pod.life = Life::Ended(Ended { end: ended.end.or(Some(now)), ..ended });
            }
            (Life::Running(_), Outcome::VanishesCommitted { metric }) => {
                self.commit(key, metric);
                return;
            }
            (Life::Running(_), Outcome::Vanishes) => return,
            (Life::Running(_), Outcome::NeverStarts(_)) | (Life::Ended(_), _) => {}
        }
        self.pods.insert(key.clone(), pod);
    }

    /// Put if absent.
    fn commit(&mut self, key: &Key, metric: f64) -> Committed {
        let (stage, winner) = (key.0.as_str(), key.1);
        let declared = self.graph.nodes()[self.graph.position(stage).unwrap()].stage();
        let outputs = declared
            .outputs
            .iter()
            .map(|output| CommittedOutput { name: output.name.clone(), digest: format!("sha256:{stage}"), bytes: 100 })
            .collect();
        // A result named `large` does not fit the report, a metric named `silent` was not written.
        let results = declared.results.iter().filter(|result| result.name != "large");
        let results = results.map(|result| (result.name.clone(), Value::from(150))).collect();
        let metrics = declared.metrics.iter().filter(|name| *name != "silent");
        let metrics = metrics.map(|name| (name.clone(), Value::from(metric))).collect();
        self.commits.entry(stage.to_owned()).or_insert(Committed { winner, outputs, results, metrics }).clone()
    }

    /// An early report reaches the operator, if it knows of the attempt.
    fn report(&mut self, key: &Key, ended: Ended) {
        if let Some(attempt) = self.observed.attempt_mut(&key.0, key.1)
            && !matches!(attempt.state, AttemptState::Ended(_))
        {
            attempt.state = AttemptState::Ended(ended);
            self.due = true;
        }
    }

    /// Somebody deletes a Pod: one that has ended is gone at once.
    pub fn delete_pod(&mut self, key: &Key, precondition: impl Fn(&Pod) -> bool) {
        let Some(pod) = self.pods.get_mut(key).filter(|pod| precondition(pod)) else { return };
        pod.deleting = true;
        // The Pods of a job go after it, by themselves.
        let live = pod.is_live() && pod.job.is_none();
        if !live {
            self.pods.remove(key);
        }
        self.late.insert(key.clone());
    }
}

fn never(verdict: Verdict) -> Waiting {
    let (reason, message) = match verdict.reason {
        Reason::ImagePullFailed => (Reason::ImagePull, "image python:4 cannot be pulled: ErrImagePull: not found"),
        _ => (Reason::Starting, "the container could not be started: exec format error"),
    };
    Waiting { reason: reason.as_str().into(), message: message.into(), verdict: Some(verdict), late: None }
}
