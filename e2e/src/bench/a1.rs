//! a1: from the write of a stage's success to the API server's receipt of the next stage's Pod, on a chain of 100 on KWOK.
//!
//! Both ends are the API server's own, from its audit log: the answer to KWOK's last write of the Pod's status, and the receipt of
//! the create. The null engine does the same beside it, in turns.

use serde_json::Value;

use super::audit::{self, Event};
use super::null_engine::NullEngine;
use super::operator::{self, Operator};
use super::row::Row;
use super::stats;
use super::world::World;
use super::{Error, Turns, graphs};
use graphs::Shape;

const LENGTH: usize = 100;
const ID: &str = "a1";
const P50_GOAL: f64 = 6.0;
const P99_GOAL: f64 = 15.0;

/// The arms, as their figures are named.
const ARMS: [&str; 2] = ["trainyard", "null engine"];

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let _operator = Operator::start(world, &operator::kubeconfig(world, folder.path())?)?;
    let template = graphs::kwok_stage()?;
    // Both once, uncounted: connections, caches and the API server's own.
    for arm in 0..ARMS.len() {
        gaps(world, arm, "bench-a1-warm", &template)?;
    }
    let mut medians = [Vec::new(), Vec::new()];
    let mut tails = [Vec::new(), Vec::new()];
    for (round, arm) in Turns::new(repeat, ARMS.len()) {
        let gaps = gaps(world, arm, &format!("bench-a1-{round}-{arm}"), &template)?;
        medians[arm].extend(stats::median(&gaps));
        tails[arm].extend(stats::percentile(&gaps, 0.99));
    }
    let shares: Vec<f64> = medians[0].iter().zip(&medians[1]).map(|(ours, null)| ours / null).collect();
    let figure = |arm: usize, name: &str, samples: &[f64]| {
        Row::new(ID, &format!("{}, chain of {LENGTH} on KWOK, {name}", ARMS[arm]), "ms", samples)
    };
    Ok(vec![
        figure(0, "p50", &medians[0])?.at_most(P50_GOAL),
        figure(0, "p99", &tails[0])?.at_most(P99_GOAL),
        figure(1, "p50", &medians[1])?,
        figure(1, "p99", &tails[1])?,
        Row::new(ID, "p50 of trainyard / p50 of the null engine", "ratio", &shares)?,
    ])
}

/// The gaps of one chain, in milliseconds.
fn gaps(world: &World, arm: usize, namespace: &str, template: &Value) -> Result<Vec<f64>, Error> {
    let namespace = world.namespace(namespace)?;
    let mark = world.audit.mark()?;
    let names: Vec<String> = if arm == 0 {
        world.run(&namespace, "chain", &graphs::pipeline(Shape::Chain, LENGTH, template))?;
        let mut pods = world.pods_by_stage(&namespace)?;
        // The names of stages are in the order of the chain.
        pods.sort();
        pods.into_iter().map(|(_, name)| name).collect()
    } else {
        let pods: Vec<_> = (0..LENGTH).map(graphs::kwok_pod).collect::<Result<_, _>>()?;
        let (needs, pod) = (Shape::Chain.needs(LENGTH), |node: usize| pods[node].clone());
        world.wait(NullEngine { pods: namespace.pods(), needs: &needs, pod: &pod, reports: None }.run())?;
        (0..LENGTH).map(|node| format!("null-{}", graphs::stage(node))).collect()
    };
    let events = world.audit.since(mark)?;
    Ok(hops(&events, &namespace.name, &names)?.into_iter().map(|hop| hop.gap).collect())
}

/// From a Pod's success to the next one's create.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hop {
    /// When the success was written, in seconds since 1970.
    pub(super) at: f64,
    /// In milliseconds.
    pub(super) gap: f64,
}

/// The hops of a chain of Pods.
pub(super) fn hops(events: &[Event], namespace: &str, names: &[String]) -> Result<Vec<Hop>, Error> {
    let events: Vec<Event> = events.iter().filter(|event| event.namespace == namespace).cloned().collect();
    let (ended, created) = (audit::last_status_writes(&events), audit::creates(&events));
    let missing = |name: &str| Error::NotInAudit(name.to_owned());
    names
        .windows(2)
        .map(|pair| {
            let ended = ended.get(pair[0].as_str()).ok_or_else(|| missing(&pair[0]))?;
            let created = created.get(pair[1].as_str()).ok_or_else(|| missing(&pair[1]))?;
            Ok(Hop { at: ended.answered, gap: (created.received - ended.answered) * 1e3 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str, verb: &str, name: &str, received: f64, answered: f64) -> Event {
        let code = if verb == "create" { 201 } else { 200 };
        let text = str::to_owned;
        Event {
            received,
            answered,
            verb: text(verb),
            user: text("u"),
            resource: text(resource),
            namespace: text("n"),
            name: text(name),
            code,
        }
    }

    #[test]
    fn a_hop_begins_with_the_last_write_of_the_status() {
        let events = [
            event("pods", "create", "a", 1.0, 1.001),
            event("pods/status", "patch", "a", 1.1, 1.101),
            event("pods/status", "patch", "a", 1.2, 1.201),
            event("pods", "create", "b", 1.206, 1.207),
        ];
        let names = ["a", "b"].map(str::to_owned);
        let hops = hops(&events, "n", &names).unwrap();
        assert!((hops[0].gap - 5.0).abs() < 1e-3, "{hops:?}");
        let error = super::hops(&events, "other", &names).unwrap_err();
        assert!(error.to_string().contains('a'), "{error}");
    }
}
