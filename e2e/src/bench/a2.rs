//! a2: stages a second on KWOK, many runs at once and one wide one, as a share of what the null engine reaches with the same Pods.
//!
//! From the receipt of the first run (of the null engine's first Pod) to the write of the last Pod's success.

use super::audit::{self, Event};
use super::graphs::{self, Needs, Shape};
use super::null_engine::NullEngine;
use super::operator::{self, Operator};
use super::row::Row;
use super::stats::count;
use super::world::{Namespace, World};
use super::{Error, Turns, arms};

const ID: &str = "a2";
const SHARE_GOAL: f64 = 0.9;

/// So many runs of so many stages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) words: &'static str,
    runs: usize,
    shape: Shape,
    stages: usize,
}

pub(super) const LOADS: [Load; 3] = [
    Load { words: "50 runs, chain of 10", runs: 50, shape: Shape::Chain, stages: 10 },
    Load { words: "200 runs, diamond of 10", runs: 200, shape: Shape::Diamond, stages: 10 },
    // As wide as a run can be without a matrix.
    Load { words: "1 run, fan-out of 200", runs: 1, shape: Shape::Fan, stages: 200 },
];

impl Load {
    /// Stages of all runs.
    pub(super) fn all(self) -> usize {
        self.runs * self.stages
    }

    /// All runs as one graph.
    fn needs(self) -> Needs {
        let one = self.shape.needs(self.stages);
        let of_run = |run: usize| {
            let begin = run * self.stages;
            one.iter().map(move |needs| needs.iter().map(|node| begin + node).collect()).collect::<Needs>()
        };
        (0..self.runs).flat_map(of_run).collect()
    }
}

/// The arms, as their figures are named.
const ARMS: [&str; 2] = ["trainyard", "null engine"];

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let _operator = Operator::start(world, &operator::kubeconfig(world, folder.path())?)?;
    // Both once, uncounted: connections, caches and the API server's own.
    for arm in 0..ARMS.len() {
        rate(world, arm, LOADS[2], "bench-a2-warm")?;
    }
    let mut rows = Vec::new();
    for (number, load) in LOADS.into_iter().enumerate() {
        let mut rates = [Vec::new(), Vec::new()];
        for (round, arm) in Turns::new(repeat, ARMS.len()) {
            rates[arm].push(rate(world, arm, load, &format!("bench-a2-{number}-{round}-{arm}"))?);
        }
        for (arm, samples) in ARMS.into_iter().zip(&rates) {
            rows.push(Row::new(ID, &format!("{arm}, {}", load.words), "stages/s", samples)?);
        }
        let shares: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(ours, null)| ours / null).collect();
        let name = format!("trainyard / null engine, {}", load.words);
        rows.push(Row::new(ID, &name, "ratio", &shares)?.at_least(SHARE_GOAL));
    }
    Ok(rows)
}

/// Stages a second.
fn rate(world: &World, arm: usize, load: Load, namespace: &str) -> Result<f64, Error> {
    let namespace = world.namespace(namespace)?;
    let mark = world.audit.mark()?;
    let resource = if arm == 0 {
        run(world, &namespace, load)?;
        "pipelineruns"
    } else {
        null(world, &namespace, &load.needs())?;
        "pods"
    };
    Ok(count(load.all()) / seconds(&world.audit.since(mark)?, &namespace.name, resource, load.all())?)
}

/// Has the operator run it.
pub(super) fn run(world: &World, namespace: &Namespace<'_>, load: Load) -> Result<(), Error> {
    world.define(namespace, "load", &graphs::pipeline(load.shape, load.stages, &graphs::kwok_stage()?))?;
    let names = world.start(namespace, "load", load.runs)?;
    world.ended(namespace, &names).map(drop)
}

/// Runs a graph of Pods that only exist in the API by the null engine.
fn null(world: &World, namespace: &Namespace<'_>, needs: &Needs) -> Result<(), Error> {
    let pods: Vec<_> = (0..needs.len()).map(graphs::kwok_pod).collect::<Result<_, _>>()?;
    let pod = |node: usize| pods[node].clone();
    world.wait(NullEngine { pods: namespace.pods(), needs, pod: &pod, reports: None }.run())
}

/// From the first object to the success of the last of `expected` Pods.
fn seconds(events: &[Event], namespace: &str, resource: &str, expected: usize) -> Result<f64, Error> {
    let events: Vec<Event> = events.iter().filter(|event| event.namespace == namespace).cloned().collect();
    let ended = audit::last_status_writes(&events);
    if ended.len() != expected {
        return Err(Error::Creates { expected, found: ended.len() });
    }
    let last = ended.values().map(|event| event.answered).max_by(f64::total_cmp);
    let last = last.ok_or_else(|| Error::NotInAudit(format!("the end of a Pod in {namespace}")))?;
    Ok(last - arms::begun(&events, namespace, resource)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_graphs_of_their_own() {
        let load = Load { words: "", runs: 2, shape: Shape::Chain, stages: 3 };
        assert_eq!(load.needs(), [vec![], vec![0], vec![1], vec![], vec![3], vec![4]]);
    }
}
