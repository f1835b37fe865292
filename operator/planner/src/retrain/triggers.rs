//! What each trigger wants now.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Cause, PipelineSpec, Schedule, Trigger, TriggerKind, TriggerStatus, UpstreamArtifact};

use super::data::{self, SeenData};
use super::instants::Clock;
use super::key::run_key;
use super::upstream::{self, SeenUpstream};
use super::{backfill, given, retention};
use crate::SpecProblem;

/// What is wrong with the triggers and the retention of the pipeline of this name. `known` is its `status.triggers`.
///
/// # Errors
/// The first trigger that can never start a run, by its field.
pub fn check(name: &str, spec: &PipelineSpec, known: &[TriggerStatus]) -> Result<(), SpecProblem> {
    retention::check(spec)?;
    let status = |trigger: &Trigger| known.iter().find(|status| status.name == trigger.name);
    spec.triggers.iter().enumerate().try_for_each(|(index, trigger)| check_one(name, spec, index, status(trigger)))
}

/// What is wrong with one trigger.
pub(super) fn check_one(
    name: &str,
    spec: &PipelineSpec,
    index: usize,
    known: Option<&TriggerStatus>,
) -> Result<(), SpecProblem> {
    if let Some(trigger) = spec.triggers.get(index) {
        let path = format!("spec.triggers[{index}]");
        match &trigger.kind {
            TriggerKind::SpecChange(_) => {}
            TriggerKind::Upstream(watched) if watched.pipeline == name => {
                let message = "a pipeline cannot start itself by what it makes: name another one";
                return Err(SpecProblem::new(Reason::InvalidPipeline, format!("{path}.upstream.pipeline"), message));
            }
            TriggerKind::Upstream(_) => {}
            TriggerKind::Schedule(schedule) => {
                if let Err((reason, message)) = Clock::new(schedule) {
                    return Err(SpecProblem::new(reason, format!("{path}.schedule"), message));
                }
            }
            TriggerKind::Data(watched) => data::check(watched, &format!("{path}.data"))?,
            TriggerKind::Backfill(range) => backfill::check(range, known, &format!("{path}.backfill"))?,
        }
        given::check(spec, trigger, &path)?;
    }
    Ok(())
}

/// What a trigger wants now.
pub(super) struct Wish {
    /// Its status, as far as it does not depend on what becomes of the wish.
    pub(super) status: TriggerStatus,
    /// What it wants to start, the oldest first.
    pub(super) causes: Vec<Cause>,
    /// What it wants to start is about this output.
    pub(super) upstream: Option<UpstreamArtifact>,
    /// When it must be asked again.
    pub(super) next: Option<Timestamp>,
    /// Up to when its instants have been dealt with if nothing can be started.
    pub(super) held: Option<Time>,
}

impl Wish {
    /// It wants nothing.
    pub(super) fn nothing(status: TriggerStatus) -> Self {
        let held = status.considered.clone();
        Self { status, causes: Vec::new(), upstream: None, next: None, held }
    }
}

/// What triggers are asked about.
pub(super) struct Question<'a> {
    pub(super) spec: &'a PipelineSpec,
    /// Whether it can start anything at all.
    pub(super) valid: Result<(), SpecProblem>,
    pub(super) data: Option<&'a SeenData>,
    pub(super) upstream: Option<&'a SeenUpstream>,
    /// How many of its runs have not ended.
    pub(super) active: usize,
    /// Whether the run of this spec found another one when it began, and so did nothing.
    pub(super) undone: bool,
    pub(super) suspended: bool,
    pub(super) now: Timestamp,
}

/// Asks a trigger.
pub(super) fn ask(trigger: &Trigger, prior: Option<&TriggerStatus>, question: &Question<'_>) -> Wish {
    let Question { spec, suspended, now, .. } = *question;
    let mut status = TriggerStatus { name: trigger.name.clone(), next: None, ..prior.cloned().unwrap_or_default() };
    // Why it started nothing is said until it starts something; what held it back, until it does not any more.
    // Of data and of other pipelines it is found again only when these are looked at again.
    let looked = match &trigger.kind {
        TriggerKind::Data(_) => question.data.is_some(),
        TriggerKind::Upstream(_) => question.upstream.is_some(),
        _ => true,
    };
    let busy = status.reason == Reason::PipelineBusy.as_str();
    if HOLDS.iter().any(|hold| hold.as_str() == status.reason) && (looked || !busy) {
        quiet(&mut status);
    }
    if let Err(problem) = &question.valid {
        say(&mut status, problem.reason, problem.to_string());
        return Wish::nothing(status);
    }
    match &trigger.kind {
        TriggerKind::SpecChange(_) => {
            let cause = Cause::SpecChange {};
            let changed = question.undone || status.key != run_key(spec, &trigger.name, &cause);
            if suspended && changed {
                say(
                    &mut status,
                    Reason::Suspended,
                    "spec.suspend is true: the spec as it is then runs when that is taken back",
                );
            }
            let causes = if changed && !suspended { vec![cause] } else { Vec::new() };
            Wish { causes, ..Wish::nothing(status) }
        }
        TriggerKind::Schedule(schedule) => ask_clock(schedule, status, suspended, now),
        TriggerKind::Data(watched) => data::ask(watched, status, question.data, suspended),
        TriggerKind::Upstream(watched) => upstream::ask(watched, status, question.upstream, suspended),
        TriggerKind::Backfill(range) => {
            backfill::ask(range, status, spec.rerun_token.as_deref(), question.active, (suspended, now))
        }
    }
}

/// Reasons that hold for as long as they are found again.
const HOLDS: [Reason; 9] = [
    Reason::Suspended,
    Reason::InvalidSchedule,
    Reason::UnknownTimeZone,
    Reason::InvalidPipeline,
    Reason::ParameterUnknown,
    Reason::ParameterMissing,
    Reason::ParameterInvalid,
    Reason::UnknownReference,
    Reason::PipelineBusy,
];

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
            return Wish::nothing(status);
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
        return Wish::nothing(status);
    }
    let Some(since) = since else {
        status.considered = Some(Time(whole_seconds(now)));
        return Wish { next, ..Wish::nothing(status) };
    };
    let held = status.considered.clone();
    let due = clock.due(since, now);
    if let Some(last) = due.instants.last() {
        status.considered = Some(Time(*last));
    }
    if due.left_out {
        status.considered = Some(Time(due.instants.last().copied().unwrap_or_else(|| whole_seconds(now))));
        say(&mut status, Reason::MissedRuns, "instants passed while nobody looked, and missedRuns leaves them out");
    }
    let causes = due.instants.into_iter().map(|instant| Cause::Schedule { instant: Time(instant) }).collect();
    Wish { causes, next, held, ..Wish::nothing(status) }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
