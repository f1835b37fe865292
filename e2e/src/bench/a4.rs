//! a4: what the operator asks of the API server for each stage, and how many bytes it writes.
//!
//! Requests are counted in the audit log, by the operator's user, from the create of the run to its end. Bytes are counted by a
//! proxy between the operator and the API server, in runs of their own. Fan-out is one root and 199 stages, as wide as a run can
//! be without a matrix.

use std::path::Path;

use super::audit::Event;
use super::operator::{self, Operator};
use super::row::Row;
use super::stats::count;
use super::world::World;
use super::{Error, Turns, graphs};
use crate::faults::api::Api;
use crate::faults::history::{Recorder, What};
use crate::faults::operator::Killer;
use crate::faults::proxy::{Proxy, Scene};
use graphs::Shape;

const ID: &str = "a4";
/// A run of this shape and size, and what it may ask for each stage.
const REQUESTS: [(Shape, usize, f64); 2] = [(Shape::Fan, 200, 1.3), (Shape::Chain, 100, 3.0)];
/// Bytes of a large run are compared with those of a small one.
const SIZES: [usize; 2] = [20, 200];
/// Constant: a run ten times as large writes at most a tenth more for each of its stages.
const GROWTH_GOAL: f64 = 1.1;

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let mut rows = requests(world, repeat, folder.path())?;
    rows.extend(bytes(world, repeat, folder.path())?);
    Ok(rows)
}

fn words(shape: Shape) -> &'static str {
    match shape {
        Shape::Chain => "chain",
        Shape::Fan => "fan-out",
        Shape::Wide => "wide",
        Shape::Diamond => "diamond",
    }
}

fn requests(world: &World, repeat: usize, folder: &Path) -> Result<Vec<Row>, Error> {
    let _operator = Operator::start(world, &operator::kubeconfig(world, folder)?)?;
    let template = graphs::kwok_stage()?;
    let mut samples = [Vec::new(), Vec::new()];
    for (round, arm) in Turns::new(repeat, REQUESTS.len()) {
        let (shape, size, _) = REQUESTS[arm];
        let namespace = world.namespace(&format!("bench-a4-{round}-{arm}"))?;
        let mark = world.audit.mark()?;
        world.run(&namespace, words(shape), &graphs::pipeline(shape, size, &template))?;
        let requests = asked(&world.audit.since(mark)?).count();
        samples[arm].push(count(requests) / count(size));
    }
    let row = |(arm, (shape, size, goal)): (usize, (Shape, usize, f64))| {
        let name = format!("{} of {size}, requests a stage", words(shape));
        Ok(Row::new(ID, &name, "requests", &samples[arm])?.at_most(goal))
    };
    REQUESTS.into_iter().enumerate().map(row).collect()
}

/// What the operator asked for, everything included.
fn asked(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.user == operator::USER)
}

fn bytes(world: &World, repeat: usize, folder: &Path) -> Result<Vec<Row>, Error> {
    let recorder = Recorder::default();
    let kubeconfig = folder.join("proxy.conf");
    let broken = |error: anyhow::Error| Error::Proxy(format!("{error:#}"));
    // Nobody is killed, so nobody listens.
    let (killer, _kills) = Killer::new();
    let _proxy = world
        .wait(async {
            let api = Api::from_kubeconfig(world.cluster.kubeconfig())?;
            let proxy = Proxy::start(Scene::new(api, recorder.clone(), &[]), killer).await?;
            proxy.write_kubeconfig(&kubeconfig)?;
            Ok(proxy)
        })
        .map_err(broken)?;
    let _operator = Operator::start(world, &kubeconfig)?;
    let template = graphs::kwok_stage()?;
    let mut rows = Vec::new();
    for shape in [Shape::Fan, Shape::Chain] {
        let mut samples = [Vec::new(), Vec::new()];
        for (round, arm) in Turns::new(repeat, SIZES.len()) {
            let size = SIZES[arm];
            let namespace = world.namespace(&format!("bench-a4-{}-{round}-{arm}", words(shape)))?;
            let before = recorder.history().entries.len();
            world.run(&namespace, words(shape), &graphs::pipeline(shape, size, &template))?;
            let history = recorder.history();
            let sent = history.entries.iter().skip(before).map(|entry| written(&entry.what)).sum::<usize>();
            samples[arm].push(count(sent) / count(size));
        }
        let growth: Vec<f64> = samples[0].iter().zip(&samples[1]).map(|(small, large)| large / small).collect();
        let [small, large] = SIZES;
        for (size, samples) in SIZES.into_iter().zip(&samples) {
            rows.push(Row::new(ID, &format!("{} of {size}, written a stage", words(shape)), "bytes", samples)?);
        }
        let name = format!("{} of {large} / of {small}, written a stage", words(shape));
        rows.push(Row::new(ID, &name, "ratio", &growth)?.at_most(GROWTH_GOAL));
    }
    Ok(rows)
}

/// The bytes of a write's body.
fn written(what: &What) -> usize {
    match what {
        What::Request(request) if request.write.is_some() => request.body.to_string().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::Request;
    use serde_json::json;

    #[test]
    fn only_writes_have_bytes() {
        let request = |write| What::Request(Request { write, body: json!({"a": 1}), ..Request::default() });
        assert_eq!((written(&request(Some(1))), written(&request(None)), written(&What::Started(1))), (7, 0, 0));
    }
}
