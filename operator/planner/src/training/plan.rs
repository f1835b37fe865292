//! [`plan`]: one look at a job.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{AttemptOutcome, AttemptStatus, Elastic, JobPhase, TrainingJobStatus};

use super::job::{Job, Origin};
use super::observed::{RankPod, Ranks};
use super::{completion, restart, status};
use crate::observed::AttemptState;
use crate::schedule::{Note, NoteKind};

/// A job as it stands: its identity, what its user wants, and the status that was written last.
#[derive(Clone, Copy, Debug)]
pub struct JobRun<'a> {
    /// Namespace of the job.
    pub namespace: &'a str,
    /// Name of the job.
    pub name: &'a str,
    /// UID of the job.
    pub uid: &'a str,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.elastic`.
    pub elastic: Option<Elastic>,
    /// Whose work it does.
    pub origin: &'a Origin,
    /// The number before that of the first attempt.
    pub attempts_before: u32,
    /// The status that was written last: see [`super::initial`].
    pub status: &'a TrainingJobStatus,
}

/// What to do. All of it may be done again without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum JobAction {
    /// Create the Service in which the ranks have their host names.
    Service,
    /// Create the Pod of this rank.
    Launch {
        /// Number of the attempt.
        attempt: u32,
        /// Place among all ranks.
        rank: u32,
    },
    /// Delete this Pod, with its UID as precondition.
    Stop {
        /// Number of the attempt.
        attempt: u32,
        /// Place among all ranks.
        rank: u32,
        /// Name of the Pod.
        pod: String,
        /// UID of the Pod.
        uid: String,
    },
    /// Ask the API server itself what there is of an attempt's Pods, and plan again.
    Look {
        /// Number of the attempt.
        attempt: u32,
        /// How many ranks it has.
        ranks: u32,
    },
    /// Ask the API server itself whether Pods of this attempt or an earlier one are left, and plan again.
    Clear {
        /// Number of the attempt.
        attempt: u32,
        /// How many ranks it had.
        ranks: u32,
        /// UIDs of Pods that count as gone although they are there: their node does not answer, and their time is over.
        fenced: Vec<String>,
    },
    /// Tell people, once the status is written.
    Emit(Note),
}

/// What follows from a job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPlan {
    /// What to do, in this order.
    pub actions: Vec<JobAction>,
    /// The whole status after it.
    pub status: TrainingJobStatus,
    /// When to plan again even if nothing happens.
    pub requeue_at: Option<Timestamp>,
}

impl JobPlan {
    /// Whether the two statuses differ in nothing but what the training says of itself while it runs.
    #[must_use]
    pub fn is_only_progress(&self, prior: &TrainingJobStatus) -> bool {
        let TrainingJobStatus { progress, eta, metrics, checkpoint, .. } = prior.clone();
        TrainingJobStatus { progress, eta, metrics, checkpoint, ..self.status.clone() } == *prior
    }
}

/// What to do next for a job. Total and deterministic.
#[must_use]
pub fn plan(job: &Job, run: &JobRun<'_>, ranks: &Ranks, now: Timestamp) -> JobPlan {
    let mut pass = Pass { job, run, ranks, now, status: run.status.clone(), actions: Vec::new(), requeue_at: None };
    match run.status.phase {
        Some(phase) if phase.is_terminal() => pass.clean(phase),
        _ => pass.go_on(),
    }
    let Pass { actions, status, requeue_at, .. } = pass;
    JobPlan { actions, status, requeue_at }
}

pub(super) struct Pass<'a> {
    pub(super) job: &'a Job,
    pub(super) run: &'a JobRun<'a>,
    pub(super) ranks: &'a Ranks,
    pub(super) now: Timestamp,
    pub(super) status: TrainingJobStatus,
    pub(super) actions: Vec<JobAction>,
    requeue_at: Option<Timestamp>,
}

