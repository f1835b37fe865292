//! a6: whether one large run holds up small ones: hops of 50 chains on KWOK, alone and beside a run as large as the API allows.
//!
//! A hop is that of a1. Beside the large run only those hops count that begin while it is there. Its Pods are work for the API server,
//! the scheduler and KWOK too: what of the difference is theirs shows the null engine, which runs the same graphs as two engines that
//! know nothing of each other.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::ListParams;
use trainyard_crds::labels;

use super::a1::{self, Hop};
use super::audit::{self, Event};
use super::graphs::{self, Needs, Shape};
use super::null_engine::NullEngine;
use super::operator::{self, Operator};
use super::row::Row;
use super::stats;
use super::world::{Namespace, World};
use super::{Error, Turns, arms, load};

const ID: &str = "a6";
const SMALL: usize = 50;
const LENGTH: usize = 10;
/// As large as a run can be without a matrix.
const LARGE: usize = 200;
const GOAL: f64 = 2.0;
/// The large run comes when the small ones are on their way.
const LATER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arm {
    ours: bool,
    beside: bool,
}

const ARMS: [Arm; 4] = [
    Arm { ours: true, beside: false },
    Arm { ours: true, beside: true },
    Arm { ours: false, beside: false },
    Arm { ours: false, beside: true },
];

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let _operator = Operator::start(world, &operator::kubeconfig(world, folder.path())?)?;
    for arm in [ARMS[1], ARMS[3]] {
        hops(world, arm, "bench-a6-warm")?;
    }
    let mut tails: [Vec<f64>; 4] = Default::default();
    for (round, index) in Turns::new(repeat, ARMS.len()) {
        let hops = hops(world, ARMS[index], &format!("bench-a6-{round}-{index}"))?;
        let gaps: Vec<f64> = hops.into_iter().map(|hop| hop.gap).collect();
        tails[index].extend(stats::percentile(&gaps, 0.99));
    }
    let mut rows = Vec::new();
    for (arm, samples) in ARMS.into_iter().zip(&tails) {
        rows.push(Row::new(ID, &format!("{}, p99 of a hop", arm.name()), "ms", samples)?);
    }
    for (engine, pair) in ["trainyard", "null engine"].into_iter().zip(tails.chunks_exact(2)) {
        let shares: Vec<f64> = pair[0].iter().zip(&pair[1]).map(|(alone, beside)| beside / alone).collect();
        let row = Row::new(ID, &format!("{engine}, p99 beside / p99 alone"), "ratio", &shares)?;
        rows.push(if engine == "trainyard" { row.at_most(GOAL) } else { row });
    }
    Ok(rows)
}

impl Arm {
    fn name(self) -> String {
        let engine = if self.ours { "trainyard" } else { "null engine" };
        let place = if self.beside { format!("beside a fan-out of {LARGE}") } else { "alone".to_owned() };
        format!("{engine}, {SMALL} chains of {LENGTH}, {place}")
    }
}

/// The hops of the small runs.
fn hops(world: &World, arm: Arm, name: &str) -> Result<Vec<Hop>, Error> {
    let (small, large) = (world.namespace(name)?, world.namespace(&format!("{name}-large"))?);
    let mark = world.audit.mark()?;
    let (resource, chains) = if arm.ours {
        ("pipelineruns", ours(world, &small, &large, arm.beside)?)
    } else {
        ("pods", null(world, &small, &large, arm.beside)?)
    };
    let events = world.audit.since(mark)?;
    let mut hops = Vec::new();
    for chain in &chains {
        hops.extend(a1::hops(&events, &small.name, chain)?);
    }
    if arm.beside {
        let span = span(&events, &large.name, resource)?;
        hops.retain(|hop| span.contains(&hop.at));
    }
    Ok(hops)
}

/// Runs them by the operator; the Pods of each chain.
fn ours(world: &World, small: &Namespace<'_>, large: &Namespace<'_>, beside: bool) -> Result<Vec<Vec<String>>, Error> {
    let template = graphs::kwok_stage()?;
    world.define(small, "small", &graphs::pipeline(Shape::Chain, LENGTH, &template))?;
    world.define(large, "large", &graphs::pipeline(Shape::Fan, LARGE, &template))?;
    world.wait(async {
        let many = async { load::ended(small.runs(), &load::start(small.runs(), "small", SMALL).await?).await };
        let one = async {
            if beside {
                tokio::time::sleep(LATER).await;
                load::ended(large.runs(), &load::start(large.runs(), "large", 1).await?).await?;
            }
            Ok::<_, Error>(())
        };
        tokio::try_join!(many, one)
    })?;
    let pods = world.wait(small.pods().list_metadata(&ListParams::default().labels(labels::STAGE)))?;
    let mut chains: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for pod in pods.items {
        let mut of = pod.metadata.labels.unwrap_or_default();
        let (run, stage) = (of.remove(labels::RUN).unwrap_or_default(), of.remove(labels::STAGE).unwrap_or_default());
        chains.entry(run).or_default().push((stage, pod.metadata.name.unwrap_or_default()));
    }
    let in_order = |mut chain: Vec<(String, String)>| {
        chain.sort();
        chain.into_iter().map(|(_, pod)| pod).collect()
    };
    Ok(chains.into_values().map(in_order).collect())
}

/// Runs them by the null engine; the Pods of each chain.
fn null(world: &World, small: &Namespace<'_>, large: &Namespace<'_>, beside: bool) -> Result<Vec<Vec<String>>, Error> {
    let chain = Shape::Chain.needs(LENGTH);
    let of_run = |run: usize| {
        chain.iter().map(move |needs| needs.iter().map(|node| run * LENGTH + node).collect()).collect::<Needs>()
    };
    let (many, one): (Needs, Needs) = ((0..SMALL).flat_map(of_run).collect(), Shape::Fan.needs(LARGE));
    let pods: Vec<_> = (0..many.len()).map(graphs::kwok_pod).collect::<Result<_, _>>()?;
    let pod = |node: usize| pods[node].clone();
    let engine = |pods, needs| NullEngine { pods, needs, pod: &pod, reports: None };
    world.wait(async {
        let one = async {
            if beside {
                tokio::time::sleep(LATER).await;
                engine(large.pods(), &one).run().await?;
            }
            Ok(())
        };
        tokio::try_join!(engine(small.pods(), &many).run(), one)
    })?;
    let name = |node: usize| format!("null-{}", graphs::stage(node));
    Ok((0..SMALL).map(|run| (run * LENGTH..(run + 1) * LENGTH).map(name).collect()).collect())
}

/// From the receipt of the large run to the success of its last Pod.
fn span(events: &[Event], namespace: &str, resource: &str) -> Result<std::ops::Range<f64>, Error> {
    let of: Vec<Event> = events.iter().filter(|event| event.namespace == namespace).cloned().collect();
    let ended = audit::last_status_writes(&of);
    let last = ended.values().map(|event| event.answered).max_by(f64::total_cmp);
    let last = last.ok_or_else(|| Error::NotInAudit(format!("the end of a Pod in {namespace}")))?;
    Ok(arms::begun(&of, namespace, resource)?..last)
}
