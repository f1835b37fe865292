//! a3: the operator's processor time for 1,000 stages, by the kernel's count: many runs at once on KWOK, and a chain on the real
//! kubelet, where each stage takes longer and there is more to see of it.

use std::time::Duration;

use super::a2::{self, LOADS};
use super::graphs::Mount;
use super::operator::{self, Operator};
use super::process::Process;
use super::row::Row;
use super::stats::count;
use super::world::World;
use super::{Error, b1};

const ID: &str = "a3";
/// Stages of the chain.
const LENGTH: usize = 10;
const KWOK_GOAL: f64 = 1.0;
const KUBELET_GOAL: f64 = 3.0;
/// What an operator does after a run's end is part of it.
const SETTLED: Duration = Duration::from_secs(2);

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (number, load) in LOADS.into_iter().enumerate() {
        let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let operator = Operator::start(world, &operator::kubeconfig(world, folder.path())?)?;
        let mut samples = Vec::new();
        for round in 0..repeat {
            let namespace = world.namespace(&format!("bench-a3-{number}-{round}"))?;
            samples.push(busy(operator.process(), load.all(), || a2::run(world, &namespace, load))?);
        }
        let name = format!("{} on KWOK, for 1,000 stages", load.words);
        rows.push(Row::new(ID, &name, "CPU-s", &samples)?.at_most(KWOK_GOAL));
    }
    for mount in [Mount::Image, Mount::Init] {
        world.in_cluster(Some(mount))?;
        let process = world.operator_in_cluster()?;
        let mut samples = Vec::new();
        for round in 0..repeat {
            let namespace = world.namespace(&format!("bench-a3-{}-{round}", mount.setting().to_lowercase()))?;
            samples.push(busy(process, LENGTH, || b1::stamps(world, &namespace, LENGTH).map(drop))?);
        }
        let name = format!("chain of {LENGTH} on the kubelet, {}, for 1,000 stages", mount.words());
        rows.push(Row::new(ID, &name, "CPU-s", &samples)?.at_most(KUBELET_GOAL));
    }
    Ok(rows)
}

/// The operator's processor time while that is done, in seconds, for 1,000 stages.
fn busy(operator: Process, stages: usize, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let time = || operator.processor().ok_or(Error::OperatorGone);
    let before = time()?;
    work()?;
    std::thread::sleep(SETTLED);
    Ok((time()? - before) / count(stages) * 1000.0)
}