impl<'a> Pass<'a> {
    pub(super) fn look_again(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn note(&mut self, kind: NoteKind, reason: &'static str, message: String) {
        self.actions.push(JobAction::Emit(Note { kind, reason, message }));
    }

    /// Deletes a Pod that is not being deleted yet.
    pub(super) fn stop(&mut self, pod: &RankPod) {
        let attempt = &pod.attempt;
        if !attempt.deleting && !attempt.uid.is_empty() {
            self.actions.push(JobAction::Stop {
                attempt: attempt.number,
                rank: pod.rank,
                pod: attempt.pod.clone(),
                uid: attempt.uid.clone(),
            });
        }
    }

    /// The attempt that is on record and whose end is not.
    fn open(&self) -> Option<u32> {
        let prior = self.run.status;
        prior.attempt.filter(|attempt| prior.attempts.last().is_none_or(|ended| ended.number != *attempt))
    }

    fn go_on(&mut self) {
        let current = self.run.status.attempt.unwrap_or(self.run.attempts_before);
        self.stale(current);
        self.progress(current);
        if let Some(attempt) = self.open() {
            self.attempt(attempt);
        } else if self.overdue() {
            let message = format!("the job took longer than its timeout of {}", status::human(self.job.timeout));
            self.fail(Reason::Timeout, message);
        } else {
            self.between(current);
        }
        status::finish(self);
    }

    /// Rule 1: a Pod of another attempt is never counted, and goes.
    fn stale(&mut self, current: u32) {
        for pod in self.ranks.iter().filter(|pod| pod.attempt.number != current) {
            self.stop(pod);
        }
    }

    /// What rank 0 says of its progress.
    fn progress(&mut self, attempt: u32) {
        if let Some(report) = self.ranks.progress(attempt) {
            status::progress(&mut self.status, report);
        }
    }

    /// Whether the deadline has passed, which counts from the persisted start.
    fn overdue(&mut self) -> bool {
        let (Some(timeout), Some(since)) = (self.job.timeout, &self.run.status.active_since) else { return false };
        if self.run.status.phase == Some(JobPhase::Suspended) {
            return false;
        }
        let due = since.0.saturating_add(timeout).unwrap_or(Timestamp::MAX);
        if due > self.now {
            self.look_again(due);
        }
        due <= self.now
    }

    /// No attempt is open: the last one's Pods go, then the next one begins, or the job is suspended.
    fn between(&mut self, current: u32) {
        let prior = self.run.status;
        let cleared = self.cleared(current);
        if self.run.suspend {
            if cleared {
                self.status.phase = Some(JobPhase::Suspended);
                self.status.retry_at = None;
            }
            return;
        }
        if prior.phase == Some(JobPhase::Suspended) {
            // Written before anything else, so that the deadline counts from now on.
            self.status.phase = Some(JobPhase::Pending);
            self.status.active_since = Some(Time(self.now));
            self.note(NoteKind::Normal, "Resumed", "the ranks start again, from the newest checkpoint".into());
            self.look_again(self.now);
            return;
        }
        if let Some(at) = prior.retry_at.as_ref().map(|time| time.0).filter(|at| *at > self.now) {
            self.look_again(at);
            return;
        }
        if cleared {
            self.begin(current.saturating_add(1));
        }
    }

    /// Rule 4: whether no Pod of the last attempt is alive. Those that are there are deleted, and a live look has the last word.
    fn cleared(&mut self, current: u32) -> bool {
        if self.run.status.attempt.is_none() {
            return true;
        }
        let (ranks, now) = (self.ranks, self.now);
        let mut left = false;
        let mut fenced = Vec::new();
        for pod in ranks.iter().filter(|pod| pod.attempt.number <= current && !pod.attempt.uid.is_empty()) {
            if pod.attempt.number == current {
                self.stop(pod);
            }
            if !pod.is_alive() {
                continue;
            }
            match restart::fenced_at(pod) {
                Some(at) if at <= now => fenced.push(pod.attempt.uid.clone()),
                Some(at) => {
                    self.look_again(at);
                    left = true;
                }
                None => left = true,
            }
        }
        if left {
            return false;
        }
        if !ranks.is_cleared(current) {
            let count = self.run.status.attempts.last().map_or(0, |ended| ended.ranks);
            self.actions.push(JobAction::Clear { attempt: current, ranks: count, fenced });
            return false;
        }
        true
    }

    /// Rule 2: the attempt is on record before any of its Pods exists.
    fn begin(&mut self, number: u32) {
        let status = &mut self.status;
        status.attempt = Some(number);
        let wanted = status.ranks.take().unwrap_or_else(|| self.job.ranks());
        status.ranks = Some(restart::bounded(wanted, self.run.elastic));
        status.launched = false;
        status.started = false;
        status.attempt_time = Some(Time(self.now));
        status.retry_at = None;
        let after_failure = status.attempts.last().is_some_and(|ended| ended.outcome == AttemptOutcome::Failed);
        status.phase = Some(if after_failure { JobPhase::Restarting } else { JobPhase::Pending });
        self.look_again(self.now);
    }

    /// An open attempt: what became of it.
    fn attempt(&mut self, attempt: u32) {
        let ranks = self.run.status.ranks.unwrap_or_else(|| self.job.ranks());
        if completion::succeeded(self, attempt, ranks) {
            return;
        }
        if self.overdue() {
            let message = format!("the job took longer than its timeout of {}", status::human(self.job.timeout));
            self.end(attempt, ranks, AttemptOutcome::Failed, None);
            self.fail(Reason::Timeout, message);
            return;
        }
        if self.run.suspend {
            // On record before the ranks are stopped: how they end then means nothing.
            self.end(attempt, ranks, AttemptOutcome::Suspended, None);
            self.status.ranks = None;
            self.look_again(self.now);
            return;
        }
        if let Some((reason, message)) = self.ranks.hopeless() {
            self.end(attempt, ranks, AttemptOutcome::Failed, None);
            self.fail(*reason, message.clone());
            return;
        }
        if restart::failed(self, attempt, ranks) {
            return;
        }
        self.launch(attempt, ranks);
        self.phase(attempt, ranks);
    }

    /// Creates what is missing of an attempt whose Pods have not all been created; asks for what is missing of another.
    ///
    /// Rank 0 comes before the others, which meet at its gate: one that is missing while others are there has vanished, whoever
    /// created it. Of another rank that cannot be known until `launched` is on record. It may be created twice, and rank 0's runner
    /// takes its second Pod only if the first one has not begun; else that Pod ends, and with it the attempt for all.
    fn launch(&mut self, attempt: u32, ranks: u32) {
        let missing: Vec<u32> = (0..ranks).filter(|rank| self.ranks.pod(attempt, *rank).is_none()).collect();
        if missing.is_empty() {
            self.status.launched = true;
            return;
        }
        let vanished = missing.iter().any(|rank| self.ranks.had_pod(attempt, *rank, self.run.status.launched));
        if vanished || !self.ranks.knows(attempt) {
            self.actions.push(JobAction::Look { attempt, ranks });
            return;
        }
        if let Some(blocked) = self.ranks.blocked(self.now) {
            let until = blocked.until;
            self.look_again(until);
            return;
        }
        if !self.ranks.service() {
            self.actions.push(JobAction::Service);
        }
        let first = missing.contains(&0);
        self.actions.extend(
            missing.into_iter().filter(|rank| !first || *rank == 0).map(|rank| JobAction::Launch { attempt, rank }),
        );
    }

    /// Whether all ranks run.
    fn phase(&mut self, attempt: u32, ranks: u32) {
        let running = status::running(self.ranks, attempt);
        if running == ranks && !self.status.started {
            self.status.started = true;
            self.status.phase = Some(JobPhase::Running);
            if self.run.status.restarts == 0 && self.run.status.attempts.is_empty() {
                self.note(NoteKind::Normal, "Started", format!("all {ranks} ranks have started"));
            } else {
                self.note(
                    NoteKind::Normal,
                    "AttemptStarted",
                    format!("all {ranks} ranks have started, in attempt {attempt}"),
                );
            }
        }
    }

    /// Puts the end of an attempt on record.
    pub(super) fn end(
        &mut self,
        attempt: u32,
        ranks: u32,
        outcome: AttemptOutcome,
        first_failure: Option<trainyard_crds::v1alpha1::RankFailure>,
    ) {
        let start = self.run.status.attempt_time.clone();
        self.status.attempts.push(AttemptStatus {
            number: attempt,
            outcome,
            ranks,
            start,
            end: Some(Time(self.now)),
            first_failure,
        });
        let surplus = self.status.attempts.len().saturating_sub(status::REMEMBERED);
        self.status.attempts.drain(..surplus);
    }

    /// The job has failed for good.
    pub(super) fn fail(&mut self, reason: Reason, message: String) {
        self.status.phase = Some(JobPhase::Failed);
        reason.as_str().clone_into(&mut self.status.reason);
        self.status.message = message;
        self.status.retry_at = None;
    }

    /// Rule 16: an ended job's Pods go after its end is on record; rule 15: after success the others have a moment to end by
    /// themselves. Pods that have ended stay, for people to look at.
    fn clean(&mut self, phase: JobPhase) {
        let ended = self.run.status.completion_time.as_ref().map_or(self.now, |time| time.0);
        let drained = match phase {
            JobPhase::Succeeded => ended.saturating_add(completion::DRAIN).unwrap_or(Timestamp::MAX),
            _ => ended,
        };
        let current = self.run.status.attempt;
        for pod in self.ranks.iter() {
            if matches!(pod.attempt.state, AttemptState::Ended(_)) && Some(pod.attempt.number) == current {
                continue;
            }
            if drained <= self.now || Some(pod.attempt.number) != current {
                self.stop(pod);
            } else {
                self.look_again(drained);
            }
        }
    }
}
