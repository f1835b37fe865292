//! Runs that nobody creates.

use super::{Starts, Workload, script, writer};
use crate::faults::user::During;
use serde_json::{Value, json};

/// The parameter that tells the runs of a Pipeline apart.
const WORD: &str = "word";

impl Workload {
    /// Every workload whose runs its Pipelines start.
    pub(super) fn triggered() -> Vec<Self> {
        let mut all = Self::held().to_vec();
        all.extend([Self::backfill(), Self::queued(), Self::replaced()]);
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

    /// A run that does not end by itself, whose spec is changed: it gives way to another one.
    fn replaced() -> Self {
        let mut second = script("second", &format!("if [ \"$1\" = {BEFORE} ]; then exec sleep 1000; fi"));
        second["container"]["args"] = json!([format!("$(params.{WORD})")]);
        second["dependsOn"] = json!(["first"]);
        Self::changed("replaced", "Replace", second)
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
