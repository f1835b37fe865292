//! What the operator counts, for Prometheus. Every name stands here once; `docs` and the chart's dashboards read them from here.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Reconciles take from a fraction of a millisecond (nothing to do) to seconds (a slow API server).
const RECONCILE_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A handoff is some milliseconds with an early report and some seconds without.
const HANDOFF_BUCKETS: [f64; 14] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 30.0, 120.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Controller {
    controller: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ControllerError {
    controller: String,
    category: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WithResult {
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WithOutcome {
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Event {
    r#type: String,
    result: String,
}

type Histograms = Family<Controller, Histogram, fn() -> Histogram>;

/// All metrics; a clone counts into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Controller, Counter>,
    reconcile_errors: Family<ControllerError, Counter>,
    reconcile_duration: Histograms,
    pods_created: Counter,
    status_writes: Family<Kind, Counter>,
    events: Family<Event, Counter>,
    early_reports: Family<WithResult, Counter>,
    progress_reports: Family<WithResult, Counter>,
    attempts: Family<WithOutcome, Counter>,
    active_runs: Gauge,
    handoff: Histogram,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("trainyard");
        let reconciles = Family::default();
        registry.register("reconciles", "Reconciles that ended, also with an error", reconciles.clone());
        let reconcile_errors = Family::default();
        registry.register(
            "reconcile_errors",
            "Reconciles that ended with an error, by category",
            reconcile_errors.clone(),
        );
        let reconcile_duration: Histograms = Family::new_with_constructor(|| Histogram::new(RECONCILE_BUCKETS));
        registry.register_with_unit(
            "reconcile_duration",
            "Time that a reconcile took",
            Unit::Seconds,
            reconcile_duration.clone(),
        );
        let pods_created = Counter::default();
        registry.register("pods_created", "Pods that were created for attempts", pods_created.clone());
        let status_writes = Family::default();
        registry.register("status_writes", "Writes of status, by kind", status_writes.clone());
        let events = Family::default();
        registry.register("events", "Events, by type and by whether the API server took them", events.clone());
        let early_reports = Family::default();
        registry.register("early_reports", "Early reports of stages: accepted, or why refused", early_reports.clone());
        let progress_reports = Family::default();
        registry.register(
            "progress_reports",
            "Reports of a training's progress: accepted, or why refused",
            progress_reports.clone(),
        );
        let attempts = Family::default();
        registry.register("stage_attempts", "Attempts of stages that ended, by outcome", attempts.clone());
        let active_runs = Gauge::default();
        registry.register("active_runs", "Runs that have not ended", active_runs.clone());
        let handoff = Histogram::new(HANDOFF_BUCKETS);
        registry.register_with_unit(
            "stage_handoff",
            "Time from the end of the last stage that a stage waits for to the creation of its Pod",
            Unit::Seconds,
            handoff.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "Whether this process is the leader", leader.clone());
        registry.register("build", "This build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));

        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_errors,
            reconcile_duration,
            pods_created,
            status_writes,
            events,
            early_reports,
            progress_reports,
            attempts,
            active_runs,
            handoff,
            leader,
        }
    }

    /// Counts a reconcile that took so long; with the error's category if it ended with one.
    pub fn reconciled(&self, controller: &str, took: Duration, error: Option<&str>) {
        let controller = Controller { controller: controller.to_owned() };
        self.reconciles.get_or_create(&controller).inc();
        self.reconcile_duration.get_or_create(&controller).observe(took.as_secs_f64());
        if let Some(category) = error {
            let labels = ControllerError { controller: controller.controller, category: category.to_owned() };
            self.reconcile_errors.get_or_create(&labels).inc();
        }
    }

    /// Counts a Pod that was created.
    pub fn pod_created(&self) {
        self.pods_created.inc();
    }

    /// Counts a write of status of a kind such as `PipelineRun`.
    pub fn status_written(&self, kind: &str) {
        self.status_writes.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// Counts an event, and whether it was published.
    pub fn event(&self, r#type: &str, published: bool) {
        let result = if published { "published" } else { "failed" };
        self.events.get_or_create(&Event { r#type: r#type.to_owned(), result: result.to_owned() }).inc();
    }

    /// Counts an early report: `accepted`, or the reason for which it was refused.
    pub fn early_report(&self, result: &str) {
        self.early_reports.get_or_create(&WithResult { result: result.to_owned() }).inc();
    }

    /// Counts a report of a training's progress: `accepted`, or the reason for which it was refused.
    pub fn progress_report(&self, result: &str) {
        self.progress_reports.get_or_create(&WithResult { result: result.to_owned() }).inc();
    }

    /// Counts an attempt that ended with an outcome such as `Succeeded` or `OOMKilled`.
    pub fn attempt_ended(&self, outcome: &str) {
        self.attempts.get_or_create(&WithOutcome { outcome: outcome.to_owned() }).inc();
    }

    /// Says how many runs have not ended.
    pub fn set_active_runs(&self, runs: usize) {
        self.active_runs.set(i64::try_from(runs).unwrap_or(i64::MAX));
    }

    /// Observes the time between the end of a stage and the creation of the Pod that waited for it.
    pub fn handed_off(&self, took: Duration) {
        self.handoff.observe(took.as_secs_f64());
    }

    /// Says whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// All of it in the OpenMetrics text format.
    ///
    /// # Errors
    /// Only if a metric cannot be written as text, which would be a fault of the library.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name and unit, whole: dashboards and alerts rely on them.
    #[test]
    fn every_metric_by_its_name() {
        let metrics = Metrics::new();
        metrics.reconciled("pipelinerun", Duration::from_millis(3), None);
        metrics.reconciled("pipelinerun", Duration::from_millis(30), Some("conflict"));
        metrics.pod_created();
        metrics.status_written("PipelineRun");
        metrics.event("Warning", true);
        metrics.early_report("accepted");
        metrics.progress_report("accepted");
        metrics.attempt_ended("OOMKilled");
        metrics.set_active_runs(7);
        metrics.handed_off(Duration::from_millis(6));
        metrics.set_leader(true);
        let text = metrics.encode().unwrap().replace(env!("CARGO_PKG_VERSION"), "[version]");
        let without_buckets: Vec<_> = text.lines().filter(|line| !line.contains("_bucket{")).collect();
        insta::assert_snapshot!(without_buckets.join("\n"));
    }

    #[test]
    fn a_clone_counts_into_the_same_metrics() {
        let metrics = Metrics::new();
        metrics.clone().pod_created();
        assert!(metrics.encode().unwrap().contains("trainyard_pods_created_total 1\n"));
    }
}
