//! Real frameworks really train: several runners, each on a machine of its own network, with packages from PyPI.
//!
//! The packages are those of `deploy/images/python/training.txt` (150 MB), MPICH and Open MPI, installed into the project's cache at the first time. What
//! is said of torch is its rendezvous; the real one is 3 GB.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::gang::{Gang, Running};
use common::network::Network;
use common::python::{self, Packages};
use common::{Done, Step, World};
use serde_json::Value;
use step_protocol::{Framework, Outcome};

struct Place {
    world: World,
    network: Network,
    gang: Gang,
    packages: Packages,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new(framework: Framework, ranks: u8) -> Option<Self> {
        Self::with(python::TRAINING, framework, ranks)
    }

    fn with(requirements: &str, framework: Framework, ranks: u8) -> Option<Self> {
        // One training at a time: each has as many processes as this machine takes.
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let network = Network::new(ranks)?;
        let mut gang = Gang::new(framework, ranks);
        (gang.hosts, gang.port, gang.gate_port) = (network.hosts(), 29500, 29499);
        gang.start_timeout = 600;
        Some(Self { world: World::new(), network, gang, packages: python::packages(requirements), _turn: turn })
    }

    /// A rank that runs a program of the repository.
    fn python(&self, rank: u32, program: &str) -> Step {
        let path = python::repository().join(program);
        self.shell(rank, &format!("exec python3 {}", path.display()))
    }

    fn shell(&self, rank: u32, script: &str) -> Step {
        let mut step = self.gang.shell(&self.world, rank, script);
        step.wrapper = self.network.on(rank);
        self.packages.variables().into_iter().fold(step, |step, (name, value)| step.variable(&name, value))
    }

    fn start(&self, step: impl Fn(u32) -> Step) -> Vec<Running> {
        let ranks = 0..u32::try_from(self.gang.hosts.len()).unwrap();
        ranks.map(|rank| Running::start(step(rank))).collect()
    }
}

/// All ranks to their end.
fn ended(ranks: Vec<Running>) -> Vec<Done> {
    ranks.into_iter().map(|rank| rank.end().ended(Outcome::Succeeded)).collect()
}

fn lines_with<'a>(done: &'a Done, words: &'a str) -> Vec<&'a str> {
    done.stdout.lines().filter(|line| line.contains(words)).collect()
}

#[test]
fn xgboost_with_four_ranks_has_one_loss() {
    let Some(place) = Place::new(Framework::XGBoost, 4) else { return };
    let step = |rank| {
        let step = place.python(rank, "examples/xgboost-distributed/code/train.py");
        if rank == 0 { step.outputs(&["model"]) } else { step }
    };
    let done = ended(place.start(step));
    let losses: BTreeSet<_> = done.iter().map(|done| lines_with(done, "log loss")).collect();
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert_eq!(losses.first().unwrap().len(), 20);
    let loss = place.world.record("train").unwrap().metrics["logloss"].as_f64().unwrap();
    assert!(loss < 0.05, "{loss}");
    let model: Value = serde_json::from_slice(&place.world.objects("train")["1/model/model.json"]).unwrap();
    assert!(model["learner"].is_object());
}

