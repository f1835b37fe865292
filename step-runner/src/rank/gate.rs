//! What the runners of one attempt say to each other at the start gate.
//!
//! ```text
//! rank r  -> hello     I am rank r of this attempt, and my inputs are here
//! rank 0  -> restore   this checkpoint is the one
//! rank r  -> ready     it is here
//! rank 0  -> go        all are ready, and rank 0's program takes connections
//! rank 0  -> late      to a rank that was let go before: this is another Pod of it, and the program of the first one has begun
//! rank 0  -> end       MPI only: rank 0's program has ended well
//! ```

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use step_protocol::{CheckpointName, Outcome, RankSpec};

use crate::failure::Failure;

/// A follower's first word.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum First {
    /// It is there.
    Hello { rank: u32, rendezvous_id: String },
    /// Rank 0's runner asks the runner of another rank to run what comes next: see [`super::launch`].
    Launch { rendezvous_id: String },
}

/// What rank 0 says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Order {
    Restore { checkpoint: Option<CheckpointName> },
    Go { addresses: Vec<String> },
    Late,
    End,
}

/// What the others answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    Ready,
}

/// How a rank is called in messages.
pub(super) fn rank_name(spec: &RankSpec, rank: u32) -> String {
    let mut first = 0;
    for role in &spec.roles {
        if rank < first + role.replicas {
            return format!("{}-{}", role.name, rank - first);
        }
        first += role.replicas;
    }
    format!("rank {rank}")
}

/// The address that a rank is to use, where its host is one and not a name.
pub(super) fn own_address(spec: &RankSpec) -> Option<IpAddr> {
    spec.hosts.get(spec.rank as usize)?.parse().ok()
}

/// Listens at the rank's own gate port: in a Pod on all addresses.
pub(super) async fn bind(spec: &RankSpec) -> Result<tokio::net::TcpListener, Failure> {
    use tokio::net::TcpListener;
    let port = spec.gate_port;
    let bound = match own_address(spec) {
        Some(address) => TcpListener::bind(SocketAddr::new(address, port)).await,
        None => match TcpListener::bind(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)).await {
            Ok(listener) => Ok(listener),
            // A kernel without IPv6.
            Err(_) => TcpListener::bind(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port)).await,
        },
    };
    bound.map_err(|error| {
        let message =
            format!("the start gate cannot listen on port {port}: {error}; nothing else in the Pod may use it");
        Failure::new(Outcome::StartError, message)
    })
}

/// The failure of a gang that did not come together.
pub(super) fn timed_out(spec: &RankSpec, why: &str) -> Failure {
    let message =
        format!("not all ranks came together within {} s (`startTimeout`): {why}", spec.start_timeout_seconds);
    Failure::new(Outcome::GangTimeout, message)
}

#[cfg(test)]
mod tests {
    use step_protocol::{Framework, RoleSpec};

    use super::*;

    #[test]
    fn ranks_are_called_by_role_and_index() {
        let role = |name: &str, replicas| RoleSpec { name: name.into(), replicas, processes_per_replica: 1 };
        let spec = RankSpec {
            roles: vec![role("chief", 1), role("worker", 2)],
            ..super::super::tests::rank(Framework::TensorFlow, 3, 0)
        };
        let names: Vec<_> = (0..4).map(|rank| rank_name(&spec, rank)).collect();
        assert_eq!(names, ["chief-0", "worker-0", "worker-1", "rank 3"]);
    }
}
