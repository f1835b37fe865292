//! The side of the start gate of every rank but 0.

use std::net::SocketAddr;
use std::time::Duration;

use step_protocol::{CheckpointName, Framework, Outcome, RankSpec};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::gate::{self, Answer, First, Order};
use super::wire::{LONG, Wire, WireError};
use crate::failure::Failure;

/// Between two tries to reach rank 0, whose Pod or name may not be there yet.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// One try to connect. The first ones are short: a name may still lead to a Pod that is gone, which never answers.
const FIRST_CONNECT: Duration = Duration::from_secs(1);
const LONGEST_CONNECT: Duration = Duration::from_secs(5);

/// Let go.
#[derive(Debug)]
pub(super) struct Joined {
    /// Where each rank is; empty where the framework does not need it.
    pub(super) addresses: Vec<String>,
    /// What rank 0 said to restore.
    pub(super) restored: Option<CheckpointName>,
    /// The connection, where rank 0 tells the end.
    pub(super) wire: Option<Wire>,
}

enum Ended {
    /// To be tried again.
    Lost(WireError),
    Failed(Failure),
}

impl From<WireError> for Ended {
    fn from(error: WireError) -> Self {
        Self::Lost(error)
    }
}

/// Says that this rank is there, restores what rank 0 says, and waits to be let go.
pub(super) async fn join(
    spec: &RankSpec,
    key: &[u8],
    deadline: Instant,
    mut restore: impl AsyncFnMut(Option<CheckpointName>) -> Result<(), Failure>,
) -> Result<Joined, Failure> {
    let host = spec.hosts.first().map_or("", String::as_str);
    let mut state = String::new();
    let (mut pause, mut patience) = (FIRST_PAUSE, FIRST_CONNECT);
    loop {
        state.clear();
        match timeout_at(deadline, once(spec, key, patience, &mut restore, &mut state)).await {
            Ok(Ok(joined)) => return Ok(joined),
            Ok(Err(Ended::Failed(failure))) => return Err(failure),
            Ok(Err(Ended::Lost(why))) => {
                patience = (patience + FIRST_CONNECT).min(LONGEST_CONNECT);
                // Heard once, it will be there again at once.
                pause = if state.is_empty() { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
                state = format!("{state}{}{why}", if state.is_empty() { "" } else { ", then " });
            }
            Err(_) => return Err(late(spec, host, &state)),
        }
        if timeout_at(deadline, tokio::time::sleep(pause)).await.is_err() {
            return Err(late(spec, host, &state));
        }
    }
}

fn late(spec: &RankSpec, host: &str, state: &str) -> Failure {
    let state = if state.is_empty() { "no answer" } else { state };
    let why = format!("rank 0 ({} at {host}:{}): {state}", gate::rank_name(spec, 0), spec.gate_port);
    gate::timed_out(spec, &why)
}

/// The rank has had a Pod before, whose program has begun with the others': this one is none of them.
fn late_pod(spec: &RankSpec) -> Failure {
    let message = format!(
        "the others have begun with another Pod of {}, which is gone: a rank is not replaced alone, and all start again",
        gate::rank_name(spec, spec.rank)
    );
    Failure::new(Outcome::Disrupted, message)
}

async fn once(
    spec: &RankSpec,
    key: &[u8],
    patience: Duration,
    restore: &mut impl AsyncFnMut(Option<CheckpointName>) -> Result<(), Failure>,
    state: &mut String,
) -> Result<Joined, Ended> {
    let host = spec.hosts.first().map_or("", String::as_str);
    let mut wire = connect(spec, key, host, patience).await?;
    wire.say(&First::Hello { rank: spec.rank, rendezvous_id: spec.rendezvous_id.clone() }).await?;
    let checkpoint = match wire.hear(LONG).await? {
        Order::Restore { checkpoint } => checkpoint,
        Order::Late => return Err(Ended::Failed(late_pod(spec))),
        Order::Go { .. } | Order::End => return Err(WireError::Garbled.into()),
    };
    "it was heard, and the checkpoint is being restored".clone_into(state);
    restore(checkpoint).await.map_err(Ended::Failed)?;
    wire.say(&Answer::Ready).await?;
    "it was heard, and waits for the others or for its program to listen".clone_into(state);
    let addresses = match wire.hear(LONG).await? {
        Order::Go { addresses } => addresses,
        Order::Late => return Err(Ended::Failed(late_pod(spec))),
        Order::Restore { .. } | Order::End => return Err(WireError::Garbled.into()),
    };
    let wire = (spec.framework == Framework::MPI).then_some(wire);
    Ok(Joined { addresses, restored: checkpoint, wire })
}

/// Connects to the runner of another rank.
pub(super) async fn connect(spec: &RankSpec, key: &[u8], host: &str, patience: Duration) -> Result<Wire, WireError> {
    let connecting = async {
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((host, spec.gate_port)).await? {
            match from_own_address(spec, address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let stream = tokio::time::timeout(patience, connecting)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    Wire::connect(stream, key).await
}

async fn from_own_address(spec: &RankSpec, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(own) = gate::own_address(spec).filter(|own| own.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    socket.connect(to).await
}
