//! What is to be done for a Pipeline's triggers now.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{
    Cause, Concurrency, ModelReference, PipelineSpec, PipelineStatus, RetryFailedRevision, Revision, RevisionPhase,
    RunPhase, Trigger, TriggerKind, TriggerStatus, UpstreamArtifact,
};

use super::data::SeenData;
use super::key::run_key;
use super::ledger::{Ledger, end};
use super::models::{dethroned, reigns};
use super::triggers::{Question, Wish, ask, check_one, quiet, say};
use super::upstream::SeenUpstream;
use super::{backfill, data, given::given, upstream};

/// Most repetitions of a revision that fails.
const RETRIES: u32 = 5;
/// Wait before the first of them, in seconds; each next one takes twice as long.
const FIRST_WAIT: i64 = 60;
/// Longest such wait, in seconds.
const LONGEST_WAIT: i64 = 3600;

/// Characters of a request that count.
const REQUEST: usize = 128;

/// What is known of a Pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its spec.
    pub spec: &'a PipelineSpec,
    /// Its status as it was read.
    pub status: &'a PipelineStatus,
    /// The value of its annotation `trainyard.dev/rerun-requested-at`.
    pub request: Option<&'a str>,
    /// Whether a run of this spec would be accepted.
    pub runnable: bool,
    /// Runs of ledger entries, by name, as far as they were looked for.
    pub runs: &'a BTreeMap<String, SeenRun>,
    /// What looks at data have shown, by trigger.
    pub data: &'a BTreeMap<String, SeenData>,
    /// What has moved of other pipelines, by trigger.
    pub upstream: &'a BTreeMap<String, SeenUpstream>,
    /// The time.
    pub now: Timestamp,
}

/// A run that an entry of the ledger names.
#[derive(Clone, Debug, PartialEq)]
pub enum SeenRun {
    /// It carries the entry's key.
    Ours {
        /// Its phase.
        phase: RunPhase,
        /// Its reason.
        reason: String,
        /// Its message, if it did not end well.
        message: String,
        /// When it ended.
        completed: Option<Timestamp>,
    },
    /// It has the name, and not the key.
    Foreign,
    /// There is none.
    Missing,
    /// There is none, and the API server has said why it will never take it.
    Refused(String),
}

/// A run that is to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Its name.
    pub name: String,
    /// The key of its revision.
    pub key: String,
    /// The trigger; empty for a request.
    pub trigger: String,
    /// What started it.
    pub cause: Cause,
    /// How often its revision was repeated after a failure.
    pub retries: u32,
    /// Versions that it promotes instead of training; empty for a run of the pipeline's stages.
    pub promotes: Vec<ModelReference>,
    /// Values of its parameters.
    pub params: BTreeMap<String, Value>,
    /// What another pipeline has made, if that started it.
    pub upstream: Option<UpstreamArtifact>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// `status.triggers`.
    pub triggers: Vec<TriggerStatus>,
    /// `status.revisions`.
    pub revisions: Vec<Revision>,
    /// `status.rerunRequestedAt`.
    pub request: Option<String>,
    /// `status.nextRun`.
    pub next_run: Option<Timestamp>,
    /// Active runs that give way to a newer one.
    pub cancel: Vec<String>,
    /// When there may be something to do again.
    pub wake: Option<Timestamp>,
}

/// What is to be done for a Pipeline's triggers now.
#[must_use]
pub fn decide(seen: &Seen<'_>) -> Decision {
    let mut ledger = Ledger::new(seen);
    let suspended = seen.spec.suspend.unwrap_or(false);
    let mut decision = Decision { request: seen.status.rerun_requested_at.clone(), ..Decision::default() };
    renew(seen, &mut ledger);
    if seen.runnable && !suspended {
        decision.wake = retry(seen, &mut ledger);
        request(seen, &mut ledger, &mut decision);
    }
    for (index, trigger) in seen.spec.triggers.iter().enumerate() {
        let prior = seen.status.triggers.iter().find(|status| status.name == trigger.name);
        let question = Question {
            spec: seen.spec,
            valid: check_one(seen.name, seen.spec, index, prior),
            data: seen.data.get(&trigger.name),
            upstream: seen.upstream.get(&trigger.name),
            active: ledger.active_of(&trigger.name),
            undone: ledger.get(&run_key(seen.spec, &trigger.name, &Cause::SpecChange {})).is_some_and(is_undone),
            suspended,
            now: seen.now,
        };
        let Wish { mut status, causes, upstream, next, held } = ask(trigger, prior, &question);
        decision.next_run = earlier(decision.next_run, next);
        backfill::tell(&mut status, held.as_ref(), ledger.ended());
        let fired = |cause| fire(seen, &mut ledger, &mut status, (cause, upstream.clone()));
        if !seen.runnable || !causes.into_iter().all(fired) {
            // What was not started is wanted again when the spec is in order, or another run has ended.
            status.considered = held;
            data::unstarted(&mut status, prior);
            upstream::unstarted(&mut status, prior);
        }
        decision.triggers.push(status);
    }
    if !suspended {
        decision.cancel = start(seen, &mut ledger);
    }
    decision.wake = earlier(decision.wake, decision.next_run);
    decision.revisions = ledger.done();
    decision
}

