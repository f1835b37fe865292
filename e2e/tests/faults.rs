//! The crash sweep. `e2e/FAULTS.md` says how to read it.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use e2e::cluster::{self, Cluster, Options};
use e2e::faults::api::Api;
use e2e::faults::case::Setup;
use e2e::faults::fault::{CaseName, Fault};
use e2e::faults::programs;
use e2e::faults::sweep::{ENV_CASE, Learned, Report, Sweep, Verdict};
use e2e::faults::workload::Workload;
use e2e::{command, paths, progress};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The cluster of the sweep. It stays after a failure, and after a single case.
const CLUSTER: &str = "faults";

/// kill -9 at every write: before it is done, after it is done, after the answer.
#[test]
fn class_a() {
    sweep("class_a", &Fault::CRASHES);
}

/// Runs all cases of all workloads, or the one that the environment names.
fn sweep(test: &str, faults: &[Fault]) {
    let only = std::env::var(ENV_CASE).ok().map(|text| text.parse::<CaseName>().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    let setup = set_up(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let told = |verdict: &Verdict| tell(test, verdict, &folder);
    let mut report = Report::default();
    for workload in Workload::all() {
        if only.as_ref().is_some_and(|case| case.workload != workload.name) {
            continue;
        }
        let together = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let sweep = Arc::new(Sweep::new(setup.clone(), workload, together));
        report.extend(runtime.block_on(async {
            let learned = learn(&sweep, only.is_some()).await;
            let Some(case) = &only else { return Arc::clone(&sweep).run(&learned, faults, told).await.unwrap() };
            let verdict = sweep.case(case, &learned.summary, true).await.unwrap();
            told(&verdict);
            progress::line(&format!("faults: its history is in {}", folder.display()));
            Report { took: verdict.took, verdicts: vec![verdict] }
        }));
    }
    for line in report.lines() {
        progress::line(&line);
    }
    assert_eq!(report.failures().count(), 0, "cases with violations; each is told above");
    if only.is_none() {
        cluster::down(CLUSTER, true).unwrap();
    }
}

/// The run without a fault, and what it showed; with every write if `all` of it is wanted.
async fn learn(sweep: &Sweep, all: bool) -> Learned {
    let learned = sweep.learn().await.unwrap();
    let (name, seconds) = (sweep.workload().name, learned.took.as_secs_f64());
    progress::line(&format!("faults: {name} has {} writes without a fault ({seconds:.1} s)", learned.writes));
    for (number, write) in (1..).zip(&learned.list).filter(|_| all) {
        progress::line(&format!("faults: write {number} is {write}"));
    }
    learned
}

/// A failing case, with the line that runs it again.
fn tell(test: &str, verdict: &Verdict, folder: &Path) {
    if verdict.violations.is_empty() {
        return;
    }
    let name = &verdict.name;
    progress::line(&format!("faults: {name} has violations ({:.1} s)", verdict.took.as_secs_f64()));
    for violation in &verdict.violations {
        progress::line(&format!("  {violation}"));
    }
    progress::line(&format!("  again: {ENV_CASE}={name} cargo test -p trainyard-e2e --test faults -- --exact {test}"));
    progress::line(&format!("  its logs and its history: {}", folder.display()));
}

/// An API server with our kinds, and the programs.
fn set_up(folder: &Path) -> Setup {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    let programs = programs::build(folder).unwrap();
    let cluster = Cluster::up(Options::control_plane(CLUSTER)).unwrap();
    let kinds: PathBuf = paths::repository().join("crds/yaml");
    command::run(cluster.kubectl().args(["apply", "--server-side", "-f"]).arg(kinds)).unwrap();
    command::run(cluster.kubectl().args(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]))
        .unwrap();
    let api = Api::from_kubeconfig(cluster.kubeconfig()).unwrap();
    Setup { api, operator: programs.operator, runner: programs.runner, folder: folder.to_owned() }
}
