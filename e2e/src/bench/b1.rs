//! b1: seconds per hop of a chain of 10 on the real kubelet; and b3, from the create of the run to the first instruction of user
//! code, which the same runs show.
//!
//! A hop is from the start of one stage's program to the start of the next one's, as the programs say themselves: a program that
//! does nothing else, so all of a hop is the cluster's and the engine's. Beside the operator, with its store and its records, runs
//! the null engine, with the same volumes and nothing to store, with and without early reports.

use std::time::Duration;

use super::audit::Event;
use super::graphs::{self, Mount, Shape};
use super::null_engine::{self, NullEngine};
use super::row::Row;
use super::stats::count;
use super::world::{Namespace, World};
use super::{Error, Turns};

const LENGTH: usize = 10;
const ID: &str = "b1";
/// The measure that comes for free.
const FIRST: &str = "b3";

/// One way to run the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arm {
    engine: Engine,
    mount: Mount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Trainyard,
    Null { early: bool },
}

/// The operator's arms first in each pair: a change of its mount is a restart, which is over when its turn comes again.
const ARMS: [Arm; 6] = [
    Arm { engine: Engine::Trainyard, mount: Mount::Image },
    Arm { engine: Engine::Null { early: true }, mount: Mount::Image },
    Arm { engine: Engine::Null { early: false }, mount: Mount::Image },
    Arm { engine: Engine::Trainyard, mount: Mount::Init },
    Arm { engine: Engine::Null { early: true }, mount: Mount::Init },
    Arm { engine: Engine::Null { early: false }, mount: Mount::Init },
];

impl Arm {
    fn name(self) -> String {
        let engine = match self.engine {
            Engine::Trainyard => "trainyard",
            Engine::Null { early: true } => "null engine, early report",
            Engine::Null { early: false } => "null engine",
        };
        format!("{engine}, {}", self.mount.words())
    }

    /// Seconds per hop, and seconds to the first instruction, at most.
    fn goals(self) -> Option<(f64, f64)> {
        match (self.engine, self.mount) {
            (Engine::Trainyard, Mount::Image) => Some((0.65, 0.7)),
            (Engine::Trainyard, Mount::Init) => Some((1.15, 1.1)),
            (Engine::Null { .. }, _) => None,
        }
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
        if arm.engine == Engine::Trainyard {
            world.in_cluster(Some(arm.mount))?;
            // The kubelet is done with the restart.
            std::thread::sleep(Duration::from_secs(3));
        }
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
            rows.push(match arm.goals() {
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
        Engine::Trainyard => ("pipelineruns", trainyard(world, namespace)?),
        Engine::Null { early } => ("pods", null(world, namespace, arm.mount, early)?),
    };
    let begun = begun(&world.audit.since(mark)?, &namespace.name, resource);
    let begun =
        begun.ok_or_else(|| Error::NotInAudit(format!("the first create of {resource} in {}", namespace.name)))?;
    match (stamps.first(), stamps.last()) {
        (Some(first), Some(last)) if stamps.len() == LENGTH => {
            Ok(Took { hop: (last - first) / count(LENGTH - 1), first: first - begun })
        }
        _ => Err(Error::Stamps { expected: LENGTH, found: stamps.len() }),
    }
}

/// When the first object was received.
fn begun(events: &[Event], namespace: &str, resource: &str) -> Option<f64> {
    let created = events
        .iter()
        .filter(|event| event.verb == "create" && event.resource == resource && event.namespace == namespace);
    created.map(|event| event.received).min_by(f64::total_cmp)
}

/// When each stage's program started.
fn trainyard(world: &World, namespace: &Namespace<'_>) -> Result<Vec<f64>, Error> {
    let pipeline = graphs::pipeline(Shape::Chain, LENGTH, &graphs::stamp_stage(&world.stamp));
    let run = world.run(namespace, "chain", &pipeline)?;
    let stages = run.status.map(|status| status.stages).unwrap_or_default();
    Ok(stages.iter().filter_map(|stage| seconds(stage.results.get("at")?.as_str()?)).collect())
}

fn null(world: &World, namespace: &Namespace<'_>, mount: Mount, early: bool) -> Result<Vec<f64>, Error> {
    let host = world.host_address()?;
    world.wait(async {
        let (address, reports) = null_engine::listen(&host).await?;
        let address = early.then_some(address.as_str());
        let pods: Vec<_> = (0..LENGTH)
            .map(|node| graphs::stamp_pod(node, mount, &world.stamp, &world.runner, address))
            .collect::<Result<_, _>>()?;
        let (needs, pod) = (null_engine::chain(LENGTH), |node: usize| pods[node].clone());
        NullEngine { pods: namespace.pods(), needs: &needs, pod: &pod, reports: early.then_some(reports) }
            .run()
            .await?;
        let ended = namespace.pods().list(&kube::api::ListParams::default()).await?;
        let mut stamps: Vec<f64> =
            ended.items.iter().filter_map(termination_message).filter_map(|text| seconds(&text)).collect();
        stamps.sort_unstable_by(f64::total_cmp);
        Ok(stamps)
    })
}

fn termination_message(pod: &k8s_openapi::api::core::v1::Pod) -> Option<String> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.terminated.as_ref()?.message.clone()
}

/// A stamp in nanoseconds as seconds.
fn seconds(text: &str) -> Option<f64> {
    let nanoseconds: u64 = text.trim().parse().ok()?;
    Some(Duration::from_nanos(nanoseconds).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_seconds() {
        assert_eq!(seconds("1500000000\n"), Some(1.5));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn only_the_operators_arms_have_goals() {
        assert_eq!(ARMS.iter().filter(|arm| arm.goals().is_some()).count(), 2);
        let names: std::collections::BTreeSet<_> = ARMS.iter().map(|arm| arm.name()).collect();
        assert_eq!(names.len(), ARMS.len());
    }
}
