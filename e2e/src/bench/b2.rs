//! b2: a fan-out of 20 and its join on the real kubelet: from the create of the run to the engine's word that all of it has ended.
//!
//! One stage, 20 that need it, one that needs these. The programs do nothing, so all of it is the cluster's and the engine's; 20 Pods
//! start at the same moment, which on a small machine is most of it.

use super::arms::{self, ARMS, Arm, Engine};
use super::audit::Event;
use super::graphs::{self, Mount, Shape};
use super::row::Row;
use super::world::{Namespace, World};
use super::{Error, Turns};

const ID: &str = "b2";
const WIDTH: usize = 20;
/// With the stage before and the stage after.
const STAGES: usize = WIDTH + 2;

/// Seconds, at most.
fn goal(arm: Arm) -> Option<f64> {
    match (arm.engine, arm.mount) {
        (Engine::Trainyard, Mount::Image) => Some(5.5),
        (Engine::Trainyard, Mount::Init) => Some(8.0),
        (Engine::Null { .. }, _) => None,
    }
}

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); ARMS.len()];
    for (round, index) in Turns::new(repeat, ARMS.len()) {
        ARMS[index].prepare(world)?;
        let namespace = world.namespace(&format!("bench-b2-{round}-{index}"))?;
        took[index].push(makespan(world, &namespace, ARMS[index])?);
    }
    let row = |(arm, samples): (Arm, &Vec<f64>)| {
        let row = Row::new(ID, &format!("{}, {WIDTH} and a join", arm.name()), "s", samples)?;
        Ok(match goal(arm) {
            Some(goal) => row.at_most(goal),
            None => row,
        })
    };
    ARMS.into_iter().zip(&took).map(row).collect()
}

fn makespan(world: &World, namespace: &Namespace<'_>, arm: Arm) -> Result<f64, Error> {
    let mark = world.audit.mark()?;
    let (resource, ended) = match arm.engine {
        Engine::Trainyard => {
            let pipeline = graphs::pipeline(Shape::Diamond, STAGES, &graphs::stamp_stage(&world.stamp));
            world.run(namespace, "fan", &pipeline)?;
            ("pipelineruns", ended(&world.audit.since(mark)?, &namespace.name)?)
        }
        Engine::Null { early } => {
            let needs = Shape::Diamond.needs(STAGES);
            ("pods", arms::null(world, namespace, arm.mount, early, &needs)?.ended)
        }
    };
    Ok(ended - arms::begun(&world.audit.since(mark)?, &namespace.name, resource)?)
}

/// When the run's status was written for the last time.
fn ended(events: &[Event], namespace: &str) -> Result<f64, Error> {
    let written = events
        .iter()
        .filter(|event| event.resource == "pipelineruns/status" && event.namespace == namespace && event.code < 300);
    let last = written.map(|event| event.answered).max_by(f64::total_cmp);
    last.ok_or_else(|| Error::NotInAudit(format!("the status of the run in {namespace}")))
}
