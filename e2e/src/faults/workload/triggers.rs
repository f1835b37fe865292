//! Runs that nobody creates.

use super::{Stage, Starts, Workload, folder, script, writer};
use crate::faults::user::During;
use serde_json::{Value, json};
use std::time::Duration;

/// The parameter that tells the runs of a Pipeline apart.
const WORD: &str = "word";

impl Workload {
    /// Every workload whose runs its Pipelines start.
    pub(super) fn triggered() -> Vec<Self> {
        let mut all = Self::held().to_vec();
        all.extend([
            Self::backfill(),
            Self::queued(),
            Self::replaced(),
            Self::data(),
            Self::upstream(),
            Self::retained(),
        ]);
        all
    }

    /// One run. What starts it is still there, or comes again, while it runs.
    fn held() -> [Self; 2] {
        let graph: [(&str, &[&str]); 2] = [("first", &[]), ("second", &["first"])];
        let held = |name, starts| {
            let mut workload = Self::writers(name, &graph);
            // Long enough that what its user does meanwhile is seen while it runs.
            workload.prepend(1, "sleep 0.3");
            Self { starts, during: Some(During::Touch), ..workload }
        };
        let by_spec = Self::on_change(held("triggered", Starts::Trigger));
        [by_spec, held("requested", Starts::Request)]
    }

    /// Four instants of the past, two of them at a time.
    fn backfill() -> Self {
        let mut workload = Self::writers("backfill", &[("first", &[])]);
        workload.pipeline["stages"][0]["container"]["args"] = json!([format!("$(params.{WORD})")]);
        workload.pipeline["params"] = parameter("none");
        let range = json!({
            "cron": "0 0 * * *", "from": "2026-01-01T00:00:00Z", "until": "2026-01-05T00:00:00Z", "maxActive": 2,
        });
        workload.pipeline["triggers"] =
            json!([{"name": "days", "params": {WORD: "$(trigger.date)"}, "backfill": range}]);
        Self { starts: Starts::Trigger, runs: 4, together: 2, weight: 2, ..workload }
    }

    /// A run whose spec is changed while it runs: another one waits for its end.
    fn queued() -> Self {
        let second = writer("second", &["first"]);
        let mut workload = Self::changed("queued", "QueueLatest", second);
        workload.prepend(1, "sleep 0.3");
        workload
    }

    /// The same, and only the last that has succeeded is kept.
    fn retained() -> Self {
        let mut workload = Self { name: "retained", ..Self::queued() };
        workload.pipeline["retention"] = json!({"succeeded": 1});
        workload
    }

    /// How many runs that have succeeded are kept.
    #[must_use]
    pub fn keeps(&self) -> usize {
        let limit = self.pipeline["retention"]["succeeded"].as_u64();
        limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
    }

    /// A run that does not end by itself, whose spec is changed: it gives way to another one.
    fn replaced() -> Self {
        let mut second = script("second", &format!("if [ \"$1\" = {BEFORE} ]; then exec sleep 1000; fi"));
        second["container"]["args"] = json!([format!("$(params.{WORD})")]);
        second["dependsOn"] = json!(["first"]);
        Self::changed("replaced", "Replace", second)
    }

    /// Data that becomes more when it has been looked at once.
    fn data() -> Self {
        let mut workload = Self::in_a_bucket(Self::writers("data", &[("first", &[])]));
        // Where it lies is said in its namespace.
        workload.pipeline["triggers"] =
            json!([{"name": "drops", "data": {"uri": "s3://trainyard/data/", "poll": "10s"}}]);
        Self { starts: Starts::Trigger, during: Some(During::Write), weight: 1, ..workload }
    }

    /// A Pipeline that follows what another one writes.
    fn upstream() -> Self {
        let mut workload = Self::on_change(Self::writers("upstream", &[("first", &[])]));
        // What the other has written before it is looked at starts nothing.
        workload.pipeline["suspend"] = true.into();
        let trigger = json!({"name": "text", "upstream": {"pipeline": "upstream", "output": "first.text"}});
        let after = json!({"store": folder(), "stages": [writer("after", &[])], "triggers": [trigger]});
        workload.stages.push(Stage::new("after", &[], 0));
        let (during, downstream) = (Some(During::Release), Some(after));
        Self { starts: Starts::Trigger, runs: 2, downstream, during, weight: 2, ..workload }
    }

    /// How many runs there are if some have failed: what is made by none is followed by none.
    #[must_use]
    pub fn runs(&self, any_failed: bool) -> usize {
        if any_failed && self.downstream.is_some() { 1 } else { self.runs }
    }

    /// Whether short Pods look at data for it.
    #[must_use]
    pub fn looks(&self) -> bool {
        let mut triggers = self.pipeline["triggers"].as_array().into_iter().flatten();
        triggers.any(|trigger| trigger["data"].is_object())
    }

    /// How long its clock holds it up: looks are ten seconds apart, and after one that shows nothing there is another.
    #[must_use]
    pub fn holds(&self) -> Duration {
        Duration::from_secs(if self.looks() { 60 } else { 0 })
    }

    /// Two runs: of the spec, and of what it becomes while the second stage runs.
    fn changed(name: &'static str, concurrency: &str, second: Value) -> Self {
        let mut workload = Self::on_change(Self::writers(name, &[("first", &[]), ("second", &["first"])]));
        workload.pipeline["params"] = parameter(BEFORE);
        workload.pipeline["concurrency"] = concurrency.into();
        workload.pipeline["stages"][0]["container"]["args"] = json!([format!("$(params.{WORD})")]);
        workload.pipeline["stages"][1] = second;
        let during = Some(During::Change);
        Self { starts: Starts::Trigger, runs: 2, during, weight: 2, ..workload }
    }

    /// The same, run when its spec is another one.
    fn on_change(mut self) -> Self {
        self.pipeline["triggers"] = json!([{"name": "git", "specChange": {}}]);
        self
    }

    /// Has the program of a stage, by its place, do something first.
    fn prepend(&mut self, stage: usize, line: &str) {
        let script = &mut self.pipeline["stages"][stage]["container"]["script"];
        let text = script.as_str().unwrap_or_default().replacen("set -e\n", &format!("set -e\n{line}\n"), 1);
        *script = text.into();
    }

    /// Whether a run of it is cancelled, by its user or for another one.
    #[must_use]
    pub fn cancels(&self) -> bool {
        self.during == Some(During::Cancel) || self.pipeline["concurrency"] == "Replace"
    }
}

/// What the parameter is before its user changes it.
const BEFORE: &str = "before";

/// The parameters of a Pipeline whose runs are told apart by one.
pub(in crate::faults) fn parameter(word: &str) -> Value {
    json!([{"name": WORD, "default": word}])
}
