//! a5: the operator's memory with 10,000 live Pods in 500 runs, at its peak: while it makes them, and when it is started beside them,
//! which is when it reads all of them at once.
//!
//! The Pods only exist in the API and never end. They are made once: that alone takes minutes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use kube::api::ListParams;
use trainyard_crds::labels;

use super::Error;
use super::graphs::{self, Shape};
use super::operator::{self, Operator};
use super::row::Row;
use super::world::{Namespace, World};

const ID: &str = "a5";
const RUNS: usize = 500;
const WIDTH: usize = 20;
const GOAL: f64 = 60.0;
/// All that an operator does at its start, it has done after this time.
const SETTLED: Duration = Duration::from_secs(15);
const GLANCE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(1800);

/// Measures it: the restart `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let kubeconfig = operator::kubeconfig(world, folder.path())?;
    let namespace = world.namespace("bench-a5")?;
    world.define(&namespace, "live", &graphs::pipeline(Shape::Wide, WIDTH, &graphs::endless_stage()?))?;
    let making = {
        let operator = Operator::start(world, &kubeconfig)?;
        world.start(&namespace, "live", RUNS)?;
        let began = Instant::now();
        while running(world, &namespace)? < RUNS * WIDTH {
            if began.elapsed() > LIMIT {
                return Err(Error::Slow { what: "10,000 running Pods".to_owned(), limit: LIMIT });
            }
            sleep(GLANCE);
        }
        sleep(SETTLED);
        operator.process().peak().ok_or(Error::OperatorGone)?
    };
    let mut restarts = Vec::new();
    for _ in 0..repeat {
        let operator = Operator::start(world, &kubeconfig)?;
        sleep(SETTLED);
        restarts.push(operator.process().peak().ok_or(Error::OperatorGone)?);
    }
    Ok(vec![
        Row::new(ID, "peak RSS, 10,000 Pods of 500 runs made", "MiB", &[making])?.at_most(GOAL),
        Row::new(ID, "peak RSS, started beside them", "MiB", &restarts)?.at_most(GOAL),
    ])
}

/// Pods that run. Counted in small answers: this is no load that is measured.
fn running(world: &World, namespace: &Namespace<'_>) -> Result<usize, Error> {
    let selected = ListParams::default().labels(labels::STAGE).fields("status.phase=Running").limit(1);
    let page = world.wait(namespace.pods().list_metadata(&selected))?;
    let more = page.metadata.remaining_item_count;
    if more.is_some() || page.items.is_empty() || page.metadata.continue_.is_none() {
        let more = more.and_then(|more| usize::try_from(more).ok()).unwrap_or_default();
        return Ok(page.items.len() + more);
    }
    // With a selector the API server does not say how many there are.
    let selected = ListParams::default().labels(labels::STAGE).fields("status.phase=Running");
    Ok(world.wait(namespace.pods().list_metadata(&selected))?.items.len())
}
