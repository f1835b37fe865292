//! Backfills: a run for each instant of a range, a few at a time.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Backfill, BackfillStatus, Cause, Revision, RevisionPhase, Schedule, TriggerStatus};

use super::instants::Clock;
use super::triggers::{Wish, say};
use crate::SpecProblem;

/// Most instants of a range.
const INSTANTS: u32 = 10_000;

/// Whether an entry is of a backfill.
pub(super) fn is_of(entry: &Revision) -> bool {
    matches!(entry.cause, Cause::Backfill { .. })
}

fn clock(backfill: &Backfill) -> Result<Clock, (Reason, String)> {
    let (cron, time_zone) = (backfill.cron.clone(), backfill.time_zone.clone());
    Clock::new(&Schedule { cron, time_zone, missed_runs: None, catch_up_limit: None })
}

/// The moment before the first instant that counts: an instant that is `from` itself does.
fn begin(backfill: &Backfill) -> Timestamp {
    let seconds = Timestamp::from_second(backfill.from.0.as_second()).unwrap_or(backfill.from.0);
    // With parts of a second it lies after the instant of its second.
    if seconds < backfill.from.0 { seconds } else { seconds - SignedDuration::from_secs(1) }
}

/// The instants of the range after a moment.
fn instants(backfill: &Backfill, clock: &Clock, after: Timestamp) -> impl Iterator<Item = Timestamp> {
    let until = backfill.until.0;
    std::iter::successors(clock.next(after), |instant| clock.next(*instant)).take_while(move |instant| *instant < until)
}

/// What is wrong with a backfill. `known` is how far it is, if it has begun: then its instants are counted.
pub(super) fn check(backfill: &Backfill, known: Option<&TriggerStatus>, path: &str) -> Result<(), SpecProblem> {
    let problem = |reason, message| Err(SpecProblem::new(reason, path, message));
    let clock = match clock(backfill) {
        Ok(clock) => clock,
        Err((reason, message)) => return problem(reason, message),
    };
    if backfill.from.0 >= backfill.until.0 {
        return problem(Reason::InvalidSchedule, "from must be before until".to_owned());
    }
    let known = known.filter(|status| status.schedule.starts_with(&range(backfill)));
    match known.and_then(|status| counted(status, backfill)).unwrap_or_else(|| count(backfill, &clock)) {
        0 => problem(Reason::InvalidSchedule, "no instant of cron lies between from and until".to_owned()),
        count if count > INSTANTS => problem(
            Reason::InvalidSchedule,
            format!(
                "more than {INSTANTS} instants lie between from and until: use a shorter range, or several triggers"
            ),
        ),
        _ => Ok(()),
    }
}

/// The range in words, up to its end.
fn range(backfill: &Backfill) -> String {
    let zone = backfill.time_zone.as_deref().unwrap_or("UTC");
    format!("{} {zone} from {} ", backfill.cron, backfill.from.0)
}

/// How many instants the range has, if they have been counted.
fn counted(status: &TriggerStatus, backfill: &Backfill) -> Option<u32> {
    let progress = status.backfill.as_ref().filter(|progress| progress.until == backfill.until)?;
    Some(progress.instants)
}

/// How many instants the range has, one more than are allowed at most.
fn count(backfill: &Backfill, clock: &Clock) -> u32 {
    let most = usize::try_from(INSTANTS).unwrap_or(usize::MAX).saturating_add(1);
    u32::try_from(instants(backfill, clock, begin(backfill)).take(most).count()).unwrap_or(u32::MAX)
}

/// Asks a backfill what it wants: the next instants, as many as may become active beside those that are.
pub(super) fn ask(
    backfill: &Backfill,
    mut status: TriggerStatus,
    token: Option<&str>,
    active: usize,
    (suspended, now): (bool, Timestamp),
) -> Wish {
    let clock = match clock(backfill) {
        Ok(clock) => clock,
        Err((reason, message)) => {
            say(&mut status, reason, message);
            return Wish::nothing(status);
        }
    };
    let words = format!("{}{}", range(backfill), token.unwrap_or_default());
    let since = status.considered.as_ref().map(|time| time.0).filter(|_| status.schedule == words);
    if since.is_none() {
        status.backfill = None;
    }
    let since = since.unwrap_or_else(|| begin(backfill));
    status.schedule = words;
    status.considered = Some(Time(since));
    let instants_of = counted(&status, backfill).unwrap_or_else(|| count(backfill, &clock));
    let (succeeded, failed) = status.backfill.as_ref().map_or((0, 0), |known| (known.succeeded, known.failed));
    let started = status.backfill.as_ref().map_or_else(|| Time(now), |known| known.started.clone());
    let until = backfill.until.clone();
    status.backfill = Some(BackfillStatus { started, until, instants: instants_of, succeeded, failed });
    if suspended {
        say(&mut status, Reason::Suspended, "spec.suspend is true: the backfill goes on when that is taken back");
        return Wish::nothing(status);
    }
    let room = usize::try_from(backfill.max_active.unwrap_or(1)).unwrap_or(1).saturating_sub(active);
    let due: Vec<Timestamp> =
        instants(backfill, &clock, since).take_while(|instant| *instant <= now).take(room).collect();
    let last = due.last().copied();
    let next = instants(backfill, &clock, last.unwrap_or(since)).next();
    status.next = next.map(Time);
    let held = status.considered.clone();
    if let Some(last) = last {
        status.considered = Some(Time(last));
    }
    let causes = due.into_iter().map(|instant| Cause::Backfill { instant: Time(instant) }).collect();
    // One that has come waits for room, and is asked for when a run ends.
    Wish { causes, next: next.filter(|next| *next > now), held, ..Wish::nothing(status) }
}

/// Counts runs that have ended now, of instants that this pass through the range has dealt with before: `held` is up to when.
pub(super) fn tell<'a>(status: &mut TriggerStatus, held: Option<&Time>, ended: impl Iterator<Item = &'a Revision>) {
    let (Some(progress), Some(held)) = (&mut status.backfill, held) else { return };
    let started = progress.started.0;
    for entry in ended.filter(|entry| entry.trigger == status.name && entry.created.0 >= started) {
        if matches!(&entry.cause, Cause::Backfill { instant } if instant.0 <= held.0) {
            count_in(progress, entry);
        }
    }
}

/// Counts the run of an instant that this pass has come to, and that was run before.
pub(super) fn found(status: &mut TriggerStatus, entry: &Revision) {
    if let Some(progress) = &mut status.backfill {
        count_in(progress, entry);
    }
}

fn count_in(progress: &mut BackfillStatus, entry: &Revision) {
    match entry.phase {
        RevisionPhase::Succeeded => progress.succeeded = progress.succeeded.saturating_add(1),
        // What the store's ledger knows has been run, though its run is gone.
        RevisionPhase::Failed if entry.reason == Reason::AlreadyRun.as_str() => {
            progress.succeeded = progress.succeeded.saturating_add(1);
        }
        // The instant is run again by the spec as it is.
        RevisionPhase::Superseded => {}
        _ => progress.failed = progress.failed.saturating_add(1),
    }
}