#[test]
fn lightgbm_with_two_ranks_grows_the_same_trees() {
    let Some(place) = Place::new(Framework::LightGBM, 2) else { return };
    let done = ended(place.start(|rank| place.python(rank, "step-runner/tests/programs/lightgbm_rank.py")));
    let trees: BTreeSet<_> = done.iter().map(|done| lines_with(done, "of trees")).collect();
    assert_eq!(trees.len(), 1, "{trees:?}");
    let accuracy: f64 = trees.first().unwrap()[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(accuracy > 0.8, "{accuracy}");
}

#[test]
fn mpi_sums_over_three_pods_without_ssh() {
    for (requirements, name) in [(python::MPICH, "HYDRA"), (python::OPEN_MPI, "Open MPI")] {
        let Some(place) = Place::with(requirements, Framework::MPI, 3) else { return };
        sums(&place, name);
    }
}

fn sums(place: &Place, name: &str) {
    let version = Command::new(place.packages.program("mpiexec")).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(version.contains(name), "{version}");
    let program = python::repository().join("step-runner/tests/programs/mpi_sum.py");
    let done = ended(place.start(|rank| {
        let step = place.shell(rank, &format!("mpiexec -n 3 python3 {}", program.display()));
        // Pods of ours are never root.
        [
            "OMPI_ALLOW_RUN_AS_ROOT",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
            "PRTE_ALLOW_RUN_AS_ROOT",
            "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM",
        ]
        .into_iter()
        .fold(step, |step, name| step.variable(name, "1"))
    }));
    assert_eq!(done[0].stdout, "3 processes on 10.99.0.1 10.99.0.2 10.99.0.3: sum 111\n");
}

#[test]
fn torch_finds_its_rendezvous() {
    let Some(place) = Place::new(Framework::Torch, 3) else { return };
    let done = ended(place.start(|rank| place.python(rank, "step-runner/tests/programs/torch_rendezvous.py")));
    for (rank, done) in done.iter().enumerate() {
        assert_eq!(done.stdout, format!("rank {rank} of 3 sees ['0', '1', '2']\n"));
    }
}

/// The loss of each step, as rank 0 wrote it to its metrics.
fn curve(place: &Place, execution: u32) -> Vec<(u64, f64)> {
    let objects = place.world.objects("train");
    let lines = objects[&format!("{execution}/metrics.jsonl")].lines();
    lines
        .map(|line| {
            let metric: Value = serde_json::from_str(&line.unwrap()).unwrap();
            (metric["step"].as_u64().unwrap(), metric["value"].as_f64().unwrap())
        })
        .collect()
}

#[test]
fn jax_that_is_killed_twice_ends_with_the_curve_of_one_that_was_not() {
    let Some(undisturbed) = Place::new(Framework::JAX, 2) else { return };
    let train = |place: &Place, rank| {
        let step = place.python(rank, "examples/jax-checkpoint/code/train.py");
        let step = step.param("steps", 40).param("every", 10).param("pause", 0.3);
        if rank == 0 { step.outputs(&["model"]) } else { step }
    };
    let with_checkpoints = |mut place: Place| {
        place.gang.checkpoint = Some(1);
        place
    };
    let undisturbed = with_checkpoints(undisturbed);
    ended(undisturbed.start(|rank| train(&undisturbed, rank)));
    let expected = curve(&undisturbed, 1);
    assert_eq!(expected.len(), 40);
    drop(undisturbed);

    let mut place = with_checkpoints(Place::new(Framework::JAX, 2).unwrap());
    // First the runner of rank 1, then that of rank 0; the operator would end the other.
    for killed in [1, 0] {
        let mut ranks = place.start(|rank| train(&place, rank));
        let errors = BufReader::new(ranks[0].child.stderr.take().unwrap());
        let kept = errors.lines().map(Result::unwrap).find(|line| line.contains("trainyard: checkpoint 0"));
        assert!(kept.is_some(), "no checkpoint");
        ranks[killed].kill();
        ranks[1 - killed].kill();
        place.gang.again();
    }
    let done = ended(place.start(|rank| train(&place, rank)));
    let began = lines_with(&done[1], "begins at step")[0].split(' ').nth(3).unwrap().parse::<u32>().unwrap();
    assert!(began >= 10, "it began at {began}");
    assert!(done[0].report.restored.unwrap().execution == 2, "{:?}", done[0].report);
    assert_eq!(curve(&place, 3), expected);
}

#[test]
fn the_code_that_examples_apply_is_the_code_that_is_tested() {
    for example in ["xgboost-distributed", "jax-checkpoint"] {
        let read = |path: &str| {
            std::fs::read_to_string(python::repository().join("examples").join(example).join(path)).unwrap()
        };
        let applied = read("code.yaml");
        let (_, applied) = applied.split_once("  train.py: |\n").unwrap();
        let applied: Vec<_> = applied.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
        assert_eq!(applied, read("code/train.py").lines().collect::<Vec<_>>(), "{example}");
    }
}