/// The runs that a status says to create. It must be on record: what is created twice has one name, and what has ended is not here.
#[must_use]
pub fn creates(spec: &PipelineSpec, revisions: &[Revision], runs: &BTreeMap<String, SeenRun>) -> Vec<NewRun> {
    let there = |run: &str| runs.get(run).is_some_and(|seen| *seen != SeenRun::Missing);
    revisions
        .iter()
        .rev()
        .filter(|entry| entry.phase == RevisionPhase::Starting && !there(&entry.run))
        .map(|entry| NewRun {
            name: entry.run.clone(),
            key: entry.key.clone(),
            trigger: entry.trigger.clone(),
            cause: entry.cause.clone(),
            retries: entry.retries,
            promotes: entry.promotes.clone(),
            params: match entry.promotes.is_empty() {
                true => given(spec, &entry.trigger, &entry.cause, entry.upstream.as_ref()),
                false => BTreeMap::new(),
            },
            upstream: entry.upstream.clone(),
        })
        .collect()
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

/// Name of the run of an entry.
fn name_of(seen: &Seen<'_>, entry: &Revision) -> String {
    match entry.promotes.is_empty() {
        true => names::triggered_run(seen.name, &entry.key, entry.retries),
        false => names::rollback_run(seen.name, &entry.key, entry.rollbacks, entry.retries),
    }
}

/// A new entry for a cause.
fn entry(seen: &Seen<'_>, trigger: &str, (cause, upstream): (Cause, Option<UpstreamArtifact>)) -> Revision {
    let key = run_key(seen.spec, trigger, &cause);
    Revision {
        run: names::triggered_run(seen.name, &key, 0),
        key,
        retries: 0,
        rollbacks: 0,
        promotes: Vec::new(),
        upstream,
        trigger: trigger.to_owned(),
        cause,
        phase: RevisionPhase::Queued,
        reason: String::new(),
        message: String::new(),
        created: Time(seen.now),
        completed: None,
    }
}

/// What waits is started by the spec as it is, not as it was when it was put there.
fn renew(seen: &Seen<'_>, ledger: &mut Ledger) {
    let current = |entry: &Revision| entry.key == run_key(seen.spec, &entry.trigger, &entry.cause);
    let stale: Vec<Revision> = ledger
        .entries
        .iter()
        .filter(|entry| match entry.phase {
            RevisionPhase::Queued => is_gone(seen, entry) || !current(entry),
            // Its run found another spec than it was started for, and did nothing.
            RevisionPhase::Superseded => {
                let newest =
                    || ledger.of_cause(&entry.trigger, &entry.cause).is_some_and(|newest| newest.key == entry.key);
                !is_gone(seen, entry)
                    && if entry.cause == (Cause::SpecChange {}) { current(entry) } else { newest() }
                    && ledger.ended().any(|ended| ended.key == entry.key)
            }
            _ => false,
        })
        .cloned()
        .collect();
    for old in stale.into_iter().rev() {
        let gone = is_gone(seen, &old);
        if gone || (old.cause == Cause::SpecChange {} && !current(&old)) {
            let words = if gone { "its trigger is not in the spec any more" } else { "the spec was changed again" };
            let known = ledger.entries.iter_mut().filter(|entry| entry.key == old.key);
            known.for_each(|entry| end(entry, RevisionPhase::Superseded, ("", words), seen.now));
            continue;
        }
        if old.phase == RevisionPhase::Queued {
            ledger.entries.retain(|entry| entry.key != old.key);
        }
        let mut new = entry(seen, &old.trigger, (old.cause, old.upstream));
        match ledger.get(&new.key) {
            None => {}
            // The spec has returned to what it was started for. Its run has ended, so there is another one.
            Some(known) if known.phase == RevisionPhase::Superseded => {
                new = known.clone();
                repeat(seen, &mut new);
            }
            Some(_) => continue,
        }
        ledger.put(new);
    }
}

/// Whether the run of an entry found another spec than it was started for, and did nothing.
fn is_undone(entry: &Revision) -> bool {
    entry.phase == RevisionPhase::Superseded && entry.reason == Reason::Superseded.as_str()
}

/// Has an entry run again, by a run of another name.
fn repeat(seen: &Seen<'_>, entry: &mut Revision) {
    entry.retries = entry.retries.saturating_add(1);
    entry.run = name_of(seen, entry);
    entry.phase = RevisionPhase::Queued;
    entry.reason.clear();
    entry.message.clear();
    entry.completed = None;
}

/// Whether the trigger of an entry was taken out of the spec, or is of another kind now.
fn is_gone(seen: &Seen<'_>, entry: &Revision) -> bool {
    let starts = |trigger: &Trigger| {
        matches!(
            (&trigger.kind, &entry.cause),
            (TriggerKind::SpecChange(_), Cause::SpecChange {})
                | (TriggerKind::Schedule(_), Cause::Schedule { .. })
                | (TriggerKind::Data(_), Cause::Data { .. })
                | (TriggerKind::Upstream(_), Cause::Upstream { .. })
                | (TriggerKind::Backfill(_), Cause::Backfill { .. })
        )
    };
    let mut triggers = seen.spec.triggers.iter();
    !entry.trigger.is_empty() && !triggers.any(|trigger| trigger.name == entry.trigger && starts(trigger))
}

/// Has revisions that failed run again, as far as the spec asks for it. Returns when the next one is due.
fn retry(seen: &Seen<'_>, ledger: &mut Ledger) -> Option<Timestamp> {
    if seen.spec.retry_failed_revision.unwrap_or_default() == RetryFailedRevision::Never {
        return None;
    }
    // Only the newest entry: what came later has taken the place of the others.
    let newest = ledger.entries.iter_mut().find(|entry| !backfill::is_of(entry))?;
    let current = newest.key == run_key(seen.spec, &newest.trigger, &newest.cause)
        && newest.reason != Reason::AlreadyRun.as_str();
    if newest.phase != RevisionPhase::Failed || !current || newest.retries >= RETRIES {
        return None;
    }
    let wait = (FIRST_WAIT << newest.retries).min(LONGEST_WAIT);
    let due = newest.completed.as_ref()?.0.checked_add(SignedDuration::from_secs(wait)).ok()?;
    if due > seen.now {
        return Some(due);
    }
    repeat(seen, newest);
    None
}

/// Takes in a request by annotation.
fn request(seen: &Seen<'_>, ledger: &mut Ledger, decision: &mut Decision) {
    let Some(value) = seen.request.filter(|value| !value.is_empty()) else { return };
    let value = value.char_indices().nth(REQUEST).map_or(value, |(end, _)| &value[..end]);
    if seen.status.rerun_requested_at.as_deref() == Some(value) || !ledger.has_room() {
        return;
    }
    decision.request = Some(value.to_owned());
    let new = entry(seen, "", (Cause::Request { value: value.to_owned() }, None));
    if ledger.of_cause("", &new.cause).is_none() {
        ledger.put(new);
    }
}

/// Puts what a trigger wants to start into the ledger, unless it is there. Returns whether that is settled.
fn fire(
    seen: &Seen<'_>,
    ledger: &mut Ledger,
    status: &mut TriggerStatus,
    (cause, upstream): (Cause, Option<UpstreamArtifact>),
) -> bool {
    let by_spec = cause == Cause::SpecChange {};
    let filled = matches!(cause, Cause::Backfill { .. });
    let mut new = entry(seen, &status.name, (cause, upstream));
    // Of the same data another spec makes something else.
    let by_key = by_spec || filled || matches!(new.cause, Cause::Data { .. } | Cause::Upstream { .. });
    let same = ledger.get(&new.key);
    let known = if by_key { same } else { same.or_else(|| ledger.of_cause(&status.name, &new.cause)) };
    if let Some(known) = known.filter(|known| by_key && is_undone(known)) {
        // Its run is there, and has ended.
        new.retries = known.retries;
        repeat(seen, &mut new);
    }
    match known.map(|known| (known.phase, known.run.clone())) {
        Some((RevisionPhase::Queued | RevisionPhase::Starting | RevisionPhase::Running, _)) => {
            if filled && let Some(entry) = ledger.entries.iter_mut().find(|entry| entry.key == new.key) {
                // Of a pass that was begun before, or of a trigger of another name: it counts for this one.
                entry.created = Time(seen.now);
                entry.trigger.clone_from(&status.name);
            }
            status.key = new.key;
            return true;
        }
        // The spec is as it was before: what came of it then is put back, and nothing is trained.
        Some(_) if by_spec && rolls_back(seen, ledger, &new.key) => {
            status.key = new.key;
            status.last_fired = Some(Time(seen.now));
            quiet(status);
            if let Some(entry) = ledger.get(&status.key) {
                status.run.clone_from(&entry.run);
            }
            return true;
        }
        // What was not run because of another one is run now that it is wanted again.
        Some((RevisionPhase::Superseded | RevisionPhase::Skipped, _)) if by_key => {}
        // A pass through the range that was begun anew counts what is there.
        Some(_) if filled => {
            status.key = new.key;
            if let Some(entry) = ledger.get(&status.key) {
                backfill::found(status, entry);
            }
            return true;
        }
        Some((phase, run)) => {
            status.key = new.key;
            let message = match phase {
                RevisionPhase::Succeeded => {
                    format!("this revision has succeeded as run {run}: nothing is left to train")
                }
                _ => format!(
                    "this revision has ended as {} with run {run}: change the spec, or set another rerunToken to run it again",
                    phase.as_str()
                ),
            };
            say(status, Reason::AlreadyRun, message);
            return true;
        }
        // So long ago that the ledger has forgotten it: the models remember.
        None if by_spec && reigns(&seen.status.models, &new.key) => {
            status.key = new.key;
            say(
                status,
                Reason::AlreadyRun,
                "this revision has published the model that is champion: nothing is left to train",
            );
            return true;
        }
        None if by_spec => promote(seen, &mut new),
        None => {}
    }
    let busy = !filled && ledger.unfinished().next().is_some();
    let forbidden = busy && seen.spec.concurrency.unwrap_or_default() == Concurrency::Forbid;
    if !ledger.has_room() || (forbidden && by_spec) {
        say(status, Reason::PipelineBusy, "another run of a trigger is active: this one starts when that has ended");
        return false;
    }
    status.key.clone_from(&new.key);
    if forbidden {
        let mut skipped = new;
        let message = "another run of a trigger was active, and concurrency is Forbid";
        end(&mut skipped, RevisionPhase::Skipped, ("", message), seen.now);
        say(status, Reason::Skipped, skipped.message.clone());
        ledger.put(skipped);
        return true;
    }
    quiet(status);
    status.last_fired = Some(Time(seen.now));
    status.run.clone_from(&new.run);
    ledger.put(new);
    true
}

/// Has the entry of a revision that has published models promote them again, if others have taken their place. Returns whether it does.
fn rolls_back(seen: &Seen<'_>, ledger: &mut Ledger, key: &str) -> bool {
    let promotes = dethroned(&seen.status.models, key);
    let Some(entry) = ledger.get(key).filter(|_| !promotes.is_empty()) else { return false };
    // It is the newest now.
    let mut entry = entry.clone();
    promote(seen, &mut entry);
    ledger.put(entry);
    true
}

/// Has an entry promote what its revision has published and what is not champion now, if there is such.
fn promote(seen: &Seen<'_>, entry: &mut Revision) {
    let promotes = dethroned(&seen.status.models, &entry.key);
    if promotes.is_empty() {
        return;
    }
    let words: Vec<String> =
        promotes.iter().map(|model| format!("version {} of model {}", model.version, model.model)).collect();
    entry.message = format!("the spec has returned to this revision: {} becomes champion again", words.join(", "));
    entry.promotes = promotes;
    entry.rollbacks = entry.rollbacks.saturating_add(1);
    entry.retries = 0;
    entry.phase = RevisionPhase::Queued;
    entry.reason.clear();
    entry.completed = None;
    entry.run = name_of(seen, entry);
}

/// Lets what waits start, as far as other runs let it. Returns the runs that must go first.
fn start(seen: &Seen<'_>, ledger: &mut Ledger) -> Vec<String> {
    let policy = seen.spec.concurrency.unwrap_or_default();
    let active: Vec<String> = ledger.active().map(|entry| entry.run.clone()).collect();
    let now = seen.now;
    let starts = |entry: &mut Revision| {
        entry.phase = RevisionPhase::Starting;
        entry.message.clear();
    };
    // No more of a backfill wait than may be active.
    let (filled, mut queued): (Vec<_>, Vec<_>) = ledger.queued().into_iter().partition(|entry| backfill::is_of(entry));
    filled.into_iter().for_each(starts);
    let newest = queued.pop();
    match policy {
        Concurrency::Allow => queued.into_iter().chain(newest).for_each(starts),
        Concurrency::Forbid => {
            if let Some(oldest) = queued.into_iter().chain(newest).next()
                && active.is_empty()
            {
                starts(oldest);
            }
        }
        Concurrency::QueueLatest | Concurrency::Replace => {
            let Some(newest) = newest else { return Vec::new() };
            let words = format!("run {} is newer and took its place", newest.run);
            queued.into_iter().for_each(|entry| end(entry, RevisionPhase::Superseded, ("", words.clone()), now));
            if active.is_empty() {
                starts(newest);
                return Vec::new();
            }
            newest.message = format!("waits for the end of {}", active.join(", "));
            if policy == Concurrency::Replace {
                return active;
            }
        }
    }
    Vec::new()
}
