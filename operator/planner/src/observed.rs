//! What the world says of a run: its attempts, in the planner's own words. No Pod and no TrainingJob is known here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::StageTraining;

use crate::judge::Champions;

/// Everything observed of one run, by stage name.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    attempts: BTreeMap<String, Vec<Attempt>>,
    gone: BTreeSet<(String, u32)>,
    lost: BTreeMap<String, u32>,
    blocked: BTreeMap<String, Blocked>,
    champions: Option<Box<Champions>>,
}

/// Why the API server has no room for a stage's Pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// One word.
    pub reason: String,
    /// What the API server said.
    pub message: String,
    /// When it is tried again.
    pub until: Timestamp,
}

impl Observed {
    /// Adds or replaces an attempt.
    pub fn insert(&mut self, stage: &str, attempt: Attempt) {
        self.gone.remove(&(stage.to_owned(), attempt.number));
        self.lost.remove(stage);
        // Most stages have one attempt, and an empty list would make room for four.
        let attempts = self.attempts.entry(stage.to_owned()).or_insert_with(|| Vec::with_capacity(1));
        match attempts.binary_search_by_key(&attempt.number, |other| other.number) {
            Ok(at) => attempts[at] = attempt,
            Err(at) => attempts.insert(at, attempt),
        }
    }

    /// Forgets an attempt whose Pod is no longer there. That it has been there is remembered, and it counts as gone only after
    /// [`Observed::confirm_gone`].
    pub fn remove(&mut self, stage: &str, number: u32) {
        self.forget(stage, number);
        let lost = self.lost.entry(stage.to_owned()).or_default();
        *lost = number.max(*lost);
    }

    fn forget(&mut self, stage: &str, number: u32) {
        if let Some(attempts) = self.attempts.get_mut(stage) {
            attempts.retain(|attempt| attempt.number != number);
        }
    }

    /// Records that a live read found no Pod for this attempt.
    pub fn confirm_gone(&mut self, stage: &str, number: u32) {
        self.forget(stage, number);
        self.gone.insert((stage.to_owned(), number));
    }

    /// The attempts of a stage, by number.
    #[must_use]
    pub fn attempts(&self, stage: &str) -> &[Attempt] {
        self.attempts.get(stage).map_or(&[], Vec::as_slice)
    }

    /// One attempt.
    #[must_use]
    pub fn attempt(&self, stage: &str, number: u32) -> Option<&Attempt> {
        self.attempts(stage).iter().find(|attempt| attempt.number == number)
    }

    /// One attempt, to be changed.
    pub fn attempt_mut(&mut self, stage: &str, number: u32) -> Option<&mut Attempt> {
        self.attempts.get_mut(stage)?.iter_mut().find(|attempt| attempt.number == number)
    }

    /// The newest attempt of a stage that has been seen and is no longer shown.
    pub(crate) fn lost(&self, stage: &str) -> Option<u32> {
        self.lost.get(stage).copied()
    }

    /// The stages that have such an attempt.
    pub(crate) fn stages_with_lost(&self) -> impl Iterator<Item = &str> {
        self.lost.keys().map(String::as_str)
    }

    pub(crate) fn is_gone(&self, stage: &str, number: u32) -> bool {
        !self.gone.is_empty() && self.gone.contains(&(stage.to_owned(), number))
    }

    /// Records that a stage's Pod cannot be created until some time.
    pub fn block(&mut self, stage: &str, blocked: Blocked) {
        self.blocked.insert(stage.to_owned(), blocked);
    }

    pub(crate) fn blocked(&self, stage: &str, now: Timestamp) -> Option<&Blocked> {
        if self.blocked.is_empty() {
            return None;
        }
        self.blocked.get(stage).filter(|blocked| blocked.until > now)
    }

    /// Records a live read of the champions of the pipeline's models.
    pub fn set_champions(&mut self, champions: Champions) {
        self.champions = Some(Box::new(champions));
    }

    /// Forgets them, since they may change.
    pub fn forget_champions(&mut self) {
        self.champions = None;
    }

    pub(crate) fn champions(&self) -> Option<&Champions> {
        self.champions.as_deref()
    }

