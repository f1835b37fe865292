//! What became of the attempts of a run's stages: the first half of [`crate::plan`].

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{FailedAttempt, OutputStatus, RunState, StagePhase, StageStatus};

use crate::observed::{Attempt, AttemptState, Class, Committed, Ended, Verdict, Waiting};
use crate::retry::Decision;
use crate::schedule::{Action, NoteKind, Pass};
use crate::status;
use crate::step::artifact_uri;

/// Failed attempts that a row remembers.
const REMEMBERED: usize = 5;

impl Pass<'_> {
    /// First all stages that have an attempt: what became of it.
    pub(crate) fn attempts(&mut self) {
        let mut nodes: Vec<usize> = (0..self.phases.len())
            .filter(|&node| !self.phases[node].is_terminal() && self.prior(node).attempt.is_some())
            .collect();
        let mut last = "";
        for (stage, _) in self.observed.iter() {
            if stage == last {
                continue;
            }
            last = stage;
            if let Some(node) = self.graph.position(stage)
                && !self.phases[node].is_terminal()
                && !self.node(node).is_judged()
                && self.prior(node).attempt.is_none()
            {
                nodes.push(node);
            }
        }
        for stage in self.observed.stages_with_lost() {
            if let Some(node) = self.graph.position(stage)
                && !self.phases[node].is_terminal()
                && !self.node(node).is_judged()
            {
                nodes.push(node);
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.attempt(node);
        }
        self.late_comers();
    }

    /// A Pod of a stage that was not to run is stopped, whenever it is seen.
    fn late_comers(&mut self) {
        let observed = self.observed;
        for (stage, attempt) in observed.iter() {
            if let Some(node) = self.graph.position(stage)
                && matches!(self.prior(node).phase, StagePhase::Cancelled | StagePhase::Skipped)
                && !matches!(attempt.state, AttemptState::Ended(_))
            {
                self.stop(node, attempt);
            }
        }
    }

    fn attempt(&mut self, node: usize) {
        let prior = self.prior(node);
        let attempts = self.observed.attempts(self.node(node).name());
        let lost = self.observed.lost(self.node(node).name()).unwrap_or(0);
        let number = attempts.last().map_or(0, |attempt| attempt.number).max(prior.attempt.unwrap_or(0)).max(lost);
        // One whose end is on record is shown as it was before.
        for stray in attempts.iter().filter(|attempt| attempt.number < number && !on_record(prior, attempt.number)) {
            if !matches!(stray.state, AttemptState::Ended(_)) {
                self.stop(node, stray);
            }
        }
        let recorded = prior.phase == StagePhase::Retrying && prior.attempt == Some(number);
        match attempts.last().filter(|attempt| attempt.number == number) {
            Some(attempt) => match &attempt.state {
                AttemptState::Ended(ended) => match &ended.committed {
                    Some(committed) => self.succeeded(node, attempt, ended, committed),
                    None if recorded => {}
                    // What a Pod says that was deleted for its verdict is only that it was deleted.
                    None if attempt.deleting && ended.exit_code.is_none() => {
                        let verdict = self.verdict(node, number);
                        self.failed(node, number, &attempt.pod, attempt.created, verdict.as_ref().unwrap_or(ended));
                    }
                    None => self.failed(node, number, &attempt.pod, attempt.created, ended),
                },
                // Its end is on record: what is shown is older.
                AttemptState::Pending(_) | AttemptState::Running(_) if recorded => {}
                AttemptState::Pending(waiting) => self.pending(node, attempt, waiting),
                AttemptState::Running(since) => self.running(node, attempt, *since),
            },
            None if recorded => {}
            None if self.observed.is_gone(self.node(node).name(), number) => {
                let ended = self.verdict(node, number).unwrap_or_else(|| self.vanished(node, number));
                self.failed(node, number, &self.object_of(node, number), self.now, &ended);
            }
            None => {
                let pod = self.object_of(node, number);
                self.asked.insert(node);
                self.actions.push(Action::Confirm { node, attempt: number, pod });
            }
        }
    }

    /// The failure that stands in the status of an attempt which waits in vain.
    fn verdict(&self, node: usize, number: u32) -> Option<Ended> {
        let prior = self.prior(node);
        let stands = prior.phase == StagePhase::Pending && prior.attempt == Some(number) && !self.node(node).trains();
        let class = Verdict::class(&prior.reason).filter(|_| stands)?;
        Some(Ended::failure(class, prior.reason.clone(), prior.message.clone()))
    }

    /// The failure of an attempt whose Pod, or TrainingJob, is gone without a word.
    fn vanished(&self, node: usize, number: u32) -> Ended {
        let (prior, kind, object) = (self.prior(node), self.kind(node), self.object_of(node, number));
        let lost = prior.phase == StagePhase::Running && prior.reason == Reason::NodeLost.as_str();
        if lost && !self.node(node).trains() {
            let message = format!("the node did not answer any more, and Pod {object} is gone");
            return Ended::failure(Class::Infra, Reason::NodeLost.as_str(), message);
        }
        let message = format!("{kind} {object} is gone and did not say how it ended");
        Ended::failure(Class::Infra, Reason::Disrupted.as_str(), message)
    }

    fn pending(&mut self, node: usize, attempt: &Attempt, waiting: &Waiting) {
        let prior = self.prior(node);
        let mut row = prior.clone();
        row.phase = StagePhase::Pending;
        row.attempt = Some(attempt.number);
        self.put_object(node, &mut row, attempt);
        row.retry_at = None;
        if self.stopping(self.node(node).section()) {
            self.stop(node, attempt);
            if attempt.child.as_ref().is_some_and(|child| child.suspended) {
                // It has no Pods any more.
                self.cancelled(node, row, self.now);
                return;
            }
        } else if attempt.deleting && self.verdict(node, attempt.number).is_some() {
            // It goes because of its verdict, whatever it says meanwhile.
            self.set(node, row);
            return;
        } else if let Some(verdict) = waiting.verdict {
            let due = attempt.created.saturating_add(verdict.after).unwrap_or(Timestamp::MAX);
            if due <= self.now {
                if prior.attempt == Some(attempt.number) && prior.reason == verdict.reason.as_str() {
                    // The verdict stands in the status: only now may the Pod go, or its reason would be lost with it.
                    self.stop(node, attempt);
                } else {
                    row.reason = verdict.reason.as_str().to_owned();
                    row.message.clone_from(&waiting.message);
                    self.look_again(self.now);
                }
                self.set(node, row);
                return;
            }
            self.look_again(due);
        } else {
            self.follow(node, attempt);
        }
        row.reason.clone_from(&waiting.reason);
        row.message.clone_from(&waiting.message);
        if let Some(late) = &waiting.late {
            let due = attempt.created.saturating_add(late.after).unwrap_or(Timestamp::MAX);
            if due <= self.now {
                row.message.clone_from(&late.message);
            } else {
                self.look_again(due);
            }
        }
        self.set(node, row);
    }

    fn running(&mut self, node: usize, attempt: &Attempt, since: Timestamp) {
        let mut row = self.prior(node).clone();
        if self.stopping(self.node(node).section()) {
            self.stop(node, attempt);
        } else {
            self.follow(node, attempt);
        }
        row.phase = StagePhase::Running;
        row.attempt = Some(attempt.number);
        self.put_object(node, &mut row, attempt);
        row.start.get_or_insert(Time(since));
        row.retry_at = None;
        let said = attempt.child.as_ref().map(|child| (child.reason.clone(), child.message.clone()));
        (row.reason, row.message) = said.unwrap_or_default();
        if let Some(lost) = &attempt.lost_node {
            Reason::NodeLost.as_str().clone_into(&mut row.reason);
            row.message = format!(
                "node {lost} does not answer, and another attempt begins only when Pod {pod} is gone; if the node is off for good: kubectl delete pod -n {} {pod} --force",
                self.run.namespace,
                pod = attempt.pod
            );
        }
        self.set(node, row);
    }

    fn succeeded(&mut self, node: usize, attempt: &Attempt, ended: &Ended, committed: &Committed) {
        let prior = self.prior(node);
        let name = self.node(node).name();
        // A version's files lie where the output does that it was made of.
        let published = committed.results.get("uri").filter(|_| self.node(node).publishes().is_some());
        let published = published.and_then(Value::as_str);
        let outputs = committed
            .outputs
            .iter()
            .map(|output| OutputStatus {
                name: output.name.clone(),
                uri: published.map_or_else(
                    || artifact_uri(self.graph.store(), self.run, name, committed.winner, &output.name),
                    str::to_owned,
                ),
                digest: output.digest.clone(),
                bytes: i64::try_from(output.bytes).unwrap_or(i64::MAX),
            })
            .collect();
        let (start, end) = self.times(node, attempt.created, ended);
        let mut row = StageStatus {
            name: prior.name.clone(),
            phase: StagePhase::Succeeded,
            attempt: Some(attempt.number),
            start: Some(Time(start)),
            end: Some(Time(end)),
            outputs,
            results: committed.results.clone(),
            metrics: committed.metrics.clone(),
            failures: prior.failures,
            failed_attempts: prior.failed_attempts.clone(),
            ..StageStatus::default()
        };
        self.put_object(node, &mut row, attempt);
        self.set(node, row);
    }

    /// Start of the stage and end of its attempt. Clocks differ: no stage ends before it started, and where both are told by the
    /// node, its clock counts for both.
    fn times(&self, node: usize, created: Timestamp, ended: &Ended) -> (Timestamp, Timestamp) {
        let end = ended.end.unwrap_or(self.now);
        let start = self.prior(node).start.as_ref().map(|time| time.0).or(ended.start).unwrap_or(created.min(end));
        (start, end.max(start))
    }

    pub(crate) fn failed(&mut self, node: usize, number: u32, object: &str, created: Timestamp, ended: &Ended) {
        let prior = self.prior(node);
        // What a gate has found, or who has denied, is kept.
        let mut row = self.row(node).clone();
        row.attempt = (number > 0).then_some(number);
        self.put_name(node, &mut row, object);
        if let Some(child) = self.observed.attempt(&row.name, number).and_then(|attempt| attempt.child.as_ref()) {
            row.training = Some(child.shown.clone());
        }
        row.retry_at = None;
        let (start, end) = self.times(node, created, ended);
        row.start = Some(Time(start));
        if self.stopping(self.node(node).section()) {
            self.cancelled(node, row, end);
            return;
        }
        if number > 0 {
            row.failed_attempts.push(FailedAttempt {
                attempt: number,
                reason: ended.reason.clone(),
                message: shortened(&ended.message, 256),
                exit_code: ended.exit_code,
                end: Some(Time(end)),
            });
        }
        if row.failed_attempts.len() > REMEMBERED {
            row.failed_attempts.remove(0);
        }
        row.reason.clone_from(&ended.reason);
        row.message.clone_from(&ended.message);
        row.exit_code = ended.exit_code;
        row.last_lines.clone_from(&ended.last_lines);
        match self.node(node).policy.decide(prior.failures.unwrap_or_default(), ended, self.now) {
            Decision::Repeat { at, failures } => {
                let wait = at.duration_since(self.now);
                self.note(NoteKind::Warning, "StageRetrying", || {
                    let when = if wait.is_zero() { "now".to_owned() } else { format!("in {}", status::human(wait)) };
                    let what = explained(&row.reason, &row.message);
                    format!(
                        "stage {}: attempt {number} ended with {what}; attempt {} follows {when}",
                        row.name,
                        number.saturating_add(1)
                    )
                });
                row.phase = StagePhase::Retrying;
                row.failures = Some(failures);
                row.retry_at = Some(Time(at));
                self.look_again(at);
            }
            Decision::Fail(failures) => {
                self.note(NoteKind::Warning, "StageFailed", || {
                    format!("stage {} failed with {}", row.name, explained(&row.reason, &row.message))
                });
                row.phase = StagePhase::Failed;
                // Without an attempt none has failed.
                row.failures = if number > 0 { Some(failures) } else { prior.failures };
                row.end = Some(Time(end));
            }
        }
        self.set(node, row);
    }

    pub(crate) fn cancelled(&mut self, node: usize, mut row: StageStatus, end: Timestamp) {
        row.phase = StagePhase::Cancelled;
        row.reason = match self.run.state {
            RunState::Terminated => Reason::Terminated,
            RunState::Active | RunState::Cancelled => Reason::Cancelled,
        }
        .as_str()
        .to_owned();
        row.message = String::new();
        row.retry_at = None;
        row.end = row.attempt.is_some().then_some(Time(end));
        self.set(node, row);
    }
}

/// Whether the failure of an attempt stands in its stage's row, or stood there before newer ones.
fn on_record(row: &StageStatus, number: u32) -> bool {
    let mut failed = row.failed_attempts.iter().map(|failed| failed.attempt);
    failed.clone().next().is_some_and(|oldest| number < oldest) || failed.any(|attempt| attempt == number)
}

/// A reason with its message, if there is one.
fn explained(reason: &str, message: &str) -> String {
    if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
}

/// At most `limit` characters.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        text.to_owned()
    } else {
        text.chars().take(limit - 3).chain("...".chars()).collect()
    }
}
