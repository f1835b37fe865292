//! The ways to run a pipeline on the real kubelet: the operator in the cluster, and the null engine with the same volumes and nothing
//! to store, with and without early reports.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

use super::Error;
use super::audit::Event;
use super::graphs::{self, Mount, Needs};
use super::null_engine::{self, NullEngine};
use super::process::seconds;
use super::world::{Namespace, World};

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arm {
    pub(super) engine: Engine,
    pub(super) mount: Mount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Trainyard,
    Null { early: bool },
}

/// The operator's arms first in each pair: a change of its mount is a restart, which is over when its turn comes again.
pub(super) const ARMS: [Arm; 6] = [
    Arm { engine: Engine::Trainyard, mount: Mount::Image },
    Arm { engine: Engine::Null { early: true }, mount: Mount::Image },
    Arm { engine: Engine::Null { early: false }, mount: Mount::Image },
    Arm { engine: Engine::Trainyard, mount: Mount::Init },
    Arm { engine: Engine::Null { early: true }, mount: Mount::Init },
    Arm { engine: Engine::Null { early: false }, mount: Mount::Init },
];

impl Arm {
    pub(super) fn name(self) -> String {
        let engine = match self.engine {
            Engine::Trainyard => "trainyard",
            Engine::Null { early: true } => "null engine, early report",
            Engine::Null { early: false } => "null engine",
        };
        format!("{engine}, {}", self.mount.words())
    }

    /// Has the operator bring the runner in this way, if this is the operator's arm.
    pub(super) fn prepare(self, world: &World) -> Result<(), Error> {
        if self.engine == Engine::Trainyard {
            world.in_cluster(Some(self.mount))?;
            // The kubelet is done with the restart.
            sleep(Duration::from_secs(3));
        }
        Ok(())
    }
}

/// When the first object of a resource was received, in seconds since 1970.
pub(super) fn begun(events: &[Event], namespace: &str, resource: &str) -> Result<f64, Error> {
    let created = events
        .iter()
        .filter(|event| event.verb == "create" && event.resource == resource && event.namespace == namespace);
    let first = created.map(|event| event.received).min_by(f64::total_cmp);
    first.ok_or_else(|| Error::NotInAudit(format!("the first create of {resource} in {namespace}")))
}

/// What became of a run of the null engine.
pub(super) struct Null {
    /// When each program started, in seconds since 1970, in that order.
    pub(super) stamps: Vec<f64>,
    /// When the engine knew that all have ended.
    pub(super) ended: f64,
}

/// Runs a graph of stamps by the null engine.
pub(super) fn null(
    world: &World,
    namespace: &Namespace<'_>,
    mount: Mount,
    early: bool,
    needs: &Needs,
) -> Result<Null, Error> {
    let host = world.host_address()?;
    world.wait(async {
        let (address, reports) = null_engine::listen(&host).await?;
        let address = early.then_some(address.as_str());
        let pods: Vec<_> = (0..needs.len())
            .map(|node| graphs::stamp_pod(node, mount, &world.stamp, &world.runner, address))
            .collect::<Result<_, _>>()?;
        let pod = |node: usize| pods[node].clone();
        NullEngine { pods: namespace.pods(), needs, pod: &pod, reports: early.then_some(reports) }.run().await?;
        let ended = seconds(SystemTime::UNIX_EPOCH, SystemTime::now());
        let pods = namespace.pods().list(&ListParams::default()).await?;
        let mut stamps: Vec<f64> =
            pods.items.iter().filter_map(termination_message).filter_map(|text| stamp(&text)).collect();
        stamps.sort_unstable_by(f64::total_cmp);
        Ok(Null { stamps, ended })
    })
}

fn termination_message(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.terminated.as_ref()?.message.clone()
}

/// A stamp in nanoseconds as seconds.
pub(super) fn stamp(text: &str) -> Option<f64> {
    let nanoseconds: u64 = text.trim().parse().ok()?;
    Some(Duration::from_nanos(nanoseconds).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_seconds() {
        assert_eq!(stamp("1500000000\n"), Some(1.5));
        assert_eq!(stamp("soon"), None);
    }
}
