//! What starts runs of a pipeline without hands.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// Something that starts a run: a change of the pipeline, the clock, other data, what another pipeline has made. Whatever it is, one cause
/// starts one run, however often it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Name, unique in the pipeline: lower-case letters, digits and dashes, at most 40. Runs carry it as label trainyard.dev/trigger.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::STAGE_NAME))]
    pub name: String,
    /// Values of the pipeline's parameters in the runs that it starts. A text may contain $(trigger.name); of a schedule or backfill
    /// $(trigger.instant) and $(trigger.date); of data $(trigger.uri) and $(trigger.digest); of upstream these and $(trigger.run).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::any_values")]
    pub params: BTreeMap<String, Value>,
    /// What starts the run.
    #[serde(flatten)]
    pub kind: TriggerKind,
}

/// What starts a run: exactly one of these is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TriggerKind {
    /// One run for each change of this spec that can change a result; comments, labels, resources and the like are none.
    SpecChange(SpecChange),
    /// One run for each instant of a clock.
    Schedule(Schedule),
    /// One run for each change of the objects below a prefix.
    Data(Data),
    /// One run for each change of what a stage of another pipeline writes.
    Upstream(Upstream),
    /// One run for each instant of a range, from the past on.
    Backfill(Backfill),
}

/// One run for each change of the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpecChange {}

/// One run for each instant of a clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.catchUpLimit) || (has(self.missedRuns) && self.missedRuns == 'CatchUp')")
        .message("catchUpLimit goes with missedRuns: CatchUp").field_path(".catchUpLimit")
)]
pub struct Schedule {
    /// Minute, hour, day of the month, month and day of the week, as in crontab, such as "0 3 * * 1-5". A time that a change of the
    /// clocks leaves out comes right after it; one that comes twice counts once, but for an hour or minute that is * or */N.
    #[schemars(length(min = 9, max = 128))]
    pub cron: String,
    /// Name of the time zone, such as Europe/Berlin. Absent means UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// What becomes of instants that passed while nobody looked: Skip, RunOnce (the default: the last of them) or CatchUp (each of
    /// the last catchUpLimit).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_runs: Option<MissedRuns>,
    /// How many missed instants are made up for. Absent means 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub catch_up_limit: Option<u32>,
}

/// One run for each change of the objects below a prefix: of their keys, sizes, entity tags or versions. What is there when the trigger
/// is made, or its uri is changed, starts nothing. A short Pod with the store's credentials looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.marker) || self.uri.endsWith('/')").message("marker goes with a uri that ends with /").field_path(".marker")
)]
pub struct Data {
    /// An object, or everything below a prefix that ends with /, such as s3://bucket/raw/. It is read with the pipeline's store settings.
    #[schemars(length(min = 6, max = 1024), regex(pattern = "^(s3|gs|az)://[A-Za-z0-9]"))]
    pub uri: String,
    /// How often it is looked at, such as 5m (the default); at least 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub poll: Option<String>,
    /// How old the newest object must be, such as 2m, so that what is half written starts nothing. Absent means 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = schema::DURATION))]
    pub settle: Option<String>,
    /// Name of an object below the prefix that is written last, such as _SUCCESS: without it nothing starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z0-9_.][^\\s]*$"))]
    pub marker: Option<String>,
}

/// One run for each change of an output of a stage of another Pipeline in the namespace: of its checksum, as its newest run that has
/// succeeded wrote it. What is there when the trigger is made, or is changed, starts nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// Name of the other Pipeline.
    #[schemars(length(min = 1, max = 253))]
    pub pipeline: String,
    /// The output, as STAGE.OUTPUT.
    #[schemars(length(min = 3, max = 81), regex(pattern = schema::STAGE_OUTPUT))]
    pub output: String,
}

/// One run for each instant of a range, the oldest first, whatever other runs are active: concurrency does not speak of them. An instant
/// is run once; what the spec says when it is its turn is what runs. Another cron, timeZone or from, or another rerunToken, begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.from < self.until").message("from must be before until").field_path(".until")
)]
pub struct Backfill {
    /// Minute, hour, day of the month, month and day of the week, as in crontab, such as "0 0 * * *".
    #[schemars(length(min = 9, max = 128))]
    pub cron: String,
    /// Name of the time zone, such as Europe/Berlin. Absent means UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// The first moment of the range, such as 2026-01-01T00:00:00Z.
    pub from: Time,
    /// The end of the range, which is not in it any more; at most 10,000 instants later. What lies in the future is run when it comes.
    pub until: Time,
    /// How many of its runs may be active at once. Absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub max_active: Option<u32>,
}

/// What becomes of instants that passed while nobody looked: Skip, RunOnce (the default) or CatchUp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MissedRuns {
    /// They start nothing.
    Skip,
    /// The last of them starts a run.
    #[default]
    RunOnce,
    /// Each of the last ones starts a run, the oldest first.
    CatchUp,
}

/// What becomes of a run that is due while another one that a trigger started is active: Allow (both go on), Forbid (it is left out),
/// Replace (the active one is cancelled first), QueueLatest (the default: it waits; of those that wait the newest runs). Runs that
/// people create are not counted and never touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Concurrency {
    /// Both go on.
    Allow,
    /// What is due is left out. A change of the spec waits instead: what the spec says last will run.
    Forbid,
    /// The active run is cancelled, and when it has ended the new one starts.
    Replace,
    /// It waits for the end of the active one. Of those that wait the newest runs, and the others are recorded as Superseded.
    #[default]
    QueueLatest,
}

/// Whether a run of a trigger that failed is followed by another one of the same revision: Never (the default) or Backoff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryFailedRevision {
    /// Only a change of the spec, another rerunToken or the annotation trainyard.dev/rerun-requested-at starts it again.
    #[default]
    Never,
    /// After a minute, then after ever twice as long up to an hour, at most five times.
    Backoff,
}
