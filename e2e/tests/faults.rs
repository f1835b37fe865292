//! The crash sweep. `e2e/FAULTS.md` says how to read it.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use e2e::cluster::{self, Cluster, Options};
use e2e::faults::api::Api;
use e2e::faults::case::{self, Setup};
use e2e::faults::fault::CaseName;
use e2e::faults::mutants::{self, MUTANTS};
use e2e::faults::programs::{self, Programs};
use e2e::faults::selection::{self, Random, Size};
use e2e::faults::sweep::{ENV_CASE, HARNESS, Learned, Report, Sweep, Verdict, shown};
use e2e::faults::workload::Workload;
use e2e::store::LocalVersity;
use e2e::{command, paths, progress};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// The cluster of the sweep, if none is named. It stays after a failure, and after a single case.
const CLUSTER: &str = "faults";
/// The name of another cluster, for two sweeps at the same time.
const ENV_CLUSTER: &str = "TRAINYARD_FAULTS_CLUSTER";
/// How large the sweep is: `crashes`, `sample`, `gate` or `full`.
const ENV_SIZE: &str = "TRAINYARD_FAULTS_SIZE";
/// What the choice of cases is made from.
const ENV_SEED: &str = "TRAINYARD_FAULTS_SEED";
/// The only workloads that are run, by name and separated by commas.
const ENV_WORKLOAD: &str = "TRAINYARD_FAULTS_WORKLOAD";
/// An operator that has nothing to do is watched so long: every run is looked at once a minute.
const REST: Duration = Duration::from_secs(61);
/// So often it is said how far it is.
const TOLD: Duration = Duration::from_secs(30);

