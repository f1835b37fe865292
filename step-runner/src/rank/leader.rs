//! Rank 0's side of the start gate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use step_protocol::{CheckpointName, Framework, RankSpec};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::gate::{self, Answer, First, Order};
use super::strangers::{self, Stranger};
use super::wire::{SHORT, Wire, WireError};
use crate::failure::Failure;

/// Missing ranks that a message names.
const NAMED: usize = 10;
/// How long the names of all hosts are waited for. Programs may need none of them.
const NAMES: Duration = Duration::from_secs(10);
/// Between two looks for a name.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the end is told to the others.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who is there, by rank.
type Peers = BTreeMap<u32, Peer>;

#[derive(Clone, Debug)]
struct Peer {
    address: IpAddr,
    /// Ours, as it sees it.
    local: IpAddr,
    ready: bool,
    /// Which of its connections: a later one takes the place of an earlier one.
    connection: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    Gathering,
    Go(Arc<Vec<String>>),
    End,
}

/// The gate, open for the others until this is dropped.
#[derive(Debug)]
pub(crate) struct Leader {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    spec: RankSpec,
    key: Vec<u8>,
    checkpoint: Option<CheckpointName>,
    peers: watch::Sender<Peers>,
    phase: watch::Sender<Phase>,
    connections: AtomicU64,
    /// Ranks whose programs may have begun: no other Pod of these may join.
    let_go: Mutex<BTreeSet<u32>>,
}

impl Shared {
    /// Takes note that a rank is let go by this connection. `false` if it has another one by now, or was let go by one before.
    fn may_go(&self, rank: u32, connection: u64) -> bool {
        let is_last = self.peers.borrow().get(&rank).is_some_and(|peer| peer.connection == connection);
        is_last && self.let_go.lock().unwrap_or_else(PoisonError::into_inner).insert(rank)
    }

    /// A rank that was told to go and cannot have heard it may come again.
    fn has_not_gone(&self, rank: u32) {
        self.let_go.lock().unwrap_or_else(PoisonError::into_inner).remove(&rank);
    }

