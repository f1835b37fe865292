//! What each trigger wants now.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Cause, PipelineSpec, Schedule, Trigger, TriggerKind, TriggerStatus};

use super::data::{self, SeenData};
use super::instants::Clock;
use super::key::run_key;
use super::retention;
use crate::SpecProblem;

/// What is wrong with the triggers and the retention of a pipeline.
///
/// # Errors
/// The first trigger that can never start a run, by its field.
pub fn check(spec: &PipelineSpec) -> Result<(), SpecProblem> {
    retention::check(spec)?;
    for (index, trigger) in spec.triggers.iter().enumerate() {
        match &trigger.kind {
            TriggerKind::SpecChange(_) => {}
            TriggerKind::Schedule(schedule) => {
                if let Err((reason, message)) = Clock::new(schedule) {
                    return Err(SpecProblem::new(reason, format!("spec.triggers[{index}].schedule"), message));
                }
            }
            TriggerKind::Data(watched) => data::check(watched, &format!("spec.triggers[{index}].data"))?,
        }
    }
    Ok(())
}

/// What a trigger wants now.
pub(super) struct Wish {
    /// Its status, as far as it does not depend on what becomes of the wish.
    pub(super) status: TriggerStatus,
    /// What it wants to start, the oldest first.
    pub(super) causes: Vec<Cause>,
    /// When it must be asked again.
    pub(super) next: Option<Timestamp>,
}

/// Asks a trigger.
pub(super) fn ask(
    spec: &PipelineSpec,
    trigger: &Trigger,
    prior: Option<&TriggerStatus>,
    seen: Option<&SeenData>,
    (suspended, now): (bool, Timestamp),
) -> Wish {
    let mut status = TriggerStatus { name: trigger.name.clone(), next: None, ..prior.cloned().unwrap_or_default() };
    // Why it started nothing is said until it starts something; what held it back, until it does not any more.
    // Of data it is found again only when it is looked at again.
    let looked = seen.is_some() || !matches!(trigger.kind, TriggerKind::Data(_));
    let busy = status.reason == Reason::PipelineBusy.as_str();
    if HOLDS.iter().any(|hold| hold.as_str() == status.reason) && (looked || !busy) {
        quiet(&mut status);
    }
    match &trigger.kind {
        TriggerKind::SpecChange(_) => {
            let cause = Cause::SpecChange {};
            let changed = status.key != run_key(spec, &cause);
            if suspended && changed {
                say(
                    &mut status,
                    Reason::Suspended,
                    "spec.suspend is true: the spec as it is then runs when that is taken back",
                );
            }
            let causes = if changed && !suspended { vec![cause] } else { Vec::new() };
            Wish { status, causes, next: None }
        }
        TriggerKind::Schedule(schedule) => ask_clock(schedule, status, suspended, now),
        TriggerKind::Data(watched) => data::ask(watched, status, seen, suspended),
    }
}

/// Reasons that hold for as long as they are found again.
const HOLDS: [Reason; 4] = [Reason::Suspended, Reason::InvalidSchedule, Reason::UnknownTimeZone, Reason::PipelineBusy];

/// Takes back why it started nothing.
pub(super) fn quiet(status: &mut TriggerStatus) {
    status.reason.clear();
    status.message.clear();
}

/// Says why it starts nothing.
pub(super) fn say(status: &mut TriggerStatus, reason: Reason, message: impl Into<String>) {
    status.reason = reason.as_str().to_owned();
    status.message = message.into();
}

fn ask_clock(schedule: &Schedule, mut status: TriggerStatus, suspended: bool, now: Timestamp) -> Wish {
    let clock = match Clock::new(schedule) {
        Ok(clock) => clock,
        Err((reason, message)) => {
            say(&mut status, reason, message);
            return Wish { status, causes: Vec::new(), next: None };
        }
    };
    let words = format!("{} {}", schedule.cron, schedule.time_zone.as_deref().unwrap_or("UTC"));
    let considered = status.considered.as_ref().map(|time| time.0);
    // One that is new or was edited begins now. So does one whose clock has gone back: what was started is on record by its instant.
    let since = considered.filter(|time| *time <= now && status.schedule == words);
    status.schedule = words;
    let next = clock.next(now);
    status.next = next.map(Time);
    if suspended {
        // It begins anew when it goes on.
        (status.considered, status.next) = (None, None);
        say(&mut status, Reason::Suspended, "spec.suspend is true: instants that pass meanwhile start nothing");
        return Wish { status, causes: Vec::new(), next: None };
    }
    let Some(since) = since else {
        status.considered = Some(Time(whole_seconds(now)));
        return Wish { status, causes: Vec::new(), next };
    };
    let due = clock.due(since, now);
    if let Some(last) = due.instants.last() {
        status.considered = Some(Time(*last));
    }
    if due.left_out {
        status.considered = Some(Time(due.instants.last().copied().unwrap_or_else(|| whole_seconds(now))));
        say(&mut status, Reason::MissedRuns, "instants passed while nobody looked, and missedRuns leaves them out");
    }
    let causes = due.instants.into_iter().map(|instant| Cause::Schedule { instant: Time(instant) }).collect();
    Wish { status, causes, next }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