    /// All attempts with their stages.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attempt)> {
        self.attempts.iter().flat_map(|(stage, attempts)| attempts.iter().map(move |attempt| (stage.as_str(), attempt)))
    }
}

/// One attempt of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// Name of its Pod, or of its TrainingJob.
    pub pod: String,
    /// UID of that.
    pub uid: String,
    /// When that was created.
    pub created: Timestamp,
    /// Whether that is being deleted.
    pub deleting: bool,
    /// The Pod's node, if that does not answer any more: what is known of the Pod is old.
    pub lost_node: Option<String>,
    /// How far it is.
    pub state: AttemptState,
    /// What else is known of its TrainingJob, if its stage trains.
    pub child: Option<Box<ChildJob>>,
}

/// The TrainingJob of a stage that trains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildJob {
    /// What the run's status shows of it.
    pub shown: StageTraining,
    /// Why it waits, in one word.
    pub reason: String,
    /// What is to be said of it while it goes on.
    pub message: String,
    /// `spec.suspend`: whether it has been asked to have no Pods.
    pub suspend: bool,
    /// Whether its run has asked that.
    pub by_run: bool,
    /// Whether it has none.
    pub suspended: bool,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptState {
    /// Its program has not started.
    Pending(Waiting),
    /// Its program, or the runner around it, is running since then.
    Running(Timestamp),
    /// It has ended. This never changes.
    Ended(Ended),
}

/// Why an attempt has not started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// One word.
    pub reason: String,
    /// What is known.
    pub message: String,
    /// When it is hopeless, if it ever is.
    pub verdict: Option<Verdict>,
    /// What is said instead when it takes long.
    pub late: Option<Late>,
}

/// What is said of a Pod that has not started its program for so long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// So long after the Pod's creation.
    pub after: SignedDuration,
    /// What is known then, and where more is to be seen.
    pub message: String,
}

/// When waiting has become hopeless: the Pod is stopped, and the attempt has failed for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// So long after the Pod's creation.
    pub after: SignedDuration,
    /// One of [`Verdict::class`]'s reasons.
    pub reason: Reason,
}

impl Verdict {
    /// Whose fault it is, by the reason that stands in the status; `None` for a reason that is no verdict.
    #[must_use]
    pub fn class(reason: &str) -> Option<Class> {
        [
            (Reason::ImagePullFailed, Class::Fatal),
            (Reason::ImageRunsAsRoot, Class::Fatal),
            (Reason::ConfigMissing, Class::Fatal),
            (Reason::ContainerStartFailed, Class::Infra),
        ]
        .into_iter()
        .find(|(verdict, _)| verdict.as_str() == reason)
        .map(|(_, class)| class)
    }
}

/// Whose fault a failure is, which decides on repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// The stage's own: repeated within `retry.limit`.
    #[default]
    User,
    /// The infrastructure's: repeated within `retry.infraLimit`.
    Infra,
    /// Repeating cannot help.
    Fatal,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// What it published, if it succeeded: the stage's commit record exists.
    pub committed: Option<Committed>,
    /// Whose fault the failure is. Meaningless on success.
    pub class: Class,
    /// One word. Empty on success.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Exit code of the program.
    pub exit_code: Option<i32>,
    /// The end of the program's output.
    pub last_lines: String,
    /// When its program started, if known by the clock that says when it ended.
    pub start: Option<Timestamp>,
    /// When it ended, if known.
    pub end: Option<Timestamp>,
}

impl Ended {
    /// A failure without an exit code.
    #[must_use]
    pub fn failure(class: Class, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            committed: None,
            class,
            reason: reason.into(),
            message: message.into(),
            exit_code: None,
            last_lines: String::new(),
            start: None,
            end: None,
        }
    }
}

/// What a stage published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// The attempt that the record names.
    pub winner: u32,
    /// Its outputs.
    pub outputs: Vec<CommittedOutput>,
    /// Results that fitted the report.
    pub results: BTreeMap<String, Value>,
    /// Metrics that fitted the report.
    pub metrics: BTreeMap<String, Value>,
}

/// One published output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOutput {
    /// Its name.
    pub name: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Sum of its files' sizes.
    pub bytes: u64,
}
