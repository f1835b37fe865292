//! The instants of a schedule. Pure: the time zones are in the program.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{MissedRuns, Schedule};

/// An instant that passed no longer ago than this was not missed, in seconds.
const ON_TIME: i64 = 60;
/// Most missed instants that are made up for, where the schedule does not say.
const CATCH_UP: u32 = 10;

/// A schedule that can be followed.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    cron: Cron,
    zone: TimeZone,
    missed: MissedRuns,
    limit: usize,
}

/// What is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Instants that each start a run, the oldest first.
    pub(crate) instants: Vec<Timestamp>,
    /// Whether others have passed that start none.
    pub(crate) left_out: bool,
}

impl Clock {
    /// Reads a schedule.
    pub(crate) fn new(schedule: &Schedule) -> Result<Self, (Reason, String)> {
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(&schedule.cron)
            .map_err(|error| {
                let message = format!(
                    "cron {:?} is not minute, hour, day of the month, month and day of the week, such as \"0 3 * * *\": {error}",
                    schedule.cron
                );
                (Reason::InvalidSchedule, message)
            })?;
        let name = schedule.time_zone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(name).map_err(|_| {
            let message =
                format!("there is no time zone {name:?}: use a name of the IANA database, such as Europe/Berlin");
            (Reason::UnknownTimeZone, message)
        })?;
        let limit = schedule.catch_up_limit.unwrap_or(CATCH_UP) as usize;
        let clock = Self { cron, zone, missed: schedule.missed_runs.unwrap_or_default(), limit };
        if clock.next(Timestamp::UNIX_EPOCH).is_none() {
            let message = format!("cron {:?} never comes: no date of any year matches it", schedule.cron);
            return Err((Reason::InvalidSchedule, message));
        }
        Ok(clock)
    }

    /// The first instant after a time.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&self.at(after), false).ok()?;
        Some(next.timestamp())
    }

    /// The last instant that is not after a time.
    fn last(&self, until: Timestamp) -> Option<Timestamp> {
        let until = Timestamp::from_second(until.as_second()).ok()?;
        let last = self.cron.find_previous_occurrence(&self.at(until), true).ok()?;
        Some(last.timestamp())
    }

    fn at(&self, time: Timestamp) -> Zoned {
        time.to_zoned(self.zone.clone())
    }

    /// What is due of the instants after one time and not after the other.
    pub(crate) fn due(&self, after: Timestamp, until: Timestamp) -> Due {
        let most = match self.missed {
            MissedRuns::Skip | MissedRuns::RunOnce => 1,
            MissedRuns::CatchUp => self.limit,
        };
        let mut due = Due::default();
        let mut before = until;
        while let Some(instant) = self.last(before).filter(|instant| *instant > after) {
            let late = self.missed == MissedRuns::Skip && until.duration_since(instant).as_secs() > ON_TIME;
            if late || due.instants.len() == most {
                due.left_out = true;
                break;
            }
            due.instants.push(instant);
            // Schedules know minutes: nothing lies between an instant and the second before it.
            let Ok(earlier) = instant.checked_sub(jiff::SignedDuration::from_secs(1)) else { break };
            before = earlier;
        }
        due.instants.reverse();
        due
    }
}
