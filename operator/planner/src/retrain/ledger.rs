//! The ledger: what each entry becomes by what is seen of its run.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Cause, Revision, RevisionPhase, RunPhase};

use super::backfill;
use super::decide::{Seen, SeenRun};

/// Entries that are kept.
pub(super) const KEPT: usize = 20;

/// Runs of entries whose end is not on record: they must be looked for, also where they have left the watch.
pub fn unsettled(revisions: &[Revision]) -> impl Iterator<Item = &str> {
    let unsettled = |entry: &&Revision| matches!(entry.phase, RevisionPhase::Starting | RevisionPhase::Running);
    revisions.iter().filter(unsettled).map(|entry| entry.run.as_str())
}

/// The entries, the newest first, while it is decided what becomes of them.
pub(super) struct Ledger {
    pub(super) entries: Vec<Revision>,
    /// Keys of those that have ended since the status was written.
    ended: Vec<String>,
}

impl Ledger {
    /// The entries of the status, as far as the runs have come since.
    pub(super) fn new(seen: &Seen<'_>) -> Self {
        let mut entries = seen.status.revisions.clone();
        let mut ended = Vec::new();
        for entry in entries.iter_mut().filter(|entry| !entry.phase.is_terminal()) {
            follow(entry, seen.runs.get(&entry.run), seen.now);
            if entry.phase.is_terminal() {
                ended.push(entry.key.clone());
            }
        }
        Self { entries, ended }
    }

    /// Those that have ended since the status was written, and do not run again.
    pub(super) fn ended(&self) -> impl Iterator<Item = &Revision> {
        self.entries.iter().filter(|entry| entry.phase.is_terminal() && self.ended.contains(&entry.key))
    }

    /// How many of a trigger have not ended.
    pub(super) fn active_of(&self, trigger: &str) -> usize {
        self.entries.iter().filter(|entry| entry.trigger == trigger && !entry.phase.is_terminal()).count()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Revision> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The newest entry of a cause of a trigger, whatever the spec was then.
    pub(super) fn of_cause(&self, trigger: &str, cause: &Cause) -> Option<&Revision> {
        self.entries.iter().find(|entry| entry.trigger == trigger && entry.cause == *cause)
    }

    /// Those whose runs are active, backfills apart.
    pub(super) fn active(&self) -> impl Iterator<Item = &Revision> {
        let active = |entry: &&Revision| matches!(entry.phase, RevisionPhase::Starting | RevisionPhase::Running);
        self.entries.iter().filter(active).filter(|entry| !backfill::is_of(entry))
    }

    /// Those that have not ended, backfills apart.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Revision> {
        self.entries.iter().filter(|entry| !entry.phase.is_terminal() && !backfill::is_of(entry))
    }

    /// Those that wait, the oldest first.
    pub(super) fn queued(&mut self) -> Vec<&mut Revision> {
        self.entries.iter_mut().rev().filter(|entry| entry.phase == RevisionPhase::Queued).collect()
    }

    /// Whether there is room for another one: what has not ended is never forgotten.
    pub(super) fn has_room(&self) -> bool {
        self.entries.iter().filter(|entry| !entry.phase.is_terminal()).count() < KEPT
    }

    /// Puts an entry first; one with its key gives way.
    pub(super) fn put(&mut self, entry: Revision) {
        self.entries.retain(|known| known.key != entry.key);
        self.entries.insert(0, entry);
    }

    /// The entries that are kept: all that have not ended, and the newest of the others. Backfills go first: how far they are is known.
    pub(super) fn done(mut self) -> Vec<Revision> {
        while self.entries.len() > KEPT {
            let ended = |entry: &Revision| entry.phase.is_terminal();
            let filled = self.entries.iter().rposition(|entry| ended(entry) && backfill::is_of(entry));
            let Some(oldest) = filled.or_else(|| self.entries.iter().rposition(ended)) else { break };
            self.entries.remove(oldest);
        }
        self.entries
    }
}

/// Ends an entry.
pub(super) fn end(
    entry: &mut Revision,
    phase: RevisionPhase,
    (reason, message): (&str, impl Into<String>),
    now: Timestamp,
) {
    entry.phase = phase;
    entry.reason = reason.to_owned();
    entry.message = message.into();
    entry.completed.get_or_insert(Time(now));
}

/// What an entry becomes by what is seen of its run.
fn follow(entry: &mut Revision, run: Option<&SeenRun>, now: Timestamp) {
    match (entry.phase, run) {
        (
            RevisionPhase::Starting | RevisionPhase::Running,
            Some(SeenRun::Ours { phase, reason, completed, message }),
        ) => {
            let ended = match phase {
                RunPhase::Pending | RunPhase::Running | RunPhase::Suspended => {
                    entry.phase = RevisionPhase::Running;
                    if backfill::is_of(entry) {
                        entry.message.clear();
                    }
                    return;
                }
                RunPhase::Succeeded => RevisionPhase::Succeeded,
                RunPhase::Cancelled if reason == Reason::Superseded.as_str() => RevisionPhase::Superseded,
                RunPhase::Cancelled => RevisionPhase::Cancelled,
                RunPhase::Failed => RevisionPhase::Failed,
            };
            entry.completed = Some(Time(completed.unwrap_or(now)));
            if ended == RevisionPhase::Succeeded {
                entry.promotes.clear();
            }
            end(entry, ended, (reason, message.clone()), now);
        }
        (RevisionPhase::Starting, Some(SeenRun::Foreign)) => {
            let message = format!(
                "there is another PipelineRun {}, which this trigger did not start: delete or rename it, then set another rerunToken",
                entry.run
            );
            end(entry, RevisionPhase::Failed, (Reason::NameCollision.as_str(), message), now);
        }
        // Nothing waits for it, and what comes after it would be refused as well: it is tried again.
        (RevisionPhase::Starting, Some(SeenRun::Refused(message))) if backfill::is_of(entry) => {
            entry.message = format!("the API server refuses the run, and it is tried again: {message}");
        }
        (RevisionPhase::Starting, Some(SeenRun::Refused(message))) => {
            let remedy = match entry.cause {
                Cause::SpecChange {} => "set another rerunToken",
                _ => "create such a run yourself, or set retryFailedRevision: Backoff",
            };
            let message = format!("the API server refuses the run: {message}; when that is mended, {remedy}");
            end(entry, RevisionPhase::Failed, (Reason::RunRefused.as_str(), message), now);
        }
        (RevisionPhase::Running, Some(SeenRun::Missing)) => {
            let message = "the run was deleted before its end: set another rerunToken to run it again";
            end(entry, RevisionPhase::Deleted, ("", message), now);
        }
        _ => {}
    }
}
