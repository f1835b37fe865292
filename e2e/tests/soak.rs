//! The soak: `make soak` runs a thousand pipelines; without the variable, fifty, which takes seconds.

use e2e::cluster::{self, Cluster, Options};
use e2e::faults::api::Api;
use e2e::faults::programs;
use e2e::soak::{self, Soak};
use e2e::{command, paths, progress};
use std::path::Path;

/// The variable with the number of runs.
const ENV_RUNS: &str = "TRAINYARD_SOAK_RUNS";
/// Its cluster, which stays after a failure.
const CLUSTER: &str = "soak";

#[test]
fn every_run_is_right_and_memory_stays() {
    let runs = std::env::var(ENV_RUNS).ok().map_or(50, |text| text.parse().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let programs = programs::build(&folder).unwrap();
    cluster::down(CLUSTER, true).unwrap();
    let cluster = Cluster::up(Options::control_plane(CLUSTER)).unwrap();
    let kinds = paths::repository().join("crds/yaml");
    command::run(cluster.kubectl().args(["apply", "--server-side", "-f"]).arg(kinds)).unwrap();
    command::run(cluster.kubectl().args(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]))
        .unwrap();
    let api = Api::from_kubeconfig(cluster.kubeconfig()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let soak = runtime.block_on(soak::soak(&api, &soak::options(&programs.operator, &folder, runs))).unwrap();
    tell(&soak);
    assert!(soak.judgement.wrong.is_empty(), "{}", soak.judgement.wrong.join("\n"));
    let (early, late) = soak.growth.early_and_late();
    assert!(soak.growth.is_flat(), "the operator had {early} in the beginning and {late} in the end");
    // A soak in which nothing went wrong says nothing.
    assert!(soak.faults.values().sum::<u64>() > 0 && soak.requests > 0, "{soak:?}");
    cluster::down(CLUSTER, true).unwrap();
}

fn tell(soak: &Soak) {
    let (early, late) = soak.growth.early_and_late();
    progress::line(&format!(
        "soak: {} runs of {} stages in {:.0} s; {} requests, of which {} met a fault; {} Pods killed; memory {early}, then {late}",
        soak.growth.samples().len(),
        soak::STAGES,
        soak.took.as_secs_f64(),
        soak.requests,
        soak.faults.values().sum::<u64>(),
        soak.killed,
    ));
    for (fault, count) in &soak.faults {
        progress::line(&format!("soak: {fault:?} {count} times"));
    }
}
