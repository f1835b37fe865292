//! One rank of a training: it meets the others before its program starts, and watches that the program goes on.
//!
//! The runners meet at the start [`gate`], over connections that only they can open ([`wire`]): rank 0 leads ([`leader`]), the others
//! follow ([`follower`]). What the program needs to meet the others' programs is in [`environment`] and [`files`]. For MPI the other
//! ranks have no program of their own and run what rank 0 asks for ([`launch`], [`agent`]). Nothing of this runs for a stage of one
//! Pod.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use step_protocol::{CheckpointName, Framework, Outcome, RankSpec};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::stop::Stop;

pub(crate) mod agent;
pub(crate) mod environment;
pub(crate) mod files;
mod follower;
mod gate;
pub(crate) mod launch;
mod leader;
mod listening;
pub(crate) mod stall;
mod strangers;
mod wire;

use follower::Joined;
use launch::{Agents, Serving};
use leader::Leader;

/// Restores a checkpoint, and says which.
pub(crate) trait Restore {
    /// The newest complete one in the store, or one before it if that cannot be read; `not` are those that were tried.
    async fn newest(&self, not: &[CheckpointName]) -> Result<Option<CheckpointName>, Failure>;
    /// Makes the directory what it was.
    async fn restore(&self, name: Option<CheckpointName>) -> Result<(), Unrestored>;
}

/// Why a checkpoint is not there.
#[derive(Debug)]
pub(crate) enum Unrestored {
    /// It cannot be read; an earlier one may.
    Unreadable(Failure),
    Other(Failure),
}

/// The ranks have met: the program may start.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// What was restored.
    pub(crate) restored: Option<CheckpointName>,
    pub(crate) party: Party,
}

/// What this rank is to the others while its program runs.
#[derive(Debug, Default)]
pub(crate) enum Party {
    /// No other rank waits for this one.
    #[default]
    Alone,
    Leader {
        leader: Leader,
        addresses: Vec<String>,
        /// Open as long as this is there.
        _agents: Option<Agents>,
    },
    Served(Box<Serving>),
}

/// Waits for the other ranks, and restores the checkpoint that all of them restore.
pub(crate) async fn meet(
    spec: &RankSpec,
    key: Option<&[u8]>,
    since: Instant,
    root: &Path,
    checkpoint: &impl Restore,
) -> Result<Met, Failure> {
    check(spec)?;
    if spec.scatter || spec.world_size == 1 {
        let restored = restore_newest(checkpoint).await?;
        files::write(spec, &[], root)?;
        let party = match (spec.framework, key) {
            (Framework::MPI, Some(key)) => Party::Leader {
                leader: Leader::open(spec, key, restored).await?,
                addresses: Vec::new(),
                _agents: Some(Agents::listen(spec, key, root)?),
            },
            _ => Party::Alone,
        };
        return Ok(Met { restored, party });
    }
    let key = key.ok_or_else(|| {
        Failure::config(format!("{} is not set: the ranks of an attempt share it", step_protocol::paths::ENV_GANG_KEY))
    })?;
    let deadline = since + Duration::from_secs(spec.start_timeout_seconds);
    if spec.rank == 0 {
        lead(spec, key, deadline, root, checkpoint).await
    } else {
        follow(spec, key, deadline, root, checkpoint).await
    }
}

/// What would make a rank wait for nobody or an index go wrong.
fn check(spec: &RankSpec) -> Result<(), Failure> {
    let ranks = spec.roles.iter().map(|role| u64::from(role.replicas)).sum::<u64>();
    let whole = spec.rank < spec.world_size
        && spec.hosts.len() == spec.world_size as usize
        && ranks == u64::from(spec.world_size);
    if whole {
        return Ok(());
    }
    Err(Failure::config(format!(
        "rank {} of {} with {} hosts and {ranks} replicas in its roles",
        spec.rank,
        spec.world_size,
        spec.hosts.len()
    )))
}

/// Restores the newest checkpoint that can be read.
pub(crate) async fn restore_newest(checkpoint: &impl Restore) -> Result<Option<CheckpointName>, Failure> {
    let mut tried = Vec::new();
    loop {
        let choice = checkpoint.newest(&tried).await?;
        match checkpoint.restore(choice).await {
            Ok(()) => return Ok(choice),
            Err(unrestored) => next(choice, unrestored, &mut tried)?,
        }
    }
}

/// Takes an unreadable checkpoint out of the choice.
fn next(
    choice: Option<CheckpointName>,
    unrestored: Unrestored,
    tried: &mut Vec<CheckpointName>,
) -> Result<(), Failure> {
    match (unrestored, choice) {
        (Unrestored::Unreadable(failure), Some(name)) => {
            crate::failure::say!("the checkpoint {name} cannot be used: {failure}; trying the one before it");
            tried.push(name);
            Ok(())
        }
        (Unrestored::Unreadable(failure) | Unrestored::Other(failure), _) => Err(failure),
    }
}