/// Every fault of the chosen cases: nothing is lost and nothing counts twice. And every planted mistake is found.
#[test]
fn sweep() {
    let size = env::var(ENV_SIZE).map_or(Size::SAMPLE, |name| Size::named(&name).unwrap());
    let seed = env::var(ENV_SEED).map_or(1, |text| text.parse().unwrap());
    let only = env::var(ENV_CASE).ok().map(|text| text.parse::<CaseName>().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let setup = set_up(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(case) = only {
        return again(&runtime, setup, &case, &folder);
    }
    let workloads = workloads();
    let sweep = Arc::new(Sweep::new(setup.clone(), together()));
    let known = learn(&runtime, &sweep, &workloads);
    let resting = rest(&runtime, &setup, &workloads);
    let all: Vec<CaseName> = known.iter().flat_map(|(workload, learned)| selection::all(workload, learned)).collect();
    let crashes = size == Size::CRASHES;
    let all: Vec<CaseName> = all.into_iter().filter(|case| !crashes || case.class() == 'A').collect();
    let mut cases = selection::choose(&all, size.cases, &mut Random::new(seed));
    let wanted = match crashes {
        true => 0,
        false => size.sequences.max((size.cases + size.sequences).saturating_sub(cases.len())),
    };
    cases.extend((seed * 1_000_000..).filter_map(|seed| selection::sequence(seed, &known)).take(wanted));
    progress::line(&format!(
        "faults: {} of {} cases and {wanted} sequences, seed {seed}",
        cases.len() - wanted,
        all.len()
    ));
    let report = run(&runtime, &sweep, &known, &cases, &folder);
    for line in report.lines() {
        progress::line(&line);
    }
    for workload in resting {
        runtime.block_on(workload).unwrap().unwrap();
    }
    let planted = if size.mutants { plant(&runtime, &setup, &known, &all, seed) } else { Planted::default() };
    let violations = report.violations();
    let Planted { caught, of } = planted;
    let mutants = if size.mutants { format!(", {caught} of {of} mutants caught") } else { String::new() };
    progress::line(&format!("faults: {} cases, {violations} violations{mutants}", report.verdicts.len()));
    assert_eq!(report.failures().count(), 0, "cases with violations; each is told above");
    assert_eq!(caught, of, "mutants that nothing caught; each is told above");
    cluster::down(&cluster(), true).unwrap();
}

fn cluster() -> String {
    env::var(ENV_CLUSTER).unwrap_or_else(|_| CLUSTER.to_owned())
}

fn together() -> usize {
    8 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Those that are asked for, or all.
fn workloads() -> Vec<Workload> {
    match env::var(ENV_WORKLOAD) {
        Ok(names) => names.split(',').map(|name| Workload::named(name).unwrap()).collect(),
        Err(_) => Workload::all(),
    }
}

/// Every workload without a fault.
fn learn(runtime: &Runtime, sweep: &Sweep, workloads: &[Workload]) -> Vec<(Workload, Learned)> {
    let mut known = Vec::new();
    for workload in workloads {
        let learned = runtime.block_on(sweep.learn(workload)).unwrap();
        let case::Places { writes, events, pods, store, reports } = learned.places;
        progress::line(&format!(
            "faults: {} has {writes} writes, {events} events, {pods} Pods, {store} store requests, {reports} reports ({:.1} s)",
            workload.name,
            learned.took.as_secs_f64()
        ));
        known.push((workload.clone(), learned));
    }
    known
}

/// Every workload once more without a fault, and then a minute in which nothing may be written. Goes on beside the others.
fn rest(runtime: &Runtime, setup: &Setup, workloads: &[Workload]) -> Vec<JoinHandle<anyhow::Result<Learned>>> {
    let sweep = Arc::new(Sweep::new(Setup { rest: REST, ..setup.clone() }, 1));
    let one = |workload: Workload| {
        let sweep = Arc::clone(&sweep);
        runtime.spawn(async move { sweep.learn(&workload).await })
    };
    workloads.iter().cloned().map(one).collect()
}

fn run(
    runtime: &Runtime,
    sweep: &Arc<Sweep>,
    known: &[(Workload, Learned)],
    cases: &[CaseName],
    folder: &Path,
) -> Report {
    let (mut done, mut said) = (0, Instant::now());
    let told = |verdict: &Verdict| {
        tell(verdict, folder);
        done += 1;
        if said.elapsed() > TOLD {
            said = Instant::now();
            progress::line(&format!("faults: {done} of {} cases done", cases.len()));
        }
        false
    };
    runtime.block_on(Arc::clone(sweep).run(known, cases, told)).unwrap()
}

/// How many mutants were planted, and how many of them a case has caught.
#[derive(Default)]
struct Planted {
    caught: usize,
    of: usize,
}

/// Plants every mutant, and looks whether a case catches it. Of chosen workloads, only those that their cases can catch.
fn plant(runtime: &Runtime, setup: &Setup, known: &[(Workload, Learned)], all: &[CaseName], seed: u64) -> Planted {
    let folder = setup.folder.join("mutants");
    std::fs::create_dir_all(&folder).unwrap();
    let Programs { operator, runner } = programs::with_mutants(&folder).unwrap();
    let mut planted = Planted::default();
    for mutant in MUTANTS {
        let cases = mutants::cases(mutant, all, &mut Random::new(seed));
        if cases.is_empty() && env::var(ENV_WORKLOAD).is_ok() {
            continue;
        }
        planted.of += 1;
        let setup = Setup {
            operator: operator.clone(),
            runner: runner.clone(),
            folder: folder.clone(),
            mutant: Some(mutant.name),
            ..setup.clone()
        };
        let sweep = Arc::new(Sweep::new(setup, together()));
        let mut by = None;
        let told = |verdict: &Verdict| {
            by = verdict
                .violations
                .iter()
                .find(|violation| violation.invariant != HARNESS)
                .map(|violation| format!("{} ({violation})", verdict.name));
            by.is_some()
        };
        let report = runtime.block_on(sweep.run(known, &cases, told)).unwrap();
        match by {
            Some(case) => {
                planted.caught += 1;
                progress::line(&format!("faults: mutant {} caught by {case}", mutant.name));
            }
            None => progress::line(&format!(
                "faults: mutant {} ({}) not caught by {} cases",
                mutant.name,
                mutant.what,
                report.verdicts.len()
            )),
        }
    }
    planted
}

/// One case, with its history.
fn again(runtime: &Runtime, setup: Setup, case: &CaseName, folder: &Path) {
    let workload = Workload::named(&case.workload).unwrap();
    let sweep = Sweep::new(setup, 1);
    let learned = runtime.block_on(sweep.learn(&workload)).unwrap();
    for (number, (method, path)) in (1..).zip(&learned.list) {
        progress::line(&format!("faults: write {number} is {}", shown(method, path)));
    }
    let verdict = runtime.block_on(sweep.case(&workload, case, &learned.summary, true)).unwrap();
    tell(&verdict, folder);
    progress::line(&format!(
        "faults: {case}: {} faults took place; its history is in {}",
        verdict.struck,
        folder.display()
    ));
    assert_eq!(verdict.violations, [], "{case}");
}

/// A failing case, with the line that runs it again.
fn tell(verdict: &Verdict, folder: &Path) {
    if verdict.violations.is_empty() {
        return;
    }
    let name = &verdict.name;
    progress::line(&format!("faults: {name} has violations ({:.1} s)", verdict.took.as_secs_f64()));
    for violation in &verdict.violations {
        progress::line(&format!("  {violation}"));
    }
    progress::line(&format!("  again: {ENV_CASE}={name} cargo test -p trainyard-e2e --test faults"));
    progress::line(&format!("  its logs and its history: {}", folder.display()));
}

/// An API server with our kinds, an S3 server, and the programs.
fn set_up(folder: &Path) -> Setup {
    let programs = programs::build(folder).unwrap();
    let cluster = Cluster::up(Options::control_plane(&cluster())).unwrap();
    let kinds: PathBuf = paths::repository().join("crds/yaml");
    command::run(cluster.kubectl().args(["apply", "--server-side", "-f"]).arg(kinds)).unwrap();
    command::run(cluster.kubectl().args(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]))
        .unwrap();
    let api = Api::from_kubeconfig(cluster.kubeconfig()).unwrap();
    let store = Arc::new(LocalVersity::start().unwrap());
    Setup {
        api,
        store,
        operator: programs.operator,
        runner: programs.runner,
        folder: folder.to_owned(),
        mutant: None,
        rest: Duration::ZERO,
    }
}
