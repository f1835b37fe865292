//! Backfills: a run for each instant of a range, a few at a time.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Backfill, Cause, Revision, RevisionPhase, Schedule, TriggerStatus};

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

/// What is wrong with a backfill.
pub(super) fn check(backfill: &Backfill, path: &str) -> Result<(), SpecProblem> {
    let problem = |reason, message| Err(SpecProblem::new(reason, path, message));
    let clock = match clock(backfill) {
        Ok(clock) => clock,
        Err((reason, message)) => return problem(reason, message),
    };
    if backfill.from.0 >= backfill.until.0 {
        return problem(Reason::InvalidSchedule, "from must be before until".to_owned());
    }
    match count(backfill, &clock) {
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
    let words = format!(
        "{} {} from {} {}",
        backfill.cron,
        backfill.time_zone.as_deref().unwrap_or("UTC"),
        backfill.from.0,
        token.unwrap_or_default()
    );
    let words = words.trim_end().to_owned();
    let since = status.considered.as_ref().map(|time| time.0).filter(|_| status.schedule == words);
    if since.is_none() {
        status.backfill = None;
    }
    let since = since.unwrap_or_else(|| begin(backfill));
    status.schedule = words;
    status.considered = Some(Time(since));
    let mut progress = status.backfill.unwrap_or_default();
    progress.instants = count(backfill, &clock);
    status.backfill = Some(progress);
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

/// Counts runs that have ended now, of instants that this pass through the range has come to.
pub(super) fn tell<'a>(status: &mut TriggerStatus, ended: impl IntoIterator<Item = &'a Revision>) {
    let (Some(progress), Some(considered)) = (&mut status.backfill, &status.considered) else { return };
    for entry in ended.into_iter().filter(|entry| entry.trigger == status.name) {
        let Cause::Backfill { instant } = &entry.cause else { continue };
        match entry.phase {
            _ if instant.0 > considered.0 => {}
            RevisionPhase::Succeeded => progress.succeeded = progress.succeeded.saturating_add(1),
            // The instant is run again by the spec as it is.
            RevisionPhase::Superseded => {}
            _ => progress.failed = progress.failed.saturating_add(1),
        }
    }
}