    fn has_gone(&self, rank: u32) -> bool {
        self.let_go.lock().unwrap_or_else(PoisonError::into_inner).contains(&rank)
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Leader {
    /// Opens the gate: from now on the others are told which checkpoint to restore.
    pub(super) async fn open(spec: &RankSpec, key: &[u8], checkpoint: Option<CheckpointName>) -> Result<Self, Failure> {
        let listener = gate::bind(spec).await?;
        let shared = Arc::new(Shared {
            spec: spec.clone(),
            key: key.to_owned(),
            checkpoint,
            peers: watch::Sender::new(Peers::new()),
            phase: watch::Sender::new(Phase::Gathering),
            connections: AtomicU64::new(0),
            let_go: Mutex::default(),
        });
        let each = shared.clone();
        let accepting = tokio::spawn(strangers::accept(listener, move |stream, stranger| {
            let shared = each.clone();
            async move {
                // What a peer does wrong ends its connection and nothing else.
                let _ = serve(stream, &shared, stranger).await;
            }
        }));
        Ok(Self { shared, accepting })
    }

    /// Closes the gate, so that it can be opened anew.
    pub(super) async fn close(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    /// Waits until every other rank is ready; the addresses of all, in the order of the ranks.
    pub(super) async fn gather(&self, deadline: Instant) -> Result<Vec<String>, Failure> {
        let spec = &self.shared.spec;
        let others = spec.world_size.saturating_sub(1) as usize;
        let mut peers = self.shared.peers.subscribe();
        let all = peers.wait_for(|peers| peers.values().filter(|peer| peer.ready).count() == others);
        let addresses = match timeout_at(deadline, all).await {
            Ok(Ok(peers)) => addresses(spec, &peers),
            Ok(Err(_)) | Err(_) => {
                return Err(gate::timed_out(spec, &missing(spec, &self.shared.peers.borrow())));
            }
        };
        let has_address = async |host: &str| tokio::net::lookup_host((host, spec.gate_port)).await.is_ok();
        let _ = timeout_at(deadline.min(Instant::now() + NAMES), named(&spec.hosts, has_address)).await;
        Ok(addresses)
    }

    /// Lets the others go.
    pub(super) fn go(&self, addresses: Vec<String>) {
        self.shared.phase.send_replace(Phase::Go(Arc::new(addresses)));
    }

    /// Tells the others that it is over and went well, where they wait for it.
    pub(super) async fn end(&self) {
        self.shared.phase.send_replace(Phase::End);
        let mut peers = self.shared.peers.subscribe();
        let _ = tokio::time::timeout(FAREWELL, peers.wait_for(Peers::is_empty)).await;
    }
}

/// Waits until every host name has an address: a Pod may speak before the cluster's DNS knows it, and programs use the names.
async fn named(hosts: &[String], has_address: impl AsyncFn(&str) -> bool) {
    for host in hosts {
        while !has_address(host).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What was seen of each rank; of this one, what the others see.
fn addresses(spec: &RankSpec, peers: &Peers) -> Vec<String> {
    let own = peers.values().next().map(|peer| peer.local);
    (0..spec.world_size)
        .map(|rank| {
            let seen = if rank == spec.rank { own } else { peers.get(&rank).map(|peer| peer.address) };
            let host = || spec.hosts.get(rank as usize).cloned().unwrap_or_default();
            seen.map_or_else(host, |address| address.to_canonical().to_string())
        })
        .collect()
}

/// Which ranks are not there, and which are not done, for a person.
fn missing(spec: &RankSpec, peers: &Peers) -> String {
    let name = |rank: u32| {
        let host = spec.hosts.get(rank as usize).map_or("", String::as_str);
        format!("{} ({host})", gate::rank_name(spec, rank))
    };
    let others = || (0..spec.world_size).filter(|rank| *rank != spec.rank);
    let absent: Vec<_> = others().filter(|rank| !peers.contains_key(rank)).map(name).collect();
    let slow: Vec<_> = others().filter(|rank| peers.get(rank).is_some_and(|peer| !peer.ready)).map(name).collect();
    let list = |what: &str, names: &[String]| match names.len() {
        0 => None,
        count if count > NAMED => Some(format!("{what} {} and {} more", names[..NAMED].join(", "), count - NAMED)),
        _ => Some(format!("{what} {}", names.join(", "))),
    };
    let parts = [list("nothing was heard of", &absent), list("the checkpoint is not restored on", &slow)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// One connection, to its end.
async fn serve(stream: TcpStream, shared: &Shared, stranger: Stranger) -> Result<(), WireError> {
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
    let mut wire = Wire::accept(stream, &shared.key).await?;
    let First::Hello { rank, rendezvous_id } = wire.hear_first().await? else { return Err(WireError::Garbled) };
    if rendezvous_id != shared.spec.rendezvous_id || rank == shared.spec.rank || rank >= shared.spec.world_size {
        return Err(WireError::Garbled);
    }
    drop(stranger);
    if shared.has_gone(rank) {
        return wire.say(&Order::Late).await;
    }
    let peer = Peer { address: wire.peer()?.ip(), local: wire.local()?.ip(), ready: false, connection };
    shared.peers.send_modify(|peers| {
        peers.insert(rank, peer);
    });
    let told = tell(&mut wire, rank, connection, shared).await;
    shared.peers.send_modify(|peers| {
        // Once it was let go it has no more to say, and is there.
        let gone = !matches!(*shared.phase.borrow(), Phase::Go(_)) || told.is_err();
        if gone && peers.get(&rank).is_some_and(|peer| peer.connection == connection) {
            peers.remove(&rank);
        }
    });
    told
}

/// Tells a follower what to do.
async fn tell(wire: &mut Wire, rank: u32, connection: u64, shared: &Shared) -> Result<(), WireError> {
    wire.say(&Order::Restore { checkpoint: shared.checkpoint }).await?;
    let Answer::Ready = wire.hear(SHORT).await?;
    shared.peers.send_modify(|peers| {
        if let Some(peer) = peers.get_mut(&rank).filter(|peer| peer.connection == connection) {
            peer.ready = true;
        }
    });
    let mut phase = shared.phase.subscribe();
    let gone = async |wire: &mut Wire| wire.hear::<Answer>(SHORT).await.map(drop).and(Err(WireError::Garbled));
    tokio::select! {
        _ = phase.wait_for(|phase| !matches!(phase, Phase::Gathering)) => {}
        // It has nothing to say now: that it does means that it is gone.
        gone = gone(wire) => return gone,
    }
    let addresses = match &*phase.borrow() {
        Phase::Go(addresses) => Some(addresses.clone()),
        Phase::Gathering | Phase::End => None,
    };
    if let Some(addresses) = addresses {
        if !shared.may_go(rank, connection) {
            return wire.say(&Order::Late).await;
        }
        let sent = if shared.spec.framework == Framework::LightGBM { addresses.to_vec() } else { Vec::new() };
        if let Err(error) = wire.say(&Order::Go { addresses: sent }).await {
            shared.has_not_gone(rank);
            return Err(error);
        }
    }
    if shared.spec.framework != Framework::MPI {
        return Ok(());
    }
    tokio::select! {
        _ = phase.wait_for(|phase| matches!(phase, Phase::End)) => {}
        gone = gone(wire) => return gone,
    }
    wire.say(&Order::End).await
}

#[cfg(test)]
mod tests {
    use super::super::tests::rank;
    use super::*;

    fn peer(last: u8, ready: bool) -> Peer {
        Peer { address: [10, 0, 0, last].into(), local: [10, 0, 0, 100].into(), ready, connection: 1 }
    }

    #[test]
    fn a_message_names_who_is_missing_and_who_is_not_done() {
        let spec = rank(Framework::JAX, 4, 0);
        let peers = Peers::from([(1, peer(1, true)), (3, peer(3, false))]);
        assert_eq!(
            missing(&spec, &peers),
            "nothing was heard of worker-2 (h2.fit); the checkpoint is not restored on worker-3 (h3.fit)"
        );
        let many = missing(&rank(Framework::JAX, 500, 0), &Peers::new());
        assert!(many.ends_with("worker-10 (h10.fit) and 489 more"), "{many}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_comes_late_is_waited_for() {
        let began = Instant::now();
        let has_address = async |host: &str| host == "early" || began.elapsed() >= 3 * AGAIN;
        named(&["early".to_owned(), "late".to_owned()], has_address).await;
        let waited = began.elapsed();
        assert!(waited >= 3 * AGAIN && waited < 4 * AGAIN, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_comes_is_not_waited_for_for_ever() {
        let mut spec = rank(Framework::JAX, 1, 0);
        (spec.hosts, spec.gate_port) = (vec!["nobody.invalid".to_owned()], 0);
        let leader = Leader::open(&spec, b"key", None).await.unwrap();
        let began = Instant::now();
        let addresses = leader.gather(began + 60 * NAMES).await.unwrap();
        let waited = began.elapsed();
        assert!(waited >= NAMES && waited < NAMES + AGAIN, "{waited:?}");
        assert_eq!(addresses, spec.hosts);
    }

    #[test]
    fn addresses_are_those_that_the_ranks_see_of_each_other() {
        let spec = rank(Framework::LightGBM, 3, 0);
        let peers = Peers::from([(1, peer(1, true)), (2, peer(2, true))]);
        assert_eq!(addresses(&spec, &peers), ["10.0.0.100", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(addresses(&rank(Framework::LightGBM, 1, 0), &Peers::new()), ["h0.fit"]);
    }
}