async fn lead(
    spec: &RankSpec,
    key: &[u8],
    deadline: Instant,
    root: &Path,
    checkpoint: &impl Restore,
) -> Result<Met, Failure> {
    let mut tried = Vec::new();
    let (leader, restored) = loop {
        let choice = checkpoint.newest(&tried).await?;
        // The others restore at the same time. With another choice they come again.
        let leader = Leader::open(spec, key, choice).await?;
        match checkpoint.restore(choice).await {
            Ok(()) => break (leader, choice),
            Err(unrestored) => next(choice, unrestored, &mut tried)?,
        }
        leader.close().await;
    };
    let addresses = leader.gather(deadline).await?;
    files::write(spec, &addresses, root)?;
    let agents = if spec.framework == Framework::MPI { Some(Agents::listen(spec, key, root)?) } else { None };
    Ok(Met { restored, party: Party::Leader { leader, addresses, _agents: agents } })
}

async fn follow(
    spec: &RankSpec,
    key: &[u8],
    deadline: Instant,
    root: &Path,
    checkpoint: &impl Restore,
) -> Result<Met, Failure> {
    let listener = if spec.framework == Framework::MPI { Some(gate::bind(spec).await?) } else { None };
    let mut present: Option<Option<CheckpointName>> = None;
    let restore = async |name: Option<CheckpointName>| {
        if present == Some(name) {
            return Ok(());
        }
        present = None;
        checkpoint.restore(name).await.map_err(|unrestored| match unrestored {
            // Rank 0 reads the same, and chooses another one if it cannot be read.
            Unrestored::Unreadable(failure) => Failure::new(Outcome::Disrupted, failure.message),
            Unrestored::Other(failure) => failure,
        })?;
        present = Some(name);
        Ok(())
    };
    let Joined { addresses, restored, wire } = follower::join(spec, key, deadline, restore).await?;
    files::write(spec, &addresses, root)?;
    let party = match (listener, wire) {
        (Some(listener), Some(leader)) => {
            let (key, rendezvous_id) = (key.to_owned(), spec.rendezvous_id.clone());
            Party::Served(Box::new(Serving { listener, leader, key, rendezvous_id }))
        }
        _ => Party::Alone,
    };
    Ok(Met { restored, party })
}

impl Met {
    /// For a rank that runs what rank 0 asks for: how it is asked.
    pub(crate) fn serving(&mut self) -> Option<Serving> {
        match std::mem::take(&mut self.party) {
            Party::Served(serving) => Some(*serving),
            party => {
                self.party = party;
                None
            }
        }
    }

    /// Lets the others go as soon as rank 0's program takes connections. Never ends: it is dropped with the program.
    pub(crate) async fn let_go(&self, spec: &RankSpec, since: Instant, stop: &Stop) -> Infallible {
        if let Party::Leader { leader, addresses, .. } = &self.party {
            let deadline = since + Duration::from_secs(spec.start_timeout_seconds);
            if spec.framework.has_listener()
                && tokio::time::timeout_at(deadline, listening::wait(spec.port)).await.is_err()
            {
                stop.not_listening();
            } else {
                leader.go(addresses.clone());
            }
        }
        std::future::pending().await
    }

    /// Tells ranks that wait for it that rank 0 is done.
    pub(crate) async fn end(&self, spec: &RankSpec) {
        if let (Party::Leader { leader, .. }, Framework::MPI) = (&self.party, spec.framework) {
            leader.end().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use step_protocol::RoleSpec;

    use super::*;

    /// Rank `rank` of so many workers, whose hosts are `h<rank>.fit`.
    pub(crate) fn rank(framework: Framework, world_size: u32, rank: u32) -> RankSpec {
        RankSpec {
            framework,
            role: "worker".into(),
            index: rank,
            rank,
            world_size,
            roles: vec![RoleSpec { name: "worker".into(), replicas: world_size, processes_per_replica: 1 }],
            hosts: (0..world_size).map(|rank| format!("h{rank}.fit")).collect(),
            port: 29500,
            gate_port: 29499,
            processes_per_replica: 1,
            execution: 1,
            start_timeout_seconds: 60,
            stall_timeout_seconds: None,
            elastic: None,
            rendezvous_id: "uid-1".into(),
            scatter: false,
        }
    }

    #[test]
    fn a_rank_that_does_not_add_up_is_refused() {
        let good = rank(Framework::JAX, 3, 1);
        assert!(check(&good).is_ok());
        for bad in [
            RankSpec { rank: 3, ..good.clone() },
            RankSpec { world_size: 4, ..good.clone() },
            RankSpec { hosts: good.hosts[1..].to_vec(), ..good.clone() },
            RankSpec { roles: Vec::new(), ..good },
        ] {
            assert_eq!(check(&bad).unwrap_err().outcome, Outcome::ConfigError);
        }
    }
}
