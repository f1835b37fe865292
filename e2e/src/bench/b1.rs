//! b1: seconds per hop of a chain of 10 on the real kubelet; and b3, from the create of the run to the first instruction of user
//! code, which the same runs show.
//!
//! A hop is from the start of one stage's program to the start of the next one's, as the programs say themselves: a program that
//! does nothing else, so all of a hop is the cluster's and the engine's. Beside the operator, with its store and its records, runs
//! the null engine, with the same volumes and nothing to store, with and without early reports.

use super::arms::{self, ARMS, Arm, Engine};
use super::graphs::{self, Mount, Shape};
use super::row::Row;
use super::stats::count;
use super::world::{Namespace, World};
use super::{Error, Turns};

const LENGTH: usize = 10;
const ID: &str = "b1";
/// The measure that comes for free.
const FIRST: &str = "b3";

/// Seconds per hop, and seconds to the first instruction, at most.
fn goals(arm: Arm) -> Option<(f64, f64)> {
    match (arm.engine, arm.mount) {
        (Engine::Trainyard, Mount::Image) => Some((0.65, 0.7)),
        (Engine::Trainyard, Mount::Init) => Some((1.15, 1.1)),
        (Engine::Null { .. }, _) => None,
    }
}

/// What one chain took, in seconds.
struct Took {
    hop: f64,
    first: f64,
}

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let mut hops: Vec<Vec<f64>> = vec![Vec::new(); ARMS.len()];
    let mut firsts = hops.clone();
    for (round, index) in Turns::new(repeat, ARMS.len()) {
        let arm = ARMS[index];
        arm.prepare(world)?;
        let namespace = world.namespace(&format!("bench-b1-{round}-{index}"))?;
        let took = chain(world, &namespace, arm)?;
        hops[index].push(took.hop);
        firsts[index].push(took.first);
    }
    let mut rows = Vec::new();
    for (id, samples) in [(ID, &hops), (FIRST, &firsts)] {
        for (arm, samples) in ARMS.into_iter().zip(samples) {
            let what = if id == ID { "s/hop" } else { "s" };
            let row = Row::new(id, &arm.name(), what, samples)?;
            rows.push(match goals(arm) {
                Some((hop, first)) => row.at_most(if id == ID { hop } else { first }),
                None => row,
            });
        }
    }
    Ok(rows)
}

fn chain(world: &World, namespace: &Namespace<'_>, arm: Arm) -> Result<Took, Error> {
    let mark = world.audit.mark()?;
    let (resource, stamps) = match arm.engine {
        Engine::Trainyard => ("pipelineruns", stamps(world, namespace, LENGTH)?),
        Engine::Null { early } => {
            ("pods", arms::null(world, namespace, arm.mount, early, &Shape::Chain.needs(LENGTH))?.stamps)
        }
    };
    let begun = arms::begun(&world.audit.since(mark)?, &namespace.name, resource)?;
    match (stamps.first(), stamps.last()) {
        (Some(first), Some(last)) if stamps.len() == LENGTH => {
            Ok(Took { hop: (last - first) / count(LENGTH - 1), first: first - begun })
        }
        _ => Err(Error::Stamps { expected: LENGTH, found: stamps.len() }),
    }
}

/// When the program of each stage of a chain started, run by the operator in the cluster.
pub(super) fn stamps(world: &World, namespace: &Namespace<'_>, length: usize) -> Result<Vec<f64>, Error> {
    let pipeline = graphs::pipeline(Shape::Chain, length, &graphs::stamp_stage(&world.stamp));
    let run = world.run(namespace, "chain", &pipeline)?;
    let stages = run.status.map(|status| status.stages).unwrap_or_default();
    Ok(stages.iter().filter_map(|stage| arms::stamp(stage.results.get("at")?.as_str()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_operators_arms_have_goals() {
        assert_eq!(ARMS.iter().filter(|arm| goals(**arm).is_some()).count(), 2);
        let names: std::collections::BTreeSet<_> = ARMS.iter().map(|arm| arm.name()).collect();
        assert_eq!(names.len(), ARMS.len());
    }
}
